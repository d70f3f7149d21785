"""The loop, by a clock that a test moves and locks that do as they are told."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from support import DEADLINE, FakeClock, InProcess

from jobslib import (
    BaseTask,
    Config,
    Context,
    OneInstanceWatchdogError,
    TaskError,
    Terminate,
)
from jobslib.exceptions import LockError, LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.interrupts import Interrupts
from jobslib.loop.runner import STANDBY_WAIT, Runner
from jobslib.observers import Observer
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.dummy import DummyLock
from jobslib.oneinstance.requests import Pause
from jobslib.run.handle import LOOK, RunHandle
from jobslib.runs import Outcome
from jobslib.schedule.agenda import Agenda
from jobslib.schedule.ledger import Ending, Ledger, Records, State

Step = Callable[[], Any]


class ScriptedLock(DummyLock):
    """A lock that is free unless its script says otherwise."""

    clock: FakeClock

    def __init__(self, context: Any, options: Any) -> None:
        super().__init__(context, options)
        #: What acquire() is to do; beyond the end it takes the lock.
        self.script: list[bool | Exception] = []
        self.release_error: Exception | None = None
        self.ask_error: Exception | None = None
        self.alive = True
        self.token: int | None = None
        self.record: dict[str, Any] | None = None
        self.owner: dict[str, Any] | Exception | None = None
        self.events: list[str] = []
        self.schedules: list[dict[str, Any]] = []
        self.asked = Control()
        self.saved: list[dict[str, Any] | None] = []

    @property
    def control(self) -> Control:
        return self.asked

    @property
    def own_record(self) -> dict[str, Any]:
        return {'fqdn': 'here', 'pid': 5, 'timestamp': 100.0}

    def save_history(self) -> None:
        self.saved.append(self.history)

    @property
    def fencing_token(self) -> int | None:
        return self.token

    def acquire(self) -> bool:
        self.events.append('acquire')
        answer = self.script.pop(0) if self.script else True
        if isinstance(answer, Exception):
            raise answer
        self.barred = self.asked.demand(None)
        if self.barred:
            return False
        if not answer:
            return False
        if self.record is not None:
            self._left, self.record = self.record, None
        self.previous_history = self.previous_history or self.history
        acquired = super().acquire()
        self.schedules.append(self.schedule)
        return acquired

    def release(self) -> bool:
        self.events.append('release')
        self.schedules.append(self.schedule)
        if self.release_error is not None:
            raise self.release_error
        return super().release() and self.alive

    def refresh(self) -> bool:
        self.events.append('refresh')
        return super().refresh() and self.alive

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        if isinstance(self.owner, Exception):
            raise self.owner
        return self.owner

    def ask(self, control: Control, expected: Control) -> bool:
        self.events.append('ask')
        if self.ask_error is not None:
            raise self.ask_error
        if self.asked.export() != expected.export():
            return False
        self.asked = control
        return True

    def wait(self, timeout: float) -> None:
        self.events.append('wait')
        self.clock.sleep(timeout)

    def close(self) -> None:
        self.events.append('close' if self.held else 'close free')
        super().close()


class ScriptedContext(Context):
    """A context that says when it is closed."""

    closed = 0
    close_error: Exception | None = None

    def close(self) -> None:
        lock = self.one_instance_lock
        assert isinstance(lock, ScriptedLock)
        lock.events.append('closed' if not lock.held else 'closed held')
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


class ScriptedTask(BaseTask):
    """A task whose runs do what its script says, then it ends the process."""

    name = 'scripted'

    def initialize(self) -> None:
        self.script: list[Step] = []
        self.starts: list[float] = []
        self.clock: FakeClock

    def task(self) -> Any:
        self.starts.append(self.clock.time)
        self.lock.events.append('run' if self.lock.held else 'run unlocked')
        return self.script.pop(0)() if self.script else terminate()

    @property
    def lock(self) -> ScriptedLock:
        lock = self.context.one_instance_lock
        assert isinstance(lock, ScriptedLock)
        return lock


class Job:
    """A runner with all that belongs to it."""

    def __init__(self, *script: Step, observers: Sequence[Observer] = (),
                 **settings: Any) -> None:
        settings.setdefault(
            'ONE_INSTANCE', {'backend': f'{__name__}.ScriptedLock'})
        self.clock = FakeClock()
        self.config = Config(
            SimpleNamespace(CONTEXT_CLASS=f'{__name__}.ScriptedContext',
                            **settings), None, ScriptedTask)
        self.task = ScriptedTask(self.config)
        self.task.clock = self.clock
        self.task.script = list(script)
        self.lock = self.task.lock
        self.lock.clock = self.clock
        self.interrupts = Interrupts()
        self.agenda = Agenda(
            self.config.make_plan('scripted'), self.clock, 'here',
            keeps=self.config.keep_lock, records=(
                Records.ENDS if self.config.keep_lock else Records.BEGINS),
            one_run=self.config.run_once)
        self.process = InProcess(self.task, self.interrupts)
        self.runner = Runner(self.process, self.lock, self.config,
                             self.agenda, self.clock, self.interrupts,
                             logging.getLogger('jobslib'), observers)

    def run(self) -> ExitCode:
        """Run the job to its end, and see that it left nothing."""
        try:
            return self.runner.run()
        finally:
            assert not self.lock.held
            assert not self.process.lives
            # Each process was ended properly; the last one at the very end,
            # unless its run was interrupted and it had ended before.
            assert self.task.context.closed == len(self.process.limits)
            assert 'closed' in self.lock.events[-2:]

    @property
    def events(self) -> str:
        """What the lock saw."""
        return ' '.join(self.lock.events)

    @property
    def starts(self) -> list[float]:
        """When runs started, in seconds after the start."""
        return [start - 1000 for start in self.task.starts]


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What was logged, level first, to be read after the run."""
    caplog.set_level(logging.INFO)

    class Messages(list[str]):
        def __iter__(self) -> Iterator[str]:
            return iter([f'{record.levelname} {record.message}'
                         for record in caplog.records])

    yield Messages()


