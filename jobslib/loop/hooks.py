"""Calling the hooks of a task: its methods ``on_acquired`` and so on."""

from __future__ import annotations

from jobslib.exceptions import (
    Interrupt,
    LockError,
    OneInstanceWatchdogError,
    Terminate,
)
from jobslib.logs import with_traceback
from jobslib.observers import Observer
from jobslib.runs import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from jobslib.interrupts import Interrupts
    from jobslib.oneinstance import BaseLock
    from jobslib.run.handle import RunHandle
    from jobslib.run.result import Result
    from jobslib.runs import Run

__all__ = ['TaskHooks']


class TaskHooks(Observer):
    """Tells the task what the loop does, in the run's process.

    A signal that comes while a hook runs waits until the hook has returned.  A hook
    that is called with the lock held is stopped like a run when the lock is lost,
    and when it takes too long.

    :param process: the run's process.
    :param lock: the lock of the task.
    :param interrupts: the signals of the supervisor.
    :param logger: reports what a hook raised.
    :param limit: how long a hook may take while the lock is held, or the job
        is told to end, in seconds.
    """

    def __init__(self, process: RunHandle, lock: BaseLock,
                 interrupts: Interrupts, logger: logging.Logger,
                 limit: float) -> None:
        self._process = process
        self._lock = lock
        self._interrupts = interrupts
        self._logger = logger
        self._limit = limit
        self._signal: Terminate | None = None

    def acquired(self, token: int | None) -> None:
        self._call_held('on_acquired')

    def run_ended(self, run: Run) -> None:
        self._call_held('on_success' if run.outcome is Outcome.SUCCEEDED
                        else 'on_failure', run.export())

    def released(self) -> None:
        self._call_free('on_released')

    def lost(self, reason: str) -> None:
        self._call_free('on_lost', reason)

    def _call_held(self, name: str, *args: object) -> None:
        """Call a hook with the lock held, for a limited time."""
        if not self._can_be_called(name):
            return
        watchdog = self._lock.watchdog
        # A hook is not a run, and gives no signs of life.
        heartbeat, watchdog.heartbeat = watchdog.heartbeat, None
        try:
            with self._interrupts.interruptible(self._deliver):
                watchdog.start(self._limit)
                result = self._process.call_hook(name, args, self._lock)
        except LockError as exc:
            self._logger.error('hook %s was not called: %s', name, exc)
        else:
            self._report(name, result)
        finally:
            watchdog.stop()
            watchdog.heartbeat = heartbeat
            self._settle()

    def _call_free(self, name: str, *args: object) -> None:
        """Call a hook without the lock, so that it may take as long as it likes.

        Only when the job is told to end meanwhile, its time is limited.
        """
        if not self._can_be_called(name):
            return
        with self._interrupts.interruptible(self._hurry):
            result = self._process.call_hook(
                name, args, self._lock, with_lock=False)
        self._report(name, result)

    def _can_be_called(self, name: str) -> bool:
        """Return whether the task has the hook, and its process still lives."""
        if name not in self._process.hooks:
            return False
        if not self._process.lives:
            self._logger.warning(
                'hook %s is not called: the process of the run has ended',
                name)
            return False
        return True

    def _deliver(self, interrupt: Interrupt) -> None:
        """Called in a signal handler while a hook runs."""
        if isinstance(interrupt, Terminate):
            # Kept apart, because while it is pending an interrupt by the watchdog
            # would not be delivered.
            self._signal = interrupt
            self._interrupts.pending = None
            return
        self._lock.watchdog.stopping()
        self._process.interrupt(interrupt)

    def _hurry(self, interrupt: Interrupt) -> None:
        """Called in a signal handler while a hook runs without the lock."""
        if isinstance(interrupt, Terminate):
            self._process.limit(self._limit)

    def _settle(self) -> None:
        """Leave to the loop the interrupts that came while a hook ran."""
        stopped = self._interrupts.pending
        if isinstance(stopped, OneInstanceWatchdogError):
            # If the lock is still ours, the hook was only too slow, and the loop
            # need not know of the interrupt.
            self._interrupts.clear()
            if not self._is_ours():
                self._interrupts.interrupt(stopped)
        if self._signal is not None:
            self._interrupts.pending, self._signal = self._signal, None

    def _is_ours(self) -> bool:
        try:
            return bool(self._lock.refresh())
        except LockError:
            return False

    def _report(self, name: str, result: Result) -> None:
        if result.outcome is Outcome.SUCCEEDED:
            return
        if result.outcome is Outcome.KILLED:
            self._logger.error('hook %s: %s', name, result.error)
        elif result.outcome is Outcome.INTERRUPTED:
            with_traceback(self._logger, result.traceback,
                           'hook %s was stopped: %s', name, result.message)
        else:
            with_traceback(self._logger, result.traceback,
                           'hook %s failed', name)
