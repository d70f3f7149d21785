"""Operating a job on one machine, with nothing but its lock files."""

import json
import os
import pathlib
import re
import signal
import tempfile
import time
from typing import Any

import pytest
from support import (
    STEADY,
    Job,
    lock_folder,
    make_file_lock,
    run_job,
    until,
    write_module,
)

from jobslib.commands import pause
from jobslib.commands.jobs import ago, describe
from jobslib.commands.jobtables import details, runs, shown_progress
from jobslib.commands.output import fit
from jobslib.exitcodes import ExitCode
from jobslib.history import VANISHED, History
from jobslib.keeper.memory import LeaseMemory
from jobslib.oneinstance import LockState
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import Extra, Pause, Request, Skip, Stop
from jobslib.owner import OwnerRecord
from jobslib.runs import Outcome, ProgressReport, Run
from jobslib.schedule.agenda import NEVER
from jobslib.schedule.ledger import Ledger, Records
from jobslib.schedule.plans import Plan
from jobslib.schedule.rhythms import Grid
from jobslib.testing import ConsulStandIn, make_lock

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
    assert [status[name] for name in (
        'runs', 'failures', 'failed', 'killed', 'interrupted')] == [2, 1, 1, 0, 0]
    with Job(folder, *KEPT, 'jobs.Quick') as job:
        job.wait_for('run succeeded', 3)
        status = ask(folder, 'status', 'jobs.Quick')
        assert status['holder']['pid'] == job.popen.pid
        assert status['runs'] >= 5


def test_where_it_was_looked(folder: pathlib.Path) -> None:
    """The lock that was asked stands first; the default one is a warning."""
    path = str(lock_folder(folder) / 'quick.lock')
    done = run_job(folder, 'status', 'jobs.Quick')
    assert [line.split()[0] for line in done.stdout.splitlines()[:4]] == [
        'FIELD', 'lock', 'address', 'key']
    assert path in done.stdout.splitlines()[3]
    assert 'warning: no lock is configured here' in done.stderr
    lock = ask(folder, 'status', 'jobs.Quick')['lock']
    assert lock == {
        'backend': 'jobslib.oneinstance.file.FileLock', 'key': path,
        'address': f'this machine, {os.uname().nodename}', 'default': True}
    write_module(folder, 'settings', f"""
        ONE_INSTANCE = {{'backend': {lock['backend']!r}}}""")
    done = run_job(folder, '-s', 'settings', 'status', '--json', 'jobs.Quick')
    assert done.stderr == ''
    assert json.loads(done.stdout)['lock'] == {**lock, 'default': False}
    assert ask(folder, 'pause', 'jobs.Quick')['lock']['key'] == path


def test_two_locks_of_one_name(folder: pathlib.Path) -> None:
    """Two locks of tasks with one name are two rows."""
    with ConsulStandIn() as consul:
        keys = ['jobs/one/lock', 'jobs/two/lock']
        for key in keys:
            lock = make_lock(ConsulLock, 'quick', **consul.options(key=key))
            assert lock.acquire() and lock.release()
            lock.close()
        write_module(folder, 'settings', f"""
            ONE_INSTANCE = {consul.one_instance(**STEADY)}""")
        done = run_job(folder, '-s', 'settings', 'status')
        assert [line.split('  ')[0] for line in done.stdout.splitlines()[1:]] == [
            f'quick ({key})' for key in keys]
        done = run_job(folder, '-s', 'settings', 'status', '--prefix', 'none/')
        assert done.stdout == (
            "no job whose lock begins with 'none/' has been run yet, as far "
            f'as is known to {consul.url}\n')


