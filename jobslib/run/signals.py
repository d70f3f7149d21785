"""Signals in the run's process.

The supervisor decides what becomes of a signal.  A process manager or a
terminal signals all processes of a group, so one may reach the run's process
before the supervisor has asked for anything: it is passed on, and counts as
the same request.  What the supervisor asks for is raised in the main thread
of the run.

A run that installs handlers of its own gets the signal that it asked for.
Where it removes them again, as asyncio does, the default is left, which ends
the process; so ours are installed anew with each run.
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
    from typing import Any

    from jobslib.interrupts import Interrupts
    from jobslib.run.memory import Memory

__all__ = ['INTERRUPT_SIGNAL', 'RunSignals', 'interrupt_of']

#: The signal by which a run is interrupted that no user has sent.
INTERRUPT_SIGNAL = signal.SIGRTMIN + 5

# Before an interrupt that was dropped is raised again, in seconds.
PAUSE = 0.02

KINDS: dict[str, type[Interrupt]] = {
    kind.__name__: kind for kind in (OneInstanceWatchdogError, Terminate)}


def interrupt_of(kind: str, reason: str) -> Interrupt:
    """Return the interrupt of the class named *kind*."""
    return KINDS[kind](reason)


class RunSignals:
    """The handlers of the run's process.

    :param interrupts: records and raises what the supervisor asks for.
    :param memory: where it asks.
    :param pass_on: called in a signal handler with a signal that the
        supervisor has not asked for.
    """

    def __init__(self, interrupts: Interrupts, memory: Memory,
                 pass_on: Callable[[int], None]) -> None:
        self._interrupts = interrupts
        self._memory = memory
        self._pass_on = pass_on
        # Ignored when we were started, by nohup or by a shell that put us
        # into the background: that stays so.
        self._signals = [INTERRUPT_SIGNAL] + [
            each for each in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(each) is not signal.SIG_IGN]
        self._dropped = sys.unraisablehook
        # Whether an interrupt was dropped, and has to be raised again.
        self._dropped_one = False
        # What a thread that forks blocked before.
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

        One that came to the child before :meth:`forget` would be handled as
        if the child were the run's process: passed on to the supervisor,
        which would end the job, or lost.
        """
        self._blocked.before = signal.pthread_sigmask(
            signal.SIG_BLOCK, self._signals)

    def let_through(self) -> None:
        """Undo :meth:`hold`, in the parent and in the child."""
        before = self._blocked.__dict__.pop('before', None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def catch_up(self) -> None:
        """Record what was asked for before the request was begun."""
        asked = self._memory.interrupt
        if asked is not None:
            self._interrupts.interrupt(interrupt_of(*asked))

    def forget(self) -> None:
        """Have the handlers of plain Python in a forked child."""
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
            elif not _is_in(frame, self._raise_again):
                self._dropped_one = False
                self._interrupts.raise_dropped(interrupt_of(*asked))
        elif asked is not None:
            self._interrupts.interrupt_again(interrupt_of(*asked))
        elif signum != INTERRUPT_SIGNAL:
            # Else it was for a run that has ended in this instant.
            self._pass_on(signum)

    def _raise_again(self, unraisable: Any) -> None:
        """Called for an exception that Python dropped, in a finalizer, say.
        """
        if not isinstance(unraisable.exc_value, Interrupt):
            self._dropped(unraisable)
        elif not self._dropped_one:
            self._dropped_one = True
            # Raised in here it would be dropped as well.
            _thread.start_new_thread(self._remind, ())

    def _remind(self) -> None:
        """Have the handler called in the main thread until it has raised."""
        while self._dropped_one:
            time.sleep(PAUSE)
            signal.pthread_kill(
                threading.main_thread().ident or 0, INTERRUPT_SIGNAL)


def _is_in(frame: FrameType | None, method: Any) -> bool:
    """Return whether *method* is being called, at *frame* or further out."""
    while frame is not None and frame.f_code is not method.__code__:
        frame = frame.f_back
    return frame is not None
