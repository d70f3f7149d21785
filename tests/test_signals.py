"""Both signals at every stage of a real job under the embedded lock."""

import pathlib
import signal
import time

import pytest
from support import (
    Job,
    is_free,
    lock_folder,
    make_file_lock,
    until,
    write_module,
)

from jobslib.exitcodes import ExitCode

JOBS = '''
import asyncio, itertools, os, signal, sys, time
from jobslib import BaseTask, Context, Terminate

def doze():
    # A signal that comes in the instant before a sleep does not end it.
    while True:
        time.sleep(0.01)

class Sleep(BaseTask):
    """Stops when it is told to, after it has cleaned up."""
    name = 'job'
    def task(self):
        try:
            print('running', flush=True)
            doze()
        except Terminate as exc:
            held = self.context.one_instance_lock.refresh()
            print('told', exc, held, flush=True)
            raise

class Short(BaseTask):
    name = 'job'
    def task(self):
        print('ran', flush=True)

class Deaf(BaseTask):
    """Does not stop when it is told to."""
    name = 'job'
    def task(self):
        while True:
            try:
                print('running', flush=True)
                doze()
            except BaseException:
                print('ignored', flush=True)

class Stuck(BaseTask):
    """Spends its time in one call that no handler interrupts."""
    name = 'job'
    def task(self):
        # Said from within the call, after which no handler gets its turn.
        said = map(os.write, [1], [b'running\\n'])
        sum(itertools.chain(said, range(10 ** 12)))

class Coroutine(BaseTask):
    name = 'job'
    async def task(self):
        try:
            print('running', flush=True)
            while True:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError as exc:
            await asyncio.sleep(0)
            print('told', exc, flush=True)
            raise

class Fail(BaseTask):
    name = 'job'
    def task(self):
        raise ZeroDivisionError

class Closing(Context):
    def close(self):
        print('closed', flush=True)

class Slow(BaseTask):
    name = 'job'
    def task(self):
        pass
    def initialize(self):
        print('preparing', flush=True)
        doze()
'''

BOTH = pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT],
                               ids=lambda signum: signum.name)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with jobs."""
    write_module(tmp_path, 'jobs', JOBS)
    return tmp_path


def assert_ended(job: Job, traceback: bool = False) -> None:
    """See that *job* ends in good order, its lock released.

    :param traceback: whether the job logged a run that failed.
    """
    assert job.wait() == ExitCode.TERMINATED
    assert ('Traceback' in job.output) is traceback
    # The job released its lock, it did not just vanish.
    lock = make_file_lock(lock_folder(job.folder), 'job')
    assert lock.acquire()
    lock.close()
    assert lock.previous_record is not None
    assert 'released' in lock.previous_record


@BOTH
@pytest.mark.parametrize('args', [
    [], ['--keep-lock'], ['--sleep-interval', '60'],
    ['--keep-lock', '--run-interval', '60']], ids=' '.join)
def test_lock_elsewhere(folder: pathlib.Path, signum: signal.Signals,
                        args: list[str]) -> None:
    """A process that waits for another's lock ends at once."""
    lock = make_file_lock(lock_folder(folder), 'job')
    lock.acquire()
    token = lock.fencing_token
    with Job(folder, *args, 'jobs.Short') as job:
        job.wait_for('not run: the lock is held by')
        job.send(signum)
        assert job.wait() == ExitCode.TERMINATED
        assert f'ended by signal {signum.name}' in job.output
        assert 'Traceback' not in job.output
    assert lock.refresh()
    info = lock.get_lock_owner_info()
    assert info is not None
    assert info['token'] == token
    lock.release()


@BOTH
def test_no_lock_service(folder: pathlib.Path,
                         signum: signal.Signals) -> None:
    """A process that waits for its lock service ends at once."""
    lock_folder(folder).mkdir(parents=True)
    lock_folder(folder).chmod(0o777)
    with Job(folder, 'jobs.Short') as job:
        job.wait_for('waiting for the lock')
        job.send(signum)
        assert job.wait() == ExitCode.TERMINATED
        assert job.output.count('waiting for the lock') == 1


@BOTH
@pytest.mark.parametrize('args', [[], ['--keep-lock'], ['--run-once']],
                         ids=' '.join)
def test_in_the_run(folder: pathlib.Path, signum: signal.Signals,
                    args: list[str]) -> None:
    """A running task is told, cleans up with the lock, then it is freed."""
    with Job(folder, *args, 'jobs.Sleep') as job:
        job.wait_for('running')
        assert not is_free(folder, 'job')
        job.send(signum)
        assert_ended(job)
        assert f'told signal {signum.name} True' in job.output
        assert job.output.count('running') == 1


@BOTH
def test_in_a_coroutine(folder: pathlib.Path,
                        signum: signal.Signals) -> None:
    """A running coroutine is cancelled, cleans up, and the lock is freed."""
    with Job(folder, 'jobs.Coroutine') as job:
        job.wait_for('running')
        job.send(signum)
        assert_ended(job)
        assert f'told signal {signum.name}' in job.output


