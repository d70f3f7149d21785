"""The run's process in instants that a test of a whole job would rarely hit."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobslib.interrupts import Interrupts
from jobslib.run import process
from jobslib.run.channel import pair
from jobslib.run.memory import Memory
from jobslib.run.signals import RunSignals


@contextmanager
def handled(passed_on: list[int]) -> Iterator[RunSignals]:
    """Have the handlers of a run's process here, for the block."""
    before = {each: signal.getsignal(each)
              for each in (signal.SIGTERM, signal.SIGINT)}
    signals = RunSignals(Interrupts(), Memory(), passed_on.append)
    signals.install()
    try:
        yield signals
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_signal_in_the_instant_of_a_fork() -> None:
    """It waits until the child has the handlers of plain Python."""
    passed_on: list[int] = []
    with handled(passed_on) as signals:
        signals.hold()
        signal.raise_signal(signal.SIGTERM)
        assert passed_on == []
        child = os.fork()
        if child == 0:
            # What is pending does not come along: it was for the parent.
            signal.raise_signal(signal.SIGTERM)
            signals.forget()
            signals.let_through()
            os._exit(3)
        signals.let_through()
        assert passed_on == [signal.SIGTERM]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_mask_of_a_task_is_left_as_it_is() -> None:
    """What a task has blocked stays blocked when it has forked."""
    with handled([]) as signals:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            signals.hold()
            signals.let_through()
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == (
                before | {signal.SIGTERM})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize('closed', [0, 1, 2])
def test_received_descriptor_is_no_standard_one(closed: int) -> None:
    """It is not one that the task has closed, which would close it again."""
    ours, theirs = pair()
    reading, writing = os.pipe()
    ours.send({}, [reading])
    saved = os.dup(closed)
    os.close(closed)
    try:
        received = theirs.receive()
    finally:
        os.dup2(saved, closed)
    assert received is not None
    [descriptor] = received[1]
    assert descriptor > 2
    os.write(writing, b'x')
    assert os.read(descriptor, 1) == b'x'
    for each in (saved, reading, writing, descriptor):
        os.close(each)
    ours.close()
    theirs.close()


def test_texts_of_any_length_have_room() -> None:
    """None of what is shared is written over the next, whatever its length."""
    memory = Memory()
    longest = '\U0001f600' * process.MAX_TRACEBACK
    result = {'error': 'x', 'message': longest, 'traceback': longest}
    memory.finish(1, result)
    memory.ask('Terminate', '\U0001f600' * 100_000)
    memory.ask_to_stop('\U0001f600' * 100_000)
    assert memory.result(1) == result
    asked = memory.interrupt
    assert asked is not None
    assert asked[0] == 'Terminate' and len(asked[1]) == len(memory.stop_reason or '')
