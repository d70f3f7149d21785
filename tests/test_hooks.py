"""The hooks of a task: when each is called, and that none does harm."""

import logging
import os
import pathlib
import signal
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support import (
    DEADLINE,
    STEADY,
    FakeClock,
    InProcess,
    is_free,
    run_job,
    until,
    write_module,
)
from support import Job as Process

from jobslib import BaseTask, Config, OneInstanceWatchdogError, TaskError
from jobslib.exceptions import LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.interrupts import Interrupts
from jobslib.loop.hooks import TaskHooks
from jobslib.loop.runner import Runner
from jobslib.oneinstance.dummy import DummyLock
from jobslib.runs import Run
from jobslib.schedule.agenda import Agenda
from jobslib.schedule.plans import Plan
from jobslib.schedule.rhythms import Endless
from jobslib.testing import ConsulStandIn

Step = Callable[[], Any]

HELD = ('on_acquired', 'on_success', 'on_failure')
HOOKS = (*HELD, 'on_released', 'on_lost')
ALL = pytest.mark.parametrize('hook', HOOKS)


class LosableLock(DummyLock):
    """A lock that can be lost, and whose watchdog can be counted."""

    alive = True
    refusal: Exception | None = None

    def acquire(self) -> bool:
        self.alive = True
        return super().acquire()

    def release(self) -> bool:
        if self.refusal is not None:
            super().release()
            raise self.refusal
        return super().release() and self.alive

    def refresh(self) -> bool:
        return super().refresh() and self.alive


class Hooked(BaseTask):
    """A task whose runs and hooks do what a script says."""

    name = 'hooked'

    def initialize(self) -> None:
        self.script: list[Step] = []
        self.steps: dict[str, Step] = {}
        self.called: list[str] = []
        self.runs: list[Run] = []

    def task(self) -> None:
        self._note('task')
        (self.script.pop(0) if self.script else terminate)()

    def on_acquired(self) -> None:
        self._call('on_acquired')

    def on_released(self) -> None:
        self._call('on_released')

    def on_lost(self, reason: str) -> None:
        self.reason = reason
        self._call('on_lost')

    def on_success(self, run: Run) -> None:
        self.runs.append(run)
        self._call('on_success')

    def on_failure(self, run: Run) -> None:
        self.runs.append(run)
        self._call('on_failure')

    def _call(self, name: str) -> None:
        self._note(name)
        step = self.steps.pop(name, None)
        if step is not None:
            step()
            self._note('end')

    def _note(self, text: str) -> None:
        held = self.context.one_instance_lock.held
        self.called.append(text if held else f'({text})')


class Job:
    """A runner with a task that has hooks."""

    def __init__(self, *script: Step, limit: float = 60.0,
                 task_cls: type[Hooked] = Hooked,
                 lock: dict[str, Any] | None = None, **settings: Any) -> None:
        settings['ONE_INSTANCE'] = lock or {
            'backend': f'{__name__}.LosableLock'}
        self.config = Config(SimpleNamespace(**settings), None, task_cls)
        self.task = task_cls(self.config)
        self.task.script = list(script)
        self.lock = self.task.context.one_instance_lock
        self.interrupts = Interrupts()
        clock = FakeClock()
        logger = logging.getLogger('jobslib')
        self.process = InProcess(self.task, self.interrupts)
        self.runner = Runner(
            self.process, self.lock, self.config,
            Agenda(Plan(Endless()), clock), clock, self.interrupts, logger,
            [TaskHooks(self.process, self.lock, self.interrupts, logger,
                       limit)])

    def run(self) -> ExitCode:
        """Run the job to its end."""
        try:
            return self.runner.run()
        finally:
            assert not self.lock.held
            assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
            assert self.lock.watchdog.heartbeat == (
                self.lock.options.heartbeat)

    @property
    def called(self) -> str:
        """What was called, in parentheses where the lock was not held."""
        return ' '.join(self.task.called)

    def lose(self) -> None:
        """Lose the lock, as a lease keeper reports it."""
        self.lock.alive = False
        self.lock.watchdog.interrupt(OneInstanceWatchdogError('it is gone'))


def succeed() -> None:
    """Do what a run should."""


def fail() -> None:
    """Fail as a run with a mistake in it does."""
    raise ZeroDivisionError('nothing to divide by')


def terminate() -> None:
    """Send this process the signal that ends it, once."""
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGTERM)


def hang() -> None:
    """Do not come back in time."""
    ends = time.monotonic() + DEADLINE
    while time.monotonic() < ends:
        # A signal that comes in the instant before a sleep does not end it.
        time.sleep(0.01)
    raise AssertionError('nobody interrupted this')


LAST = 'on_acquired task on_failure (on_released)'


