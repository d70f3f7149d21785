"""The watchdog of a run: what ends one that hangs or takes too long."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from jobslib.exceptions import Interrupt, OneInstanceWatchdogError

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['ProcessWatchdog', 'Watchdog']

# More, in seconds, than timers take.
TOO_LONG = 1e9

# The file descriptor.
STDERR = 2


class Watchdog:
    """Interrupts a run, and ends its process if that does not stop it.

    :param grace: from the interrupt to the end of the process, in seconds.
    :param heartbeat: the longest silence of a run in seconds, or ``None``.
    """

    def __init__(self, grace: float, heartbeat: float | None = None) -> None:
        self.grace = grace
        self.heartbeat = heartbeat
        #: Called with the interrupt, in a signal handler; by default it is
        #: raised.
        self.interrupt: Callable[[Interrupt], None] = _raise

    def start(self, max_run_time: float | None = None,
              run: dict[str, Any] | None = None) -> None:
        """A run begins, which may take *max_run_time* seconds.

        :param run: :meth:`jobslib.runs.Run.export`, for who sees the run end
            with its process.
        """
        raise NotImplementedError

    def beat(self) -> None:
        """The run makes progress."""
        raise NotImplementedError

    def stopping(self) -> None:
        """The run was told to stop; give it the grace time."""
        raise NotImplementedError

    def stop(self) -> None:
        """The run is over."""
        raise NotImplementedError


class ProcessWatchdog(Watchdog):
    """A watchdog for locks that have no process of their own.

    The interrupt is raised in the main thread by SIGALRM.  A run that has
    not stopped *grace* seconds later loses its process, by a thread that
    needs no interpreter lock (:func:`faulthandler.dump_traceback_later`);
    its stack goes to standard error, and the exit code is 1.

    For a run outside the main thread, where there are no signals, only the
    latter works.  What the run started is not ended.
    """

    def __init__(self, grace: float, heartbeat: float | None = None) -> None:
        super().__init__(grace, heartbeat)
        self._run_ends: float | None = None
        self._previous: Any = None
        self._watching = False
        self._has_handler = False
        self._stopping = False
        self._max_run_time: float | None = None

    def start(self, max_run_time: float | None = None,
              run: dict[str, Any] | None = None) -> None:
        self._max_run_time = max_run_time
        if max_run_time is not None:
            self._run_ends = _now() + max_run_time
        if max_run_time is not None or self.heartbeat is not None:
            self._watching = True
            self._has_handler = _in_main_thread()
            if self._has_handler:
                self._previous = signal.signal(signal.SIGALRM, self._expired)
            self._arm()

    def beat(self) -> None:
        if (self._watching and self.heartbeat is not None
                and not self._stopping):
            self._arm()

    def stopping(self) -> None:
        self._stopping = True
        self._end_process_in(self.grace)

    def stop(self) -> None:
        if self._watching:
            if self._has_handler:
                self._has_handler = False
                signal.setitimer(signal.ITIMER_REAL, 0)
                # None: a handler that was not installed by Python.
                signal.signal(signal.SIGALRM, self._previous or signal.SIG_DFL)
            self._watching = False
        self._stopping = False
        self._run_ends = None
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        limits = [self.heartbeat or float('inf')]
        if self._run_ends is not None:
            limits.append(self._run_ends - _now())
        left = max(min(*limits, TOO_LONG), 0.001)
        if self._has_handler:
            # A heartbeat may come from any thread.
            signal.setitimer(signal.ITIMER_REAL, left)
        self._end_process_in(left + self.grace)

    def _expired(self, signum: int, frame: FrameType | None) -> None:
        if self._stopping:
            # Told already: a heartbeat that was under way then has set the
            # timer once more.
            return
        self.stopping()
        if self._run_ends is not None and _now() >= self._run_ends:
            reason = f'the run took longer than {self._max_run_time:g} s'
        else:
            reason = f'the run was silent for {self.heartbeat:g} s'
        self.interrupt(OneInstanceWatchdogError(reason))

    def _end_process_in(self, seconds: float) -> None:
        # Not sys.stderr, which the task may have closed.
        faulthandler.dump_traceback_later(
            min(seconds, TOO_LONG), exit=True, file=STDERR)


def _raise(interrupt: Interrupt) -> None:
    raise interrupt


def _now() -> float:
    return time.monotonic()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
