"""Readiness, status and watchdog, told to a socket as systemd has one."""

import logging
import os
import pathlib
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support import (
    DEADLINE,
    Job,
    Process,
    run_job,
    until,
    write_module,
)

from jobslib.exitcodes import ExitCode
from jobslib.notify import NotifyObserver
from jobslib.runs import Outcome, Run

JOBS = '''
import os, pathlib, subprocess, sys, time
from jobslib import BaseTask

class Quick(BaseTask):
    def task(self):
        pass

class Fail(BaseTask):
    def task(self):
        raise ValueError('a secret')

class Hold(BaseTask):
    def task(self):
        print('holding', flush=True)
        sys.stdin.readline()

class Show(BaseTask):
    def task(self):
        subprocess.run('env', check=True)
        print('mine', *os.environ, flush=True)

class Deaf(BaseTask):
    """Is silent, and minds no interrupt."""
    def task(self):
        print('hangs', flush=True)
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                print('interrupted', flush=True)

class Stuck(BaseTask):
    """Spends its time in one call that no handler interrupts."""
    def task(self):
        print('hangs', flush=True)
        sum(range(10 ** 12))
'''

LOCAL_TIME = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d'


class Manager:
    """A process manager: it is told how the job is.

    :param address: as ``$NOTIFY_SOCKET`` has it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address.replace('@', '\0', 1)
                         if address.startswith('@') else address)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """All fields that have come until now."""
        self._receive()
        return [(name, value) for message in self.messages
                for name, _, value in [line.partition('=')
                                       for line in message.splitlines()]]

    @property
    def statuses(self) -> list[str]:
        """The status lines that have come until now."""
        return [value for name, value in self.fields if name == 'STATUS']

    def count(self, field: str) -> int:
        """Return how often *field* has come."""
        return sum(f'{name}={value}' == field for name, value in self.fields)

    def wait_for(self, field: str, times: int = 1) -> None:
        """Wait until *field* has come so many times."""
        until(lambda: self.count(field) >= times, f'for {field}')

    def wait_for_status(self, pattern: str) -> str:
        """Wait for a status that is wholly *pattern*; return it."""
        def found() -> list[str]:
            return [each for each in self.statuses
                    if re.fullmatch(pattern, each)]
        until(found, f'for the status {pattern!r}')
        return found()[0]

    def wait_for_silence(self, seconds: float) -> None:
        """Wait until nothing has come for *seconds*."""
        ends = time.monotonic() + DEADLINE
        count, since = len(self.fields), time.monotonic()
        while time.monotonic() < since + seconds:
            assert time.monotonic() < ends, 'there is no silence'
            time.sleep(0.01)
            if len(self.fields) != count:
                count, since = len(self.fields), time.monotonic()

    def _receive(self) -> None:
        try:
            while True:
                self.messages.append(self.socket.recv(1 << 16).decode())
        except BlockingIOError:
            pass


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with jobs in it."""
    write_module(tmp_path, 'jobs', JOBS)
    return tmp_path


@pytest.fixture
def manager(tmp_path: pathlib.Path) -> Iterator[Manager]:
    """A process manager that listens."""
    manager = Manager(str(tmp_path / 'notify'))
    yield manager
    manager.socket.close()


def make_observer(folder: pathlib.Path, address: str,
                  watchdog: float | None = None) -> NotifyObserver:
    """Return an observer that tells *address*."""
    return NotifyObserver(address, watchdog, logging.getLogger('jobslib'))


@pytest.mark.parametrize('kind', ['path', 'abstract'])
def test_ready_then_stopping(folder: pathlib.Path, kind: str) -> None:
    """The job says first that it is ready, and at last that it stops."""
    manager = Manager(str(folder / 'socket') if kind == 'path'
                      else f'@jobslib-{secrets.token_hex(8)}')
    with manager.socket, Job(folder, 'jobs.Hold',
                             NOTIFY_SOCKET=manager.address) as job:
        job.wait_for('holding')
        manager.wait_for_status(f'running since {LOCAL_TIME}')
        assert manager.messages[0] == 'READY=1\nSTATUS=started\n'
        assert manager.count('STOPPING=1') == 0
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED
        manager.wait_for('STOPPING=1')
        assert re.fullmatch(r'STOPPING=1\nSTATUS=ended; last run interrupted '
                            r'after [\d.]+ s\n', manager.messages[-1])
        assert manager.count('READY=1') == 1
        assert manager.count('WATCHDOG=1') == 0