def test_order() -> None:
    """Success is told with the lock held, its release afterwards."""
    job = Job(succeed, succeed)
    job.run()
    assert job.called == (
        'on_acquired task on_success (on_released) '
        'on_acquired task on_success (on_released) ' + LAST)
    assert [run.number for run in job.task.runs] == [1, 2, 3]


def test_order_with_the_lock_kept() -> None:
    """With the lock kept it is acquired once, and released at the end."""
    job = Job(succeed, fail, KEEP_LOCK=True)
    job.run()
    assert job.called == ('on_acquired task on_success task on_failure '
                          'task on_failure (on_released)')


def test_outcomes() -> None:
    """on_failure is for what failed and what was interrupted."""
    job = Job(succeed, fail, KEEP_LOCK=True)
    job.run()
    assert [(run.outcome.value, run.error) for run in job.task.runs] == [
        ('succeeded', None),
        ('failed', 'ZeroDivisionError: nothing to divide by'),
        ('interrupted', 'Terminate: signal SIGTERM')]


def test_run_once() -> None:
    """A single run is told as well."""
    job = Job(succeed, RUN_ONCE=True)
    assert job.run() is ExitCode.DONE
    assert job.called == 'on_acquired task on_success (on_released)'


def test_lock_lost_in_a_run() -> None:
    """A lock that was lost is told in place of its release."""
    job = Job(lambda: job.lose())
    job.run()
    assert job.called == 'on_acquired task on_failure (on_lost) ' + LAST
    assert job.task.reason == 'the lock was not ours any more'
    assert job.task.runs[0].error == 'OneInstanceWatchdogError: it is gone'


def test_lock_that_cannot_be_released() -> None:
    """A lock whose service does not answer counts as lost."""
    job = Job(succeed, RUN_ONCE=True)
    job.lock.refusal = LockUnavailableError('no answer')
    job.run()
    assert job.called == 'on_acquired task on_success (on_lost)'
    assert job.task.reason == 'no answer'


def test_lock_lost_between_runs() -> None:
    """A loss between two runs is told before the next."""
    job = Job(succeed, succeed, KEEP_LOCK=True)
    job.task.steps['on_success'] = lambda: setattr(job.lock, 'alive', False)
    job.run()
    assert job.called == (
        'on_acquired task on_success end (on_lost) '
        'on_acquired task on_success task on_failure (on_released)')


def through(hook: str, limit: float = 60.0) -> Job:
    """Return a job that comes by *hook*, and has a good run after it."""
    def first() -> None:
        if hook == 'on_lost':
            job.lose()
        elif hook == 'on_failure':
            fail()
    job = Job(first, succeed, limit=limit)
    return job


@ALL
@pytest.mark.parametrize('error', [
    ZeroDivisionError('no luck'), SystemExit(3), KeyboardInterrupt('no luck'),
    TaskError('no luck')], ids=lambda error: type(error).__name__)
