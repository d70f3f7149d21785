"""The examples, run for real under the embedded lock."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, environment, until

ROOT = pathlib.Path(__file__).resolve().parents[1]
DISK_USAGE = 'examples.disk_usage.DiskUsage'


class Runner:
    """Runs ``runjob`` as a newcomer does: in the repository's root."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *args: str, **extra: str) -> subprocess.Popen[str]:
        """Start it in the background."""
        process = subprocess.Popen(
            [sys.executable, '-m', 'jobslib', *args], cwd=ROOT,
            env=environment(self.folder, **extra), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def run(self, *args: str, **extra: str) -> tuple[int, str, str]:
        """Return its exit code, and what it wrote to both streams."""
        return finish(self.start(*args, **extra))


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of *process*."""
    stdout, stderr = process.communicate(timeout=DEADLINE)
    return process.returncode, stdout, stderr


@pytest.fixture
def runjob(tmp_path: pathlib.Path) -> Iterator[Runner]:
    """Runs ``runjob`` with lock files in *tmp_path*."""
    runner = Runner(tmp_path)
    yield runner
    for process in runner.started:
        process.kill()
        process.communicate()


def rows(database: pathlib.Path, query: str) -> list[Any]:
    """Return what *query* finds in *database*."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def test_hello_greets_the_world(runjob: Runner) -> None:
    """Without arguments the hello world greets the world."""
    code, stdout, stderr = runjob.run('examples.hello.Hello', '--run-once')
    assert (code, stdout) == (0, 'Hello, world!\n'), stderr
    assert 'run succeeded' in stderr


def test_hello_takes_an_argument(runjob: Runner) -> None:
    """The task's own argument reaches it."""
    code, stdout, stderr = runjob.run(
        'examples.hello.Hello', '--run-once', '--whom', 'everybody')
    assert (code, stdout) == (0, 'Hello, everybody!\n'), stderr


def test_hello_describes_itself(runjob: Runner) -> None:
    """The help names what the task is for, and its argument."""
    code, stdout, stderr = runjob.run('examples.hello.Hello', '--help')
    assert code == 0, stderr
    assert 'Say hello.' in stdout
    assert 'whom to greet' in stdout


def test_disk_usage_records_what_the_machine_says(
        runjob: Runner, tmp_path: pathlib.Path) -> None:
    """Each run adds one sample, with figures of this machine's disk."""
    database = tmp_path / 'usage.sqlite3'
    for _ in range(2):
        code, _, stderr = runjob.run(
            DISK_USAGE, '--run-once', '--database', str(database),
            '--path', str(tmp_path))
        assert code == 0, stderr
    found = rows(database, 'SELECT path, used, total, token FROM disk_usage')
    assert len(found) == 2
    for path, used, total, _ in found:
        assert path == str(tmp_path)
        assert 0 < used <= total == shutil.disk_usage(tmp_path).total
    tokens = [row[3] for row in found]
    assert tokens[0] < tokens[1]
    assert rows(database, 'SELECT * FROM fence') == [('disk-usage', tokens[1])]


def both(supervisor: int) -> list[int]:
    """Return the process ids of a job: its supervisor, the run's process."""
    children = pathlib.Path(
        f'/proc/{supervisor}/task/{supervisor}/children').read_text()
    return [supervisor, *map(int, children.split())]


def test_disk_usage_refuses_a_run_that_was_overtaken(
        runjob: Runner, tmp_path: pathlib.Path) -> None:
    """A run that stood still while another one wrote cannot write any more.

    It is stopped with the lock in its hands; then the lock is lost (its file
    deleted, which no lock can prevent), and a second run takes it, and
    writes.
    """
    database = tmp_path / 'usage.sqlite3'
    command = (DISK_USAGE, '--run-once', '--database', str(database))
    lock_file = tmp_path / 'jobslib' / 'disk-usage.lock'
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # Keeps the first run from writing until it is stopped.
        connection.execute('BEGIN EXCLUSIVE')
        frozen = runjob.start(*command)
        until(lambda: lock_file.exists() and lock_file.read_text(),
              'for the first run to take the lock')
        for pid in both(frozen.pid):
            os.kill(pid, signal.SIGSTOP)
        connection.rollback()
    old_token = json.loads(lock_file.read_text())['token']
    lock_file.unlink()
    code, _, stderr = runjob.run(*command)
    assert code == 0, stderr
    written = rows(database, 'SELECT token FROM disk_usage')
    assert len(written) == 1 and written[0][0] > old_token

    for pid in both(frozen.pid):
        os.kill(pid, signal.SIGCONT)
    code, _, stderr = finish(frozen)
    assert code == 1, stderr
    assert f'refused: a newer fencing token than {old_token}' in stderr
    assert rows(database, 'SELECT token FROM disk_usage') == written


def test_disk_usage_needs_a_token(
        runjob: Runner, tmp_path: pathlib.Path) -> None:
    """Without a lock there is no token, and nothing is written."""
    database = tmp_path / 'usage.sqlite3'
    code, _, stderr = runjob.run(
        DISK_USAGE, '--run-once', '--disable-one-instance',
        '--database', str(database))
    assert code == 1
    assert 'no fencing token' in stderr
    assert not database.exists()


def test_settings_name_a_consul(runjob: Runner) -> None:
    """With the settings the lock is Consul's: without one there is no run."""
    code, stdout, stderr = runjob.run(
        '--settings', 'examples.settings', '--run-once',
        'examples.hello.Hello',
        JOBSLIB_ONE_INSTANCE_CONSUL_PORT='1',
        JOBSLIB_ONE_INSTANCE_CONSUL_RETRY_MAX_ATTEMPTS='1')
    assert (code, stdout) == (5, ''), stderr
    assert 'http://127.0.0.1:1' in stderr


def test_settings_can_be_overridden(runjob: Runner) -> None:
    """The environment and the command line win over the settings."""
    code, stdout, stderr = runjob.run(
        'examples.hello.Hello', '--run-once',
        JOBSLIB_SETTINGS_MODULE='examples.settings',
        JOBSLIB_ONE_INSTANCE_BACKEND='jobslib.oneinstance.file.FileLock')
    assert (code, stdout) == (0, 'Hello, world!\n'), stderr