def terminate() -> None:
    """End this process as a process manager does."""
    os.kill(os.getpid(), signal.SIGTERM)


def succeed() -> None:
    """Do what a run should."""


def fail() -> None:
    """Fail as a run with a mistake in it does."""
    raise ZeroDivisionError('nothing to divide by')


def raising(error: BaseException) -> Step:
    """Return what raises *error*."""
    def step() -> None:
        raise error
    return step


def test_run_once() -> None:
    """--run-once acquires, runs once, releases and is done."""
    job = Job(succeed, RUN_ONCE=True)
    assert job.run() is ExitCode.DONE
    assert job.events == 'acquire run release close free closed'


def test_run_once_returns_the_outcome(messages: list[str]) -> None:
    """With --run-once a failed run is the exit code."""
    job = Job(fail, RUN_ONCE=True)
    assert job.run() is ExitCode.TASK_FAILED
    assert job.events == 'acquire run release close free closed'
    assert list(messages) == ['ERROR run failed after 0.000 s']


def test_run_once_ignores_intervals() -> None:
    """With --run-once nothing is waited for."""
    job = Job(succeed, RUN_ONCE=True, RUN_INTERVAL=10)
    assert job.run() is ExitCode.DONE
    assert job.clock.slept == []


def test_run_once_lock_elsewhere(messages: list[str]) -> None:
    """With --run-once a lock held elsewhere is the exit code, said why."""
    job = Job(RUN_ONCE=True)
    job.lock.script = [False]
    job.lock.owner = {'fqdn': 'other', 'pid': 5, 'time_local': 'noon'}
    assert job.run() is ExitCode.LOCK_NOT_AVAILABLE
    assert job.events == 'acquire close free closed'
    assert list(messages) == [
        'WARNING not run: the lock is held by other (pid 5) since noon']


@pytest.mark.parametrize('owner', [None, {}, LockUnavailableError('gone')])
def test_unknown_holder(owner: Any, messages: list[str]) -> None:
    """A holder that cannot be read is somebody."""
    job = Job(RUN_ONCE=True)
    job.lock.script = [False]
    job.lock.owner = owner
    assert job.run() is ExitCode.LOCK_NOT_AVAILABLE
    assert list(messages) == [
        'WARNING not run: the lock is held by somebody (pid ?) since ?']


def test_run_once_no_service(messages: list[str]) -> None:
    """With --run-once a lock service that is not there is the exit code."""
    job = Job(RUN_ONCE=True)
    job.lock.script = [LockUnavailableError('no answer')]
    assert job.run() is ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert job.events == 'acquire close free closed'
    assert list(messages) == [
        'ERROR no lock: no answer; to see why: runjob check']


def test_run_once_lock_lost(messages: list[str]) -> None:
    """With --run-once a lock lost in the run is the exit code."""
    def step() -> None:
        job.lock.alive = False
        job.task.extend_lock()

    job = Job(step, RUN_ONCE=True)
    assert job.run() is ExitCode.LOCK_LOST
    assert job.events == (
        'acquire run refresh refresh release closed close free')
    assert list(messages) == [
        'WARNING run interrupted after 0.000 s: the lock is lost',
        'WARNING the lock is lost']


def test_run_once_interrupted_with_the_lock() -> None:
    """With --run-once a run that was stopped with its lock has failed."""
    job = Job(raising(OneInstanceWatchdogError('too long')), RUN_ONCE=True)
    assert job.run() is ExitCode.TASK_FAILED
    assert job.events == 'acquire run refresh release closed close free'


def test_run_once_failed_without_the_lock() -> None:
    """With --run-once a run that failed by itself has failed, no more."""
    def step() -> None:
        job.lock.alive = False
        fail()

    job = Job(step, RUN_ONCE=True)
    assert job.run() is ExitCode.TASK_FAILED


def test_run_once_terminated(messages: list[str]) -> None:
    """With --run-once a signal in the run is the exit code."""
    job = Job(terminate, RUN_ONCE=True)
    assert job.run() is ExitCode.TERMINATED
    assert job.events == 'acquire run release close free closed'
    assert list(messages) == [
        'WARNING run interrupted after 0.000 s: signal SIGTERM',
        'INFO ended by signal SIGTERM']


def test_runs_for_ever() -> None:
    """Without intervals runs follow at once, each with its own lock."""
    job = Job(succeed, succeed)
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [0, 0, 0]
    assert job.events == ('acquire run release ' * 3 + 'close free closed')


def test_failed_runs_pause(messages: list[str]) -> None:
    """Without intervals failed runs pause longer and longer."""
    job = Job(*[fail] * 8)
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert list(messages).count('ERROR run failed after 0.000 s') == 8


def test_sleep_interval() -> None:
    """The pause is counted from the end of a run."""
    def step() -> None:
        job.clock.time += 2

    job = Job(step, step, fail, SLEEP_INTERVAL=5)
    job.run()
    assert job.starts == [0, 7, 14, 19]


