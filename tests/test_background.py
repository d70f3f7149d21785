"""Work in a thread of its own: the newest value, bounded, never in the way."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, until

from jobslib import background
from jobslib.background import Background

LOGGER = logging.getLogger('background')


class Call:
    """What is called: notes the values, waits and fails as it is told to."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.error: Exception | None = None

    def __call__(self, value: Any) -> None:
        self.values.append(value)
        assert self.may_go.wait(DEADLINE)
        if self.error is not None:
            raise self.error


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """A call, which is let go at the end; failures are repeated soon."""
    monkeypatch.setattr(background, 'FIRST_PAUSE', 0.001)
    monkeypatch.setattr(background, 'LONGEST_PAUSE', 0.005)
    made = Call()
    yield made
    made.error = None
    made.may_go.set()


def let_calls_be_made() -> None:
    """Wait for as long as some calls take elsewhere."""
    other = Call()
    repeated = Background(other, LOGGER, 'other', every=0.01)
    repeated.submit(1)
    until(lambda: len(other.values) >= 3)
    assert repeated.close(DEADLINE)


def test_newest_value_wins(call: Call) -> None:
    """Values that come during a call wait, and only the newest is used."""
    call.may_go.clear()
    work = Background(call, LOGGER, 'work')
    work.submit(1)
    until(lambda: call.values)
    work.submit(2)
    work.submit(3)
    call.may_go.set()
    assert work.close(DEADLINE)
    assert call.values == [1, 3]


def test_value_that_comes_late_is_used_once(call: Call) -> None:
    """A value that comes when a call is about to be made is taken with it."""
    work = Background(call, LOGGER, 'work')
    wakes = work._wakes

    class Late:
        """Has another value come when nothing more was heard of."""

        empty, put = wakes.empty, wakes.put
        is_first = True

        def get(self, timeout: float | None) -> bool:
            try:
                return wakes.get(timeout=timeout)
            except queue.Empty:
                if self.is_first:
                    self.is_first = False
                    work.submit(2)
                raise

    work._wakes = Late()  # type: ignore[assignment]
    work.submit(1)
    until(lambda: call.values and wakes.empty())
    let_calls_be_made()
    assert call.values == [2]
    assert work.close(DEADLINE)


def test_close_makes_the_call_that_waits(call: Call) -> None:
    """What was submitted before the end is done, pause or not."""
    work = Background(call, LOGGER, 'work', pause=600)
    work.submit(1)
    until(lambda: call.values)
    work.submit(2)
    assert work.close(DEADLINE)
    assert call.values == [1, 2]


def test_pause_keeps_calls_apart(call: Call) -> None:
    """In the pause after a call a value waits."""
    work = Background(call, LOGGER, 'work', pause=0.1)
    started = time.monotonic()
    work.submit(1)
    until(lambda: call.values)
    work.submit(2)
    until(lambda: len(call.values) == 2)
    assert time.monotonic() - started >= 0.1
    assert work.close(DEADLINE)


def test_close_is_bounded(call: Call) -> None:
    """A call that hangs does not keep the process."""
    call.may_go.clear()
    work = Background(call, LOGGER, 'work')
    work.submit(1)
    started = time.monotonic()
    assert not work.close(0.05)
    assert time.monotonic() - started < DEADLINE / 2


def test_close_gives_up_what_fails(call: Call) -> None:
    """At the end a call that fails is made once more, and that is it."""
    call.error = OSError('no network')
    work = Background(call, LOGGER, 'work')
    work.submit(1)
    until(lambda: len(call.values) > 1)
    begun = time.monotonic()
    assert not work.close(DEADLINE)
    assert time.monotonic() - begun < DEADLINE / 2
    made = len(call.values)
    work.submit(2)
    assert call.values == [1] * made


def test_close_without_a_value(call: Call) -> None:
    """What was never used has no thread, and can be closed."""
    before = set(threading.enumerate())
    work = Background(call, LOGGER, 'work')
    assert set(threading.enumerate()) <= before
    assert work.close(0.0)
    work.submit(1)
    assert set(threading.enumerate()) <= before


def test_failure_is_repeated_and_logged_once(
        call: Call, caplog: pytest.LogCaptureFixture) -> None:
    """A failing call is repeated; its begin and its end are logged."""
    caplog.set_level(logging.INFO)
    call.error = OSError('no network\nat all')
    work = Background(call, LOGGER, 'work')
    work.submit(1)
    until(lambda: len(call.values) >= 4)
    call.error = None
    until(lambda: 'works again' in caplog.text)
    assert work.close(DEADLINE)
    assert [record.getMessage() for record in caplog.records] == [
        'work fails, and is tried again: OSError: no network',
        'work works again']


def test_failed_value_is_replaced(call: Call) -> None:
    """A newer value takes the place of one whose call failed."""
    call.error = OSError('no network')
    work = Background(call, LOGGER, 'work')
    work.submit(1)
    until(lambda: call.values)
    work.submit(2)
    until(lambda: 2 in call.values)
    call.error = None
    assert work.close(DEADLINE)
    assert call.values[-1] == 2


def test_every_repeats_the_last_value(call: Call) -> None:
    """With *every* the call is made again without a new value."""
    work = Background(call, LOGGER, 'work', every=0.005)
    work.submit(1)
    until(lambda: len(call.values) >= 3)
    work.submit(2)
    until(lambda: call.values[-2:] == [2, 2])
    assert work.close(DEADLINE)


def test_without_every_it_is_idle(call: Call) -> None:
    """Without *every* a value is used once."""
    work = Background(call, LOGGER, 'work')
    work.submit(1)
    until(lambda: call.values)
    let_calls_be_made()
    assert call.values == [1]
    assert work.close(DEADLINE)