def test_what_is_asked_is_shown(folder: pathlib.Path) -> None:
    """A handover and a pause that are pending stand in the status, with who
    and why."""
    with Job(folder, '--run-once', 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        run_job(folder, 'handover', 'jobs.Slow', '--timeout', '0')
        ask(folder, 'pause', 'jobs.Slow', '--reason', 'lunch')
        status = ask(folder, 'status', 'jobs.Slow')
        assert status['asked']['do'] == 'handover'
        assert status['asked']['by'].endswith(f'@{os.uname().nodename}')
        assert status['asked']['time_utc'].endswith('Z')
        table = run_job(folder, 'status', 'jobs.Slow').stdout
        assert re.search('^asked +handover by .+@', table, re.M)
        assert re.search('^paused +by .+: lunch$', table, re.M)
        listed = run_job(folder, 'status').stdout
        assert re.search('^slow: paused by .+: lunch$', listed, re.M)
        assert re.search('^slow: handover by .+@', listed, re.M)


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
        assert [(each['task'], each['state']) for each in jobs] == [
            ('quick', 'free'), ('slow', 'running')]
        jobs = ask(folder, 'status', '--prefix', 'q')
        assert [each['task'] for each in jobs] == ['quick']
    table = run_job(folder, 'status').stdout.splitlines()
    assert table[0].split()[:3] == ['TASK', 'STATE', 'HOLDER']
    assert table[1].startswith('quick')


def test_no_jobs_yet(folder: pathlib.Path) -> None:
    """Before the first run there is nothing, and it is said where it was
    looked for."""
    assert ask(folder, 'status') == []
    assert f'known to folder {lock_folder(folder)}' in run_job(
        folder, 'status', '--json').stderr
    assert run_job(folder, 'status').stdout == (
        f'no job has been run yet, as far as is known to folder '
        f'{lock_folder(folder)} of {os.uname().nodename}\n')
    assert ask(folder, 'status', 'jobs.Quick')['state'] == 'free'


def test_pause_and_resume(folder: pathlib.Path) -> None:
    """A paused job is not run, here or in another process, until resumed."""
    with Job(folder, *KEPT, 'jobs.Quick') as job:
        job.wait_for('run succeeded')
        ask(folder, 'pause', 'jobs.Quick', '--reason', 'lunch')
        job.wait_for('not run: paused by')
        assert re.search('not run: paused by .+: lunch$', job.output, re.M)
        again = run_job(folder, 'pause', 'jobs.Quick')
        assert re.fullmatch('.+: is already paused by .+: lunch\n', again.stdout)
        again = run_job(folder, 'pause', 'jobs.Quick', '--reason', 'tea')
        assert re.fullmatch('.+: was already paused by .+: lunch; the reason '
                            'is now: tea\n', again.stdout)
        runs = job.output.count('BEGIN')
        done = run_job(folder, '--run-once', 'jobs.Quick')
        assert done.returncode == ExitCode.LOCK_NOT_AVAILABLE
        assert ask(folder, 'status', 'jobs.Quick')['paused'][
            'reason'] == 'tea'
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
        file.truncate(LeaseMemory.SIZE)
        memory = LeaseMemory(file.fileno())
        # Room for a request beside it is left.
        memory.write_control(control.read_bytes() + 500 * b' ')
        paused = Control.parse(memory.read_control()[1]).paused
    assert paused is not None and paused.reason == longest


def test_all_that_is_asked_fits_into_the_memory() -> None:
    """The holder sees all that can be asked at once."""
    at, token = 1795969000.123, 12345678
    by = 40 * 'x' + '@' + 40 * 'y', 1795969000.1234567
    control = Control(
        Pause(*by, reason=200 * '\N{PILE OF POO}', interrupt=True),
        Request('handover', token, *by, to=40 * 'y', interrupt=True),
        10 * [(at, at)], Stop(token, *by), 5 * [Skip(at, *by)],
        Extra(16 * 'a', *by, slot=at, tries=1, token=token, began=at), True)
    with tempfile.TemporaryFile() as file:
        file.truncate(LeaseMemory.SIZE)
        memory = LeaseMemory(file.fileno())
        memory.write_control(control.encode())
        found = Control.parse(memory.read_control()[1])
    assert found.export() == control.export()
    odd = Control(Pause(reason='\udcff'))
    assert Control.parse(odd.encode()).export() == odd.export()


def test_pause_while_a_run_begins(folder: pathlib.Path) -> None:
    """Who takes the lock while a pause is written is in the answer."""
    run_job(folder, '--run-once', 'jobs.Quick')
    lock, other = (make_file_lock(lock_folder(folder), 'quick')
                   for _ in range(2))
    ask_of = lock.ask

    def late(control: Control, expected: Control) -> bool:
        assert other.acquire()
        return ask_of(control, expected)
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


def test_stop(folder: pathlib.Path) -> None:
    """The run ends, and the lock stays; what waits for it is shown."""
    assert 'no run is under way' in ask(folder, 'stop', 'jobs.Slow')['message']
    with Job(folder, *KEPT, 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        token = ask(folder, 'status', 'jobs.Slow')['holder']['token']
        message = ask(folder, 'stop', 'jobs.Slow')['message']
        assert 'is under way any more' in message
        job.wait_for('it was stopped')
        job.wait_for('BEGIN', 2)
        status = ask(folder, 'status', 'jobs.Slow')
        assert status['holder']['token'] == token and status['stop'] is None
        assert status['last_run']['outcome'] == 'interrupted'
        assert 'stop asked for by' in status['last_run']['error']


def test_stop_of_a_holder_that_stands_still(folder: pathlib.Path) -> None:
    """What is asked stays in the status until it is done."""
    with Job(folder, *KEPT, 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        job.popen.send_signal(signal.SIGSTOP)
        done = run_job(folder, 'stop', 'jobs.Slow', '--timeout', '0')
        assert done.returncode == ExitCode.LOCK_NOT_AVAILABLE
        assert 'has not ended within 0 s' in done.stdout
        table = run_job(folder, 'status', 'jobs.Slow').stdout
        assert re.search('^asked +stop by .+@', table, re.M)
        job.popen.send_signal(signal.SIGCONT)
        job.wait_for('it was stopped')


HOURLY = '--run-interval', '3600'


@pytest.mark.parametrize('keep', [('--keep-lock',), ()])
def test_run(folder: pathlib.Path, keep: tuple[str, ...]) -> None:
    """A run is had at once, and its outcome is that of the command."""
    with Job(folder, *keep, *HOURLY, 'jobs.Quick', '--fail') as job:
        job.wait_for('run failed')
        done = run_job(folder, 'run', 'jobs.Quick', '--wait',
                       '--slot', '2026-11-23T02:30:00+01:00')
        assert done.returncode == ExitCode.TASK_FAILED, done.stderr
        assert done.stdout == (
            'quick: run 2 failed: RuntimeError: went\\x1b[31m wrong\n')
        status = ask(folder, 'status', 'jobs.Quick')
        assert status['extra'] is None and status['runs'] == 2
        assert status['last_run']['reason'] == 'asked'
        assert job.output.count('BEGIN') == 2


def test_wait_that_is_interrupted(folder: pathlib.Path) -> None:
    """Who does not wait any longer is told that the run is wanted still."""
    with Job(folder, 'run', 'jobs.Quick', '--wait') as waiting:
        until(lambda: ask(folder, 'status', 'jobs.Quick')['extra'] is not None)
        waiting.popen.send_signal(signal.SIGINT)
        waiting.wait_for('interrupted; what was asked until then stands')
        assert waiting.popen.wait() == ExitCode.TERMINATED
    assert ask(folder, 'status', 'jobs.Quick')['extra'] is not None


def test_run_while_another_is_under_way(folder: pathlib.Path) -> None:
    """It is refused, unless it may begin after that one; one at a time."""
    with Job(folder, '--keep-lock', *HOURLY, 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        done = run_job(folder, 'run', 'jobs.Slow')
        assert done.returncode == ExitCode.LOCK_NOT_AVAILABLE
        assert 'with --after this one begins' in done.stdout
        ask(folder, 'run', 'jobs.Slow', '--after')
        table = run_job(folder, 'status', 'jobs.Slow').stdout
        assert re.search('^asked +run by .+@', table, re.M)
        done = run_job(folder, 'run', 'jobs.Slow', '--after')
        assert 'a run is asked for already, by' in done.stdout
        ask(folder, 'stop', 'jobs.Slow')
        job.wait_for('BEGIN', 2)
        assert ask(folder, 'status', 'jobs.Slow')['state'] == 'running'
        ask(folder, 'stop', 'jobs.Slow')
        assert ask(folder, 'status', 'jobs.Slow')['extra'] is None
    done = run_job(folder, 'run', 'jobs.Slow', '--slot', '2026-11-23T02:30')
    assert done.returncode == ExitCode.USAGE
    assert 'allowed: a time in ISO 8601' in done.stderr
    ask(folder, 'pause', 'jobs.Slow')
    done = run_job(folder, 'run', 'jobs.Slow')
    assert done.returncode == ExitCode.LOCK_NOT_AVAILABLE
    assert 'resume it first' in done.stdout


def test_skip(folder: pathlib.Path) -> None:
    """The next slot is skipped, once however often that is asked."""
    yearly = '--schedule', '0 0 1 1 *', '--time-zone', 'UTC', 'jobs.Quick'
    message = ask(folder, 'skip', *yearly)['message']
    year = time.gmtime().tm_year + 1
    assert message == f'the slot of {year}-01-01T00:00:00+00:00 is skipped'
    assert ask(folder, 'skip', *yearly)['message'] == f'{message} already'
    [skipped] = ask(folder, 'status', *yearly)['skipped']
    assert skipped['slot_utc'] == f'{year}-01-01T00:00:00Z'
    table = run_job(folder, 'status', *yearly).stdout
    assert re.search('^skipped +the slot of .+, by .+@', table, re.M)
    ask(folder, 'pause', *yearly)
    ask(folder, 'resume', *yearly)
    assert ask(folder, 'status', *yearly)['skipped'] == [skipped]


@pytest.mark.parametrize('args, code, text', [
    ((), ExitCode.USAGE, 'skip: the job has no slots'),
    (('--run-interval', '60'), ExitCode.LOCK_NOT_AVAILABLE,
     'not known before the first run')])
def test_nothing_to_skip(folder: pathlib.Path, args: tuple[str, ...],
                         code: ExitCode, text: str) -> None:
    """Without slots there is none to skip."""
    done = run_job(folder, 'skip', 'jobs.Quick', *args)
    assert done.returncode == code
    assert text in done.stdout + done.stderr


def test_skip_by_another_schedule(folder: pathlib.Path) -> None:
    """A slot that the holder does not have is refused."""
    with Job(folder, *KEPT, 'jobs.Slow') as job:
        job.wait_for('BEGIN')
        done = run_job(folder, 'skip', '--run-interval', '7', 'jobs.Slow')
        assert done.returncode == ExitCode.USAGE
        assert 'has another schedule than this command' in done.stderr


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
    'pause', 'resume', 'run', 'stop', 'skip', 'release', 'handover'])
def test_task_is_needed(folder: pathlib.Path, command: str) -> None:
    """What changes a job needs one to be named."""
    done = run_job(folder, command)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == (f'runjob: error: {command}: name a task: runjob '
                           f'{command} package.module.Task, or a job of '
                           f'"runjob exec": --name NAME\n')


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
    done = run_job(folder, 'status', 'jobs.Quick', **env)
    assert done.stderr == ('runjob: warning: the job has no lock, so nothing '
                           'is known of who runs it\n')


@pytest.mark.parametrize('timeout', ['x', '-1', 'nan', 'inf'])
def test_bad_timeout(folder: pathlib.Path, timeout: str) -> None:
    """A timeout that is none is refused."""
    done = run_job(folder, 'release', f'--timeout={timeout}', 'jobs.Quick')
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.endswith(
        f"argument --timeout: '{timeout}' is not allowed; allowed: a number "
        f'of seconds of at least 0\n')


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


def test_status_of_a_file_of_somebody_else(folder: pathlib.Path) -> None:
    """A lock file that is not of jobslib is not taken for an empty one."""
    run_job(folder, '--run-once', 'jobs.Quick')
    path = lock_folder(folder) / 'quick.lock'
    for value, count in [(b'', 0), (b'\0' * 100, 0), (b'DATABASE=db\n', 1)]:
        path.write_bytes(value)
        done = run_job(folder, 'status', 'jobs.Quick')
        assert done.stdout.count('the owner record and the history: its value is '
                                 "not jobslib's, and is ignored") == count
        listed = json.loads(run_job(folder, 'status', '--json', 'jobs.Quick').stdout)
        assert len(listed['unreadable']) == count


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
    LockState(False, {}, {'succeeded': 1e300, 'newest': [
        {'outcome': 'failed', 'started': 'x', 'duration': [5], 'slot': 1e300}]}),
])
def test_rubbish_is_shown(state: LockState) -> None:
    """Whatever stands in the keys, there is something to show."""
    found = describe('job', state, 1000.0)
    assert found['state'] == ('running' if state.held else 'free')
    json.dumps(found)
    assert details(found).rows


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