def test_run_interval() -> None:
    """Runs start on the grid, however long they take."""
    def step() -> None:
        job.clock.time += 2

    job = Job(step, fail, step, RUN_INTERVAL=5)
    job.run()
    assert job.starts == [0, 5, 10, 15]


def test_run_interval_overrun(messages: list[str]) -> None:
    """After an overrun the newest slot runs at once; the others are told."""
    def step() -> None:
        job.clock.time += 17

    job = Job(step, succeed, RUN_INTERVAL=5)
    job.run()
    assert job.starts == [0, 17, 20]
    slot = job.agenda.shown(job.clock.ahead + 1010)
    assert [text for text in messages if 'given up' in text] == [
        f'WARNING given up: the slot of {slot} and 1 before it; nobody could '
        f'run it before a later one was due']


def test_long_pauses_are_cut() -> None:
    """A pause of whatever length is slept through in pieces."""
    job = Job(succeed, SLEEP_INTERVAL=1e300)
    job.clock.ends = 1050
    assert job.run() is ExitCode.TERMINATED
    assert job.clock.slept == [0.5] * 100


def test_many_runs_on_the_grid() -> None:
    """Thousands of runs start on the grid to the last digit."""
    def step() -> None:
        job.clock.time += 0.05

    job = Job(*[step] * 3000, RUN_INTERVAL=0.3)
    job.run()
    assert job.task.starts == pytest.approx(
        [1000 + slot * 0.3 for slot in range(3001)], abs=1e-6)


def test_success_is_reported(messages: list[str]) -> None:
    """A run that succeeded is reported with its time."""
    def step() -> None:
        job.clock.time += 1.5

    job = Job(step, RUN_ONCE=True)
    job.run()
    assert list(messages) == ['INFO run succeeded after 1.500 s']


def test_failure_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A run that raised is reported with its traceback; the loop goes on."""
    job = Job(fail, succeed)
    job.run()
    [record] = [record for record in caplog.records
                if record.levelno == logging.ERROR]
    assert record.exc_text is not None
    assert record.exc_text.startswith('Traceback (most recent call last)')
    assert record.exc_text.strip().endswith(
        'ZeroDivisionError: nothing to divide by')
    assert len(job.starts) == 3


def test_task_error_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A TaskError is reported by its message alone."""
    job = Job(raising(TaskError('no disk')), RUN_ONCE=True)
    assert job.run() is ExitCode.TASK_FAILED
    [record] = caplog.records
    assert record.message == 'run failed after 0.000 s: no disk'
    assert record.exc_info is None and record.exc_text is None


class UnspeakableError(Exception):
    """An error that has no message."""

    def __str__(self) -> str:
        raise ValueError('no message')


@pytest.mark.parametrize('error', [
    KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(),
    MemoryError(), Exception(), UnspeakableError()],
    ids=lambda error: type(error).__name__)
def test_whatever_a_task_raises(error: BaseException) -> None:
    """Whatever a task raises is a failed run, and the loop goes on."""
    job = Job(raising(error), succeed)
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [0, 1, 1]


def test_terminate_without_a_signal() -> None:
    """A task that raises Terminate itself has failed; the loop goes on."""
    job = Job(raising(Terminate('enough')), succeed)
    job.run()
    assert job.starts == [0, 1, 1]


def test_watchdog_interrupt(messages: list[str]) -> None:
    """A run that the watchdog interrupts has failed; the loop goes on."""
    def step() -> None:
        job.lock.watchdog.interrupt(OneInstanceWatchdogError('too long'))

    job = Job(step, succeed)
    job.run()
    assert job.starts == [0, 1, 1]
    assert list(messages)[0] == (
        'WARNING run interrupted after 0.000 s: too long')


def test_swallowed_interrupt() -> None:
    """A run that swallows an interrupt is interrupted all the same."""
    def step() -> None:
        try:
            terminate()
        except Terminate:
            pass

    job = Job(step, RUN_ONCE=True)
    assert job.run() is ExitCode.TERMINATED
    assert len(job.starts) == 1


def test_error_while_cleaning_up() -> None:
    """A run that fails while it cleans up ends by the signal all the same."""
    def step() -> None:
        try:
            terminate()
        finally:
            fail()

    job = Job(step)
    assert job.run() is ExitCode.TERMINATED
    assert len(job.starts) == 1


def test_keep_lock() -> None:
    """With --keep-lock the lock is acquired once, and seen to before runs."""
    job = Job(succeed, fail, SLEEP_INTERVAL=5, KEEP_LOCK=True)
    job.run()
    assert job.starts == [0, 5, 10]
    assert job.events == (
        'acquire run refresh run refresh run refresh release close free '
        'closed')


def test_keep_lock_terminated_asleep() -> None:
    """With --keep-lock a signal in the pause releases the lock."""
    job = Job(succeed, SLEEP_INTERVAL=5, KEEP_LOCK=True)
    job.clock.ends = 1002
    assert job.run() is ExitCode.TERMINATED
    assert job.events == 'acquire run release close free closed'


def test_release_on_error() -> None:
    """With --release-on-error a failed run gives up the lock."""
    job = Job(succeed, fail, raising(OneInstanceWatchdogError()),
              SLEEP_INTERVAL=5, KEEP_LOCK=True, RELEASE_ON_ERROR=True)
    job.run()
    assert job.events == (
        'acquire run refresh run release acquire run release closed '
        'acquire run release close free closed')


