"""The loop: wait, acquire, run, report, release or keep, repeat.

A signal, or the watchdog of the lock, interrupts it by an exception, but only
inside ``interruptible()``, so that a release, for instance, is never cut short; see
:mod:`jobslib.interrupts`.
"""

from __future__ import annotations

from jobslib.clock import now
from jobslib.exceptions import (
    Interrupt,
    LockError,
    LockUnavailableError,
    OneInstanceWatchdogError,
    Terminate,
)
from jobslib.exitcodes import ExitCode
from jobslib.interrupts import Interrupts
from jobslib.loop.demands import Demands
from jobslib.loop.endings import find_outcome, log_end
from jobslib.loop.recording import Recording
from jobslib.loop.standby import Standby
from jobslib.observers import Observer, Observers
from jobslib.owner import OwnerRecord
from jobslib.run.handle import LATE_HOOKS, LOOK
from jobslib.run.result import Result
from jobslib.runs import Outcome, Run, describe
from jobslib.schedule.ledger import Ending, Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from jobslib.clock import Clock
    from jobslib.config import Config
    from jobslib.documents import Document
    from jobslib.oneinstance import BaseLock
    from jobslib.oneinstance.requests import Extra
    from jobslib.run.handle import RunHandle
    from jobslib.schedule.agenda import Agenda

__all__ = ['Runner']

# How long a standby waits for a lock that others have before it asks again, in
# seconds.
STANDBY_WAIT = 60.0
# The longest sleep, in seconds.  A signal that comes in the instant before a
# sleep does not end it, and is seen only when it is over.  Between two of them
# the loop looks whether operators ask for something.
LONGEST_SLEEP = 0.5
# How often a process that does not hold the lock asks its service whether
# operators ask for something, in seconds.
PEEK = 10.0
# For so long, in seconds, others go first when a process that keeps the lock
# has given it up.
OTHERS_FIRST = 10.0