#: A slot of every hundred seconds, each three seconds late.
HUNDREDS = Plan(Grid(100.0, 0.0), jitter=3.0)


def held(ledger: Ledger, due: float, **more: Any) -> LockState:
    """Return a lock that was taken at 900, with *ledger* in it."""
    record = {'timestamp': 900.0, 'schedule': ledger.export() | {'due': due}}
    return LockState(True, record, token=7, **more)


def test_run_under_way() -> None:
    """The run that is under way is shown by what its holder has decided."""
    ledger = Ledger(HUNDREDS.fingerprint, cuts=1, slot=800.0).begin(
        800.0, 900.5, 'here')
    found = describe('job', held(ledger, 900.5), 1000.5, plan=HUNDREDS)
    assert found['current_run'] == {
        'slot': 800.0, 'slot_utc': '1970-01-01T00:13:20Z', 'attempt': 2,
        'reason': None, 'started': 900.5, 'started_utc': '1970-01-01T00:15:00Z',
        'duration': 100.0}
    assert [each['slot'] for each in found['next_runs']] == [
        1000.0, 1100.0, 1200.0]
    assert found['next_runs'][0]['due_utc'] == '1970-01-01T00:16:43Z'
    rows = {row[0]: row[1] for row in details(found).rows}
    names = [row[0] for row in details(found).rows]
    assert names.index('attempt') < names.index('last run')
    assert (rows['attempt'], rows['next due']) == ('2', '-')


