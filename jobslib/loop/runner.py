"""The loop: wait, acquire, run, report, release or keep, repeat."""

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
from jobslib.history import History
from jobslib.interrupts import Interrupts
from jobslib.logs import with_traceback
from jobslib.loop.outages import Outage
from jobslib.loop.unrecorded import Unrecorded
from jobslib.observers import Observer, Observers
from jobslib.owner import OwnerRecord
from jobslib.run.handle import LOOK, Result
from jobslib.runs import Outcome, Run, describe
from jobslib.schedule.ledger import Ending, Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from jobslib.clock import Clock
    from jobslib.config import Config
    from jobslib.documents import Document
    from jobslib.oneinstance import BaseLock
    from jobslib.oneinstance.control import Control
    from jobslib.oneinstance.requests import Extra, Stop
    from jobslib.run.handle import RunHandle
    from jobslib.schedule.agenda import Agenda

__all__ = ['Runner']

STANDBY_WAIT = 60.0
FIRST_RETRY = 0.5
LAST_RETRY = 2.0
# A signal that comes in the instant before a sleep does not end it.
# Operators' requests are looked for as often.
LONGEST_SLEEP = 0.5
# For so long, in seconds, a request for the run before may still come to light
# when the next one has begun.
BELATED = 2.0
# How often who does not hold the lock sees what is asked, in seconds.
PEEK = 10.0
# For so long, in seconds, others go first when a process that keeps the lock
# has given it up.
OTHERS_FIRST = 10.0
# How long the service of the lock may take to note that one is obeyed.
LONGEST_NOTE = 10.0


