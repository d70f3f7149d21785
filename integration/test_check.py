"""`runjob check` against Consul: what is denied, and what is left alone."""

import json
import pathlib
import signal
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from integration.agents import Agent, wait_until
from integration.locks import Program, holder_of, session_ids
from integration.runjobs import TASKS, job, lock_environment
from integration.together import together
from jobslib.exitcodes import ExitCode

KEY = 'jobs/checked/lock'
UNKNOWN = '11111111-2222-3333-4444-555555555555'


@pytest.fixture(scope='module')
def denying(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server that denies by default."""
    with Agent(binary=consul_bin, acl=True, name='alpha') as agent:
        yield agent


class Checked(NamedTuple):
    """What a check said."""

    code: int
    report: dict[str, Any]

    @property
    def results(self) -> dict[str, str]:
        """The result of each thing that was tried."""
        return {each['what']: each['result']
                for each in self.report['lock']['findings']}

    @property
    def denied(self) -> dict[str, str]:
        """What was denied, with what is to be granted."""
        return {each['what']: each['grant']
                for each in self.report['lock']['findings']
                if each['result'] == 'denied'}


def check(folder: pathlib.Path, agent: Agent, key: str = KEY,
          **options: object) -> Checked:
    """Check the lock on the key, with the least TTL that Consul takes."""
    (folder / 'tasks.py').write_text(TASKS)
    with Program.job(folder, 'check', '--json', 'tasks.Task',
                     **lock_environment(agent.http_addr, key, **options),
                     ) as program:
        code = program.wait()
        text = program.output
    for name, value in options.items():
        assert 'token' not in name or str(value) not in text
    return Checked(code, json.loads(text))


def leftovers(agent: Agent) -> tuple[set[str], list[str], list[str]]:
    """Sessions, keys but those that tests wrote, and checks of the agent."""
    keys = agent.api.get('kv/', keys='')
    return (session_ids(agent.api),
            [key for key in (keys.json() if keys.ok else [])
             if not key.endswith('/lock')],
            list(agent.api.get('agent/checks').json()))


FULL = {
    'session': 'session "alpha" { policy = "write" }',
    'key': f'key "{KEY}" {{ policy = "write" }}',
    'beside': f'key_prefix "{KEY}" {{ policy = "write" }}',
    'history': 'key_prefix "jobs/checked/history/lock" { policy = "write" }',
    'node': 'node "alpha" { policy = "write" }',
    'agent': 'agent "alpha" { policy = "read" }',
}


@pytest.mark.parametrize(('change', 'denied'), [
    ({}, {}),
    ({'agent': ''}, {}),
    ({'session': ''},
     {'create a session': 'session "alpha" { policy = "write" }'}),
    ({'session': '', 'agent': ''},
     {'create a session': 'session_prefix "" { policy = "write" }'}),
    ({'session': 'session "alpha" { policy = "read" }'},
     {'create a session': 'session "alpha" { policy = "write" }'}),
    ({'node': ''},
     {'register a check of the agent': 'node "alpha" { policy = "write" }'}),
    ({'history': ''},
     {'write jobs/checked/history/lock':
      'key_prefix "jobs/checked/history/lock" { policy = "write" }'}),
    ({'beside': ''},
     {f'write {KEY}.control': f'key "{KEY}.control" {{ policy = "write" }}'}),
    ({'key': f'key "{KEY}" {{ policy = "read" }}'},
     {f'write {KEY}': f'key "{KEY}" {{ policy = "write" }}'}),
    ({'key': f'key "{KEY}" {{ policy = "deny" }}'},
     {f'read {KEY}': f'key "{KEY}" {{ policy = "read" }}',
      f'write {KEY}': f'key "{KEY}" {{ policy = "write" }}'}),
    ({'key': '', 'beside': f'key_prefix "{KEY}" {{ policy = "read" }}'},
     {f'write {KEY}': f'key "{KEY}" {{ policy = "write" }}',
      f'write {KEY}.control': f'key "{KEY}.control" {{ policy = "write" }}',
      'lock a scratch key beside it':
      f'key_prefix "{KEY}" {{ policy = "write" }}'}),
], ids=['all', 'no-agent', 'no-session', 'no-session-no-agent',
        'session-read', 'no-node', 'no-history', 'lock-alone', 'key-read',
        'key-denied', 'prefix-read'])
def test_each_right(denying: Agent, tmp_path: pathlib.Path,
                    change: dict[str, str], denied: dict[str, str]) -> None:
    """Each right that is missing is told alone, with the rule to grant."""
    token = denying.api.create_token('\n'.join({**FULL, **change}.values()))
    before = leftovers(denying)
    checked = check(tmp_path, denying, token=token, check_ttl=5)
    assert checked.denied == denied
    assert checked.code == (
        ExitCode.LOCK_SERVICE_UNAVAILABLE if denied else ExitCode.DONE)
    assert 'failed' not in checked.results.values()
    assert leftovers(denying) == before


@pytest.mark.parametrize('token', [None, UNKNOWN], ids=['none', 'unknown'])
def test_no_token(denying: Agent, tmp_path: pathlib.Path,
                  token: str | None) -> None:
    """Without a token that Consul knows all is denied, and that is told."""
    checked = check(tmp_path, denying, **({'token': token} if token else {}))
    assert checked.code == ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert {'create a session', f'read {KEY}', f'write {KEY}'} <= set(
        checked.denied)
    if token:
        assert set(checked.denied.values()) == {'a token that Consul knows'}


def test_clock(agent: Agent, tmp_path: pathlib.Path) -> None:
    """The clock of a machine is found to be that of the agent on it."""
    checked = check(tmp_path, agent)
    assert checked.results['compare the clocks'] == 'ok'
    ahead = checked.report['lock']['clock_ahead']
    assert -1.0 <= ahead['at_least'] <= 0.0 <= ahead['at_most']
    assert not [each for each in checked.report['warnings'] if 'clock' in each]


def test_right_to_list(consul_bin: pathlib.Path,
                       tmp_path: pathlib.Path) -> None:
    """Where listing keys is a right of its own, it is told alone."""
    with Agent(binary=consul_bin, acl=True, name='alpha', config={
            'acl': {'enable_key_list_policy': True}}) as agent:
        token = agent.api.create_token('\n'.join(FULL.values()))
        checked = check(tmp_path, agent, token=token)
        assert checked.denied == {
            'list the keys in jobs/checked/':
            'key_prefix "jobs/checked/" { policy = "list" }'}


def test_running_job_is_not_disturbed(
        agent: Agent, tmp_path: pathlib.Path) -> None:
    """A job keeps its session, and its key is not written."""
    key = 'jobs/undisturbed/lock'
    with job(tmp_path, agent.http_addr, key, '--keep-lock', 'tasks.Task',
             '--seconds', '60') as program:
        program.wait_for('BEGIN')
        before, sessions = agent.api.kv(key), session_ids(agent.api)
        assert before is not None
        checked = check(tmp_path, agent, key)
        assert checked.code == ExitCode.DONE
        assert set(checked.results.values()) == {'ok'}
        assert agent.api.kv(key) == before
        # Those of tests before may be ending just now.
        assert before['Session'] in session_ids(agent.api) <= sessions
        [detail] = [each['detail'] for each in
                    checked.report['lock']['findings']
                    if each['what'] == f'read {key}']
        assert f'process {program.pid},' in detail
        assert program.popen.poll() is None
        assert program.output.count('BEGIN') == 1
        program.send(signal.SIGTERM)
        assert program.wait() == ExitCode.TERMINATED
    assert holder_of(agent.api, key) is None


@pytest.mark.parametrize(('signum', 'options'), [
    (signal.SIGTERM, {'check_ttl': 5}), (signal.SIGINT, {})])
def test_interrupted(fresh_agent: Agent, tmp_path: pathlib.Path,
                     signum: signal.Signals, options: dict[str, Any]) -> None:
    """A check that is interrupted half way leaves nothing behind."""
    before = leftovers(fresh_agent)
    (tmp_path / 'stop.py').write_text('''
import sys
from jobslib.main import main
from jobslib.consul import rights

def pause(self, prefix, key):
    print('HALF WAY', flush=True)
    sys.stdin.read()

rights._Examination._list = pause
sys.exit(main(['check', 'tasks.Task']))
''')
    (tmp_path / 'tasks.py').write_text(TASKS)
    with Program(tmp_path, 'stop.py', **lock_environment(
            fresh_agent.http_addr, KEY, **options)) as program:
        program.wait_for('HALF WAY')
        assert leftovers(fresh_agent) != before
        program.send(signum)
        assert program.wait() == ExitCode.TERMINATED, program.output
    assert leftovers(fresh_agent) == before


@together
def test_killed(_: Agent) -> None:
    """What a killed check leaves goes by itself, key and session together."""
    with (tempfile.TemporaryDirectory(prefix='jobslib-') as folder,
          Agent() as agent):
        leave_behind(pathlib.Path(folder), agent)


def leave_behind(folder: pathlib.Path, agent: Agent) -> None:
    """Kill a check half way, and wait until there is nothing left of it."""
    (folder / 'stop.py').write_text('''
import os, signal, sys
from jobslib.main import main
from jobslib.consul import rights

rights._Examination._list = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(['check', 'tasks.Task'])
''')
    (folder / 'tasks.py').write_text(TASKS)
    before = leftovers(agent)
    with Program(folder, 'stop.py', **lock_environment(
            agent.http_addr, KEY)) as program:
        assert program.wait() == -signal.SIGKILL
    assert leftovers(agent) != before
    wait_until(lambda: leftovers(agent) == before, 60, 'all of it gone')