def test_status_between_runs(folder: pathlib.Path, manager: Manager) -> None:
    """It says, in local time, when the next run is due, and how the last was."""
    with Job(folder, '--sleep-interval', '3600', 'jobs.Quick',
             NOTIFY_SOCKET=manager.address, TZ='XYZ-3'):
        status = manager.wait_for_status(
            f'waiting until {LOCAL_TIME}; last run succeeded after '
            r'[\d.]+ s')
    due = time.strptime(status[14:33], '%Y-%m-%d %H:%M:%S')
    left = (time.mktime(due) - time.mktime(time.gmtime())) - 3 * 3600
    assert 3600 - DEADLINE - 60 <= left <= 3601


def test_status_has_no_error(folder: pathlib.Path, manager: Manager) -> None:
    """The error is for the log alone: everybody may read the status."""
    run_job(folder, '--run-once', 'jobs.Fail', NOTIFY_SOCKET=manager.address)
    manager.wait_for_status(r'last run failed after [\d.]+ s')
    assert 'secret' not in ''.join(manager.messages)


def test_standby_is_ready(folder: pathlib.Path, manager: Manager) -> None:
    """A healthy standby is ready, and says whom it waits for."""
    with Job(folder, 'jobs.Hold') as holder:
        holder.wait_for('holding')
        with Job(folder, '--keep-lock', 'jobs.Hold',
                 NOTIFY_SOCKET=manager.address):
            manager.wait_for('READY=1')
            manager.wait_for_status(
                r'standby: the lock is held by \S+ '
                rf'\(pid {holder.popen.pid}\) since \S+')


def test_environment_is_not_inherited(
        folder: pathlib.Path, manager: Manager) -> None:
    """What the task starts does not speak in the name of the job."""
    done = run_job(folder, '--run-once', 'jobs.Show',
                   NOTIFY_SOCKET=manager.address, WATCHDOG_USEC='60000000',
                   WATCHDOG_PID='1')
    assert 'mine ' in done.stdout and 'XDG_RUNTIME_DIR' in done.stdout
    manager.wait_for('STOPPING=1')
    assert 'NOTIFY_SOCKET' not in done.stdout
    assert 'WATCHDOG_' not in done.stdout


def test_not_loaded_unless_asked_for(folder: pathlib.Path) -> None:
    """Without a process manager that wants to know, nothing is loaded."""
    code = ('import sys; from jobslib.main import main; '
            'main(["--run-once", "jobs.Quick"]); '
            'print("loaded", "jobslib.notify" in sys.modules)')
    for address, loaded in (('', False), ('/no/such/socket', True)):
        extra = {'NOTIFY_SOCKET': address} if address else {}
        with Process(folder, '-c', code, **extra) as process:
            assert process.wait() == 0
            assert f'loaded {loaded}' in process.output


def test_pings(folder: pathlib.Path, manager: Manager) -> None:
    """The watchdog is told that all is well, in runs and between them."""
    options = {'NOTIFY_SOCKET': manager.address, 'WATCHDOG_USEC': '100000'}
    with Job(folder, 'jobs.Hold', **options) as job:
        job.wait_for('holding')
        manager.wait_for('WATCHDOG=1', manager.count('WATCHDOG=1') + 5)
        job.send(signal.SIGSTOP)
        manager.wait_for_silence(1.0)
    with Job(folder, '--sleep-interval', '3600', 'jobs.Quick', **options):
        manager.wait_for_status('waiting until .*')
        manager.wait_for('WATCHDOG=1', manager.count('WATCHDOG=1') + 5)


@pytest.mark.parametrize('task', ['Deaf', 'Stuck'])
def test_pings_whatever_the_task_does(
        folder: pathlib.Path, manager: Manager, task: str) -> None:
    """A run that hangs is ended by its heartbeat; the supervisor is well."""
    with Job(folder, f'jobs.{task}', '--sleep-interval', '3600',
             NOTIFY_SOCKET=manager.address, WATCHDOG_USEC='100000',
             JOBSLIB_ONE_INSTANCE_HEARTBEAT='1',
             JOBSLIB_ONE_INSTANCE_GRACE='1') as job:
        job.wait_for('hangs')
        begun = manager.count('WATCHDOG=1')
        # Longer than the silence that the process manager accepts, while the run
        # is silent, and while it minds no interrupt.
        manager.wait_for('WATCHDOG=1', begun + 5)
        # Read all the while: few can wait in the socket.
        until(lambda: manager.count('WATCHDOG=1') and 'killed' in job.output)
        assert 'the run was silent for 1 s; killed by SIGKILL' in job.output
        # In two seconds there are forty.
        assert manager.count('WATCHDOG=1') >= begun + 20
        manager.wait_for_status('waiting until .*; last run killed after .*')
        manager.wait_for('WATCHDOG=1', manager.count('WATCHDOG=1') + 5)
        assert job.popen.poll() is None