def test_lost_between_runs(messages: list[str]) -> None:
    """With --keep-lock a lock lost in the pause is acquired again."""
    def step() -> None:
        job.lock.alive = False

    def again() -> None:
        job.lock.alive = True
        terminate()

    job = Job(step, again, SLEEP_INTERVAL=5, KEEP_LOCK=True)
    job.run()
    assert job.events == (
        'acquire run refresh release acquire run refresh release close free '
        'closed')
    assert 'WARNING the lock is lost' in list(messages)


def test_elsewhere_with_sleep_interval(messages: list[str]) -> None:
    """A lock held elsewhere is waited for; it is said once who has it."""
    job = Job(SLEEP_INTERVAL=5)
    job.lock.script = [False, False]
    job.lock.owner = {'fqdn': 'other', 'pid': 5, 'time_local': 'noon'}
    job.run()
    assert job.starts == [2 * STANDBY_WAIT]
    assert job.events == ('acquire wait acquire wait acquire run release '
                          'close free closed')
    assert list(messages).count(
        'INFO not run: the lock is held by other (pid 5) since noon') == 1


@pytest.mark.parametrize('settings', [{}, {'RUN_ONCE': True}])
def test_done_elsewhere(settings: dict[str, Any],
                        messages: list[str]) -> None:
    """A slot that is done elsewhere is not run here, and the lock stays free
    until the next is due."""
    job = Job(SLEEP_INTERVAL=5, **settings)
    wall = job.clock.wall()
    job.lock.record = {'released': wall - 1, 'schedule': Ledger(
        job.agenda.plan.fingerprint, wall - 2, slot=wall - 2, began=wall - 2,
        ending=Ending.SUCCEEDED, ended=wall - 1, by='beta').export()}
    code = job.run()
    if settings:
        assert code is ExitCode.DONE
        assert job.starts == []
        assert list(messages)[-1] == (
            f'INFO not run: the slot of {job.agenda.shown(wall - 2)} was run '
            f'by beta at {job.agenda.shown(wall - 2)}, succeeded; next at '
            f'{job.agenda.shown(wall + 4)}')
    else:
        assert job.starts == [4]
        assert job.events == (
            'acquire acquire run release close free closed')


def test_done_by_a_holder_that_vanished(messages: list[str]) -> None:
    """A process for one run does not run what a holder that kept the lock had
    run, which is written beside the lock only."""
    job = Job(SLEEP_INTERVAL=5, RUN_ONCE=True)
    wall = job.clock.wall()
    ledger = Ledger(job.agenda.plan.fingerprint, wall - 60, slot=wall - 60,
                    began=wall - 60, ended=wall - 59, records=Records.ENDS)
    job.lock.record = {'released': wall - 1, 'schedule': ledger.export()}
    job.lock.previous_history = {'newest': [], 'ledger': ledger.changed(
        settled=wall - 2, slot=wall - 2, began=wall - 2, ended=wall - 1,
        ending=Ending.SUCCEEDED, by='beta').export()}
    assert job.run() is ExitCode.DONE
    assert job.starts == []
    assert 'was run by beta' in list(messages)[-1]
    assert not job.lock.held


@pytest.mark.parametrize('changed', [True, False])
def test_last_holder_had_another_schedule(
        messages: list[str], changed: bool) -> None:
    """It is said, because slots of before are not made up for."""
    job = Job(succeed, SCHEDULE='* * * * * *', RUN_ONCE=True)
    wall = job.clock.wall()
    job.lock.record = {'released': wall - 1, 'schedule': Ledger(
        'another' if changed else job.agenda.plan.fingerprint, wall - 60,
        slot=wall - 60, began=wall - 60, ended=wall - 59,
        ending=Ending.SUCCEEDED).export()}
    assert job.run() is ExitCode.DONE
    assert len(job.starts) == 1
    assert list(messages).count(
        'INFO the last holder had another schedule; nothing that came due before '
        'is caught up') == changed


@pytest.mark.parametrize('schedule', [
    {'SCHEDULE': '* * * * *'}, {'SLEEP_INTERVAL': 60}])
def test_one_run_and_a_ledger_from_the_future(schedule: dict[str, Any]) -> None:
    """Processes for one run each do not believe a ledger from the future for
    longer than one period, though none lives as long."""
    job = Job(RUN_ONCE=True, **schedule)
    ahead = job.clock.wall() + 86400
    left = Ledger(job.agenda.plan.fingerprint, ahead, slot=ahead, began=ahead,
                  ended=ahead + 1, ending=Ending.SUCCEEDED).export()
    starts = []
    for later in 0, 60, 120:
        job = Job(succeed, RUN_ONCE=True, **schedule)
        job.clock.time += later
        job.lock.record = {'schedule': left, 'released': 1.0}
        assert job.run() is ExitCode.DONE
        starts.append(len(job.starts))
        left = job.lock.schedules[-1] or left
    assert starts == [0, 1, 1]


def test_in_hand_elsewhere() -> None:
    """A process for one run ends well when its slot is in hand elsewhere, and
    not when only the lock is."""
    for schedule, code in [('* * * * * *', ExitCode.LOCK_NOT_AVAILABLE),
                           ('0 0 1 1 *', ExitCode.DONE)]:
        job = Job(SCHEDULE=schedule, RUN_ONCE=True)
        job.lock.script = [False]
        slot = job.clock.wall() - 60
        job.lock.owner = {'fqdn': 'beta', 'schedule': Ledger(
            job.agenda.plan.fingerprint, slot, slot=slot, began=slot,
            state=State.BEGUN).export()}
        assert job.run() is code
        assert job.starts == []


