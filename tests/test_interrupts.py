"""Signals: recorded always, raised only where it is safe."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import DEADLINE

from jobslib import OneInstanceWatchdogError, Terminate
from jobslib.exceptions import Interrupt
from jobslib.interrupts import Interrupts

BOTH = pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT],
                               ids=lambda signum: signum.name)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """Interrupts that are entered."""
    before = [signal.getsignal(signal.SIGTERM),
              signal.getsignal(signal.SIGINT)]
    with Interrupts() as entered:
        yield entered
    assert before == [signal.getsignal(signal.SIGTERM),
                      signal.getsignal(signal.SIGINT)]


def send(signum: signal.Signals) -> None:
    """Send *signum* to this process, which handles it before this returns."""
    os.kill(os.getpid(), signum)


@BOTH
def test_recorded_alone_elsewhere(interrupts: Interrupts,
                                  signum: signal.Signals) -> None:
    """Elsewhere a signal is recorded and nothing more."""
    send(signum)
    assert interrupts.signum == signum
    assert isinstance(interrupts.pending, Terminate)
    assert str(interrupts.pending) == f'signal {signum.name}'


@BOTH
def test_raised_where_code_is_interruptible(interrupts: Interrupts,
                                            signum: signal.Signals) -> None:
    """Where the code is interruptible a signal is raised, and stays recorded."""
    with pytest.raises(Terminate) as caught, interrupts.interruptible():
        send(signum)
    assert caught.value is interrupts.pending
    assert interrupts.signum == signum


@BOTH
def test_raised_at_the_next_chance(interrupts: Interrupts,
                                   signum: signal.Signals) -> None:
    """A signal from elsewhere is raised where such code begins."""
    send(signum)
    entered = False
    with pytest.raises(Terminate), interrupts.interruptible():
        entered = True
    assert not entered


def test_raised_at_every_chance(interrupts: Interrupts) -> None:
    """A signal that was raised once is raised in later code too."""
    send(signal.SIGTERM)
    for _ in range(2):
        with pytest.raises(Terminate), interrupts.interruptible():
            pass


def test_not_raised_afterwards(interrupts: Interrupts) -> None:
    """Outside of that code a signal is recorded only, however it ended."""
    with interrupts.interruptible():
        pass
    with pytest.raises(KeyError), interrupts.interruptible():
        raise KeyError
    send(signal.SIGTERM)
    assert interrupts.pending is not None


def test_delivered(interrupts: Interrupts) -> None:
    """Such code can have a signal delivered in a way of its own."""
    told: list[Interrupt] = []
    with interrupts.interruptible(told.append):
        send(signal.SIGTERM)
        assert told == [interrupts.pending]


def test_inner_one_delivers(interrupts: Interrupts) -> None:
    """Of two that are nested the inner one delivers, then the outer one again."""
    outer: list[Interrupt] = []
    inner: list[Interrupt] = []
    with interrupts.interruptible(outer.append):
        with interrupts.interruptible(inner.append):
            interrupts.interrupt(OneInstanceWatchdogError('first'))
        assert (len(outer), len(inner)) == (0, 1)
        interrupts.clear()
        interrupts.interrupt(OneInstanceWatchdogError('second'))
        assert (len(outer), len(inner)) == (1, 1)


def test_delivered_once(interrupts: Interrupts) -> None:
    """What the outer one has delivered is not delivered by the inner."""
    told: list[Interrupt] = []
    with interrupts.interruptible(told.append):
        send(signal.SIGTERM)
        with interrupts.interruptible(told.append):
            pass
        interrupts.interrupt(OneInstanceWatchdogError())
    assert len(told) == 1
    assert isinstance(interrupts.pending, Terminate)


def test_code_that_was_left_in_its_last_instant(interrupts: Interrupts) -> None:
    """An interrupt that is raised where the code ends, or begins, ends it."""
    code = interrupts.interruptible()
    with pytest.raises(Terminate) as caught:
        # Raised when it has begun, and before the block it is for.
        code.__enter__()
        os.kill(os.getpid(), signal.SIGTERM)
    # It is raised again, as after any other; nothing is raised between.
    for _ in range(2):
        with pytest.raises(Terminate), interrupts.interruptible():
            raise AssertionError('not reached')
    told: list[Interrupt] = []
    interrupts.pending = None
    with interrupts.interruptible(told.append):
        del code, caught
        gc.collect()
        interrupts.interrupt(OneInstanceWatchdogError('lost'))
    assert len(told) == 1


def test_other_interrupt(interrupts: Interrupts) -> None:
    """The watchdog's interrupt is raised as a signal is."""
    error = OneInstanceWatchdogError('too long')
    with pytest.raises(OneInstanceWatchdogError) as caught:
        with interrupts.interruptible():
            interrupts.interrupt(error)
    assert caught.value is error
    assert interrupts.signum is None


