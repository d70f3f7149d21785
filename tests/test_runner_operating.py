"""What the loop does for operators: history, requests, who is told."""

import signal
from typing import Any

import pytest
from support import FakeClock
from test_runner import (  # noqa: F401
    Job,
    fail,
    messages,
    no_token,
    raising,
    succeed,
    terminate,
)

from jobslib import OneInstanceWatchdogError
from jobslib.exitcodes import ExitCode
from jobslib.observers import Observer
from jobslib.oneinstance.control import Control
from jobslib.runs import Outcome, Run

PAUSED = Control({'by': 'ann@there'})


def asked(token: int) -> Control:
    """Return a request for the holder with this token."""
    return Control(None, {'do': 'release', 'token': token, 'by': 'ann'})


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
        if job.clock.time - 1000 >= seconds:
            job.lock.asked = control
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
    assert job.starts == [30, 40, 50]


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


def test_request_for_another_holder() -> None:
    """What is asked of another holder does not concern this one."""
    def step() -> None:
        job.lock.asked = asked(8)

    job = Job(step, KEEP_LOCK=True)
    job.lock.token = 7
    job.run()
    assert job.events == (
        'acquire run refresh run refresh release close free closed')


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
        ('ended', 1, Outcome.SUCCEEDED, None), ('missed', 6),
        ('waiting', ahead + 35), ('begins', 2, Outcome.PENDING),
        ('ended', 2, Outcome.FAILED,
         'ZeroDivisionError: nothing to divide by'),
        ('waiting', ahead + 40), ('begins', 3, Outcome.PENDING),
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