@BOTH
def test_in_the_sleep(folder: pathlib.Path, signum: signal.Signals) -> None:
    """A process that sleeps without the lock ends at once."""
    with Job(folder, '--sleep-interval', '60', 'jobs.Short') as job:
        job.wait_for('run succeeded')
        until(lambda: is_free(folder, 'job'))
        job.send(signum)
        assert_ended(job)


@BOTH
@pytest.mark.parametrize('interval', ['--sleep-interval', '--run-interval'])
def test_in_the_sleep_with_the_lock(
        folder: pathlib.Path, signum: signal.Signals, interval: str) -> None:
    """A process that sleeps with its lock kept releases it and ends."""
    with Job(folder, '--keep-lock', interval, '60', 'jobs.Short') as job:
        job.wait_for('run succeeded')
        assert not is_free(folder, 'job')
        job.send(signum)
        assert_ended(job)


@BOTH
def test_in_the_pause_after_a_failure(folder: pathlib.Path,
                                      signum: signal.Signals) -> None:
    """A process that pauses after failed runs ends at once."""
    with Job(folder, '--keep-lock', 'jobs.Fail') as job:
        job.wait_for('run failed', times=2)
        job.send(signum)
        assert_ended(job, traceback=True)


@BOTH
def test_while_the_task_is_made(
    folder: pathlib.Path, signum: signal.Signals,
) -> None:
    """A signal in initialize() ends the process, its context closed."""
    with Job(folder, 'jobs.Slow',
             JOBSLIB_CONTEXT_CLASS='jobs.Closing') as job:
        job.wait_for('preparing')
        job.send(signum)
        assert job.wait() == ExitCode.TERMINATED
        assert 'closed' in job.output
        assert 'Traceback' not in job.output
        assert is_free(folder, 'job')


@BOTH
def test_second_signal(folder: pathlib.Path, signum: signal.Signals) -> None:
    """A second signal does not wait for the task; the lock is free."""
    with Job(folder, 'jobs.Deaf', JOBSLIB_ONE_INSTANCE_GRACE='60') as job:
        job.wait_for('running')
        job.send(signal.SIGTERM)
        job.wait_for('ignored')
        assert not is_free(folder, 'job')
        job.send(signum)
        assert job.wait() == -signum
        until(lambda: is_free(folder, 'job'))


@BOTH
@pytest.mark.parametrize('task', ['Deaf', 'Stuck'])
def test_grace_time(folder: pathlib.Path, signum: signal.Signals,
                    task: str) -> None:
    """A task that does not stop loses its process; the job ends."""
    args = [] if task == 'Deaf' else ['--max-run-time', '0.3']
    with Job(folder, *args, f'jobs.{task}',
             JOBSLIB_ONE_INSTANCE_GRACE='0.3') as job:
        job.wait_for('running')
        job.send(signum)
        assert job.wait() == ExitCode.TERMINATED
        assert (f'signal {signum.name}; killed by SIGKILL' in job.output
                or 'took longer than 0.3 s; killed by SIGKILL' in job.output)
        assert is_free(folder, 'job')


@BOTH
def test_at_any_moment(folder: pathlib.Path, signum: signal.Signals) -> None:
    """Whenever a signal comes in a busy loop, the end is in good order."""
    for moment in range(12):
        with Job(folder, 'jobs.Short') as job:
            job.wait_for('run succeeded')
            time.sleep(moment * 0.000_37)
            job.send(signum)
            assert job.wait() == ExitCode.TERMINATED
            assert 'Traceback' not in job.output
            assert is_free(folder, 'job')


def test_standby_takes_over(folder: pathlib.Path) -> None:
    """A standby takes over when the holder is told to end."""
    with Job(folder, '--keep-lock', '--sleep-interval', '0.1',
             'jobs.Short') as holder:
        holder.wait_for('run succeeded')
        with Job(folder, '--keep-lock', '--sleep-interval', '0.1',
                 'jobs.Short') as standby:
            standby.wait_for(f'(pid {holder.popen.pid})')
            assert 'run succeeded' not in standby.output
            holder.send(signal.SIGTERM)
            assert holder.wait() == ExitCode.TERMINATED
            standby.wait_for('run succeeded', times=2)
            standby.send(signal.SIGTERM)
            assert_ended(standby)


def test_standby_takes_over_from_the_dead(folder: pathlib.Path) -> None:
    """A standby takes over when the holder is killed in its run."""
    with Job(folder, 'jobs.Sleep') as holder:
        holder.wait_for('running')
        with Job(folder, '--keep-lock', 'jobs.Short') as standby:
            standby.wait_for(f'(pid {holder.popen.pid})')
            holder.send(signal.SIGKILL)
            standby.wait_for('run succeeded')
            standby.send(signal.SIGTERM)
            assert_ended(standby)