def test_retries_of_one_run() -> None:
    """A process for one run tries again, as often as it is told."""
    job = Job(fail, fail, succeed, SLEEP_INTERVAL=5, RUN_ONCE=True, RETRIES=2,
              RETRY_DELAY=10)
    assert job.run() is ExitCode.DONE
    assert job.starts == [0, 10, 30]
    assert job.lock.events.count('acquire') == 1
    assert job.lock.history is not None
    assert [(run['attempt'], run['reason'])
            for run in job.lock.history['newest']] == [
        (1, 'due'), (2, 'retry'), (3, 'retry')]


@pytest.mark.parametrize('delay', [60, 100, 1e9])
def test_retries_of_one_run_end_with_its_slot(delay: float) -> None:
    """A process for one run does not go on with a later slot."""
    job = Job(*[fail] * 4, SCHEDULE='*/5 * * * *', RUN_ONCE=True, RETRIES=3,
              RETRY_DELAY=delay)
    slot = job.clock.wall() - job.clock.wall() % 300
    assert job.run() is ExitCode.TASK_FAILED
    assert job.starts == ([0, 60] if delay == 60 else [0])
    left = Ledger.parse(job.lock.schedules[-1])
    assert left is not None
    assert (left.state, left.slot) == (State.OPEN, slot)


@pytest.mark.parametrize('history', [0, 100])
def test_begun_slot_is_recorded(history: int) -> None:
    """Where a slot is run at most once, a begin is recorded before the run."""
    def step() -> None:
        found.append(Ledger.parse((job.lock.saved[-1] or {}).get('ledger')))

    found: list[Ledger | None] = []
    job = Job(step, SLEEP_INTERVAL=5, KEEP_LOCK=True, RECOVERIES=0,
              HISTORY=history)
    job.run()
    assert found[0] is not None
    assert found[0].state is State.BEGUN


def test_run_that_does_not_begin() -> None:
    """A process that is told to end before its run leaves the slot to
    others."""
    class Ends(Observer):
        def acquired(self, token: int | None) -> None:
            signal.raise_signal(signal.SIGTERM)

    job = Job(SLEEP_INTERVAL=5, observers=[Ends()])
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == []
    assert job.lock.schedules[0]['state'] == 'begun'
    left = Ledger.parse(job.lock.schedules[-1])
    assert left is not None
    assert (left.state, left.slot) == (State.DONE, None)


def test_elsewhere_without_interval() -> None:
    """Without intervals a lock held elsewhere is waited for."""
    job = Job()
    job.lock.script = [False, False]
    job.run()
    assert job.events == (
        'acquire wait acquire wait acquire run release close free closed')
    assert job.clock.slept == [STANDBY_WAIT, STANDBY_WAIT]


@pytest.mark.parametrize('interval', ['SLEEP_INTERVAL', 'RUN_INTERVAL'])
def test_hot_standby(interval: str, messages: list[str]) -> None:
    """With --keep-lock a lock held elsewhere is waited for, said once."""
    settings: dict[str, Any] = {interval: 1000.0, 'KEEP_LOCK': True}
    job = Job(**settings)
    job.lock.script = [False, False]
    job.run()
    assert job.starts == [2 * STANDBY_WAIT]
    assert job.events == (
        'acquire wait acquire wait acquire run refresh release close free '
        'closed')
    assert len([text for text in messages if 'not run' in text]) == 1
    # As pid 1 of a container, it is the parent of all that lose theirs.
    assert job.process.looks == 2


def test_standby_says_so_again(messages: list[str]) -> None:
    """A standby that held the lock in between says so again."""
    job = Job(fail, SLEEP_INTERVAL=5, KEEP_LOCK=True, RELEASE_ON_ERROR=True)
    job.lock.script = [False, True, False]
    job.run()
    assert len([text for text in messages if 'not run' in text]) == 2


def test_standby_inherits_the_schedule() -> None:
    """With --keep-lock the schedule of the last holder goes on."""
    job = Job(succeed, RUN_INTERVAL=10, KEEP_LOCK=True)
    wall = job.clock.wall()
    job.lock.record = {'released': wall - 1, 'schedule': Ledger(
        job.agenda.plan.fingerprint, wall - 3, slot=wall - 3,
        origin=wall - 3).export()}
    job.run()
    assert job.starts == pytest.approx([7, 17])
    assert job.events == (
        'acquire refresh run refresh run refresh release close free '
        'closed')


def test_record_without_a_ledger() -> None:
    """The record of a version without a ledger is as good as none."""
    job = Job(succeed, RUN_INTERVAL=10)
    wall = job.clock.wall()
    job.lock.record = {'schedule': {'origin': wall - 3, 'due': wall + 7},
                       'released': wall - 1}
    job.run()
    assert job.starts == [0, 10]


def test_schedule_is_left_to_the_next() -> None:
    """The lock is given the schedule when it is acquired and released."""
    job = Job(succeed, SLEEP_INTERVAL=5, KEEP_LOCK=True)
    job.clock.ends = 1002
    wall = job.clock.wall()
    job.run()
    assert [(each['slot'], each['state'], each['due'])
            for each in job.lock.schedules] == [
        (wall, 'begun', wall), (wall, 'done', wall + 5)]


def test_service_unavailable(messages: list[str]) -> None:
    """A lock service that is not there is waited for, said once."""
    job = Job()
    job.lock.script = [LockUnavailableError(f'{n}') for n in range(6)]
    job.run()
    assert job.clock.slept == [0.5, 1, 2, 2, 2, 2]
    assert job.process.looks == 6
    assert len(job.starts) == 1
    assert list(messages)[:2] == [
        'WARNING waiting for the lock: 0',
        'INFO the service of the lock answers again, after 10 s']
    assert len([text for text in messages if 'waiting' in text]) == 1