def test_run_under_way_with_the_lock_kept() -> None:
    """Who keeps the lock has not written the slot of its run, which follows
    from the schedule, where that is known."""
    ledger = Ledger(HUNDREDS.fingerprint, 800.0, records=Records.ENDS)
    state = held(ledger, 903.0)
    found = describe('job', state, 950.0, plan=HUNDREDS)['current_run']
    assert (found['slot'], found['attempt']) == (900.0, 1)
    assert (found['started'], found['duration']) == (903.0, 47.0)
    other = Plan(Grid(50.0, 0.0))
    for plan in None, other:
        found = describe('job', state, 950.0, plan=plan)
        assert found['next_runs'] is None
        assert found['current_run']['slot'] is None
        assert found['current_run']['attempt'] is None
        assert found['current_run']['started'] == 903.0


def test_run_of_which_nothing_is_written() -> None:
    """Without a history a holder that keeps the lock writes nothing, so
    nothing is said of its run."""
    ledger = Ledger(HUNDREDS.fingerprint, 700.0, records=Records.NOTHING)
    state = held(ledger.begin(800.0, 900.5, 'here'), 900.5)
    found = describe('job', state, 5000.0, plan=HUNDREDS)['current_run']
    assert (found['slot'], found['attempt'], found['started']) == (
        None, None, None)