@pytest.mark.parametrize(('pid', 'usec', 'expected'), [
    (None, '60000000', 'pings'), ('ours', '60000000', 'pings'),
    (None, '1' + '0' * 5000, 'pings'), (None, '1', 'pings'),
    ('1', '60000000', 'none'), (None, None, 'none'), (None, '0', 'none'),
    (None, 'often', 'none')])
def test_whose_watchdog(
    folder: pathlib.Path, manager: Manager, monkeypatch: pytest.MonkeyPatch,
    pid: str | None, usec: str | None, expected: str,
) -> None:
    """The watchdog of another process, or none, is not told anything."""
    monkeypatch.setenv('NOTIFY_SOCKET', manager.address)
    for name, value in (('PID', pid), ('USEC', usec)):
        monkeypatch.delenv(f'WATCHDOG_{name}', raising=False)
        if value is not None:
            monkeypatch.setenv(f'WATCHDOG_{name}', value.replace(
                'ours', str(os.getpid())))
    observer = NotifyObserver.from_environment(logging.getLogger('jobslib'))
    assert observer is not None
    observer.started()
    if expected == 'pings':
        manager.wait_for('WATCHDOG=1')
    else:
        manager.wait_for_silence(0.3)
        assert manager.count('READY=1') == 1
        assert manager.count('WATCHDOG=1') == 0
    assert not {'NOTIFY_SOCKET', 'WATCHDOG_PID', 'WATCHDOG_USEC'} & {
        *os.environ}


def test_one_field_each(folder: pathlib.Path, manager: Manager) -> None:
    """A line break in a text does not begin another field."""
    observer = make_observer(folder, manager.address)
    observer.standby('a\nMAINPID=1\nb')
    observer.lost('c\nd')
    assert manager.fields == [('STATUS', 'standby: a MAINPID=1 b'),
                              ('STATUS', 'the lock was lost: c d')]


def test_last_outcome_stays(folder: pathlib.Path, manager: Manager) -> None:
    """The status has the outcome of the last run, whatever comes then."""
    observer = make_observer(folder, manager.address)
    run = Run(1, None, 0.0)
    run.end(Outcome.FAILED, 1.5)
    observer.run_ended(run)
    observer.standby('somebody has it')
    assert manager.statuses == [
        'last run failed after 1.500 s',
        'standby: somebody has it; last run failed after 1.500 s']


def test_manager_that_does_not_read(
        folder: pathlib.Path, manager: Manager) -> None:
    """A full queue holds up nothing; what is said arrives when it is read."""
    with pytest.raises(BlockingIOError):
        while True:
            # Of its own each time, for a sender has a limit as well.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                other.sendto(b'X=1\n', manager.address)
    observer = make_observer(folder, manager.address)

    def tell() -> None:
        observer.started()
        observer.standby('first')
        observer.standby('second')

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(DEADLINE)
    assert not telling.is_alive(), 'it waits for the process manager'
    assert manager.count('X=1') > 0
    manager.wait_for('READY=1')
    manager.wait_for('STATUS=standby: second')
    assert manager.count('STATUS=standby: first') == 0


def test_manager_that_is_not_there(
        folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """One debug message is all; it is told when it is there again."""
    caplog.set_level(logging.DEBUG)
    observer = make_observer(folder, str(folder / 'later'))
    observer.started()
    observer.standby('somebody has it')
    assert [(record.levelname, record.getMessage())
            for record in caplog.records] == [
        ('DEBUG', 'the process manager cannot be told: [Errno 2] No such '
                  'file or directory')]
    manager = Manager(str(folder / 'later'))
    with manager.socket:
        manager.wait_for('READY=1')


def test_pings_after_the_manager_was_away(folder: pathlib.Path) -> None:
    """A restart of the process manager costs the pings meanwhile only."""
    observer = make_observer(folder, str(folder / 'later'), watchdog=60.0)
    observer.started()
    manager = Manager(str(folder / 'later'))
    with manager.socket:
        manager.wait_for('WATCHDOG=1')
        assert manager.count('READY=1') == 1


@pytest.mark.parametrize('address', [
    'vsock:2:1234', 'relative', '/no/such/socket', f'/{"x" * 200}', '@'])
def test_bad_address(folder: pathlib.Path, address: str) -> None:
    """An address that leads nowhere does not fail the run."""
    done = run_job(folder, '--run-once', 'jobs.Quick', NOTIFY_SOCKET=address,
                   WATCHDOG_USEC='1000')
    assert done.returncode == ExitCode.DONE, done.stderr
    assert 'Traceback' not in done.stderr