def test_holder_is_named_again_after_an_outage(messages: list[str]) -> None:
    """Who has the lock is said once, and once more after an outage."""
    job = Job()
    job.lock.script = [False, False, LockUnavailableError('away'), False, False]
    job.run()
    held = 'INFO not run: the lock is held by somebody (pid ?) since ?'
    assert list(messages)[:4] == [
        held, 'WARNING waiting for the lock: away',
        'INFO the service of the lock answers again, after 0 s', held]
    assert list(messages).count(held) == 2


def test_service_unavailable_again(messages: list[str]) -> None:
    """Each time that the lock service goes away is told."""
    job = Job(succeed)
    gone = LockUnavailableError('gone')
    job.lock.script = [gone, True, gone]
    job.run()
    assert job.clock.slept == [0.5, 0.5]
    assert len([text for text in messages if 'waiting' in text]) == 2
    assert len([text for text in messages if 'again' in text]) == 2


def test_service_unavailable_terminated() -> None:
    """A process that waits for its lock service ends at a signal."""
    job = Job()
    job.lock.script = [LockUnavailableError('gone')] * 9
    job.clock.ends = 1003
    assert job.run() is ExitCode.TERMINATED
    assert job.events == 'acquire ' * 3 + 'close free closed'


def test_service_unavailable_on_the_grid(messages: list[str]) -> None:
    """A run that had to wait for its lock service is not run twice."""
    job = Job(succeed, RUN_INTERVAL=1)
    job.lock.script = [LockUnavailableError('gone')] * 4
    job.run()
    assert job.starts == [5.5, 6.5]


def test_release_fails(messages: list[str]) -> None:
    """A release that fails is told, and the lock is given up at the end."""
    job = Job(succeed, RUN_ONCE=True)
    job.lock.release_error = LockUnavailableError('no answer')
    assert job.run() is ExitCode.DONE
    assert job.events == 'acquire run release close closed'
    assert 'WARNING the lock was not released: no answer' in list(messages)


def test_error_in_release() -> None:
    """An unforeseen error in release() leaves nothing locked or open."""
    job = Job(succeed)
    job.lock.release_error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        job.run()
    assert job.events == 'acquire run release release close closed'


def test_error_in_acquire() -> None:
    """An unforeseen error in acquire() leaves nothing locked or open."""
    job = Job()
    job.lock.script = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        job.run()
    assert job.events == 'acquire close free closed'


def test_misuse_of_the_lock() -> None:
    """A lock that says it is misused ends the process."""
    job = Job()
    job.lock.script = [LockError('twice')]
    with pytest.raises(LockError):
        job.run()
    assert job.events == 'acquire close free closed'


