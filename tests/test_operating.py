"""Operating a job on one machine, with nothing but its lock files."""

import json
import os
import pathlib
import re
import signal
import tempfile
from typing import Any

import pytest
from support import Job, lock_folder, make_file_lock, run_job, until, write_module

from jobslib.commands import pause
from jobslib.commands.jobs import ago, describe
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.page import Page

JOBS = '''
import time
from jobslib import BaseTask, argument

class Quick(BaseTask):
    name = 'quick'
    arguments = (argument('--fail', action='store_true'),)
    def task(self):
        print('BEGIN', flush=True)
        if self.args.fail:
            raise RuntimeError('went\\x1b[31m wrong')

class Slow(BaseTask):
    name = 'slow'
    def task(self):
        print('BEGIN', flush=True)
        time.sleep(60)
'''
KEPT = ('--keep-lock', '--run-interval', '0.1')


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with tasks, and one for lock files."""
    (tmp_path / 'run').mkdir()
    write_module(tmp_path, 'jobs', JOBS)
    return tmp_path


def ask(folder: pathlib.Path, command: str, *args: str) -> Any:
    """Return what a command answers, which must succeed."""
    done = run_job(folder, command, '--json', *args)
    assert done.returncode == ExitCode.DONE, done.stderr
    return json.loads(done.stdout)


def test_status(folder: pathlib.Path) -> None:
    """Status shows the holder, and how runs went."""
    run_job(folder, '--run-once', 'jobs.Quick')
    run_job(folder, '--run-once', 'jobs.Quick', '--fail')
    status = ask(folder, 'status', 'jobs.Quick')
    assert status['state'] == 'free' and status['holder'] is None
    assert [run['outcome'] for run in status['history']] == [
        'succeeded', 'failed']
    assert (status['runs'], status['failures']) == (2, 1)
    with Job(folder, *KEPT, 'jobs.Quick') as job:
        job.wait_for('run succeeded', 3)
        status = ask(folder, 'status', 'jobs.Quick')
        assert status['holder']['pid'] == job.popen.pid
        assert status['runs'] >= 5


def test_killed_run(folder: pathlib.Path) -> None:
    """A run whose process was killed is in the history as such."""
    with Job(folder, '--run-once', 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        assert ask(folder, 'status', 'jobs.Slow')['state'] == 'running'
        job.send(signal.SIGKILL)
        job.wait()
        pid = job.popen.pid
    killed = ask(folder, 'status', 'jobs.Slow')['last_run']
    assert (killed['outcome'], killed['pid']) == ('killed', pid)


def test_all_jobs(folder: pathlib.Path) -> None:
    """Without a task all jobs of this user are shown, or those of a prefix."""
    run_job(folder, '--run-once', 'jobs.Quick')
    with Job(folder, '--run-once', 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        jobs = ask(folder, 'status')
        assert [(each['job'], each['state']) for each in jobs] == [
            ('quick', 'free'), ('slow', 'running')]
        jobs = ask(folder, 'status', '--prefix', 'q')
        assert [each['job'] for each in jobs] == ['quick']
    table = run_job(folder, 'status').stdout.splitlines()
    assert table[0].split()[:3] == ['JOB', 'STATE', 'HOLDER']
    assert table[1].startswith('quick')


def test_no_jobs_yet(folder: pathlib.Path) -> None:
    """Before the first run there is nothing, and no error."""
    assert ask(folder, 'status') == []
    assert ask(folder, 'status', 'jobs.Quick')['state'] == 'free'


def test_pause_and_resume(folder: pathlib.Path) -> None:
    """A paused job is not run, here or in another process, until resumed."""
    with Job(folder, *KEPT, 'jobs.Quick') as job:
        job.wait_for('run succeeded')
        ask(folder, 'pause', 'jobs.Quick', '--reason', 'lunch')
        job.wait_for('not run: paused by')
        assert re.search('not run: paused by .+: lunch$', job.output, re.M)
        again = run_job(folder, 'pause', 'jobs.Quick', '--reason', 'tea')
        assert re.fullmatch('.+: is already paused by .+: lunch\n', again.stdout)
        runs = job.output.count('BEGIN')
        done = run_job(folder, '--run-once', 'jobs.Quick')
        assert done.returncode == ExitCode.LOCK_NOT_AVAILABLE
        assert ask(folder, 'status', 'jobs.Quick')['paused'][
            'reason'] == 'lunch'
        assert job.output.count('BEGIN') == runs
        ask(folder, 'resume', 'jobs.Quick')
        job.wait_for('BEGIN', runs + 1)


def test_reason_of_a_pause(folder: pathlib.Path) -> None:
    """A reason that a holder could not be told whole is refused."""
    done = run_job(folder, 'pause', 'jobs.Quick', '--reason', 201 * 'x')
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.splitlines()[-1] == (
        'runjob: error: pause: --reason is 201 characters long; allowed: at '
        'most 200')
    assert ask(folder, 'status', 'jobs.Quick')['paused'] is None
    longest = 200 * '\N{PILE OF POO}'
    ask(folder, 'pause', 'jobs.Quick', '--reason', longest)
    [control] = lock_folder(folder).glob('*.control')
    with tempfile.TemporaryFile() as file:
        file.truncate(Page.SIZE)
        page = Page(file.fileno())
        # Room for a request beside it is left.
        page.write_control(control.read_bytes() + 500 * b' ')
        paused = Control.parse(page.read_control()[1]).paused
    assert paused is not None and paused['reason'] == longest


def test_pause_while_a_run_begins(folder: pathlib.Path) -> None:
    """Who takes the lock while a pause is written is in the answer."""
    run_job(folder, '--run-once', 'jobs.Quick')
    lock, other = (make_file_lock(lock_folder(folder), 'quick')
                   for _ in range(2))
    ask_of = lock.ask

    def late(control: Control, of: Control) -> bool:
        assert other.acquire()
        return ask_of(control, of)
    lock.ask = late  # type: ignore[method-assign]
    code, text = pause.pause(lock, 'lunch')
    assert code == ExitCode.DONE and 'releases the lock' in text
    other.close()


def test_handover(folder: pathlib.Path) -> None:
    """The lock goes from one process to the other, and back on release."""
    with (Job(folder, *KEPT, 'jobs.Quick') as one,):
        one.wait_for('run succeeded')
        with Job(folder, *KEPT, 'jobs.Quick') as two:
            two.wait_for('not run')
            message = ask(folder, 'handover', 'jobs.Quick')['message']
            assert f'(pid {two.popen.pid}) has taken over' in message
            two.wait_for('run succeeded')
            one.wait_for('handover asked for')
            ask(folder, 'release', 'jobs.Quick')
            two.wait_for('release asked for')
            one.wait_for('the lock is acquired', 2)


def test_forced_release_of_a_file_lock(folder: pathlib.Path) -> None:
    """A lock of the kernel cannot be taken; the message says what to do."""
    with Job(folder, '--run-once', 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        done = run_job(folder, 'release', '--force', 'jobs.Slow')
        assert done.returncode == ExitCode.USAGE
        assert done.stderr.splitlines()[-1] == (
            'runjob: error: release: the lock of a process of this machine '
            'ends with the process: end that instead')


@pytest.mark.parametrize('command', [
    'pause', 'resume', 'release', 'handover'])
def test_task_is_needed(folder: pathlib.Path, command: str) -> None:
    """What changes a job needs one to be named."""
    done = run_job(folder, command)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == (f'runjob: error: {command}: name a task: runjob '
                           f'{command} package.module.Task\n')


def test_dummy_lock_cannot_be_asked(folder: pathlib.Path) -> None:
    """A lock that cannot be asked says so in one line."""
    env = {'JOBSLIB_ONE_INSTANCE_BACKEND':
           'jobslib.oneinstance.dummy.DummyLock'}
    done = run_job(folder, 'pause', 'jobs.Quick', **env)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == ('runjob: error: pause: DummyLock cannot be told '
                           'anything\n')
    done = run_job(folder, 'status', **env)
    assert done.returncode == ExitCode.USAGE
    assert 'does not know the jobs that there are; name a task' in done.stderr


@pytest.mark.parametrize('timeout', ['x', '-1', 'nan', 'inf'])
def test_bad_timeout(folder: pathlib.Path, timeout: str) -> None:
    """A timeout that is none is refused."""
    done = run_job(folder, 'release', f'--timeout={timeout}', 'jobs.Quick')
    assert done.returncode == ExitCode.USAGE
    assert 'argument --timeout: invalid' in done.stderr


@pytest.mark.parametrize('data', [b'', b'{', b'\xff' * 100, b'[' * 100_000])
def test_damaged_control_file(folder: pathlib.Path, data: bytes) -> None:
    """A control file of rubbish asks for nothing, and can be written again."""
    run_job(folder, '--run-once', 'jobs.Quick')
    control = lock_folder(folder) / 'quick.control'
    control.write_bytes(data)
    assert run_job(folder, '--run-once', 'jobs.Quick').returncode == 0
    ask(folder, 'pause', 'jobs.Quick')
    assert Control.parse(control.read_bytes()).paused is not None


def test_what_others_wrote_does_not_reach_the_terminal(
        folder: pathlib.Path) -> None:
    """Control characters of an error are shown as text."""
    run_job(folder, '--run-once', 'jobs.Quick', '--fail')
    shown = run_job(folder, 'status', 'jobs.Quick').stdout
    assert 'went\\x1b[31m wrong' in shown and '\x1b' not in shown


def test_status_of_numbers_that_are_none(folder: pathlib.Path) -> None:
    """Numbers of hundreds of digits are shown as none."""
    run_job(folder, '--run-once', 'jobs.Quick')
    path = lock_folder(folder) / 'quick.lock'
    record = json.loads(path.read_bytes())
    record['schedule']['due'] = 10 ** 400
    record['history']['newest'][-1]['duration'] = 10 ** 400
    path.write_text(json.dumps(record) + '\n')
    assert ask(folder, 'status', 'jobs.Quick')['due'] is None
    shown = run_job(folder, 'status', 'jobs.Quick')
    assert shown.returncode == ExitCode.DONE, shown.stderr


def test_history_survives_a_restart_of_the_lock_object(
        tmp_path: pathlib.Path) -> None:
    """A lock used without runjob keeps the history of the loop before it."""
    lock = make_file_lock(tmp_path / 'locks')
    lock.acquire()
    lock.history = {'runs': 3, 'newest': []}
    lock.release()
    again = make_file_lock(tmp_path / 'locks')
    again.acquire()
    again.release()
    assert again.look().history == {'runs': 3, 'newest': []}


# What is known of a job, put together.

@pytest.mark.parametrize('state', [
    LockState(False, None), LockState(True, None), LockState(True, {}),
    LockState(False, {'schedule': 5, 'released': 'x'}, {'newest': 5}),
    LockState(True, {'timestamp': 'x', 'fqdn': 5}, {'due': 'x'},
              progress={}),
    LockState(False, {'timestamp': float('nan')}, {}),
])
def test_rubbish_is_shown(state: LockState) -> None:
    """Whatever stands in the keys, there is something to show."""
    found = describe('job', state, 1000.0)
    assert found['state'] == ('running' if state.held else 'free')
    json.dumps(found)


def test_waiting_holder() -> None:
    """A holder whose next run is not due yet waits."""
    record = {'timestamp': 900.0, 'fqdn': 'here', 'pid': os.getpid()}
    history = {'acquired': 900.0, 'due': 1010.0, 'runs': 1, 'newest': [],
               'failures': 0}
    state = LockState(True, record, history)
    assert describe('job', state, 1000.0)['state'] == 'waiting'
    assert describe('job', state, 1011.0)['state'] == 'running'
    history['acquired'] = 800.0
    assert describe('job', state, 1000.0)['state'] == 'running'


@pytest.mark.parametrize(('then', 'text'), [
    (1000.0, '(0 s ago)'), (940.0, '(60 s ago)'), (1060.0, '(in 60 s)'),
    (1000.0 - 7200, '(2 h ago)'), (0, '(17 min ago)')])
def test_times_for_people(then: float, text: str) -> None:
    """Times are shown with how long ago or ahead they are."""
    assert ago(then, 1000.0).endswith(text)


@pytest.mark.parametrize('then', [None, 'x', float('nan'), 1e300])
def test_no_time(then: Any) -> None:
    """What is no time is a dash."""
    assert ago(then, 1000.0) == '-'


def test_watch(folder: pathlib.Path) -> None:
    """--watch shows it again and again, and ends by a signal."""
    run_job(folder, '--run-once', 'jobs.Quick')
    with Job(folder, 'status', '--watch', '--json', 'jobs.Quick') as watching:
        until(lambda: watching.output.count('\n') >= 2, 'for two documents')
        first = json.loads(watching.output.splitlines()[0])
        assert first['jobs'][0]['job'] == 'quick'
        watching.send(signal.SIGTERM)
        assert watching.wait() == ExitCode.TERMINATED
    assert 'Traceback' not in watching.output