def test_run_that_was_asked_for() -> None:
    """A run beside the schedule is shown with its own slot and start."""
    extra = Extra('x', 'ann', slot=100.0, tries=2, token=7, began=990.0)
    state = held(Ledger(HUNDREDS.fingerprint, 900.0), 1003.0,
                 control=Control(extra=extra))
    found = describe('job', state, 1000.0, plan=HUNDREDS)
    run = found['current_run']
    assert (run['slot'], run['attempt'], run['reason'], run['duration']) == (
        100.0, 2, 'asked', 10.0)
    rows = {row[0]: row[1] for row in details(found).rows}
    assert str(rows['slot']).endswith('asked for by ann')


@pytest.mark.parametrize('token, began, known', [
    (7, 990.0, True), (8, 990.0, False), (None, 901.0, True),
    (None, 899.0, False)])
def test_run_that_was_asked_for_vanished_with_its_holder(
        token: int | None, began: float, known: bool) -> None:
    """It is in the history as soon as the lock is free: for the status, and
    for the next holder, and whoever reads after that one has vanished too."""
    record: dict[str, object] = {
        'timestamp': 900.0, 'token': token, 'fqdn': 'here', 'pid': 5}
    extra = Extra('x', 'ann', tries=2, token=7, began=began)
    state = LockState(False, record, control=Control(extra=extra))
    for history in (
            History.read(None, state.owner, 1000.0),
            History.read(None, OwnerRecord(
                {'timestamp': 950.0, 'before': state.owner.unsettled}), 1000.0,
                held=True)):
        asked = [run for run in history.newest if run.asked]
        assert [(run.asked, run.attempt, run.outcome, run.error, run.fqdn)
                for run in asked] == known * [
            ('x', 2, Outcome.KILLED, VANISHED, 'here')]
    # What it has written itself is not presumed.
    run = Run(3, 7, began + 1)
    run.asked, run.attempt = 'x', 2
    run.end(Outcome.FAILED, 1.0)
    written = History(9)
    written.add(run, 900.0)
    written.hold = 900.0
    document = written.export(7)
    found = History.read(document, state.owner, 1000.0)
    assert [run.number for run in found.newest if run.asked] == [3]


