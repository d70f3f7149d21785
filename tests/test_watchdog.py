"""The watchdog of a run: by a clock that a test moves, and in real jobs."""

import pathlib
import re
from collections.abc import Callable

import pytest
from support import Job, is_free, run_job, write_module

from jobslib import OneInstanceWatchdogError
from jobslib.exceptions import Interrupt
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance.watchdog import INFINITE, LimitsWatchdog, Watchdog

GRACE = 60.0


class Time:
    """The time, in seconds; it goes on when it is set."""

    now = 1000.0


@pytest.fixture
def time() -> Time:
    """The time of the watchdogs."""
    return Time()


@pytest.fixture
def make(time: Time) -> Callable[..., LimitsWatchdog]:
    """A maker of watchdogs."""
    return lambda heartbeat=None: LimitsWatchdog(
        GRACE, heartbeat, lambda: time.now)


def test_max_run_time(make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """A run that takes too long has to stop, and is told why."""
    watchdog = make()
    watchdog.start(5)
    assert watchdog.due() == 1005
    time.now = 1004.9
    assert watchdog.overdue() is None
    time.now = 1005
    assert watchdog.overdue() == 'the run took longer than 5 s'


def test_heartbeat(make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """A run that is silent for too long has to stop, and is told why."""
    watchdog = make(5)
    watchdog.start()
    assert watchdog.due() == 1005
    time.now = 1004.9
    assert watchdog.overdue() is None
    time.now = 1005
    assert watchdog.overdue() == 'the run was silent for 5 s'


def test_beats(make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """A run that makes itself heard goes on."""
    watchdog = make(5)
    watchdog.start()
    for _ in range(10):
        time.now += 4
        watchdog.beat()
        assert watchdog.due() == time.now + 5
        assert watchdog.overdue() is None
    time.now += 5
    assert watchdog.overdue() == 'the run was silent for 5 s'


def test_beats_do_not_lengthen_a_run(
        make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """A run that makes itself heard still ends in time."""
    watchdog = make(10)
    watchdog.start(25)
    for _ in range(5):
        assert watchdog.overdue() is None
        time.now += 5
        watchdog.beat()
    assert watchdog.overdue() == 'the run took longer than 25 s'


def test_told_once(make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """A run that stops already is not told again, whatever it does."""
    watchdog = make(10)
    watchdog.start(20)
    watchdog.stopping()
    for _ in range(5):
        time.now += 7
        assert watchdog.overdue() is None
        assert watchdog.due() == INFINITE
    watchdog.beat()
    time.now += 1000
    assert watchdog.overdue() is None


@pytest.mark.parametrize(('heartbeat', 'longest', 'reason'), [
    (20, 30, 'the run was silent for 20 s'),
    (30, 20, 'the run took longer than 20 s')])
def test_the_nearer_limit_counts(
        make: Callable[..., LimitsWatchdog], time: Time, heartbeat: float,
        longest: float, reason: str) -> None:
    """Of heartbeat and longest run the nearer one counts."""
    watchdog = make(heartbeat)
    watchdog.start(longest)
    assert watchdog.due() == 1020
    time.now = 1020
    assert watchdog.overdue() == reason


def test_no_limits(make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """Without limits a run goes on for ever."""
    watchdog = make()
    watchdog.start()
    watchdog.beat()
    time.now = 1e12
    assert watchdog.overdue() is None
    assert watchdog.due() == INFINITE


def test_huge_limits(make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """Limits that are larger than any time are no error."""
    watchdog = make(1e300)
    watchdog.start(1e300)
    watchdog.beat()
    assert watchdog.overdue() is None
    assert watchdog.due() == 1e300
    watchdog.stopping()
    watchdog.stop()


def test_outside_of_a_run(
        make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """Outside of a run nothing is watched, heartbeat or not."""
    watchdog = make(5)
    for _ in range(2):
        watchdog.beat()
        time.now += 100
        assert watchdog.overdue() is None
        assert watchdog.due() == INFINITE
        watchdog.start(1)
        watchdog.stop()
        watchdog.stop()


def test_stop_forgets_the_run(
        make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """Neither the limit nor the silence of one run counts for the next."""
    watchdog = make(30)
    watchdog.start(15)
    time.now += 14
    watchdog.stop()
    watchdog.start()
    assert watchdog.due() == time.now + 30
    time.now += 29
    assert watchdog.overdue() is None


def test_next_run_after_one_that_was_told(
        make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """A run that was told to stop does not silence the next one."""
    watchdog = make(30)
    watchdog.start()
    watchdog.stopping()
    watchdog.stop()
    watchdog.start()
    time.now += 30
    assert watchdog.overdue() == 'the run was silent for 30 s'


def test_heartbeat_that_is_put_off(
        make: Callable[..., LimitsWatchdog], time: Time) -> None:
    """What is watched without a heartbeat need not give signs of life."""
    watchdog = make(5)
    watchdog.heartbeat = None
    watchdog.start(60)
    time.now += 59
    assert watchdog.overdue() is None
    watchdog.heartbeat = 5
    watchdog.start()
    assert watchdog.due() == time.now + 5


def test_interrupt_is_raised_by_default() -> None:
    """A lock that is used alone has its loss raised where it is seen."""
    told: list[Interrupt] = []
    error = OneInstanceWatchdogError('lost')
    watchdog = LimitsWatchdog(GRACE)
    with pytest.raises(OneInstanceWatchdogError) as caught:
        watchdog.interrupt(error)
    assert caught.value is error
    watchdog.interrupt = told.append
    watchdog.interrupt(error)
    assert told == [error]


def test_watchdog_that_sees_to_it_alone() -> None:
    """One that interrupts by itself need not say when."""
    watchdog = Watchdog(GRACE)
    assert watchdog.overdue() is None
    assert watchdog.due() == INFINITE
    for call in (watchdog.start, watchdog.beat, watchdog.stopping,
                 watchdog.stop):
        with pytest.raises(NotImplementedError):
            call()


JOBS = '''
import sys, threading, time
from jobslib import BaseTask, OneInstanceWatchdogError

def doze(seconds=3600):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(0.01)

class Watched(BaseTask):
    name = 'job'

class Silent(Watched):
    def task(self):
        try:
            doze()
        finally:
            print('cleans up', flush=True)
            doze(0.2)
            print('held', self.context.one_instance_lock.refresh())

class Beating(Watched):
    def task(self):
        for _ in range(25):
            self.beat()
            time.sleep(0.1)
        print('heard', flush=True)
    def beat(self):
        self.extend_lock()

class Progressing(Beating):
    def beat(self):
        self.progress(1, 2)

class Thread(Beating):
    def beat(self):
        beating = threading.Thread(target=self.extend_lock)
        beating.start()
        beating.join()

class BeatingForEver(Watched):
    def task(self):
        while True:
            self.extend_lock()

class Swallowing(Watched):
    def task(self):
        while True:
            try:
                self.extend_lock()
                time.sleep(0.01)
            except OneInstanceWatchdogError:
                print('swallowed', flush=True)

class Stuck(Watched):
    def task(self):
        sum(range(10 ** 12))

class StuckThread(Watched):
    def task(self):
        thread = threading.Thread(target=doze)
        thread.start()

class NoError(Watched):
    def task(self):
        sys.stderr.close()
        sum(range(10 ** 12))
'''


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with jobs."""
    write_module(tmp_path, 'jobs', JOBS)
    return tmp_path


def duration_of(output: str) -> float:
    """Return how long the run took, in seconds."""
    found = re.search(r'run \w+ after ([\d.]+) s', output)
    assert found, output
    return float(found[1])


@pytest.mark.parametrize(('option', 'reason'), [
    ({'JOBSLIB_ONE_INSTANCE_HEARTBEAT': '1'}, 'the run was silent for 1 s'),
    ({'JOBSLIB_MAX_RUN_TIME': '1'}, 'the run took longer than 1 s')],
    ids=['heartbeat', 'longest'])
def test_run_that_stops_in_its_grace_time(
        folder: pathlib.Path, option: dict[str, str], reason: str) -> None:
    """It is interrupted in time, and cleans up with the lock."""
    done = run_job(folder, '--run-once', 'jobs.Silent', **option)
    assert done.returncode == ExitCode.TASK_FAILED
    assert done.stdout == 'cleans up\nheld True\n'
    assert re.search(f'run interrupted after [\\d.]+ s: {reason}\n',
                     done.stderr), done.stderr
    assert duration_of(done.stderr) >= 1.2


@pytest.mark.parametrize('task', ['Beating', 'Progressing', 'Thread'])
def test_run_that_gives_signs_of_life(
        folder: pathlib.Path, task: str) -> None:
    """It goes on for longer than the heartbeat, whichever thread gives them."""
    done = run_job(folder, '--run-once', f'jobs.{task}',
                   JOBSLIB_ONE_INSTANCE_HEARTBEAT='2')
    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout == 'heard\n'
    assert duration_of(done.stderr) >= 2.5


def test_longest_run_with_signs_of_life(folder: pathlib.Path) -> None:
    """Signs of life do not lengthen a run."""
    done = run_job(folder, '--run-once', '--max-run-time', '0.5',
                   'jobs.BeatingForEver', JOBSLIB_ONE_INSTANCE_HEARTBEAT='5')
    assert done.returncode == ExitCode.TASK_FAILED
    assert 'the run took longer than 0.5 s' in done.stderr


@pytest.mark.parametrize('task', [
    'Swallowing', 'Stuck', 'StuckThread', 'NoError'])
def test_run_that_does_not_stop(folder: pathlib.Path, task: str) -> None:
    """After its grace time it loses its process; then the lock is free."""
    done = run_job(folder, '--run-once', '--max-run-time', '0.3',
                   f'jobs.{task}', JOBSLIB_ONE_INSTANCE_GRACE='0.5')
    assert done.returncode == ExitCode.TASK_FAILED
    assert done.stdout == 'swallowed\n' * (task == 'Swallowing')
    assert 'the run took longer than 0.3 s' in done.stderr
    assert is_free(folder, 'job')
    assert duration_of(done.stderr) >= (0.3 if task == 'StuckThread' else 0.8)


def test_job_goes_on_after_a_run_that_was_killed(folder: pathlib.Path) -> None:
    """The next run comes when it is due, in a process of its own."""
    with Job(folder, '--sleep-interval', '0.01', '--max-run-time', '0.1',
             'jobs.Stuck', JOBSLIB_ONE_INSTANCE_GRACE='0.1') as job:
        job.wait_for('killed by SIGKILL', 3)
        assert job.popen.poll() is None