def test_clear(interrupts: Interrupts) -> None:
    """An interrupt that was dealt with can be forgotten, a signal cannot."""
    interrupts.interrupt(OneInstanceWatchdogError())
    interrupts.clear()
    assert interrupts.pending is None
    send(signal.SIGTERM)
    interrupts.clear()
    assert isinstance(interrupts.pending, Terminate)


def test_signal_while_stopping(interrupts: Interrupts) -> None:
    """A run that stops already is not interrupted again by a signal."""
    told: list[Interrupt] = []
    with interrupts.interruptible(told.append):
        interrupts.interrupt(OneInstanceWatchdogError())
        send(signal.SIGTERM)
    assert [type(interrupt) for interrupt in told] == [
        OneInstanceWatchdogError]
    interrupts.clear()
    assert isinstance(interrupts.pending, Terminate)


def test_signal_behind_a_stopped_run(interrupts: Interrupts) -> None:
    """A signal takes the place of an interrupt that was not dealt with."""
    interrupts.interrupt(OneInstanceWatchdogError())
    send(signal.SIGTERM)
    interrupts.clear()
    assert isinstance(interrupts.pending, Terminate)


def test_interrupt_does_not_replace_a_signal(interrupts: Interrupts) -> None:
    """Nothing takes the place of a recorded signal."""
    send(signal.SIGTERM)
    interrupts.interrupt(OneInstanceWatchdogError())
    assert isinstance(interrupts.pending, Terminate)


def test_handlers_are_restored() -> None:
    """The handlers from before are back at the end, an error's too."""
    def handler(signum: int, frame: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(KeyError), Interrupts():
            assert signal.getsignal(signal.SIGTERM) is not handler
            raise KeyError
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


STUCK = '''
import os, signal
from jobslib.interrupts import Interrupts
with Interrupts():
    os.kill(os.getpid(), signal.{first})
    print('alive', flush=True)
    sum(range(10 ** 12))
'''

SECOND = '''
import os, signal
from jobslib.interrupts import Interrupts
with Interrupts():
    os.kill(os.getpid(), signal.{first})
    print('alive', flush=True)
    os.kill(os.getpid(), signal.{second})
    print('still alive', flush=True)
'''


@pytest.mark.parametrize('first', ['SIGTERM', 'SIGINT'])
@pytest.mark.parametrize('second', ['SIGTERM', 'SIGINT'])
def test_second_signal(first: str, second: str) -> None:
    """A second signal ends the process, as if there were no handler."""
    process = subprocess.run(
        [sys.executable, '-c', SECOND.format(first=first, second=second)],
        capture_output=True, text=True)
    assert process.returncode == -signal.Signals[second]
    assert process.stdout == 'alive\n'
    assert process.stderr == ''


@pytest.mark.parametrize('first', ['SIGTERM', 'SIGINT'])
@pytest.mark.parametrize('second', [signal.SIGTERM, signal.SIGINT])
def test_second_signal_to_a_process_that_is_stuck(
        first: str, second: signal.Signals) -> None:
    """A second signal ends a process that no handler could run in."""
    with subprocess.Popen(
            [sys.executable, '-c', STUCK.format(first=first)],
            stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == 'alive\n'
            process.send_signal(second)
            assert process.wait(DEADLINE) == -second
        finally:
            process.kill()


def test_entered_twice() -> None:
    """Left as often as entered, it gives the handlers back in their order."""
    before = signal.getsignal(signal.SIGTERM)
    interrupts = Interrupts()
    with interrupts:
        outer = signal.getsignal(signal.SIGTERM)
        with interrupts:
            assert signal.getsignal(signal.SIGTERM) == outer
        assert signal.getsignal(signal.SIGTERM) == outer != before
    assert signal.getsignal(signal.SIGTERM) == before
