"""What the lease keeper writes for a holder, beside its lock."""

import json
import threading
import time
from binascii import a2b_base64
from collections.abc import Callable

import pytest
from support import until

from jobslib.consul import engine as consulengine
from jobslib.consul.transport import Endpoint, Response
from jobslib.keeper import keeper
from jobslib.keeper.notes import RETRY, Notes


class Consul:
    """Takes transactions; what each answers is up to the test."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.times: list[float] = []
        self.answer: Callable[[], int] = lambda: 200
        self.indexes: dict[str, int] = {}
        self.reads = 0

    def request(self, method: str, path: str, _params: object = (),
                body: bytes = b'',
                timeout: float | None = None) -> Response:
        """Answer a read of a key, or a transaction."""
        if method == 'GET':
            self.reads += 1
            index = self.indexes.get(path.removeprefix('/v1/kv/'))
            entries = [{'ModifyIndex': index}]
            return Response(200 if index else 404, {'X-Consul-Index': '9'},
                            json.dumps(entries).encode())
        check, note = (each['KV'] for each in json.loads(body))
        assert check == {'Verb': 'check-index', 'Key': 'job/lock', 'Index': 7}
        assert note['Verb'] == 'cas'
        key = note['Key']
        self.notes.append((key, a2b_base64(note['Value']).decode()))
        self.times.append(time.monotonic())
        status = self.answer()
        if status == 200 and note['Index'] != self.indexes.get(key, 0):
            return Response(409, {}, json.dumps({'Errors': [{
                'What': f'failed to set key "{key}", index is stale'}]}).encode())
        if status == 200:
            self.indexes[key] = 10 + len(self.notes)
        results = [{'KV': {'Key': 'job/lock', 'ModifyIndex': 7}}, {
            'KV': {'Key': key, 'ModifyIndex': self.indexes.get(key)}}]
        return Response(status, {}, json.dumps({'Results': results}).encode())

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def consul() -> Consul:
    """Where notes go."""
    return Consul()


def make_notes(consul: Consul) -> Notes:
    """Return the notes of a holder."""
    engine = consulengine.ConsulEngine(Endpoint(), 'session', 'job/lock', 15.0)
    # Not the class of its connections: threads of earlier tests go on.
    engine._connections = consul  # type: ignore[assignment]
    return Notes(engine.write)


def test_refused(consul: Consul) -> None:
    """What Consul refuses is tried again ever more seldom."""
    consul.answer = lambda: 403
    make_notes(consul).add('history', 'of run 1', 7)
    until(lambda: len(consul.notes) >= 4, 'for four attempts')
    first, second, third, fourth = consul.times[:4]
    assert second - first >= RETRY
    assert third - second >= 2 * RETRY
    assert fourth - third >= 4 * RETRY


def test_newest_is_written_at_once(consul: Consul) -> None:
    """A note does not wait for the next attempt with an older one."""
    consul.answer = lambda: 200 if len(consul.notes) > 4 else 500
    notes = make_notes(consul)
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
    notes = make_notes(consul)
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

    notes = make_notes(consul)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, 'start', refuse)
        notes.add('history', 'of run 1', 7)
        keeper._log('killing a process')
    notes.add('history', 'of run 2', 7)
    until(lambda: consul.notes == [('history', 'of run 2')], 'for the note')


def test_older_note_comes_late(consul: Consul) -> None:
    """A note is written over what is known, else after another look."""
    notes = make_notes(consul)
    notes.add('history', 'of run 1', 7)
    until(lambda: len(consul.notes) == 1, 'for the first')
    notes.add('history', 'of run 2', 7)
    until(lambda: len(consul.notes) == 2, 'for the second')
    assert consul.reads == 1
    # One that was given up long ago.
    until(lambda: not notes.pending(), 'for its end')
    consul.indexes['history'] += 100
    notes.add('history', 'of run 3', 7)
    until(lambda: len(consul.notes) == 4, 'for the third, twice')
    assert consul.reads == 2
    until(lambda: not notes.pending(), 'for its end')