def test_hook_that_raises(hook: str, error: BaseException,
                          caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a hook raises is logged with a traceback; the job goes on."""
    def step() -> None:
        raise error
    job = through(hook)
    job.task.steps[hook] = step
    assert job.run() is ExitCode.TERMINATED
    assert job.called.endswith('task on_success (on_released) ' + LAST)
    [record] = [record for record in caplog.records
                if record.getMessage() == f'hook {hook} failed']
    assert record.levelname == 'ERROR'
    assert record.exc_text and record.exc_text.startswith('Traceback')
    lines = traceback.format_exception_only(error)
    assert record.exc_text.endswith(''.join(lines))


@pytest.mark.parametrize(('hook', 'called'), [
    # The run that was to follow does not begin.
    ('on_acquired', 'on_acquired end (on_released)'),
    ('on_success', 'on_acquired task on_success end (on_released)'),
    ('on_failure', 'on_acquired task on_failure end (on_released)'),
    ('on_released', 'on_acquired task on_success (on_released) (end)'),
    ('on_lost', 'on_acquired task on_failure (on_lost) (end)'),
])
def test_signal_in_a_hook(hook: str, called: str) -> None:
    """A signal lets a hook finish, is not lost, and frees the lock."""
    job = through(hook)
    job.task.steps[hook] = terminate
    assert job.run() is ExitCode.TERMINATED
    assert job.called == called


def is_caught(pid: int, signum: signal.Signals) -> bool:
    """Return whether the process *pid* has a handler for *signum*."""
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    mask = int(status.split('SigCgt:')[1].split()[0], 16)
    return bool(mask >> signum - 1 & 1)


def test_second_signal_in_a_hook(tmp_path: pathlib.Path) -> None:
    """A second signal does not wait for a hook."""
    write_module(tmp_path, 'jobs', JOBS)
    with Process(tmp_path, 'jobs.Slow', '--run-once') as job:
        job.wait_for('success')
        assert is_caught(job.popen.pid, signal.SIGTERM)
        job.send(signal.SIGTERM)
        until(lambda: not is_caught(job.popen.pid, signal.SIGTERM))
        (tmp_path / 'told').touch()
        job.wait_for('goes on')
        job.send(signal.SIGTERM)
        assert job.wait() == -signal.SIGTERM
    # The hook's process dies with its supervisor.
    until(lambda: is_free(tmp_path, 'job'))


@pytest.mark.parametrize('hook', HELD)
def test_lock_lost_in_a_hook(hook: str,
                             caplog: pytest.LogCaptureFixture) -> None:
    """A hook that counts on the lock is stopped when the lock is lost."""
    job = through(hook)

    def step() -> None:
        job.lose()
        hang()
    job.task.steps[hook] = step
    assert job.run() is ExitCode.TERMINATED
    assert 'end' not in job.called
    assert job.called.count('(on_lost)') == 1
    assert job.called.endswith('task on_success (on_released) ' + LAST)
    [record] = [record for record in caplog.records
                if record.getMessage().startswith('hook')]
    assert record.getMessage() == f'hook {hook} was stopped: it is gone'
    assert record.exc_text and ', in step\n' in record.exc_text


def test_lock_lost_in_a_hook_with_the_lock_kept() -> None:
    """A lock that was lost in a hook is not kept for the next run."""
    job = Job(succeed, KEEP_LOCK=True)
    job.task.steps['on_success'] = lambda: job.lose()
    job.run()
    assert job.called == 'on_acquired task on_success (on_lost) ' + LAST


@pytest.mark.parametrize('hook', HELD)
def test_hook_that_hangs(hook: str,
                         caplog: pytest.LogCaptureFixture) -> None:
    """A hook cannot hold the lock for ever; the lock is not lost by it."""
    job = through(hook, limit=0.5)
    job.task.steps[hook] = hang
    assert job.run() is ExitCode.TERMINATED
    assert 'end' not in job.called and 'on_lost' not in job.called
    assert job.called.count('task') == 3
    # Each run took place: two as the script says, and the last.
    assert job.called.count('on_failure') == 1 + (hook == 'on_failure')
    assert (f'hook {hook} was stopped: the run took longer than 0.5 s'
            in caplog.text)


def test_hook_that_hangs_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """The limit holds when the process was told to end as well."""
    job = Job(limit=0.5)
    job.task.steps['on_failure'] = hang
    assert job.run() is ExitCode.TERMINATED
    assert job.called == LAST
    assert 'hook on_failure was stopped' in caplog.text


def test_no_heartbeat_in_hooks() -> None:
    """A hook need not call extend_lock(), and the next run has to."""
    job = Job(succeed, hang, lock={
        'backend': f'{__name__}.LosableLock', 'options': {'heartbeat': 1}})
    job.task.steps['on_success'] = lambda: time.sleep(1.2)
    job.run()
    assert [run.error for run in job.task.runs] == [
        None, 'OneInstanceWatchdogError: the run was silent for 1 s',
        'Terminate: signal SIGTERM']
    assert 'on_success end' in job.called


def test_hook_that_finds_the_lock_lost() -> None:
    """extend_lock() in a hook stops the hook, and the loop knows."""
    def step() -> None:
        job.lock.alive = False
        job.task.extend_lock()
    job = Job(succeed, KEEP_LOCK=True)
    job.task.steps['on_success'] = step
    job.run()
    assert job.called == 'on_acquired task on_success (on_lost) ' + LAST


def test_hooks_that_are_not_overridden_cost_nothing() -> None:
    """For a hook that does nothing no watchdog is started."""
    class Plain(Hooked):
        on_acquired = BaseTask.on_acquired
        on_success = BaseTask.on_success
        on_failure = BaseTask.on_failure
        on_released = BaseTask.on_released
        on_lost = BaseTask.on_lost

    job = Job(succeed, task_cls=Plain, RUN_ONCE=True)
    started: list[float | None] = []
    job.lock.watchdog.start = lambda limit, run: started.append(limit)
    assert job.run() is ExitCode.DONE
    assert started == [None]  # the run itself


def consul_job(consul: ConsulStandIn, **kwargs: Any) -> Job:
    """Return a job whose lock has a keeper."""
    return Job(succeed, lock={
        'backend': 'jobslib.oneinstance.consul.ConsulLock',
        'options': consul.options(**STEADY)}, KEEP_LOCK=True, **kwargs)


def test_lease_lost_in_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    """The keeper's interrupt stops a hook; its process is not killed."""
    with ConsulStandIn() as consul:
        job = consul_job(consul)

        def step() -> None:
            consul.lose_lock()
            hang()
        job.task.steps['on_success'] = step
        # Consul makes others wait for the lock-delay; this is about the end.
        job.task.steps['on_lost'] = terminate
        assert job.run() is ExitCode.TERMINATED
    assert job.called == 'on_acquired task on_success (on_lost) (end)'
    assert 'hook on_success was stopped: ' in caplog.text


def test_lease_lost_in_a_run() -> None:
    """The failure is told although there is no lease any more."""
    with ConsulStandIn() as consul:
        def step() -> None:
            consul.lose_lock()
            hang()
        job = consul_job(consul)
        job.task.script = [step]
        job.task.steps['on_lost'] = terminate
        assert job.run() is ExitCode.TERMINATED
    assert job.called == 'on_acquired task on_failure (on_lost) (end)'
    assert job.task.runs[0].outcome.value == 'interrupted'


def test_limit_by_the_keeper(caplog: pytest.LogCaptureFixture) -> None:
    """The keeper stops a hook that takes too long; the lock is kept."""
    with ConsulStandIn() as consul:
        job = consul_job(consul, limit=0.5)
        job.task.steps['on_success'] = hang
        assert job.run() is ExitCode.TERMINATED
    assert job.called == ('on_acquired task on_success task on_failure '
                          '(on_released)')
    assert 'hook on_success was stopped: ' in caplog.text


JOBS = '''
import pathlib, sys, time
from jobslib import BaseTask, TaskError

class Tell(BaseTask):
    name = 'job'
    def task(self):
        self.logger.info('works')
    def on_success(self, run):
        self.tell(f'success of run {run.number}: {run.outcome.value}')
    def on_released(self):
        self.tell('released')
    def tell(self, text):
        print(text, flush=True)
        sys.stdin.readline()

class Slow(Tell):
    def on_success(self, run):
        print('success', flush=True)
        while not pathlib.Path('told').exists():
            time.sleep(0.01)
        print('goes on', flush=True)
        while True:
            time.sleep(0.01)

class Deaf(Tell):
    def on_success(self, run):
        while True:
            try:
                time.sleep(0.01)
            except BaseException as error:
                print('ignored', repr(error), flush=True)

class Hanging(BaseTask):
    def task(self):
        pass
    def on_released(self):
        print('still here', flush=True)
        time.sleep(3600)

class Broken(BaseTask):
    def task(self):
        pass
    def on_acquired(self):
        raise ZeroDivisionError('broken hook')
'''


def test_process(tmp_path: pathlib.Path) -> None:
    """Others get the lock after on_success, and before on_released."""
    write_module(tmp_path, 'jobs', JOBS)
    with Process(tmp_path, 'jobs.Tell', '--run-once') as job:
        job.wait_for('success of run 1: succeeded')
        assert not is_free(tmp_path, 'job')
        job.stdin.write(b'\n')
        job.stdin.flush()
        job.wait_for('released')
        assert is_free(tmp_path, 'job')
        job.stdin.write(b'\n')
        job.stdin.flush()
        assert job.wait() == ExitCode.DONE


def test_deaf_hook_loses_its_process(tmp_path: pathlib.Path) -> None:
    """A hook that ignores its limit is ended, and the lock is free."""
    write_module(tmp_path, 'jobs', JOBS)
    with Process(tmp_path, 'jobs.Deaf', '--run-once',
                 JOBSLIB_MAX_HOOK_TIME='0.1',
                 JOBSLIB_ONE_INSTANCE_GRACE='1') as job:
        # What the run did stands.
        assert job.wait() == ExitCode.DONE
        assert 'ignored OneInstanceWatchdogError' in job.output
        assert ('ERROR jobslib: hook on_success: the run took longer than '
                '0.1 s; killed by SIGKILL' in job.output)
        assert ('WARNING jobslib: hook on_released is not called: the process '
                'of the run has ended' in job.output)
    assert is_free(tmp_path, 'job')


@pytest.mark.parametrize('early', [True, False])
def test_hook_that_hangs_without_the_lock(
        early: bool, tmp_path: pathlib.Path) -> None:
    """It does not keep a job for ever that is told to end."""
    write_module(tmp_path, 'jobs', JOBS)
    options = ['--keep-lock', '--sleep-interval', '3600'] if early else []
    with Process(tmp_path, 'jobs.Hanging', *options,
                 JOBSLIB_MAX_HOOK_TIME='0.1') as job:
        job.wait_for('run succeeded' if early else 'still here')
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED
        assert 'hook on_released: killed by SIGKILL' in job.output


def test_broken_hook_of_a_process(tmp_path: pathlib.Path) -> None:
    """A traceback in the log, and the run takes place."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, 'jobs.Broken', '--run-once')
    assert done.returncode == ExitCode.DONE
    assert 'ERROR jobslib: hook on_acquired failed\nTraceback' in done.stderr
    assert 'ZeroDivisionError: broken hook' in done.stderr
    assert 'run succeeded' in done.stderr
