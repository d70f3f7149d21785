"""What the loop does for operators: history, requests, who is told."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from support import FakeClock
from test_runner import (  # noqa: F401
    Job,
    fail,
    messages,
    raising,
    succeed,
    terminate,
)

from jobslib import OneInstanceWatchdogError
from jobslib.exceptions import LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.history import HandIn, History
from jobslib.loop.runner import OTHERS_FIRST, STANDBY_WAIT
from jobslib.observers import Observer
from jobslib.oneinstance import LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import Extra, Pause, Request, Skip, Stop
from jobslib.runs import Outcome, Run
from jobslib.schedule.ledger import Ledger

PAUSED = Control(Pause('ann@there'))


def asked(token: int) -> Control:
    """Return a request for the holder with this token."""
    return Control(None, Request('release', token, 'ann'))


class Recorder(Observer):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.clock: FakeClock | None = None
        self.released_at: list[float] = []

    def started(self) -> None:
        self.told.append('started')

    def waiting(self, due: float) -> None:
        self.told.append(('waiting', due))

    def standby(self, reason: str) -> None:
        self.told.append(('standby', reason))

    def acquired(self, token: int | None) -> None:
        self.told.append(('acquired', token))

    def run_begins(self, run: Run) -> None:
        self.told.append(('begins', run.number, run.outcome))

    def run_ended(self, run: Run) -> None:
        self.told.append(('ended', run.number, run.outcome, run.error))

    def missed(self, slots: int) -> None:
        self.told.append(('missed', slots))

    def released(self) -> None:
        self.told.append('released')
        if self.clock is not None:
            self.released_at.append(self.clock.time)

    def lost(self, reason: str) -> None:
        self.told.append(('lost', reason))

    def closed(self) -> None:
        self.told.append('closed')


# Requests

def at(job: Job, seconds: float, control: Control) -> None:
    """Ask *control* of *job* when its clock has reached *seconds*."""
    sleep = job.clock.sleep

    def asking(duration: float) -> None:
        sleep(duration)
        if job.clock.time - 1000 >= seconds and control not in done:
            done.append(control)
            job.lock.asked = control
    done: list[Control] = []
    job.clock.sleep = asking  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize('settings', [
    {'RUN_INTERVAL': 60}, {'SLEEP_INTERVAL': 60}])
def test_pause_while_the_lock_is_kept(
        settings: dict[str, Any], messages: list[str]) -> None:  # noqa: F811
    """A holder that waits for its next run releases within a second."""
    recorder = Recorder()
    job = Job(succeed, observers=[recorder], KEEP_LOCK=True, **settings)
    at(job, 10, PAUSED)
    job.clock.ends = 1200
    recorder.clock = job.clock
    assert job.run() is ExitCode.TERMINATED
    assert 1010 <= recorder.released_at[0] <= 1011
    assert job.starts == [0]
    assert 'INFO releasing the lock: paused by ann@there' in list(messages)
    assert 'INFO not run: paused by ann@there' in list(messages)


def test_pause_in_a_run() -> None:
    """A run that is under way goes on to its end; no other one begins."""
    def step() -> None:
        job.lock.asked = PAUSED
        job.clock.time += 5

    job = Job(step, succeed, KEEP_LOCK=True)
    job.clock.ends = 1100
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [0]
    assert job.events.startswith('acquire run release acquire wait')


def test_pause_between_acquiring_and_running() -> None:
    """A slot that comes when the job is paused is no run."""
    job = Job(succeed, succeed, RUN_INTERVAL=10)
    job.lock.asked = PAUSED
    at(job, 25, Control())
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [STANDBY_WAIT + late for late in (0, 10, 20)]


def test_run_once_while_paused(messages: list[str]) -> None:  # noqa: F811
    """With --run-once a pause is the exit code, said why."""
    job = Job(RUN_ONCE=True)
    job.lock.asked = PAUSED
    assert job.run() is ExitCode.LOCK_NOT_AVAILABLE
    assert list(messages) == ['WARNING not run: paused by ann@there']


def test_request_for_this_holder() -> None:
    """Who is asked to release does so between two runs."""
    def step() -> None:
        job.lock.asked = asked(7)

    job = Job(step, KEEP_LOCK=True)
    job.lock.token = 7
    job.run()
    assert job.events.startswith('acquire run release acquire')


def test_lock_that_is_wanted_at_once() -> None:
    """The lock goes before there is a new process for the task, the making of which
    the request would interrupt, again and again."""
    wanted = Control(None, Request('release', 7, 'ann', interrupt=True))

    def making() -> str | None:
        made.append(job.lock.held and job.lock.asked is wanted)
        return prepare()

    made: list[bool] = []
    job = Job(KEEP_LOCK=True)
    job.task.script = [stopping(job, wanted)]
    prepare, job.process.prepare = (  # type: ignore[method-assign]
        job.process.prepare, making)
    job.lock.token = 7
    job.run()
    assert made and not any(made)


def test_standby_again() -> None:
    """Who keeps the lock and has given it up waits for it again when others have
    had their chance, whatever is due."""
    job = Job(KEEP_LOCK=True, SCHEDULE='0 0 1 1 *')
    job.lock.token = 7
    at(job, 5, asked(7))
    job.clock.ends = 1000 + 5 + OTHERS_FIRST + 2
    assert job.run() is ExitCode.TERMINATED
    assert job.events.startswith('acquire release acquire')
    assert job.starts == []


def test_lock_that_was_free_and_is_not_granted() -> None:
    """Who keeps the lock goes on waiting for it when somebody was faster, or the
    service does not grant it yet, whatever is due."""
    job = Job(KEEP_LOCK=True, SCHEDULE='0 0 1 1 *')
    acquire = job.lock.acquire

    def find_free() -> bool:
        job.lock.consider(None)
        return acquire()
    job.lock.acquire = find_free  # type: ignore[method-assign]
    job.lock.script = [False]
    job.clock.ends = 1000 + STANDBY_WAIT + 2
    assert job.run() is ExitCode.TERMINATED
    assert job.events.startswith('acquire wait acquire')
    assert job.lock.events.count('acquire') == 2


def test_request_for_another_holder() -> None:
    """What is asked of another holder does not concern this one."""
    def step() -> None:
        job.lock.asked = asked(8)

    job = Job(step, KEEP_LOCK=True)
    job.lock.token = 7
    job.run()
    assert job.events == (
        'acquire run refresh run refresh release close free closed')


def stop(at: float, token: int = 7) -> Control:
    """Return a request to stop the run, of so many seconds after the start.
    """
    return Control(stop=Stop(token, 'ann', 1.7e9 + at))


def stopping(job: Job, control: Control) -> Callable[[], None]:
    """Return a run that is asked *control*, and looked after."""
    def step() -> None:
        job.lock.asked = control
        job.runner._look_after()
        job.clock.time += 5
    return step


@pytest.mark.parametrize('settings', [
    {}, {'RETRIES': 3, 'RELEASE_ON_ERROR': True}])
def test_run_that_is_stopped(
        settings: dict[str, Any], messages: list[str]) -> None:  # noqa: F811
    """The run ends, its slot is given up, and the lock is kept."""
    job = Job(KEEP_LOCK=True, RUN_INTERVAL=60, RECOVERIES=1, **settings)
    job.task.script = [stopping(job, stop(0)), succeed]
    job.lock.token = 7
    job.run()
    assert job.starts == [0, 60, 120]
    assert job.lock.events.count('acquire') == 1
    assert job.lock.asked.stop is None
    assert 'INFO the run is stopped: stop asked for by ann' in list(messages)
    assert [each for each in messages if 'given up' in each] == [
        'WARNING given up: the slot of '
        f'{job.agenda.shown(1.7e9)}; it was stopped']


@pytest.mark.parametrize('control', [stop(0, token=6), stop(-5)])
def test_stop_for_another_run(control: Control) -> None:
    """What is asked of another holder, or was asked of the run before and
    comes to light now, stops no run."""
    job = Job(KEEP_LOCK=True, RUN_INTERVAL=60)
    job.task.script = [stopping(job, control)]
    job.lock.token = 7
    job.run()
    assert job.runner.recording.history.newest[0].outcome is Outcome.SUCCEEDED


def test_stop_between_runs() -> None:
    """Where no run is under way, what is asked is removed, and stops none;
    not even if it cannot be removed."""
    def step() -> None:
        job.clock.time += 5
        job.runner._look_after()

    job = Job(succeed, step, KEEP_LOCK=True, RUN_INTERVAL=60)
    job.lock.token = 7
    at(job, 30, stop(30))
    job.lock.ask_error = LockUnavailableError('away')
    job.run()
    assert job.lock.events.count('ask') > 1
    assert job.runner.recording.history.newest[1].outcome is Outcome.SUCCEEDED


def test_signal_while_a_request_is_obeyed() -> None:
    """A release that an operator asked for is not cut short by a signal."""
    recorder = Recorder()
    job = Job(succeed, KEEP_LOCK=True, RUN_INTERVAL=60, observers=[recorder])
    at(job, 10, PAUSED)
    release = job.lock.release

    def signalled() -> bool:
        released = release()
        signal.raise_signal(signal.SIGTERM)
        return released
    job.lock.release = signalled  # type: ignore[method-assign]
    assert job.run() is ExitCode.TERMINATED
    assert recorder.told[-2:] == ['released', 'closed']
    assert job.events == 'acquire run release close free closed'


# History

def test_history_with_the_lock_kept() -> None:
    """With the lock kept the history is saved after each run."""
    job = Job(succeed, fail, KEEP_LOCK=True, RUN_INTERVAL=5)
    job.run()
    first, second = job.lock.saved[0], job.lock.saved[1]
    assert first and second
    assert [run['outcome'] for run in second['newest']] == [
        'succeeded', 'failed']
    assert second['newest'][1]['error'] == (
        'ZeroDivisionError: nothing to divide by')
    assert first['due'] == pytest.approx(job.clock.ahead + 1005)
    assert second['runs'] == 2 and second['failures'] == 1


def test_history_is_saved_before_others_are_told() -> None:
    """With the lock kept the outcome of a run does not wait for hooks and
    metrics to be written."""
    class Late(Observer):
        def run_ended(self, run: Run) -> None:
            saved.append(len(job.lock.saved))

    saved: list[int] = []
    job = Job(succeed, fail, KEEP_LOCK=True, RUN_INTERVAL=5, observers=[Late()])
    job.run()
    assert saved[:2] == [1, 2]


def test_history_with_the_lock_released() -> None:
    """With the lock released the history goes with the release alone."""
    job = Job(succeed, RUN_INTERVAL=5)
    job.run()
    assert job.lock.saved == [] and job.lock.history is not None
    assert [run['run'] for run in job.lock.history['newest']] == [1, 2]


def test_no_history() -> None:
    """With HISTORY = 0 nothing is kept, and runs are counted all the same."""
    recorder = Recorder()
    job = Job(succeed, KEEP_LOCK=True, HISTORY=0, observers=[recorder])
    job.run()
    assert job.lock.history is None
    assert ('begins', 2, Outcome.PENDING) in recorder.told


def test_runs_are_counted_across_holders() -> None:
    """The next holder counts on, and adds the run that was killed."""
    recorder = Recorder()
    job = Job(RUN_ONCE=True, observers=[recorder])
    job.task.script = [succeed]
    job.lock.previous_history = {'runs': 41, 'failures': 1, 'newest': []}
    job.lock.record = {'fqdn': 'there', 'timestamp': 50.0}
    assert job.run() is ExitCode.DONE
    assert ('ended', 43, Outcome.SUCCEEDED, None) in recorder.told
    assert job.lock.history is not None
    assert [run['outcome'] for run in job.lock.history['newest']] == [
        'killed', 'succeeded']


class Beside:
    """What stands beside the lock of a job, and what is handed in there.

    :param answers: whether the service of the lock does.
    """

    def __init__(self, job: Job, answers: bool = True) -> None:
        self.state = LockState(False, None)
        self.answers = answers
        self.found: list[HandIn] = []
        job.lock.look = lambda: self.state  # type: ignore[method-assign]
        job.lock.hand_in = self.hand_in  # type: ignore[method-assign]

    def hand_in(self, handed_in: HandIn) -> bool:
        """Take down what is handed in."""
        if not self.answers:
            raise LockUnavailableError('no answer')
        self.found.append(handed_in)
        return True

    @property
    def runs(self) -> list[list[tuple[int, Outcome]]]:
        """The runs that were handed in, a list for each hold."""
        return [[(run.number, run.outcome) for run in each.runs]
                for each in self.found]


def lose(job: Job) -> Callable[[], None]:
    """Return a step in which the lock is lost, and which ends well."""
    def step() -> None:
        job.lock.alive = False
    return step


def test_run_that_ended_out_of_touch() -> None:
    """A run whose end could not be written is handed in, once, as soon as
    somebody else is seen to have the lock."""
    job = Job(RUN_INTERVAL=5)
    job.task.script = [lose(job)]
    job.lock.script = [True, LockUnavailableError('no answer'), False, False]
    beside = Beside(job)
    job.clock.ends = 1030
    job.run()
    assert beside.runs == [[(1, Outcome.SUCCEEDED)]]
    assert [each.hold for each in beside.found] == [100.0]


def test_lock_that_is_lost_within_reach() -> None:
    """Where the service of the lock answers, a run is handed in at once, and
    not with the next run, which may be due in a day."""
    job = Job(RUN_INTERVAL=86400)
    job.task.script = [lose(job)]
    beside = Beside(job)
    hand_in = beside.hand_in

    def at_once(handed_in: HandIn) -> bool:
        assert job.clock.time == 1000
        return hand_in(handed_in)
    job.lock.hand_in = at_once  # type: ignore[method-assign]
    job.clock.ends = 1005
    job.run()
    assert job.events.count('acquire') == 1
    assert beside.runs == [[(1, Outcome.SUCCEEDED)]]


def test_run_that_is_in_the_history_already() -> None:
    """What the keeper has written in place of its process is not handed in."""
    job = Job(RUN_INTERVAL=5)
    job.task.script = [lose(job)]
    job.lock.script = [True, False]
    beside = Beside(job)

    def look() -> LockState:
        return LockState(True, {'timestamp': 300.0}, job.lock.history)
    job.lock.look = look  # type: ignore[method-assign]
    job.clock.ends = 1020
    job.run()
    assert beside.found == []


def test_run_goes_with_the_next_hold() -> None:
    """A process that gets the lock again writes what it could not write."""
    job = Job(RUN_INTERVAL=5)
    job.task.script = [lose(job), lambda: setattr(job.lock, 'alive', True)]
    release = job.lock.release
    left = {'fqdn': 'here', 'pid': 5, 'timestamp': 100.0, 'schedule': {}}

    def vanish() -> bool:
        released = release()
        if not released:
            job.lock.history, job.lock.record = None, left
            job.lock._left = left
        return released
    job.lock.release = vanish  # type: ignore[method-assign]
    beside = Beside(job, answers=False)
    job.clock.ends = 1008
    job.run()
    assert job.lock.history is not None and beside.found == []
    assert [(run['run'], run['outcome']) for run in job.lock.history['newest']] == [
        (1, 'succeeded'), (2, 'succeeded')]


@pytest.mark.parametrize('answers', [True, False])
def test_process_that_ends_hands_in(
        answers: bool, messages: list[str]) -> None:  # noqa: F811
    """A process that ends hands in at once; if it cannot, it says what is lost."""
    job = Job(RUN_ONCE=True)
    job.task.script = [lose(job)]
    beside = Beside(job, answers)
    job.run()
    said = ('WARNING may be missing in the history: run 1 (succeeded); '
            'no answer')
    assert (said in list(messages)) is not answers
    assert beside.runs == ([[(1, Outcome.SUCCEEDED)]] if answers else [])


def test_acquisition_in_doubt() -> None:
    """A hold that nobody heard of, and so had no run, is handed in as such while
    the lock says that it was one."""
    job = Job(RUN_INTERVAL=5)
    beside = Beside(job)
    acquire = job.lock.acquire

    def doubtful() -> bool:
        acquired = acquire()
        job.lock.unheard = {'timestamp': 70.0} if not acquired else None
        return acquired
    job.lock.acquire = doubtful  # type: ignore[method-assign]
    beside.state = LockState(True, {'timestamp': 70.0})
    job.lock.script = [False]
    job.task.script = []
    job.run()
    assert beside.runs == [[]] and beside.found[0].hold == 70.0


@pytest.mark.parametrize('keep', [True, False])
def test_holder_merges_what_is_handed_in(keep: bool) -> None:
    """A holder that is told merges it between two runs, and says that it has."""
    run = Run(7, 3, 50.0)
    run.end(Outcome.SUCCEEDED, 1.0)
    job = Job(succeed, KEEP_LOCK=keep, RUN_INTERVAL=5)
    job.lock.asked = Control(handed_in=True)

    def find() -> dict[str, HandIn]:
        return {'x': HandIn(50.0, [run])}
    job.lock.find_handed_in = find  # type: ignore[method-assign]
    job.run()
    assert not job.lock.asked.handed_in
    assert job.lock.history is not None
    assert [each['run'] for each in job.lock.history['newest']] == [7, 1, 8]


@pytest.mark.parametrize('settings', [{'RUN_ONCE': True}, {}])
def test_signal_in_the_instant_after_acquiring(
        settings: dict[str, Any]) -> None:
    """A process that ends before it has read the history leaves it whole."""
    job = Job(**settings)
    job.lock.previous_history = {'runs': 41, 'failures': 1, 'newest': []}
    job.lock.record = {'fqdn': 'there', 'timestamp': 50.0}
    acquire = job.lock.acquire

    def interrupted() -> bool:
        acquire()
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError('not interrupted')
    job.lock.acquire = interrupted  # type: ignore[method-assign]
    assert job.run() is ExitCode.TERMINATED
    assert job.lock.history is not None
    assert job.lock.history['runs'] == 42
    assert [run['outcome'] for run in job.lock.history['newest']] == [
        'killed']


def test_slots_in_a_pause_are_skipped() -> None:
    """A slot that fell into a pause that is over is not caught up."""
    job = Job(SCHEDULE='*/10 * * * * *', KEEP_LOCK=True)
    slot = job.agenda.due + 10 - job.agenda.due % 10
    job.lock.record = {'released': slot, 'schedule': Ledger(
        job.agenda.plan.fingerprint, slot, slot=slot).export()}
    job.clock.time += slot + 25 - job.clock.wall()
    job.lock.asked = Control(Pause('ann', slot + 9)).resumed(slot + 22)
    job.clock.ends = job.clock.time + 2
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == []
    left = Ledger.parse(job.lock.schedules[-1])
    assert left is not None
    assert left.settled == slot + 20


@pytest.mark.parametrize('keep', [True, False])
def test_slot_that_is_skipped(
        keep: bool, messages: list[str]) -> None:  # noqa: F811
    """The slot is not run, and given up by who decides on it."""
    job = Job(succeed, RUN_INTERVAL=60, KEEP_LOCK=keep)
    at(job, 30, Control(skips=[Skip(1.7e9 + 60, 'ann')]))
    job.run()
    assert job.starts == [0, 120]
    assert [each for each in messages if 'given up' in each] == [
        f'WARNING given up: the slot of {job.agenda.shown(1.7e9 + 60)}; '
        f'an operator had it skipped']


# Runs that are asked for

def wanted(tries: int = 0, **extra: Any) -> Control:
    """Return a request for a run beside the schedule."""
    return Control(extra=Extra('x1', 'ann', tries=tries, **extra))


class Runs(Observer):
    """Keeps the runs that it is told of."""

    def __init__(self) -> None:
        self.ended: list[dict[str, Any]] = []

    def run_ended(self, run: Run) -> None:
        self.ended.append(run.export())


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('settings', [
    {'RUN_INTERVAL': 60}, {'SLEEP_INTERVAL': 60}])
def test_extra_run(settings: dict[str, Any], keep: bool) -> None:
    """It begins within a second, is in the history as such, and leaves the
    schedule as it is."""
    runs = Runs()
    job = Job(succeed, succeed, succeed, KEEP_LOCK=keep, observers=[runs],
              **settings)
    at(job, 30, wanted(slot=1.6e9))
    asked: list[Any] = []
    ask_of = job.lock.ask

    def ask(control: Control, expected: Control) -> bool:
        asked.append(control.extra)
        return ask_of(control, expected)
    job.lock.ask = ask  # type: ignore[method-assign]
    job.run()
    first, extra, *others = job.starts
    assert first == 0 and 30 <= extra <= 31
    assert others == [60, 120]
    [run] = [run for run in runs.ended if 'asked' in run]
    assert (run['asked'], run['slot'], run['reason'], run['attempt']) == (
        'x1', 1.6e9, 'asked', 1)
    assert asked[0].tries == 1 and asked[1] is None
    assert job.lock.asked.extra is None


def test_extra_run_that_another_one_took() -> None:
    """Who cannot note that the run is its own does not begin it."""
    job = Job(succeed, KEEP_LOCK=True, RUN_INTERVAL=60)
    at(job, 30, wanted())
    job.lock.ask = lambda *_: False  # type: ignore[method-assign]
    job.run()
    assert job.starts == [0, 60]


def test_extra_run_without_a_schedule() -> None:
    """Where runs follow one another, the next one will do."""
    job = Job(succeed, succeed, KEEP_LOCK=True)
    job.lock.asked = wanted()
    job.run()
    assert [run.asked for run in job.runner.recording.history.newest] == [
        'x1', None, None]


@pytest.mark.parametrize('recoveries, tries, runs', [
    (1, 1, True), (1, 2, False), (0, 0, True), (0, 1, False)])
def test_extra_run_that_was_cut_short(
        recoveries: int, tries: int, runs: bool,
        messages: list[str]) -> None:  # noqa: F811
    """It is begun again as often as runs by the schedule are."""
    job = Job(succeed, RUN_INTERVAL=60, RECOVERIES=recoveries)
    job.task.script.append(succeed)
    at(job, 30, wanted(tries))
    job.clock.ends = 1050
    job.run()
    assert (len(job.starts) == 2) is runs
    assert any('given up: the run that ann' in each
               for each in messages) is not runs


@pytest.mark.parametrize('slot', [None, 1.6e9])
def test_extra_run_knows_its_attempt(slot: float | None) -> None:
    """A run that makes up for one that was cut short is told so, whether it
    is for a slot or not."""
    runs = Runs()
    job = Job(succeed, succeed, RUN_INTERVAL=60, observers=[runs])
    at(job, 30, wanted(tries=1, slot=slot))
    job.run()
    [run] = [run for run in runs.ended if 'asked' in run]
    assert (run['slot'], run['attempt'], run['reason']) == (slot, 2, 'asked')


def test_extra_run_that_has_ended_is_not_run_again() -> None:
    """Its holder could not note the end in the request; the history has it."""
    job = Job(succeed, RUN_INTERVAL=60)
    run = Run(1, 3, job.clock.wall() - 50)
    run.asked = 'x1'
    run.end(Outcome.FAILED, 1.0)
    written = History(9)
    written.add(run, None)
    job.lock.previous_history = written.export(3)
    job.lock.asked = wanted(tries=1)
    job.run()
    assert job.starts == [0, 60]
    assert job.lock.asked.extra is None


def test_extra_run_is_left_to_the_next_holder() -> None:
    """What a signal interrupts is still wanted."""
    job = Job(succeed, terminate, KEEP_LOCK=True, RUN_INTERVAL=60)
    at(job, 30, wanted())
    job.run()
    assert job.lock.asked.extra is not None
    assert job.lock.asked.extra.tries == 1


def test_run_once_is_no_extra_run() -> None:
    """A process that is there for one run leaves the others alone."""
    job = Job(RUN_ONCE=True, SLEEP_INTERVAL=5)
    wall = job.clock.wall()
    job.lock.record = {'released': wall - 1, 'schedule': Ledger(
        job.agenda.plan.fingerprint, wall - 2, slot=wall - 2, began=wall - 2,
        ended=wall - 1).export()}
    job.lock.asked = wanted()
    assert job.run() is ExitCode.DONE
    assert job.starts == []
    assert job.lock.asked.extra is not None


# Observers

def test_observers_are_told() -> None:
    """Who observes is told what the loop does, in its order."""
    recorder = Recorder()
    job = Job(succeed, fail, KEEP_LOCK=True, RUN_INTERVAL=5,
              observers=[recorder])
    job.lock.script = [False, True]
    job.lock.owner = {'fqdn': 'other', 'pid': 5, 'time_local': 'noon'}
    job.run()
    ahead = job.clock.ahead + 1000
    assert recorder.told == [
        'started',
        ('standby', 'the lock is held by other (pid 5) since noon'),
        ('acquired', None), ('begins', 1, Outcome.PENDING),
        ('ended', 1, Outcome.SUCCEEDED, None),
        ('waiting', ahead + STANDBY_WAIT + 5), ('begins', 2, Outcome.PENDING),
        ('ended', 2, Outcome.FAILED,
         'ZeroDivisionError: nothing to divide by'),
        ('waiting', ahead + STANDBY_WAIT + 10), ('begins', 3, Outcome.PENDING),
        ('ended', 3, Outcome.INTERRUPTED, 'Terminate: signal SIGTERM'),
        'released', 'closed']


def test_observers_are_told_of_a_loss() -> None:
    """A lock that is lost in a run is not told as released."""
    def step() -> None:
        job.lock.alive = False
        raise OneInstanceWatchdogError('gone')

    recorder = Recorder()
    job = Job(step, RUN_ONCE=True, observers=[recorder])
    assert job.run() is ExitCode.LOCK_LOST
    assert ('lost', 'the lock was not ours any more') in recorder.told
    assert 'released' not in recorder.told


class Raising(Observer):
    """Fails whatever it is told."""

    def __getattribute__(self, name: str) -> Any:
        if name in vars(Observer) and not name.startswith('_'):
            return raising(ValueError(f'broken {name}'))
        return super().__getattribute__(name)


def test_observer_that_raises(messages: list[str]) -> None:  # noqa: F811
    """An observer that raises disturbs neither the runs nor the others."""
    recorder = Recorder()
    job = Job(succeed, RUN_INTERVAL=5, observers=[Raising(), recorder])
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [0, 5]
    assert recorder.told[0] == 'started' and recorder.told[-1] == 'closed'
    assert ('ERROR Raising failed, and is of no consequence for the run'
            in list(messages))


def test_signal_while_an_observer_is_told() -> None:
    """A signal that comes in an observer is not lost, nor cuts it short."""
    class Signalling(Recorder):
        def run_ended(self, run: Run) -> None:
            signal.raise_signal(signal.SIGTERM)
            super().run_ended(run)

    recorder = Signalling()
    job = Job(succeed, RUN_INTERVAL=5, observers=[recorder])
    assert job.run() is ExitCode.TERMINATED
    assert job.starts == [0]
    assert ('ended', 1, Outcome.SUCCEEDED, None) in recorder.told
