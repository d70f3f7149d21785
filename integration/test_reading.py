"""Commands with a token that may not read: Consul leaves out what it may not.

A lock that is held would look free, a pause as if there was none.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from integration.agents import Agent
from integration.locks import lock_on
from jobslib.exitcodes import ExitCode

KEY = 'jobs/tasks.Task/lock'
TASKS = '''
from jobslib import BaseTask

class Task(BaseTask):
    def task(self):
        pass
'''
GRANT = 'grant the token: key_prefix "jobs/tasks.Task/" { policy = '


@pytest.fixture(scope='module')
def denying(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server that denies by default, with a job that is running."""
    with Agent(binary=consul_bin, acl=True) as agent:
        token = agent.api.create_token(
            'session_prefix "" { policy = "write" }\n'
            'key_prefix "jobs/" { policy = "write" }')
        with lock_on(agent.http_addr, KEY, token=token) as lock:
            assert lock.acquire()
            yield agent


def runjob(folder: pathlib.Path, agent: Agent, rules: str,
           *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a token that has these rules."""
    (folder / 'tasks.py').write_text(TASKS)
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(('JOBSLIB_', 'CONSUL_'))}
    return subprocess.run(
        [sys.executable, '-m', 'jobslib', *args], cwd=folder,
        capture_output=True, text=True, timeout=30,
        env=kept | {
            'CONSUL_HTTP_ADDR': ':'.join(map(str, agent.http_addr)),
            'CONSUL_HTTP_TOKEN': agent.api.create_token(rules),
            'JOBSLIB_ONE_INSTANCE_BACKEND':
                'jobslib.oneinstance.consul.ConsulLock'})


@pytest.mark.parametrize('command', [
    'status', 'release', 'resume', 'pause', 'handover'])
@pytest.mark.parametrize('rules', [
    'key_prefix "other/" { policy = "read" }',
    # The lock, and not what is beside it.
    f'key "{KEY}" {{ policy = "read" }}\n'
    'session_prefix "" { policy = "read" }',
], ids=['nothing', 'the-lock-alone'])
def test_what_may_not_be_read_is_not_told(
    denying: Agent, tmp_path: pathlib.Path, rules: str, command: str,
) -> None:
    """Exit code 5, and what to grant."""
    done = runjob(tmp_path, denying, rules, command, 'tasks.Task')
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE, done.stdout
    assert done.stdout == ''
    [line] = done.stderr.splitlines()
    assert GRANT in line


@pytest.mark.parametrize('command', ['release', 'pause'])
def test_what_may_not_be_written(
    denying: Agent, tmp_path: pathlib.Path, command: str,
) -> None:
    """Who may only read cannot ask anything, and is told what to grant."""
    done = runjob(tmp_path, denying, 'key_prefix "jobs/" { policy = "read" }',
                  command, 'tasks.Task')
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert f'{GRANT}"write" }}' in done.stderr


def test_what_suffices(denying: Agent, tmp_path: pathlib.Path) -> None:
    """With what is granted so, the state is shown."""
    done = runjob(tmp_path, denying,
                  'key_prefix "jobs/tasks.Task/" { policy = "read" }\n'
                  'session_prefix "" { policy = "read" }',
                  'status', '--json', 'tasks.Task')
    found = json.loads(done.stdout)
    assert found['state'] == 'running' and found['lock'] == {
        'backend': 'jobslib.oneinstance.consul.ConsulLock', 'key': KEY,
        'address': 'http://' + ':'.join(map(str, denying.http_addr)),
        'default': False}


def test_all_jobs(denying: Agent, tmp_path: pathlib.Path) -> None:
    """A list that may not be read is not empty, and one that may be read in
    part says so."""
    done = runjob(tmp_path, denying, 'key_prefix "other/" { policy = "read" }',
                  'status')
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert 'grant the token: key_prefix "jobs/" { policy = "read" }' in (
        done.stderr)
    done = runjob(tmp_path, denying,
                  'key_prefix "jobs/tasks.Task/" { policy = "read" }', 'status')
    assert done.returncode == ExitCode.DONE
    assert 'only the jobs that the token may read are shown' in done.stdout
