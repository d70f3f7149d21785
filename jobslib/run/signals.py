"""Signals in the run's process.

The supervisor decides what a signal leads to.  A process manager or a terminal
signals all processes of a group, so the signal may reach the run's process before
the supervisor has asked for anything.  Then it is passed on to the supervisor, for
which the two are one request.  What the supervisor asks for is raised in the main
thread of the run.

A run that installs a handler of its own gets the signal that it asked for.  When
it removes the handler again, as asyncio does, the default action is left, which
would end the process; so the handlers are installed anew for each run.

A run cannot be interrupted while a C call does not return, because Python calls
the handler only after it.  The supervisor kills the process then, when the grace
time is over.  Python also drops exceptions that are raised in a finalizer or a
callback of the garbage collector, where a signal may well arrive.  An interrupt
that was dropped is raised again, see :meth:`RunSignals._raise_again`.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from jobslib.exceptions import (
    Interrupt,
    OneInstanceWatchdogError,
    Terminate,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import CodeType

    from jobslib.interrupts import Interrupts
    from jobslib.run.memory import Memory

__all__ = ['INTERRUPT_SIGNAL', 'RunSignals']

#: The signal by which the supervisor interrupts a run when no user has sent one.
INTERRUPT_SIGNAL = signal.SIGRTMIN + 5

# The pause before an interrupt that was dropped is raised again, in seconds.
PAUSE = 0.02

KINDS: dict[str, type[Interrupt]] = {
    kind.__name__: kind for kind in (OneInstanceWatchdogError, Terminate)}


def interrupt_of(kind: str, reason: str) -> Interrupt:
    """Return the interrupt of the class named *kind*."""
    return KINDS[kind](reason)


class RunSignals:
    """The handlers of the run's process.

    :param interrupts: records and raises what the supervisor asks for.
    :param memory: where the supervisor writes down what it asks for.
    :param pass_on: called in a signal handler, with the number of a signal for
        which the supervisor has not asked.
    """

    def __init__(self, interrupts: Interrupts, memory: Memory,
                 pass_on: Callable[[int], None]) -> None:
        self._interrupts = interrupts
        self._memory = memory
        self._pass_on = pass_on
        # A signal that was ignored when the job was started, by nohup or by a
        # shell that runs it in the background, stays ignored.
        self._signals = [INTERRUPT_SIGNAL] + [
            each for each in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(each) is not signal.SIG_IGN]
        # The hook that was there before.
        self._dropped = sys.unraisablehook
        # Whether an interrupt was dropped and has to be raised again.
        self._dropped_one = False
        # The signals that a thread had blocked before it forks, by thread.
        self._blocked = threading.local()

    def install(self) -> None:
        """Handle the signals, whatever a run has done to them."""
        for each in self._signals:
            signal.signal(each, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        if sys.unraisablehook != self._raise_again:
            self._dropped = sys.unraisablehook
            sys.unraisablehook = self._raise_again

    def hold(self) -> None:
        """Hold the signals back while a child is forked.

        If one came to the child before it calls :meth:`forget`, the child would
        handle it as if it were the run's process.  It would be passed on to the
        supervisor, which would end the job, or be lost.
        """
        self._blocked.before = signal.pthread_sigmask(
            signal.SIG_BLOCK, self._signals)

    def let_through(self) -> None:
        """Undo :meth:`hold`, in the parent and in the child."""
        before = self._blocked.__dict__.pop('before', None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def catch_up(self) -> None:
        """Record what the supervisor asked for before the request was begun."""
        asked = self._memory.interrupt
        if asked is not None:
            self._interrupts.interrupt(interrupt_of(*asked))

    def forget(self) -> None:
        """Install the handlers of plain Python; called in a forked child."""
        self._dropped_one = False
        for each in self._signals:
            if signal.getsignal(each) == self._handle:
                signal.signal(each, signal.default_int_handler
                              if each == signal.SIGINT else signal.SIG_DFL)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        asked = self._memory.interrupt
        if self._dropped_one:
            if asked is None:
                self._dropped_one = False
            elif not _is_in(frame, RunSignals._raise_again.__code__):
                self._dropped_one = False
                self._interrupts.raise_dropped(interrupt_of(*asked))
        elif asked is not None:
            self._interrupts.interrupt_again(interrupt_of(*asked))
        elif signum != INTERRUPT_SIGNAL:
            # The supervisor's own signal, with nothing asked for, was meant for a
            # run that has ended in this instant.
            self._pass_on(signum)

    def _raise_again(self, unraisable: UnraisableHookArgs) -> None:
        """Called for an exception that Python has dropped, as it does with those
        that a finalizer raises."""
        if not isinstance(unraisable.exc_value, Interrupt):
            self._dropped(unraisable)
        elif not self._dropped_one:
            self._dropped_one = True
            # An interrupt that was raised in this hook would be dropped as well.
            # So a thread signals the main thread until the handler is called at
            # another place.
            _thread.start_new_thread(self._remind, ())

    def _remind(self) -> None:
        """Signal the main thread until the handler has raised the interrupt."""
        while self._dropped_one:
            time.sleep(PAUSE)
            signal.pthread_kill(
                threading.main_thread().ident or 0, INTERRUPT_SIGNAL)


def _is_in(frame: FrameType | None, code: CodeType) -> bool:
    """Return whether *code* is being executed, in *frame* or further out."""
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
