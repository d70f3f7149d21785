"""Calls the hooks of a task: its methods ``on_acquired`` and so on."""

from __future__ import annotations

from jobslib.exceptions import (
    Interrupt,
    LockError,
    OneInstanceWatchdogError,
    Terminate,
)
from jobslib.observers import Observer
from jobslib.runs import Outcome
from jobslib.tasks import BaseTask

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from typing import Any

    from jobslib.interrupts import Interrupts
    from jobslib.runs import Run

__all__ = ['TaskHooks']


class TaskHooks(Observer):
    """Tells the task what the loop does.

    A signal that comes while a hook runs waits until it has returned.  A
    hook that is called with the lock held is stopped when the lock is lost,
    and when it takes too long, in the way in which a run is.

    :param task: the task.
    :param interrupts: the signals of the process.
    :param logger: reports what a hook raised.
    :param limit: how long a hook may take while the lock is held, in
        seconds.
    """

    def __init__(self, task: BaseTask, interrupts: Interrupts,
                 logger: logging.Logger, limit: float) -> None:
        self._task = task
        self._interrupts = interrupts
        self._logger = logger
        self._limit = limit
        self._lock = task.context.one_instance_lock
        self._signal: Terminate | None = None

    def acquired(self, token: int | None) -> None:
        self._call_held('on_acquired')

    def run_ended(self, run: Run) -> None:
        self._call_held('on_success' if run.outcome is Outcome.SUCCEEDED
                        else 'on_failure', run)

    def released(self) -> None:
        self._call_free('on_released')

    def lost(self, reason: str) -> None:
        self._call_free('on_lost', reason)

    def _call_held(self, name: str, *args: Any) -> None:
        """Call a hook that may have the lock, and for so long only."""
        hook = self._find(name)
        if hook is None:
            return
        watchdog = self._lock.watchdog
        with self._interrupts.guard(_put_off):
            # The hook is no run, and need not give signs of life.
            heartbeat, watchdog.heartbeat = watchdog.heartbeat, None
            try:
                self._call_watched(hook, *args)
            except BaseException as exc:
                self._report(name, exc)
                self._settle(exc)
            else:
                self._settle(None)
            finally:
                watchdog.heartbeat = heartbeat

    def _call_watched(self, hook: Callable[..., Any], *args: Any) -> None:
        watchdog = self._lock.watchdog
        try:
            with self._interrupts.guard(self._deliver):
                if self._interrupts.pending is not None:
                    self._deliver(self._interrupts.pending)
                watchdog.start(self._limit)
                _finish(hook(*args))
        finally:
            watchdog.stop()

    def _call_free(self, name: str, *args: Any) -> None:
        """Call a hook that keeps nobody from the lock, however long."""
        hook = self._find(name)
        if hook is None:
            return
        try:
            with self._interrupts.guard(_put_off):
                _finish(hook(*args))
        except BaseException as exc:
            self._report(name, exc)

    def _find(self, name: str) -> Callable[..., Any] | None:
        """Return the hook, ``None`` if it is the one that does nothing."""
        hook: Callable[..., Any] = getattr(self._task, name)
        default = getattr(BaseTask, name)
        return None if getattr(hook, '__func__', None) is default else hook

    def _deliver(self, interrupt: Interrupt) -> None:
        """Called in a signal handler while a hook runs."""
        if isinstance(interrupt, Terminate):
            # Out of the way of an interrupt by the watchdog.
            self._signal = interrupt
            self._interrupts.pending = None
            return
        self._lock.watchdog.stopping()
        raise interrupt

    def _settle(self, error: BaseException | None) -> None:
        """Leave to the loop what came while a hook ran."""
        stopped = next((
            each for each in (self._interrupts.pending, error)
            if isinstance(each, OneInstanceWatchdogError)), None)
        if stopped is not None:
            # Lost, or only too slow?
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

    def _report(self, name: str, error: BaseException) -> None:
        if isinstance(error, Interrupt):
            self._logger.error('hook %s was stopped: %s', name, error,
                               exc_info=error)
        else:
            self._logger.error('hook %s failed', name, exc_info=error)


def _put_off(interrupt: Interrupt) -> None:
    """Leave *interrupt* pending."""


def _finish(result: Any) -> None:
    """Run what a hook that is a coroutine function returned."""
    if hasattr(result, '__await__'):
        import asyncio

        async def run() -> None:
            await result

        asyncio.run(run())