class Runner:
    """Runs one task under its lock, once or for ever.

    :param process: the run's process, which has the task.
    :param lock: the lock.
    :param config: the options of the loop.
    :param agenda: says when runs are due.
    :param clock: the clock to wait by.
    :param interrupts: the signals of the process.
    :param logger: where the loop reports.
    :param observers: are told what the loop does.
    """

    def __init__(self, process: RunHandle, lock: BaseLock, config: Config,
                 agenda: Agenda, clock: Clock, interrupts: Interrupts,
                 logger: logging.Logger,
                 observers: Sequence[Observer] = ()) -> None:
        self.process = process
        process.tick = self._look_after
        process.grace = lock.watchdog.grace
        self.config = config
        self.agenda = agenda
        self.clock = clock
        self.interrupts = interrupts
        self.logger = logger
        self.observers = Observers(observers, logger)
        self.lock = lock
        lock.supervised = True
        self.lock.watchdog.interrupt = interrupts.interrupt
        self.lock.inherit_schedule = self._consider
        self.standby = Standby(lock, agenda, clock, logger, self.observers)
        self.recording = Recording(lock, config, agenda, clock, logger)
        self.demands = Demands(process, lock, config, self.recording, clock,
                               interrupts, logger)
        # Whether the run's process is to end before the next run: its run was
        # interrupted, or its children were ended behind its back.
        self._retires = False
        # The last sign of life of the run that was passed on to the watchdog.
        self._beat = 0.0
        # Whether the last run was interrupted because it took too long or was
        # silent; then it has failed, and was not cut short.
        self._overdue = False
        # Whether the run that is under way is by the schedule, and the request that
        # has asked for it, if one has.
        self._scheduled = False
        self._extra: Extra | None = None
        # When the lock's service was last asked whether operators ask for
        # something.
        self._peeked = 0.0
        # From when on others have had their chance to take the lock that this
        # process has given up.
        self._contends_at = float('-inf')

    # The loop.

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
                        # It was raised while the lock was kept between two runs.
                        self._release_if_lost()
            except Terminate as exc:
                self.logger.info('ended by %s', exc)
                return ExitCode.TERMINATED
            finally:
                self._shutdown()

    def _run_cycle(self) -> None:
        self._wait_until_due()
        if not self._acquire():
            return
        self._look()
        self._report_given_up()
        self._extra = None
        if not self.agenda.runs or not self.agenda.plan.has_slots:
            # A run that was asked for must not take the place of a slot's run, but
            # without slots the next run is as good as any other.
            self._extra = self.demands.take_extra(self.agenda.plan.recoveries)
        if not (self.agenda.runs or self._extra):
            if not self.config.keep_lock:
                self._release()
            return
        outcome = self._run()
        self.demands.clear()
        if not self.config.keep_lock or (
                self.config.release_on_error
                and outcome is not Outcome.SUCCEEDED
                and not self.demands.stopped):
            self._release()
            return
        if outcome in (Outcome.INTERRUPTED, Outcome.KILLED):
            self._release_if_lost()
        if self._ends:
            return
        self._retire(self.config.max_hook_time)

    def _run_once(self) -> ExitCode:
        while True:
            try:
                with self.interrupts.interruptible():
                    acquired = self._take()
            except LockUnavailableError as exc:
                self.logger.error('no lock: %s; to see why: runjob check', exc)
                return ExitCode.LOCK_SERVICE_UNAVAILABLE
            if acquired:
                break
            if self.lock.wanted or not self.agenda.is_imminent:
                return self.standby.explain_no_run()
            self._wait_until_due()
        self._has_acquired()
        if self.agenda.decision is not None and not self.agenda.runs:
            # The ledger that is kept beside the lock says that the slot is done.
            return self.standby.explain_done()
        try:
            outcome = self._run_slot()
        except OneInstanceWatchdogError:
            # Lost before the run had begun.
            self._release_if_lost()
            return ExitCode.LOCK_LOST
        if self._ends:
            assert self.interrupts.pending is not None
            raise self.interrupts.pending
        if outcome is Outcome.SUCCEEDED:
            return ExitCode.DONE
        if outcome is Outcome.FAILED or self._still_held():
            return ExitCode.TASK_FAILED
        return ExitCode.LOCK_LOST

    def _run_slot(self) -> Outcome:
        """Run, and try again as often as the plan says."""
        while True:
            outcome = self._run()
            if outcome is not Outcome.FAILED or not self.agenda.retries:
                return outcome
            slot = self.agenda.ledger.slot
            self._wait_until_due()
            if not self._still_held():
                return outcome
            self._look()
            if not self.agenda.runs or self.agenda.ledger.slot != slot:
                # A later slot has come meanwhile; that is another run.
                return outcome

    def _look(self) -> None:
        self.agenda.skips = self.lock.control.skipped
        self.agenda.look()

    def _report_given_up(self) -> None:
        """Say which slots are given up, and why."""
        given_up, self.agenda.given_up = self.agenda.given_up, []
        for why, slots in self.agenda.by_reason(given_up):
            self.logger.warning('given up: %s; %s', slots, why)
        if given_up:
            self.observers.missed(len(given_up))

    @property
    def _ends(self) -> bool:
        """Whether the job was told to end."""
        return isinstance(self.interrupts.pending, Terminate)

    # Between two runs.

    def _wait_until_due(self) -> None:
        # First, because what asks for the lock at once would also interrupt the
        # making of a new process, again and again.
        self._obey()
        if not self.config.cold_standby and not self._ends:
            # After a run that was interrupted or killed, a new process is made now,
            # so that neither the next run nor a takeover has to wait for imports.
            self._prepare()
        if (self.agenda.seconds_left > 0 and not self._stands_by
                and self.interrupts.pending is None):
            self.observers.waiting(self.agenda.due)
        if self.recording.has_unrecorded and not (
                self.lock.held or self.standby.is_cut_off or self._ends):
            # The lock was lost in an outage, and its service may answer again.
            self._peeked = float('-inf')
            self._peek()
        self._peeked = self.clock.now()
        while True:
            with self.interrupts.interruptible():
                left = self.agenda.seconds_left
                if left <= 0 or self._stands_by:
                    return
                self.clock.sleep(min(left, LONGEST_SLEEP))
            self.lock.sign_of_life()
            self.process.reap_orphans()
            self.process.questions.answer_all()
            # This is not interruptible, because a release must not be cut short.
            self._obey()
            if not self.lock.held:
                self._peek()
            if self.demands.extra is not None and (
                    not self.lock.control.paused):
                return

    @property
    def _stands_by(self) -> bool:
        """Whether this process waits for the lock to keep it, even if nothing
        is due."""
        return (self.config.keep_lock and not self.config.run_once
                and not self.lock.held
                and self.clock.now() >= self._contends_at)

    def _obey(self) -> None:
        """Release the lock between runs, if an operator asks for it."""
        if not self.lock.held:
            return
        if demand := self.demands.release:
            self.logger.info('releasing the lock: %s', demand)
            self._release()
        else:
            self.demands.clear()

    def _peek(self) -> None:
        """Ask what is asked of the job, and hand in what is missing, while this
        process does not hold the lock."""
        if self.clock.now() - self._peeked < PEEK or self.config.run_once:
            return
        self._peeked = self.clock.now()
        try:
            with self.interrupts.interruptible():
                self.lock.peek()
                self.recording.hand_in()
        except LockError:
            # An outage is reported when the lock is to be taken.
            pass

    # The lock.

    def _acquire(self) -> bool:
        """Hold the lock, or arrange when to try again."""
        self._obey()
        if self._still_held():
            return True
        try:
            with self.interrupts.interruptible():
                return self._take_or_wait()
        except LockUnavailableError as exc:
            self._wait_for_service(exc)
            return False

    def _take_or_wait(self) -> bool:
        acquired = self._take()
        self.standby.service_answered()
        if acquired:
            self.standby.reset()
            self._has_acquired()
            if self.config.keep_lock:
                self.logger.info('the lock is acquired')
            return True
        if not self.lock.wanted:
            # The lock is free, and there is nothing to take it for.
            self.standby.reset()
            self.logger.debug('not run: %s', self.agenda.describe())
            self.recording.hand_in()
            return False
        self.standby.explain_wait()
        self.recording.hand_in()
        self.process.reap_while(lambda: self.lock.wait(STANDBY_WAIT))
        return False

    def _take(self) -> bool:
        self.lock.wanted = True
        return self.recording.acquire()

    def _consider(self,
                  record: Document | None) -> Document | None:
        """Decide whether a lock that is free is taken; see
        :attr:`jobslib.oneinstance.BaseLock.inherit_schedule`."""
        self.agenda.pauses = self.lock.control.pauses
        self.agenda.skips = self.lock.control.skipped
        self.agenda.extra = self.demands.extra is not None
        return self.agenda.consider(OwnerRecord.parse(record))

    def _has_acquired(self) -> None:
        self.recording.inherit()
        self.agenda.inherit(
            OwnerRecord.parse(self.lock.previous_record),
            self.recording.history.ledger)
        if self.agenda.is_changed:
            self.logger.info('the last holder had another schedule; nothing that '
                             'came due before is caught up')
        self.process.show_lock(self.lock)
        self.recording.report_unfinished()
        # Done before the hooks, because these are called in that process.
        self._prepare()
        self.observers.acquired(self.lock.fencing_token)
        self.observers.inherited(self.recording.history)

    def _wait_for_service(self, exc: LockUnavailableError) -> None:
        pause = self.standby.service_failed(str(exc))
        self.process.reap_orphans()
        with self.interrupts.interruptible():
            self.clock.sleep(pause)

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

    def _release(self) -> bool:
        """Release the lock; return whether its service could be asked."""
        # Told to end before it came to that, perhaps.
        self._report_given_up()
        self._contends_at = self.clock.now() + OTHERS_FIRST
        answers = True
        self.agenda.cancel()
        self.recording.update()
        self._end_leftovers()
        try:
            if self.lock.release():
                self.recording.is_written()
                self.observers.released()
            else:
                self.observers.lost('the lock was not ours any more')
        except LockError as exc:
            self.logger.warning('the lock was not released: %s', exc)
            self.observers.lost(str(exc))
            self.recording.is_lacking(str(exc))
            answers = False
        if not self._ends:
            self._retire(self.config.max_hook_time)
        return answers

    # A run.

    def _run(self) -> Outcome:
        run = self.recording.new_run()
        failure = self._prepare()
        if self.interrupts.pending is not None:
            # Nothing has begun yet.
            raise self.interrupts.pending
        self._begin(run)
        started = self.clock.now()
        self.observers.run_begins(run)
        if failure is None:
            result = self._call_task(run)
        else:
            result = Result(Outcome.FAILED.value, failure)
        self._end(run, result, self.clock.now() - started)
        self._report_given_up()
        if run.outcome is Outcome.INTERRUPTED:
            self._retires = True
        pid = self.process.pid
        self.lock.spared = () if pid is None else (pid,)
        if self.process.deadline is None:
            self._stop_watching()
        self.observers.run_ended(run)
        if self.process.deadline is not None:
            # Something of the run goes on: it goes first, and then the lock.
            self._retire(self.config.max_hook_time)
            self.process.kill()
            self._stop_watching()
        return run.outcome

    def _begin(self, run: Run) -> None:
        """The slot that was decided on is begun, by *run*."""
        run.started = self.clock.wall()
        self.demands.begin(run.started)
        self._scheduled = self.agenda.runs
        if self._extra is not None:
            run.asked, run.reason = self._extra.id, 'asked'
            run.slot, run.attempt = self._extra.slot, self._extra.tries
        if not self._scheduled:
            return
        self.agenda.begin()
        if self._extra is None:
            run.slot = self.agenda.ledger.slot
            run.attempt = self.agenda.ledger.attempt
            run.reason = self.agenda.reason
        self._report_given_up()
        if self.config.keep_lock and (
                self.agenda.records is Records.BEGINS
                or self.config.recoveries == 0):
            self.recording.save()

    def _call_task(self, run: Run) -> Result:
        try:
            with self.interrupts.interruptible(self._deliver):
                self.lock.watchdog.start(
                    self.config.max_run_time, run.export())
                return self.process.run(run, self.lock)
        except LockError as exc:
            # There is nobody to watch over the run, which has not begun: the
            # task has not failed, and whoever has the lock next makes up for it.
            return Result(Outcome.INTERRUPTED.value, describe(exc), str(exc))

    def _deliver(self, interrupt: Interrupt) -> None:
        self.lock.watchdog.stopping()
        self.process.interrupt(interrupt)

    def _look_after(self) -> float:
        """Do what is to be done while the run's process is waited for.

        :returns: after how many seconds it is to be done again.
        """
        self.lock.sign_of_life()
        watchdog = self.lock.watchdog
        if self.process.beat > self._beat:
            self._beat = self.process.beat
            watchdog.beat()
        if (overdue := watchdog.overdue()) is not None:
            self.interrupts.interrupt(
                OneInstanceWatchdogError(overdue, overdue=True))
        if self.lock.held:
            self.demands.pass_on()
        return min(LOOK, watchdog.due() - now())

    def _end(self, run: Run, result: Result, duration: float) -> None:
        """Give *run* its outcome, make it known, and log it."""
        interrupt = self.interrupts.pending
        self.interrupts.clear()
        self._overdue = getattr(interrupt, 'overdue', False)
        outcome, error = find_outcome(result, interrupt)
        run.end(outcome, duration, error)
        # Whoever is told may kill this process the moment after.
        self._secure(run)
        log_end(self.logger, run, result, interrupt, self.config.task_name)

    def _secure(self, run: Run) -> None:
        """The slot and the history have the outcome of *run*, also if this
        process gets no further."""
        ending = self._ending(run)
        if self._scheduled:
            self.agenda.end(ending)
        if self._extra is not None and ending is not Ending.CUT_SHORT:
            self.demands.end_extra(self._extra)
        self.recording.add(run)

    def _ending(self, run: Run) -> Ending:
        """Return what the outcome of *run* is for the schedule."""
        if run.outcome is Outcome.SUCCEEDED:
            return Ending.SUCCEEDED
        if self.demands.stopped:
            return Ending.STOPPED
        # Where runs follow one another, the next one makes up for this one;
        # after a pause, since it may end in the same way.
        endless = not self.agenda.plan.has_slots and not self._ends
        failed = run.outcome is Outcome.FAILED or self._overdue or endless
        return Ending.FAILED if failed else Ending.CUT_SHORT

    def _stop_watching(self) -> None:
        try:
            self.lock.watchdog.stop()
        except LockError as exc:
            # The lock is lost, as will be seen.
            self.logger.warning('the end of the run was not noted: %s', exc)

    # The run's process.

    def _prepare(self) -> str | None:
        """Make sure that there is a process with the task; return why there is
        none, ``None`` if there is."""
        if self.process.is_ready:
            return None
        with self.interrupts.interruptible(self.process.interrupt):
            return self.process.prepare()

    def _retire(self, limit: float) -> None:
        """End a process that is not to run again; the next run gets another.

        :param limit: how long it may take to end, in seconds.
        """
        if self._retires:
            self._retires = False
            self.process.finish(limit)
            self.process.end_leftovers()

    def _end_leftovers(self) -> None:
        """End what runs have left, before the lock goes.

        A process whose children are ended behind its back is not as it was:
        a pool, for instance, is broken then.  So the next run gets another,
        and this one ends first, since it knows best how to end what it has;
        unless a hook is still to be called in it.  A process that ends in any
        case takes along what goes on in its threads, and calls what runs have
        registered for its end.
        """
        if self.process.leaves_processes() or (
                (self._ends or self.config.run_once)
                and self.process.leaves_code()):
            self._retires = True
            if LATE_HOOKS.isdisjoint(self.process.hooks):
                self._retire(self.process.grace if self._ends
                             else self.config.max_hook_time)
        self.process.end_leftovers()

    # The end.

    def _shutdown(self) -> None:
        """Leave nothing locked, and close what was opened."""
        try:
            if not self.lock.held or self._release():
                # The last chance, also in an outage.
                self.recording.hand_in()
            self.recording.report_unrecorded()
        finally:
            try:
                self.lock.close()
            finally:
                self.observers.closed()
                # The context is closed in there.  A thread that an import
                # has started may go on for ever.
                self.process.finish(
                    self.config.max_hook_time if self._ends else None)
                self.process.end_leftovers()
