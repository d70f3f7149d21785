"""The loop: wait, acquire, run, report, release or keep, repeat."""

from __future__ import annotations

import os

from jobslib.exceptions import (
    Interrupt,
    LockError,
    LockUnavailableError,
    OneInstanceWatchdogError,
    TaskError,
    Terminate,
)
from jobslib.exitcodes import ExitCode
from jobslib.history import History
from jobslib.interrupts import Interrupts
from jobslib.observers import Observer, Observers
from jobslib.runs import Outcome, Run

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from typing import Any

    from jobslib.clock import Clock
    from jobslib.schedule import Schedule

__all__ = ['FENCING_TOKEN_VARIABLE', 'Runner']

#: The environment variable that hands the fencing token to what a task
#: starts.
FENCING_TOKEN_VARIABLE = 'JOBSLIB_FENCING_TOKEN'

STANDBY_WAIT = 30.0
FIRST_RETRY = 0.5
LAST_RETRY = 2.0
# A signal that comes in the instant before a sleep does not end it.
# Operators' requests are looked for as often.
LONGEST_SLEEP = 0.5


class Runner:
    """Runs one task under its lock, once or for ever.

    :param task: the task.
    :param config: the options of the loop.
    :param schedule: says when runs are due.
    :param clock: the clock to wait by.
    :param interrupts: the signals of the process.
    :param logger: where the loop reports.
    :param observers: are told what the loop does.
    """

    def __init__(self, task: Any, config: Any, schedule: Schedule,
                 clock: Clock, interrupts: Interrupts,
                 logger: logging.Logger,
                 observers: Sequence[Observer] = ()) -> None:
        self.task = task
        self.config = config
        self.schedule = schedule
        self.clock = clock
        self.interrupts = interrupts
        self.logger = logger
        self.observers = Observers(observers, logger)
        self.lock = task.context.one_instance_lock
        self.lock.watchdog.interrupt = interrupts.interrupt
        self.lock.inherit_schedule = self._inherit_schedule
        self._held_elsewhere = False
        self._retry_pause = 0.0
        self.history = History(config.history)
        # Whether the history is that of the lock that is held.
        self._inherited = False
        # Runs are counted from here where there is no history.
        self._runs = 0

    def run(self) -> ExitCode:
        """Run until the job is done or the process is told to end."""
        with self.interrupts:
            try:
                self.observers.started()
                if self.config.run_once:
                    return self._run_once()
                while True:
                    try:
                        self._run_cycle()
                    except OneInstanceWatchdogError:
                        # Raised while the lock was kept between two runs.
                        self._release_if_lost()
            except Terminate as exc:
                self.logger.info('ended by %s', exc)
                return ExitCode.TERMINATED
            finally:
                self._shutdown()

    def _run_once(self) -> ExitCode:
        try:
            with self.interrupts.guard():
                acquired = self._take()
        except LockUnavailableError as exc:
            self.logger.error('no lock: %s', exc)
            return ExitCode.LOCK_SERVICE_UNAVAILABLE
        if not acquired:
            reason = self._describe_holder()
            self.logger.warning('not run: %s', reason)
            self.observers.standby(reason)
            return ExitCode.LOCK_NOT_AVAILABLE
        self._has_acquired()
        outcome = self._run()
        if isinstance(self.interrupts.pending, Terminate):
            raise self.interrupts.pending
        if outcome is Outcome.SUCCEEDED:
            return ExitCode.DONE
        if outcome is Outcome.FAILED or self._still_held():
            return ExitCode.TASK_FAILED
        return ExitCode.LOCK_LOST

    def _run_cycle(self) -> None:
        self._wait_until_due()
        if not self._acquire():
            return
        self.schedule.starts()
        outcome = self._run()
        self.schedule.ran(failed=outcome is not Outcome.SUCCEEDED)
        self._report_missed()
        if not self.config.keep_lock or (
                self.config.release_on_error
                and outcome is not Outcome.SUCCEEDED):
            self._release()
            return
        if outcome is Outcome.INTERRUPTED:
            self._release_if_lost()
        if self.lock.held and not isinstance(
                self.interrupts.pending, Terminate):
            # In all other cases it goes with the release.
            self._export_history()
            self.lock.save_history()

    def _wait_until_due(self) -> None:
        if (self.schedule.due > self.clock.now()
                and self.interrupts.pending is None):
            self.observers.waiting(self.schedule.export()['due'] or 0.0)
        while True:
            with self.interrupts.guard():
                left = self.schedule.due - self.clock.now()
                if left <= 0:
                    return
                self.clock.sleep(min(left, LONGEST_SLEEP))
            # Not under guard: a release is not to be cut short.
            self._obey()

    def _acquire(self) -> bool:
        """Hold the lock, or arrange when to try again."""
        self._obey()
        if self._still_held():
            return True
        try:
            with self.interrupts.guard():
                return self._take_or_wait()
        except LockUnavailableError as exc:
            self._wait_for_service(exc)
            return False

    def _obey(self) -> None:
        """Release the lock between runs, if an operator asks for it."""
        if self.lock.held and (
                demand := self.lock.control.demand(self.lock.fencing_token)):
            self.logger.info('releasing the lock: %s', demand)
            self._release()

    def _still_held(self) -> bool:
        self._release_if_lost()
        held: bool = self.lock.held
        return held

    def _release_if_lost(self) -> None:
        self.interrupts.clear()
        if self.lock.held and not self._refresh():
            self.logger.warning('the lock is lost')
            self._release()

    def _refresh(self) -> bool:
        try:
            return bool(self.lock.refresh())
        except LockError:
            return False

    def _take_or_wait(self) -> bool:
        self.lock.schedule = self.schedule.export()
        acquired = self._take()
        if self._retry_pause:
            self._retry_pause = 0.0
            # Who has it, or that nobody may, is said again.
            self._held_elsewhere = False
            self.logger.info('the service of the lock answers again')
        if acquired:
            self._held_elsewhere = False
            self._has_acquired()
            if self.config.keep_lock:
                self.logger.info('the lock is acquired')
            return self.schedule.due <= self.clock.now()
        self._report_held_elsewhere()
        if self.config.keep_lock or not self.schedule.has_interval:
            self.lock.wait(STANDBY_WAIT)
        else:
            self.schedule.skip()
        return False

    def _take(self) -> bool:
        self._inherited = False
        acquired: bool = self.lock.acquire()
        return acquired

    def _inherit_history(self) -> None:
        self.history = History.read(
            self.lock.previous_history, self.lock.previous_record,
            self.clock.wall(), self.config.history)
        self._inherited = True

    def _has_acquired(self) -> None:
        self._inherit_history()
        self.observers.acquired(self.lock.fencing_token)
        self.observers.inherited(self.history)

    def _inherit_schedule(
        self, record: dict[str, Any] | None,
    ) -> dict[str, float | None]:
        if self.config.keep_lock:
            self.schedule.inherit(record)
        return self.schedule.export()

    def _wait_for_service(self, exc: LockUnavailableError) -> None:
        if not self._retry_pause:
            self.logger.warning('waiting for the lock: %s', exc)
            self.observers.standby(str(exc))
        self._retry_pause = min(
            max(FIRST_RETRY, 2 * self._retry_pause), LAST_RETRY)
        with self.interrupts.guard():
            self.clock.sleep(self._retry_pause)

    def _run(self) -> Outcome:
        started = self.clock.now()
        self._runs += 1
        run = Run(max(self._runs, self.history.runs + 1),
                  self.lock.fencing_token, self.clock.wall())
        error: BaseException | None = None
        self._export_fencing_token()
        self.observers.run_begins(run)
        try:
            with self.interrupts.guard(self._deliver):
                self.lock.watchdog.start(
                    self.config.max_run_time, run.export())
                self._call_task()
        except BaseException as exc:
            error = exc
        finally:
            self.lock.watchdog.stop()
        self._end(run, error, self.clock.now() - started)
        self.history.add(run, self.lock.own_record)
        self.observers.run_ended(run)
        return run.outcome

    def _end(self, run: Run, error: BaseException | None,
             duration: float) -> None:
        """Give *run* its outcome, and log it."""
        self.task.end_progress()
        name = self.config.task_name
        interrupt = self.interrupts.pending
        if interrupt is None and isinstance(error, Interrupt):
            interrupt = error
        self.interrupts.clear()
        if interrupt is not None:
            run.end(Outcome.INTERRUPTED, duration, interrupt)
            self.logger.warning(
                'run interrupted after %.3f s: %s', duration, interrupt,
                extra=run.log_fields(name))
        elif error is None:
            run.end(Outcome.SUCCEEDED, duration)
            self.logger.info('run succeeded after %.3f s', duration,
                             extra=run.log_fields(name))
        else:
            run.end(Outcome.FAILED, duration, error)
            if isinstance(error, TaskError):
                self.logger.error(
                    'run failed after %.3f s: %s', duration, error,
                    extra=run.log_fields(name))
            else:
                self.logger.error(
                    'run failed after %.3f s', duration, exc_info=error,
                    extra=run.log_fields(name))

    def _call_task(self) -> None:
        try:
            result = self.task.task()
            if hasattr(result, '__await__'):
                self._run_coroutine(result)
        except SystemExit as exc:
            if exc.code not in (None, 0):
                raise TaskError(f'exit with {exc.code}') from exc

    def _run_coroutine(self, coroutine: Any) -> None:
        """Run *coroutine*; an interrupt cancels it."""
        import asyncio

        async def run() -> None:
            loop = asyncio.get_running_loop()
            current = asyncio.current_task()
            assert current is not None

            def cancel(interrupt: Interrupt) -> None:
                self.lock.watchdog.stopping()
                loop.call_soon_threadsafe(current.cancel, str(interrupt))

            with self.interrupts.guard(cancel):
                await coroutine

        asyncio.run(run())

    def _deliver(self, interrupt: Interrupt) -> None:
        self.lock.watchdog.stopping()
        raise interrupt

    def _export_fencing_token(self) -> None:
        token = self.lock.fencing_token
        if token is None:
            os.environ.pop(FENCING_TOKEN_VARIABLE, None)
        else:
            os.environ[FENCING_TOKEN_VARIABLE] = str(token)

    def _export_history(self) -> None:
        if not self._inherited:
            # Interrupted in the instant after the lock was acquired.
            self._inherit_history()
        self.lock.history = self.history.export(
            self.lock.fencing_token, self.schedule.export()['due'])

    def _release(self) -> None:
        self.lock.schedule = self.schedule.export()
        self._export_history()
        try:
            if self.lock.release():
                self.observers.released()
            else:
                self.observers.lost('the lock was not ours any more')
        except LockError as exc:
            self.logger.warning('the lock was not released: %s', exc)
            self.observers.lost(str(exc))

    def _shutdown(self) -> None:
        """Leave nothing locked, and close what was opened."""
        try:
            if self.lock.held:
                self._release()
        finally:
            try:
                self.lock.close()
            finally:
                self.observers.closed()
                self._close_context()

    def _close_context(self) -> None:
        try:
            self.task.context.close()
        except Exception:
            # The runs are what the exit code is about.
            self.logger.exception('the context was not closed')

    def _report_held_elsewhere(self) -> None:
        # A standby says so once; a slot that is skipped says so each time.
        if not (self._held_elsewhere and self.config.keep_lock):
            reason = self._describe_holder()
            self.logger.info('not run: %s', reason)
            self.observers.standby(reason)
        self._held_elsewhere = True

    def _describe_holder(self) -> str:
        if self.lock.barred:
            barred: str = self.lock.barred
            return barred
        try:
            holder = self.lock.get_lock_owner_info() or {}
        except LockError:
            holder = {}
        return (f'the lock is held by {holder.get("fqdn", "somebody")} '
                f'(pid {holder.get("pid", "?")}) '
                f'since {holder.get("time_local", "?")}')

    def _report_missed(self) -> None:
        if self.schedule.missed:
            self.logger.warning('missed slots: %d', self.schedule.missed)
            self.observers.missed(self.schedule.missed)
            self.schedule.missed = 0
