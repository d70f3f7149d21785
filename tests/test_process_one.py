"""A job as the first process of a container, which has no default actions."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from support import Process, is_free, write_module

from jobslib.exitcodes import ExitCode

# A namespace of process ids, in one of users, which needs no rights.
UNSHARE = ['unshare', '--user', '--map-root-user', '--pid', '--fork',
           '--kill-child', '--mount-proc']

JOBS = '''
import os, pathlib, time
from jobslib import BaseTask

class First(BaseTask):
    name = 'first'
    def task(self):
        print('below', os.getppid(), flush=True)
        try:
            time.sleep(3600)
        finally:
            print('cleaning up', flush=True)
            while not pathlib.Path('clean').exists():
                time.sleep(0.01)
'''


def can_unshare() -> bool:
    """Return whether this machine lets a user have such a namespace."""
    try:
        return subprocess.run(
            [*UNSHARE, 'true'], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def send(unshare: Process, signum: signal.Signals) -> None:
    """Send *signum* to the job; unshare itself ignores it."""
    pid = unshare.popen.pid
    children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
    os.kill(int(children), signum)


@pytest.mark.skipif(not can_unshare(), reason='no namespaces for users here')
def test_first_process(tmp_path: pathlib.Path) -> None:
    """It ends by SIGTERM; a second one does not end its cleaning up."""
    write_module(tmp_path, 'jobs', JOBS)
    command = [*UNSHARE, sys.executable, '-m', 'jobslib', 'jobs.First']
    with Process(tmp_path, '-c', f'import os; os.execvp("unshare", {command})',
                 JOBSLIB_ONE_INSTANCE_GRACE='3600') as job:
        job.wait_for('below 1\n')
        send(job, signal.SIGTERM)
        job.wait_for('cleaning up')
        send(job, signal.SIGTERM)
        (tmp_path / 'clean').touch()
        assert job.wait() == ExitCode.TERMINATED
        job.wait_for('ended by signal SIGTERM')
    assert is_free(tmp_path, 'first')