class Runner:
    """Has one task run under its lock, once or for ever.

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
        self._held_elsewhere = False
        self._retry_pause = 0.0
        self._outage = Outage(self.logger, self.clock)
        self.history = History(config.history)
        # Whether the history is that of the lock that is held.
        self._inherited = False
        # What this process knows, and the history perhaps does not.
        self._unrecorded = Unrecorded()
        # Why that could not be handed in.
        self._lack = ''
        # Runs are counted from here where there is no history.
        self._runs = 0
        # Whether the process is to end: its run was interrupted, or it has lost
        # its children.
        self._retires = False
        # The last sign of life of the run that was passed on.
        self._beat = 0.0
        # What was asked of the run that is under way, as it was logged.
        self._asked: str | None = None
        # The last request to stop a run, whether it stopped the one that is
        # under way, and the start of that: UNIX time and time of the clock.
        self._stop: Stop | None = None
        self._stopped = False
        self._began = 0.0, 0.0
        # Whether the last run was interrupted for its length or its silence:
        # it has failed then, and was not cut short.
        self._overdue = False
        # What was asked when something of it was last removed.
        self._cleared: Mapping[str, object] | None = None
        # The request that is obeyed by a run beside the schedule, the last
        # one that is done with, by its id, and whether the run that is under
        # way is one by the schedule.
        self._extra: Extra | None = None
        self._done: str | None = None
        self._scheduled = False
        # When the lock was last asked what is asked of the job.
        self._peeked = 0.0
        # From when on others have had their chance to take the lock that this
        # process has given up.
        self._contends_at = float('-inf')

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
                return self._explain_no_run()
            self._wait_until_due()
        self._has_acquired()
        if self.agenda.decision is not None and not self.agenda.runs:
            # What is kept beside the lock knows that the slot is done.
            return self._report_no_run(self.agenda.describe(), True)
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

    def _explain_no_run(self) -> ExitCode:
        """Say why a process that is there for one run does not run."""
        if self.lock.wanted:
            reason = self._describe_holder()
            done = not self.lock.barred and self.agenda.is_in_hand(
                OwnerRecord.parse(self._find_holder()))
        else:
            reason, done = self.agenda.describe(), True
        return self._report_no_run(reason, done)

    def _report_no_run(self, reason: str, done: bool) -> ExitCode:
        if done:
            self.logger.info('not run: %s', reason)
        else:
            self.logger.warning('not run: %s', reason)
        self.observers.standby(reason)
        return ExitCode.DONE if done else ExitCode.LOCK_NOT_AVAILABLE

    def _run_cycle(self) -> None:
        self._wait_until_due()
        if not self._acquire():
            return
        self._look()
        self._report_given_up()
        self._extra = None
        if not self.agenda.runs or not self.agenda.plan.has_slots:
            # Without slots the next run is as good as any.
            self._take_extra()
        if not (self.agenda.runs or self._extra):
            if not self.config.keep_lock:
                self._release()
            return
        outcome = self._run()
        self._clear()
        if not self.config.keep_lock or (
                self.config.release_on_error
                and outcome is not Outcome.SUCCEEDED and not self._stopped):
            self._release()
            return
        if outcome in (Outcome.INTERRUPTED, Outcome.KILLED):
            self._release_if_lost()
        if self._ends:
            return
        self._retire(self.config.max_hook_time)
        if self.lock.held:
            # In all other cases it goes with the release.
            self._save()

    def _look(self) -> None:
        self.agenda.skips = self.lock.control.skipped
        self.agenda.look()

    def _save(self) -> None:
        """Keep what is known of the job beside the lock, which is kept."""
        self.lock.schedule = self.agenda.export()
        self._export_history()
        self.lock.save_history()

    @property
    def _ends(self) -> bool:
        """Whether the job was told to end."""
        return isinstance(self.interrupts.pending, Terminate)

    def _wait_until_due(self) -> None:
        if not self.config.cold_standby and not self._ends:
            # After a run that was interrupted or killed: the next, or the
            # takeover of a standby, is not to wait for imports.
            self._prepare()
        if (self.agenda.seconds_left > 0 and not self._stands_by
                and self.interrupts.pending is None):
            self.observers.waiting(self.agenda.due)
        if self._unrecorded and not (
                self.lock.held or self._outage.lasts or self._ends):
            # The lock may be lost, and its service within reach.
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
            self.process.answer_questions()
            # Not interruptible: a release is not to be cut short.
            self._obey()
            if not self.lock.held:
                self._peek()
            if self._find_extra() is not None and (
                    not self.lock.control.paused):
                return

    @property
    def _stands_by(self) -> bool:
        """Whether this process waits for the lock to keep it, even if nothing
        is due."""
        return (self.config.keep_lock and not self.config.run_once
                and not self.lock.held
                and self.clock.now() >= self._contends_at)

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

    def _obey(self) -> None:
        """Release the lock between runs, if an operator asks for it."""
        if not self.lock.held:
            return
        control, token = self.lock.control, self.lock.fencing_token
        if demand := control.demand(token):
            self.logger.info('releasing the lock: %s', demand)
            self._release()
        else:
            self._clear()

    def _clear(self) -> None:
        """No run is under way: remove what is done with."""
        control: Control = self.lock.control
        changes: dict[str, object] = {}
        if control.handed_in and control.export() != self._cleared and (
                self._merge_handed_in()):
            changes['handed_in'] = False
        if control.stop_for(self.lock.fencing_token):
            changes['stop'] = None
        if control.extra is not None and control.extra.id == self._done:
            changes['extra'] = None
        # What was removed may be seen for a moment longer.
        if changes and control.export() != self._cleared and (
                self._note(control.changed(**changes), control)):
            self._cleared = control.export()

    def _merge_handed_in(self) -> bool:
        """Merge what others have handed in while the lock is held; return
        whether that is done."""
        self.lock.sign_of_life(LONGEST_NOTE)
        try:
            handed_in = self.lock.find_handed_in()
        except LockError as exc:
            self.logger.debug('not merged: %s', exc)
            return False
        finally:
            self.lock.sign_of_life()
        if self.history.merge_all(handed_in) and self.config.keep_lock:
            self._save()
        return True

    def _note(self, control: Control, expected: Control) -> bool:
        """Write that what is asked is obeyed; return whether that is so."""
        self.lock.sign_of_life(LONGEST_NOTE)
        try:
            noted: bool = self.lock.ask(control, expected)
            return noted
        except LockError as exc:
            # It is tried again.
            self.logger.debug('not noted: %s', exc)
            return False
        finally:
            self.lock.sign_of_life()

    def _find_extra(self) -> Extra | None:
        """Return what asks for a run beside the schedule, if this process may
        have it."""
        extra: Extra | None = self.lock.control.extra
        if extra is None or self.config.run_once or extra.id == self._done:
            return None
        return extra

    def _take_extra(self) -> bool:
        """Make the run that is asked for, if one is, that of this process;
        the lock is held."""
        control, extra = self.lock.control, self._find_extra()
        if extra is None:
            return False
        if self.history.has_ended(extra.id):
            # By a process that did not live to note it.
            self._done = extra.id
            self._clear()
            return False
        if extra.tries > self.agenda.plan.recoveries:
            self.logger.warning(
                'given up: the run that %s asked for; its runs were cut short',
                extra.who)
            self._done = extra.id
            self._clear()
            return False
        extra = extra.begun(self.lock.fencing_token,
                            round(self.clock.wall(), 3))
        if not self._note(control.changed(extra=extra), control):
            return False
        self._extra = extra
        self.logger.info('a run was asked for by %s', extra.who)
        return True

    def _peek(self) -> None:
        """See what is asked of the job, while nobody may have the lock."""
        if self.clock.now() - self._peeked < PEEK or self.config.run_once:
            return
        self._peeked = self.clock.now()
        try:
            with self.interrupts.interruptible():
                self.lock.peek()
                self._hand_in()
        except LockError:
            # It is heard of when the lock is to be taken.
            pass

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
        acquired = self._take()
        if self._outage.lasts:
            self._retry_pause = 0.0
            # Who has it, or that nobody may, is said again.
            self._held_elsewhere = False
            self._outage.over()
        if acquired:
            self._held_elsewhere = False
            self._has_acquired()
            if self.config.keep_lock:
                self.logger.info('the lock is acquired')
            return True
        if not self.lock.wanted:
            # Free, and there is nothing to take it for.
            self._held_elsewhere = False
            self.logger.debug('not run: %s', self.agenda.describe())
            self._hand_in()
            return False
        self._report_held_elsewhere()
        self._hand_in()
        self.process.reap_while(lambda: self.lock.wait(STANDBY_WAIT))
        return False

    def _take(self) -> bool:
        self._inherited = False
        self.lock.wanted = True
        try:
            acquired: bool = self.lock.acquire()
        finally:
            if self.lock.unheard is not None:
                # Who finds it in the lock would think that it has had a run.
                self._unrecorded.begin(
                    OwnerRecord(self.lock.unheard).timestamp)
        return acquired

    def _consider(self,
                  record: Document | None) -> Document | None:
        """Decide whether the free lock is taken; see
        :attr:`jobslib.oneinstance.BaseLock.inherit_schedule`."""
        self.agenda.pauses = self.lock.control.pauses
        self.agenda.skips = self.lock.control.skipped
        self.agenda.extra = self._find_extra() is not None
        return self.agenda.consider(OwnerRecord.parse(record))

    def _inherit_history(self) -> None:
        record = OwnerRecord.parse(self.lock.previous_record)
        self.history = History.read(
            self.lock.previous_history, record, self.clock.wall(),
            self.config.history, handed_in=self.lock.handed_in,
            asked=self.lock.control.begun)
        for each in self._unrecorded.missing(self.history, record):
            self.history.merge(each)
        self.history.hold = self._owner.timestamp
        self._unrecorded.begin(self.history.hold)
        self._inherited = True

    @property
    def _owner(self) -> OwnerRecord:
        """What this process has written of itself when it took the lock."""
        return OwnerRecord(self.lock.own_record)

    def _hand_in(self) -> None:
        """Hand in what is missing in the history; the lock is not held."""
        if not self._unrecorded or not self.config.history:
            return
        try:
            state = self.lock.look()
            record = OwnerRecord.parse(state.record)
            history = History.read(
                state.history, record, self.clock.wall(), held=state.held,
                handed_in=state.handed_in, asked=state.control.begun)
            for each in self._unrecorded.missing(history, record):
                if self.lock.hand_in(each):
                    self._unrecorded.forget(each.hold)
                    for run in each.runs:
                        self.logger.info(
                            'run %s was not in the history and is handed in',
                            run.number)
        except NotImplementedError:
            self._unrecorded.forget_all()
        except LockError as exc:
            # It is tried again.
            self._lack = str(exc)

    def _has_acquired(self) -> None:
        self._inherit_history()
        self.agenda.inherit(
            OwnerRecord.parse(self.lock.previous_record), self.history.ledger)
        self.process.show_lock(self.lock)
        self._report_unfinished()
        # Before the hooks, which are called in there.
        self._prepare()
        self.observers.acquired(self.lock.fencing_token)
        self.observers.inherited(self.history)

    def _wait_for_service(self, exc: LockUnavailableError) -> None:
        if self._outage.failed(str(exc)):
            self.observers.standby(str(exc))
        self._retry_pause = min(
            max(FIRST_RETRY, 2 * self._retry_pause), LAST_RETRY)
        self.process.reap_orphans()
        with self.interrupts.interruptible():
            self.clock.sleep(self._retry_pause)

    def _prepare(self) -> str | None:
        """Have a process with the task; return why there is none."""
        if self.process.is_ready:
            return None
        with self.interrupts.interruptible(self.process.interrupt):
            return self.process.prepare()

    def _report_unfinished(self) -> None:
        unfinished = self.history.unfinished
        if unfinished is not None:
            self.logger.warning(
                'run %s of %s (pid %s) was not finished: %s',
                unfinished.number, unfinished.fqdn, unfinished.pid,
                unfinished.error)

    def _run(self) -> Outcome:
        self._runs += 1
        run = Run(max(self._runs, self.history.number + 1),
                  self.lock.fencing_token, self.clock.wall())
        run.fqdn, run.pid = self._owner.fqdn, self._owner.pid
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
        interrupted = self._end(run, result, self.clock.now() - started)
        self._report_given_up()
        if interrupted:
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

    def _stop_watching(self) -> None:
        try:
            self.lock.watchdog.stop()
        except LockError as exc:
            # The lock is lost, as will be seen.
            self.logger.warning('the end of the run was not noted: %s', exc)

    def _begin(self, run: Run) -> None:
        """The slot that was decided on is begun, by *run*."""
        run.started = self.clock.wall()
        self._asked = None
        # What is seen before the run is not about it.
        self._stop, self._stopped = self.lock.control.stop, False
        self._began = run.started, self.clock.now()
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
            self._save()

    def _ending(self, run: Run) -> Ending:
        """Return what the outcome of *run* is for the schedule."""
        if run.outcome is Outcome.SUCCEEDED:
            return Ending.SUCCEEDED
        if self._stopped:
            return Ending.STOPPED
        # Where runs follow one another, the next one makes up for this one;
        # after a pause, since it may end in the same way.
        endless = not self.agenda.plan.has_slots and not self._ends
        failed = run.outcome is Outcome.FAILED or self._overdue or endless
        return Ending.FAILED if failed else Ending.CUT_SHORT

    def _call_task(self, run: Run) -> Result:
        try:
            with self.interrupts.interruptible(self._deliver):
                self.lock.watchdog.start(
                    self.config.max_run_time, run.export())
                return self.process.run(run, self.lock)
        except LockError as exc:
            return Result(Outcome.FAILED.value, describe(exc), str(exc))

    def _end(self, run: Run, result: Result, duration: float) -> bool:
        """Give *run* its outcome, make it known, and log it; return whether
        it was interrupted."""
        interrupt = self.interrupts.pending
        self.interrupts.clear()
        self._overdue = getattr(interrupt, 'overdue', False)

        def ended(outcome: Outcome, error: str | None) -> dict[str, object]:
            run.end(outcome, duration, error)
            # Whoever is told may kill this process the moment after.
            self._secure(run)
            return run.log_fields(self.config.task_name)

        if result.outcome is Outcome.KILLED:
            fields = ended(Outcome.KILLED, result.error)
            self.logger.error('run killed after %.3f s: %s', duration,
                              result.error, extra=fields)
        elif interrupt is not None or result.outcome is Outcome.INTERRUPTED:
            error = (result.error or '' if interrupt is None
                     else describe(interrupt))
            fields = ended(Outcome.INTERRUPTED, error)
            self.logger.warning(
                'run interrupted after %.3f s: %s', duration,
                result.message if interrupt is None else interrupt,
                extra=fields)
            return True
        elif result.outcome is Outcome.SUCCEEDED:
            fields = ended(Outcome.SUCCEEDED, None)
            self.logger.info('run succeeded after %.3f s', duration,
                             extra=fields)
        elif result.traceback is None:
            fields = ended(Outcome.FAILED, result.error)
            self.logger.error('run failed after %.3f s: %s', duration,
                              result.message or result.error, extra=fields)
        else:
            fields = ended(Outcome.FAILED, result.error)
            with_traceback(self.logger, result.traceback,
                           'run failed after %.3f s', duration, **fields)
        return False

    def _secure(self, run: Run) -> None:
        """The slot and the history have the outcome of *run*, also if this
        process gets no further."""
        ending = self._ending(run)
        if self._scheduled:
            self.agenda.end(ending)
        if self._extra is not None and ending is not Ending.CUT_SHORT:
            self._done = self._extra.id
        self.history.add(run, self._owner.timestamp)
        self._unrecorded.add(self._owner.timestamp, run)
        self.lock.schedule = self.agenda.export()
        self._export_history()
        self.lock.secure_outcome()

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
            self._pass_on_demand()
            self._stop_on_demand()
        return min(LOOK, watchdog.due() - now())

    def _pass_on_demand(self) -> None:
        """Let the run know what operators ask of the job."""
        control, token = self.lock.control, self.lock.fencing_token
        demand = control.demand(token)
        if demand is None:
            return
        if demand != self._asked:
            self._asked = demand
            self.logger.info('the run is asked to end: %s', demand)
            self.process.ask_to_stop(demand)
        if control.interrupts(token):
            self.interrupts.interrupt(OneInstanceWatchdogError(demand))

    def _stop_on_demand(self) -> None:
        """End the run, if an operator asks for it and not for more."""
        stop = self.lock.control.stop_for(self.lock.fencing_token)
        if stop is None or stop == self._stop:
            return
        self._stop = stop
        started, since = self._began
        if stop.timestamp is not None and stop.timestamp < started and (
                self.clock.now() - since < BELATED):
            # It was for the run before.
            return
        reason = f'stop asked for by {stop.who}'
        self.logger.info('the run is stopped: %s', reason)
        self._stopped = True
        self.process.ask_to_stop(reason)
        self.interrupts.interrupt(OneInstanceWatchdogError(reason))

    def _retire(self, limit: float) -> None:
        """End a process that is not to run again; the next run gets another.

        :param limit: how long it may take to end, in seconds.
        """
        if self._retires:
            self._retires = False
            self.process.finish(limit)
            self._kill_leftovers()

    def _export_history(self) -> None:
        if not self._inherited:
            # Interrupted in the instant after the lock was acquired.
            self._inherit_history()
        history = self.history.export(
            self.lock.fencing_token, self.agenda.due)
        if history is None and self.config.recoveries == 0:
            # At most once is promised, whatever is kept of the runs.
            history = {'token': self.lock.fencing_token, 'newest': []}
        if history is not None and self.config.keep_lock:
            # It is newer than that of the owner record, for a successor.
            history['ledger'] = self.agenda.ledger.export()
        self.lock.history = history

    def _release(self) -> bool:
        """Release the lock; return whether its service could be asked."""
        # Told to end before it came to that, perhaps.
        self._report_given_up()
        self._contends_at = self.clock.now() + OTHERS_FIRST
        answers = True
        self.agenda.cancel()
        self.lock.schedule = self.agenda.export()
        self._export_history()
        self._end_leftovers()
        try:
            if self.lock.release():
                self._unrecorded.forget_all()
                self.observers.released()
            else:
                self.observers.lost('the lock was not ours any more')
        except LockError as exc:
            self.logger.warning('the lock was not released: %s', exc)
            self.observers.lost(str(exc))
            self._lack, answers = str(exc), False
        if not self._ends:
            self._retire(self.config.max_hook_time)
        return answers

    def _end_leftovers(self) -> None:
        """End what runs have left, before the lock goes.

        A process whose children are ended behind its back is not as it was:
        a pool, for instance, is broken then.  So the next run gets another,
        and this one ends first, since it knows best how to end what it has;
        unless a hook is still to be called in it.  A process that ends in any
        case takes along what goes on in its threads.
        """
        if self.process.leaves_processes() or (
                self._ends and self.process.leaves_threads()):
            self._retires = True
            if not {'on_released', 'on_lost'}.intersection(self.process.hooks):
                self._retire(self.process.grace if self._ends
                             else self.config.max_hook_time)
        self._kill_leftovers()

    def _kill_leftovers(self) -> None:
        for name in self.process.end_leftovers():
            self.logger.warning('ended what a run had left running: %s', name)

    def _shutdown(self) -> None:
        """Leave nothing locked, and close what was opened."""
        try:
            if not self.lock.held or self._release():
                # The last chance, also in an outage.
                self._hand_in()
            self._report_unrecorded()
        finally:
            try:
                self.lock.close()
            finally:
                self.observers.closed()
                # The context is closed in there.  A thread that an import
                # has started may go on for ever.
                self.process.finish(
                    self.config.max_hook_time if self._ends else None)
                self._kill_leftovers()

    def _report_unrecorded(self) -> None:
        """Say what could not be handed in: the process ends."""
        runs = self._unrecorded.runs if self.config.history else []
        if runs:
            self.logger.warning(
                'may be missing in the history: %s; %s',
                ', '.join(f'run {run.number} ({run.outcome.value})'
                          for run in runs), self._lack)

    def _report_held_elsewhere(self) -> None:
        if not self._held_elsewhere:
            reason = self._describe_holder()
            self.logger.info('not run: %s', reason)
            self.observers.standby(reason)
        self._held_elsewhere = True

    def _describe_holder(self) -> str:
        if self.lock.barred:
            barred: str = self.lock.barred
            return barred
        holder = self._find_holder() or {}
        return (f'the lock is held by {holder.get("fqdn", "somebody")} '
                f'(pid {holder.get("pid", "?")}) '
                f'since {holder.get("time_local", "?")}')

    def _find_holder(self) -> dict[str, object] | None:
        try:
            return self.lock.get_lock_owner_info()
        except LockError:
            return None

    def _report_given_up(self) -> None:
        """Say which slots are given up, and why."""
        given_up, self.agenda.given_up = self.agenda.given_up, []
        for why, slots in self.agenda.by_reason(given_up):
            self.logger.warning('given up: %s; %s', slots, why)
        if given_up:
            self.observers.missed(len(given_up))