def test_run_that_was_asked_for_is_held() -> None:
    """While its holder has the lock, it is under way."""
    extra = Extra('x', 'ann', tries=1, token=7, began=990.0)
    state = held(Ledger(HUNDREDS.fingerprint, 900.0), 1003.0,
                 control=Control(extra=extra))
    assert not describe('job', state, 1000.0)['history']


def test_progress_of_an_earlier_run() -> None:
    """What a run before the one that is under way has reported is not shown
    as its progress."""
    ledger = Ledger(HUNDREDS.fingerprint, 800.0, records=Records.ENDS)
    for at, shown in (899.0, False), (904.0, True):
        state = held(ledger, 903.0, progress={
            'done': 5, 'total': 9, 'message': '', 'time': at, 'token': 7})
        found = describe('job', state, 950.0, plan=HUNDREDS)['progress']
        assert (found is not None) == shown


@pytest.mark.parametrize(('report', 'shown'), [
    ((400, 1000, 'orders'), '400 of 1000, orders, at -'),
    ((400, None, ''), '400, at -'), ((0, 10, ''), '0 of 10, at -'),
    ((None, 10, 'orders'), 'orders, at -'), ((None, None, ''), 'at -'),
])
def test_progress_for_people(report: tuple[Any, Any, str], shown: str) -> None:
    """Of how far a run is what is known is shown."""
    assert shown_progress(ProgressReport(*report, None).export()) == shown


@pytest.mark.parametrize('jitter', [0.0, 30.0])
def test_next_slots_with_jitter(jitter: float) -> None:
    """A slot that has come, and whose jitter is waited for, is shown with
    when it is due, and not as one that is overdue."""
    plan = Plan(Grid(100.0, 0.0), jitter=jitter)
    found = describe('job', LockState(False, None), 1010.0, plan=plan)
    slot = 1000.0 if jitter else 1100.0
    assert found['next_runs'][0]['slot'] == slot
    row = next(str(row[1]) for row in details(found).rows
               if row[0] == 'next slots')
    shown = ago(slot).partition(' (')[0]
    assert row == (f'{shown}, due at {ago(slot + jitter)}' if jitter
                   else ago(slot))


def test_skipped_slots_are_not_the_next() -> None:
    """A slot that is skipped is not among the next three."""
    ledger = Ledger(HUNDREDS.fingerprint, 900.0)
    state = LockState(False, {'schedule': ledger.export(), 'released': 950.0},
                      control=Control(skips=[Skip(1000.0, 'ann')]))
    found = describe('job', state, 960.0, plan=HUNDREDS)
    assert found['current_run'] is None
    assert [each['slot'] for each in found['next_runs']] == [
        1100.0, 1200.0, 1300.0]


def test_outcomes_of_an_older_version() -> None:
    """Where an older version has counted runs, the counts of the outcomes
    are shown as what they are at least."""
    history = {'runs': 9, 'failures': 5, 'newest': [
        {'outcome': 'failed'}, {'outcome': 'succeeded'}]}
    found = describe('job', LockState(False, {'released': 1.0}, history), 1000.0)
    rows = {row[0]: row[1] for row in details(found).rows}
    assert (rows['failed'], rows['killed']) == ('≥ 1', '≥ 0')
    history |= {'failed': 2, 'killed': 3, 'interrupted': 0}
    found = describe('job', LockState(False, {'released': 1.0}, history), 1000.0)
    rows = {row[0]: row[1] for row in details(found).rows}
    assert (rows['failed'], rows['killed']) == ('2', '3')