def test_error_in_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error between runs leaves nothing locked or open."""
    job = Job(succeed, SLEEP_INTERVAL=5, KEEP_LOCK=True)
    monkeypatch.setattr(job.clock, 'sleep', raising(ZeroDivisionError()))
    with pytest.raises(TypeError):
        job.run()
    assert job.events == 'acquire run release close free closed'


def test_error_in_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while the lock is closed does not leave the context open."""
    job = Job(succeed, RUN_ONCE=True)
    monkeypatch.setattr(job.lock, 'close', raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        job.run()


def test_signal_before_the_loop() -> None:
    """A signal between two stages ends the process before the next."""
    job = Job()
    acquire = job.lock.acquire

    def acquire_and_terminate() -> bool:
        job.interrupts._deliver = None
        terminate()
        return acquire()

    job.lock.acquire = acquire_and_terminate  # type: ignore[method-assign]
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == []
    assert job.events == 'acquire release close free closed'


def test_signal_in_acquire() -> None:
    """A signal while the lock is acquired gives it up again."""
    job = Job()
    acquire = job.lock.acquire

    def acquire_and_terminate() -> bool:
        acquire()
        terminate()
        return True

    job.lock.acquire = acquire_and_terminate  # type: ignore[method-assign]
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == []
    assert job.events == 'acquire release close free closed'


def test_signal_in_release() -> None:
    """A signal while the lock is released does not disturb the release."""
    job = Job(succeed, succeed)
    release = job.lock.release

    def release_and_terminate() -> bool:
        terminate()
        return release()

    job.lock.release = release_and_terminate  # type: ignore[method-assign]
    assert job.run() is ExitCode.TERMINATED
    assert job.events == 'acquire run release close free closed'


def test_handlers_are_restored() -> None:
    """The signal handlers from before are back when the loop ends."""
    before = signal.getsignal(signal.SIGTERM)
    handlers = []
    job = Job(lambda: handlers.append(signal.getsignal(signal.SIGTERM)),
              RUN_ONCE=True)
    job.run()
    assert handlers != [before]
    assert signal.getsignal(signal.SIGTERM) == before


def test_extend_lock() -> None:
    """A task that says that it makes progress goes on with its lock."""
    job = Job(lambda: job.task.extend_lock(), RUN_ONCE=True)
    assert job.run() is ExitCode.DONE
    assert job.events == 'acquire run refresh release close free closed'


def test_watchdog_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog watches each run and its clean-up, nothing else."""
    calls: list[object] = []

    def step() -> None:
        calls.append('run')
        terminate()

    job = Job(fail, step, MAX_RUN_TIME=5)
    watchdog = job.lock.watchdog
    monkeypatch.setattr(
        watchdog, 'start', lambda limit, run: calls.append(limit))
    monkeypatch.setattr(watchdog, 'stopping', lambda: calls.append('grace'))
    monkeypatch.setattr(watchdog, 'stop', lambda: calls.append('stop'))
    job.run()
    assert calls == [5, 'stop', 5, 'run', 'grace', 'stop']


def test_lost_while_kept() -> None:
    """A lock lost in the pause of --keep-lock is given up at once."""
    class Losing(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            job.runner.clock = job.clock
            job.lock.alive = False
            job.interrupts.interrupt(OneInstanceWatchdogError('lost'))

    job = Job(succeed, SLEEP_INTERVAL=1000, KEEP_LOCK=True)
    losing = Losing()
    losing.time = job.clock.time
    job.runner.clock = losing
    job.clock.ends = 3000
    job.run()
    assert job.events.startswith('acquire run refresh release')
    assert len(losing.slept) == 1


def test_stand_in() -> None:
    """What these tests have for the run's process has all that it has."""
    for name, value in vars(RunHandle).items():
        if not name.startswith('_'):
            assert vars(InProcess)[name] is not value, name


def test_interrupted_run_has_the_next_in_a_new_process() -> None:
    """A run that was interrupted ends its process; others share one."""
    late = raising(OneInstanceWatchdogError('late'))
    job = Job(succeed, fail, late, succeed, late, SLEEP_INTERVAL=5,
              MAX_HOOK_TIME=7)
    job.run()
    assert job.process.processes == 3
    # Properly, but not for longer than a hook may take.
    assert job.process.limits == [7, 7, 7]
    assert job.events == (
        'acquire run release ' * 3 + 'closed ' + 'acquire run release ' * 2
        + 'closed acquire run release close free closed')


def test_interrupted_run_with_the_lock_kept() -> None:
    """With --keep-lock the process ends while the lock is kept."""
    job = Job(raising(OneInstanceWatchdogError('late')), succeed,
              KEEP_LOCK=True, SLEEP_INTERVAL=5)
    job.run()
    assert job.process.processes == 2
    assert job.events == (
        'acquire run refresh closed held refresh run refresh run refresh '
        'release close free closed')


@pytest.mark.parametrize('cold', [False, True])
def test_next_process_is_made_in_the_pause(cold: bool) -> None:
    """The run after an interrupted one does not wait for imports."""
    job = Job(raising(OneInstanceWatchdogError('late')), succeed,
              KEEP_LOCK=True, SLEEP_INTERVAL=5, RECOVERIES=0,
              COLD_STANDBY=cold)
    prepare = job.process.prepare
    times: list[float] = []
    begun = job.clock.time

    def noted() -> str | None:
        times.append(job.clock.time)
        return prepare()

    job.process.prepare = noted  # type: ignore[method-assign]
    job.run()
    # Before the pause of 5 s, or after it.
    assert job.process.processes == 2
    assert times == [begun + 5 if cold else begun]


def test_interrupted_run_of_which_something_goes_on() -> None:
    """It is killed before the lock goes to others."""
    job = Job(raising(OneInstanceWatchdogError('late')), RUN_ONCE=True)
    job.process.left = True
    kill = job.process.kill

    def noted() -> None:
        job.lock.events.append('kill')
        kill()
    job.process.kill = noted  # type: ignore[method-assign]
    assert job.runner.run() is ExitCode.TASK_FAILED
    assert job.events == (
        'acquire run closed held kill refresh release close free')


def test_process_that_dies(messages: list[str]) -> None:
    """A run whose process ended by itself has failed; the next has a new one."""
    job = Job(lambda: job.process.die('killed by SIGSEGV'), succeed,
              SLEEP_INTERVAL=5, KEEP_LOCK=True)
    assert job.runner.run() is ExitCode.TERMINATED
    # Its slot is run again at once.
    assert job.starts == [0, 0, 5]
    assert job.process.processes == 2
    assert list(messages)[1] == (
        'ERROR run killed after 0.000 s: killed by SIGSEGV')
    assert job.lock.history is not None
    assert [(run['outcome'], run['error'])
            for run in job.lock.history['newest'][:2]] == [
        ('killed', 'killed by SIGSEGV'), ('succeeded', None)]


@pytest.mark.parametrize('alive', [True, False])
def test_run_once_process_that_dies(alive: bool) -> None:
    """With --run-once it is told from a lock that was lost."""
    def step() -> None:
        job.lock.alive = alive
        job.process.die('killed by SIGKILL')
    job = Job(step, RUN_ONCE=True)
    assert job.runner.run() is (
        ExitCode.TASK_FAILED if alive else ExitCode.LOCK_LOST)
    assert not job.lock.held


def test_task_that_cannot_be_made_again(messages: list[str]) -> None:
    """A run for which there is no process has failed; it is tried again."""
    job = Job(lambda: job.process.die('killed by SIGKILL'), SLEEP_INTERVAL=5)
    job.process.refusal = 'the task cannot be made: no disk'
    at_ten = job.clock.sleep

    def sleep(seconds: float) -> None:
        at_ten(seconds)
        if job.clock.time >= 1010:
            job.process.refusal = None
    job.clock.sleep = sleep  # type: ignore[method-assign]
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [0, 10]
    assert list(messages)[1] == (
        'ERROR run failed after 0.000 s: the task cannot be made: no disk')


@pytest.mark.parametrize('overdue', [True, False])
def test_overdue_run_has_failed(overdue: bool) -> None:
    """Its slot is not run again, as it is when a run was cut short."""
    def late() -> None:
        job.interrupts.interrupt(
            OneInstanceWatchdogError('late', overdue=overdue))
    job = Job(late, succeed, RUN_INTERVAL=5, KEEP_LOCK=True)
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == ([0, 5, 10] if overdue else [0, 0, 5])


def leaving(job: Job) -> None:
    """Have runs of *job* leave a process, and note when it is ended."""
    end_leftovers = job.process.end_leftovers

    def noted() -> None:
        if job.process.leftovers:
            job.lock.events.append('ended')
        end_leftovers()
    job.process.end_leftovers = noted  # type: ignore[method-assign]
    job.process.leftovers = ['sleep 60 (pid 7)']


def test_what_runs_leave_is_ended_before_the_release(
        messages: list[str]) -> None:
    """Their process ends first, which knows what it has; the rest is named."""
    job = Job(succeed, RUN_ONCE=True)
    leaving(job)
    assert job.runner.run() is ExitCode.DONE
    assert job.events == 'acquire run closed held ended release close free'
    assert ('WARNING ended what a run had left running: sleep 60 (pid 7)'
            in list(messages))


def test_process_with_a_hook_to_come_outlives_what_runs_leave() -> None:
    """A hook is called after the release; the next run has a new process."""
    job = Job(succeed, RUN_ONCE=True)
    job.process.hooks = ['on_released']
    leaving(job)
    assert job.runner.run() is ExitCode.DONE
    assert job.events == 'acquire run ended release closed close free'


@pytest.mark.parametrize('threads', [True, False])
def test_threads_that_a_job_leaves(threads: bool) -> None:
    """They end with their process, before the lock goes with the job."""
    job = Job(succeed, SLEEP_INTERVAL=5, KEEP_LOCK=True)
    job.process.threads = threads

    def sleep(seconds: float) -> None:
        job.interrupts.interrupt(Terminate('signal SIGTERM'))
    job.clock.sleep = sleep  # type: ignore[method-assign]
    assert job.runner.run() is ExitCode.TERMINATED
    assert job.events == ('acquire run closed held release close free'
                          if threads else
                          'acquire run release close free closed')


def test_task_sees_the_lock() -> None:
    """The task is shown the lock when it is acquired, and for each run."""
    job = Job(succeed, RUN_ONCE=True)
    job.lock.token = 7
    job.run()
    assert job.process.shown == [(True, 7), (True, 7)]


def test_children_are_seen_to_between_runs() -> None:
    """Processes that lost their parents do not pile up in a pause."""
    job = Job(succeed, SLEEP_INTERVAL=5)
    job.run()
    assert job.process.looks == len(job.clock.slept) == 10


def test_run_that_operators_ask_to_end(messages: list[str]) -> None:
    """It is told once for each demand, and goes on until it returns."""
    def step() -> None:
        for asked in (Control(), Control(Pause('ann@there'))):
            job.lock.asked = asked
            for _ in range(3):
                assert job.process.tick() <= LOOK

    job = Job(step, RUN_ONCE=True)
    assert job.run() is ExitCode.DONE
    assert job.process.stop_reasons == ['paused by ann@there']
    assert ('INFO the run is asked to end: paused by ann@there'
            in list(messages))


def test_signs_of_life_reach_the_watchdog(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sign of life of a run is passed on to the watchdog, once."""
    beats: list[float] = []

    def step() -> None:
        job.process.tick()
        beats.clear()
        for beat in (1.0, 1.0, 2.0):
            job.process._beat += beat
            job.process.tick()
            job.process.tick()

    job = Job(step, RUN_ONCE=True)
    monkeypatch.setattr(job.lock.watchdog, 'beat',
                        lambda: beats.append(job.process.beat))
    assert job.run() is ExitCode.DONE
    assert len(beats) == len(set(beats)) == 3


def test_run_that_is_overdue(messages: list[str]) -> None:
    """The watchdog is asked while a run goes on, and then interrupts it."""
    def step() -> None:
        ends = time.monotonic() + DEADLINE
        while time.monotonic() < ends:
            time.sleep(0.01)

    job = Job(step, RUN_ONCE=True, MAX_RUN_TIME=0.1)
    assert job.run() is ExitCode.TASK_FAILED
    assert list(messages)[0].endswith(': the run took longer than 0.1 s')


def test_next_look_at_a_run() -> None:
    """The next look is in time for the watchdog's limit, and soon anyway."""
    looks: list[float] = []

    def step() -> None:
        job.lock.watchdog.start(3600)
        looks.append(job.process.tick())
        job.lock.watchdog.start(0.1)
        looks.append(job.process.tick())

    job = Job(step, RUN_ONCE=True)
    assert job.run() is ExitCode.DONE
    assert looks[0] == LOOK and looks[1] <= 0.1


def test_run_that_nobody_can_watch_over() -> None:
    """A run that cannot begin, because the lease cannot be kept, is none that the
    task has failed: its slot is recovered."""
    job = Job(succeed, RUN_INTERVAL=60, RECOVERIES=1)
    watchdog = job.lock.watchdog
    start = watchdog.start

    def fail_once(*args: Any) -> None:
        watchdog.start = start  # type: ignore[method-assign]
        raise LockUnavailableError('the lease keeper dies again and again')
    watchdog.start = fail_once  # type: ignore[method-assign, assignment]
    job.clock.ends = 1030
    job.run()
    assert job.starts == [0]
    assert [(run.outcome, run.attempt, run.reason)
            for run in job.runner.recording.history.newest] == [
        (Outcome.INTERRUPTED, 1, 'due'), (Outcome.SUCCEEDED, 2, 'recovery')]
