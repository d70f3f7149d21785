"""What the lease keeper writes for a holder, beside its lock."""

import json
import threading
import time
from binascii import a2b_base64
from collections.abc import Callable

import pytest
from support import until

from jobslib.oneinstance import keeper, keeperconsul
from jobslib.oneinstance.keeperconsul import RETRY, Notes
from jobslib.oneinstance.transport import Endpoint, Response


class Consul:
    """Takes transactions; what each answers is up to the test."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.times: list[float] = []
        self.answer: Callable[[], int] = lambda: 200

    def request(self, _method: str, _path: str, body: bytes) -> Response:
        """Answer a transaction."""
        check, note = (each['KV'] for each in json.loads(body))
        assert check == {'Verb': 'check-index', 'Key': 'job/lock', 'Index': 7}
        self.notes.append(
            (note['Key'], a2b_base64(note['Value']).decode()))
        self.times.append(time.monotonic())
        return Response(self.answer(), {}, b'')


@pytest.fixture
def consul(monkeypatch: pytest.MonkeyPatch) -> Consul:
    """Where notes go."""
    found = Consul()
    monkeypatch.setattr(keeperconsul, 'Transport', lambda endpoint: found)
    return found


def make_notes() -> Notes:
    """Return the notes of a holder."""
    return Notes(Endpoint(), 'job/lock')


def test_refused(consul: Consul) -> None:
    """What Consul refuses is tried again ever more seldom."""
    consul.answer = lambda: 403
    make_notes().add('history', 'of run 1', 7)
    until(lambda: len(consul.notes) >= 4, 'for four attempts')
    first, second, third, fourth = consul.times[:4]
    assert second - first >= RETRY
    assert third - second >= 2 * RETRY
    assert fourth - third >= 4 * RETRY


def test_newest_is_written_at_once(consul: Consul) -> None:
    """A note does not wait for the next attempt with an older one."""
    consul.answer = lambda: 200 if len(consul.notes) > 4 else 500
    notes = make_notes()
    notes.add('history', 'of run 1', 7)
    until(lambda: len(consul.notes) == 4, 'for four attempts')
    notes.add('history', 'of run 2', 7)
    until(lambda: len(consul.notes) == 5, 'for the next')
    assert consul.notes[-1] == ('history', 'of run 2')
    assert consul.times[-1] - consul.times[-2] < 8 * RETRY


def test_forgotten_while_another_is_written(consul: Consul) -> None:
    """What is forgotten is not written, were it next in turn."""
    goes_on = threading.Semaphore(0)

    def answer() -> int:
        assert goes_on.acquire(timeout=10)
        return 200

    consul.answer = answer
    notes = make_notes()
    notes.add('first', 'note', 7)
    until(lambda: len(consul.notes) == 1, 'for the first')
    notes.add('progress', 'half', 7)
    notes.add('history', 'of an earlier hold', 7)
    goes_on.release()
    until(lambda: len(consul.notes) == 2, 'for the second')
    assert consul.notes[1] == ('progress', 'half')
    notes.clear()
    notes.add('last', 'note', 7)
    goes_on.release(10)
    until(lambda: ('last', 'note') in consul.notes, 'for the last')
    assert ('history', 'of an earlier hold') not in consul.notes


def test_no_thread_can_be_started(
    consul: Consul, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a note nor a report of the keeper's ends it; a later note is written."""
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    notes = make_notes()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, 'start', refuse)
        notes.add('history', 'of run 1', 7)
        keeper._log('killing a process')
    notes.add('history', 'of run 2', 7)
    until(lambda: consul.notes == [('history', 'of run 2')], 'for the note')