def test_slots_of_runs_in_the_table() -> None:
    """The table of the last runs has the slot of each, and why it was run,
    where there is room for it."""
    run = {'run': 5, 'started': 903.0, 'duration': 1.0, 'outcome': 'succeeded',
           'fqdn': 'here', 'pid': 5, 'slot': 900.0, 'attempt': 2,
           'reason': 'recovery'}
    asked = {**run, 'asked': 'x'}
    del asked['slot'], asked['attempt'], asked['reason']
    state = LockState(False, None, {'runs': 2, 'newest': [run, asked]})
    table = runs(describe('job', state, 1000.0))
    assert [row[5:7] for row in table.rows] == [
        ('-', 'asked'),
        (ago(900.0).partition(' (')[0], 'recovery, attempt 2')]
    shown, cells = fit(*table, 80)
    assert 'error' in shown and 'slot' not in shown
    widths = [max(len(name), *(len(row[place].text) for row in cells))
              for place, name in enumerate(shown)]
    assert sum(widths) + 3 * (len(shown) - 1) <= 80


@pytest.mark.parametrize(('then', 'text'), [
    (1000.0, '(0 s ago)'), (940.0, '(60 s ago)'), (1060.0, '(in 60 s)'),
    (1000.0 - 7200, '(2 h ago)'), (0, '(17 min ago)')])
def test_times_for_people(then: float, text: str) -> None:
    """Times are shown with how long ago or ahead they are."""
    assert ago(then, 1000.0).endswith(text)


def test_what_is_never_due() -> None:
    """An interval beyond the calendar has no date."""
    assert ago(NEVER, 1000.0) == 'never'


@pytest.mark.parametrize('then', [None, 'x', float('nan'), 1e300])
def test_no_time(then: Any) -> None:
    """What is no time is a dash."""
    assert ago(then, 1000.0) == '-'


@pytest.mark.parametrize(('signum', 'code'), [
    (signal.SIGINT, ExitCode.DONE), (signal.SIGTERM, ExitCode.TERMINATED)])
def test_watch(folder: pathlib.Path, signum: signal.Signals,
               code: ExitCode) -> None:
    """--watch shows it again and again; Ctrl-C is the way to end it."""
    run_job(folder, '--run-once', 'jobs.Quick')
    with Job(folder, 'status', '--watch', '--json', 'jobs.Quick') as watching:
        until(lambda: watching.output.count('"jobs"') >= 2, 'for two documents')
        first = json.loads(documents(watching.output)[0])
        assert first['jobs'][0]['task'] == 'quick'
        assert first['error'] is None and first['time_utc'].endswith('Z')
        watching.send(signum)
        assert watching.wait() == code
    assert 'Traceback' not in watching.output


def documents(output: str) -> list[str]:
    """Return the lines of *output* that are whole JSON."""
    return [line for line in output.split('\n')[:-1] if line.startswith('{')]


@pytest.mark.parametrize('form', ['--json', ''])
def test_watch_goes_on(folder: pathlib.Path, form: str) -> None:
    """What was seen last stays, with its age, when nothing can be seen."""
    with ConsulStandIn() as consul:
        lock = make_lock(ConsulLock, 'quick', **consul.options())
        assert lock.acquire() and lock.release()
        lock.close()
        write_module(folder, 'settings', f"""
            ONE_INSTANCE = {consul.one_instance(timeout=1, retry_max_attempts=1)}
        """)
        with Job(folder, '-s', 'settings', 'status', '--watch', *form.split(),
                 'jobs.Quick') as job:
            job.wait_for('quick')
            with consul.partition(refuse=True):
                job.wait_for('"error": "' if form else
                             'cannot refresh: ')
            if form:
                found = [json.loads(line) for line in documents(job.output)]
                [bad] = [each for each in found if each['error']][:1]
                assert bad['jobs'] == found[0]['jobs'] and bad['age'] > 0
            else:
                assert re.search('cannot refresh: .+; shown is what was seen '
                                 r'\d+ s ago', job.output)
            seen = job.output.count('task')
            until(lambda: job.output.count('task') > seen, 'to go on')
            job.send(signal.SIGINT)
            assert job.wait() == ExitCode.DONE
