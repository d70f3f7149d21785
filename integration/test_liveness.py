"""Liveness under a real Consul: the key, the check, and what disturbs them."""

import json
import pathlib
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from integration.agents import HOST, Agent, Api, free_ports, wait_until
from integration.locks import held_record, hold
from integration.proxy import Proxy
from integration.runjobs import job
from jobslib import BaseTask, Config
from jobslib.commands import check_liveness
from jobslib.exitcodes import ExitCode

KEY_BACKEND = 'jobslib.liveness.consul.ConsulLiveness'
CHECK_BACKEND = 'jobslib.liveness.consul_check.ConsulCheckLiveness'
TTL = 3.0
SOON = 10.0
#: How long is waited for what is no measurement, in seconds.
DEADLINE = 30.0


def liveness(backend: str, **options: object) -> dict[str, str]:
    """The environment that configures the liveness, but not Consul."""
    return {'JOBSLIB_LIVENESS_BACKEND': backend} | {
        f'JOBSLIB_LIVENESS_CONSUL_{name.upper()}': str(value)
        for name, value in options.items()}


def checks(api: Api, service: str) -> list[tuple[str, str]]:
    """Status and note of each check of the service, as the agent has them."""
    return [(each['Status'], each['Output'])
            for each in api.get('agent/checks').json().values()
            if each['ServiceName'] == service]


def wait_for_checks(api: Api, service: str, *expected: tuple[str, str],
                    timeout: float = DEADLINE) -> None:
    """Wait until the checks are these: status and a part of the note."""
    def are_there() -> bool:
        found = checks(api, service)
        missing = [
            each for each in expected
            if not any(status == each[0] and each[1] in note
                       for status, note in found)]
        return len(found) == len(expected) and not missing
    try:
        wait_until(are_there, timeout, f'checks {expected}')
    except TimeoutError as exc:
        raise TimeoutError(f'{exc}: {checks(api, service)}') from None


def ask(addr: tuple[str, int], key: str, max_age: float) -> ExitCode:
    """What ``check-liveness`` returns."""
    settings = SimpleNamespace(LIVENESS={'backend': KEY_BACKEND, 'options': {
        'host': addr[0], 'port': addr[1], 'key': key,
        'retry_max_attempts': 1}})
    args = SimpleNamespace(max_age=max_age, json=False)
    return check_liveness.run(Config(settings, args, BaseTask))


def lookup(port: int, name: str) -> int:
    """How many answers Consul's DNS gives for the name."""
    labels = b''.join(
        bytes([len(label)]) + label.encode() for label in name.split('.'))
    query = struct.pack('>6H', 1, 0x100, 1, 0, 0, 0) + labels + struct.pack(
        '>BHH', 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(SOON)
        line.sendto(query, (HOST, port))
        answer = line.recv(4096)
    answers: int = struct.unpack('>6H', answer[:12])[3]
    return answers


@pytest.fixture(scope='module', autouse=True)
def dead(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The key of a job whose one process, a standby, is killed.

    It is for the last test: until then its TTL runs out.
    """
    key = 'live/dead'
    hold(agent.api, key, held_record())
    folder = tmp_path_factory.mktemp('dead')
    with checked(folder, agent, key, '--keep-lock') as program:
        wait_for_checks(agent.api, 'live-dead', ('passing', ''))
        program.send(signal.SIGKILL)
        program.wait()
    return key


# The key

def test_key_is_written(
    agent: Agent, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
) -> None:
    """A success is in the key, which is reached as the lock's is; PASS."""
    with job(tmp_path, agent.http_addr, 'live/lock', '--run-once',
             env=liveness(KEY_BACKEND, key='live/key')) as program:
        assert program.wait() == ExitCode.DONE, program.output
    entry = agent.api.kv('live/key')
    assert entry is not None
    record = json.loads(entry['Value'])
    assert set(record) == {'fqdn', 'timestamp', 'time_utc', 'time_local'}
    assert abs(time.time() - record['timestamp']) < SOON
    assert ask(agent.http_addr, 'live/key', 60) is ExitCode.DONE
    assert capsys.readouterr().out.startswith('PASS: ')


def test_failure_writes_nothing(
        agent: Agent, tmp_path: pathlib.Path) -> None:
    """A run that failed is no success; FAIL."""
    with job(tmp_path, agent.http_addr, 'live/failed', '--run-once',
             'tasks.Task', '--fail',
             env=liveness(KEY_BACKEND, key='live/failed-key')) as program:
        assert program.wait() == ExitCode.TASK_FAILED, program.output
    assert agent.api.kv('live/failed-key') is None
    assert ask(agent.http_addr, 'live/failed-key', 60) is (
        ExitCode.TASK_FAILED)


def test_ask_nobody(unreachable: tuple[str, int],
                    capsys: pytest.CaptureFixture[str]) -> None:
    """Without Consul the answer is neither; exit code 5."""
    assert ask(unreachable, 'any', 60) is ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert 'Connection refused' in capsys.readouterr().err


def test_consul_down_during_runs(
    agent: Agent, unreachable: tuple[str, int], tmp_path: pathlib.Path,
) -> None:
    """Runs succeed as ever while the Consul of the liveness is down."""
    env = liveness(CHECK_BACKEND, host=unreachable[0], port=unreachable[1],
                   timeout=0.5)
    with job(tmp_path, agent.http_addr, 'live/down', '--keep-lock',
             '--run-interval', '0.2', 'tasks.Task', '--seconds', '0.01',
             env=env) as program:
        program.wait_for('run succeeded', times=5)
        program.wait_for('noting the success fails, and is tried again: '
                         'LivenessError: cannot write')
        program.wait_for('updating the check fails')
        begun = time.monotonic()
        program.send(signal.SIGTERM)
        assert program.wait() == ExitCode.TERMINATED
        assert time.monotonic() - begun < SOON
        for what in ('noting the success', 'updating the check'):
            assert program.output.count(f'{what} fails') == 1


def test_outage_that_ends(
        agent: Agent, proxy: Proxy, tmp_path: pathlib.Path) -> None:
    """What could not be noted in an outage is noted after it."""
    env = liveness(KEY_BACKEND, host=proxy.addr[0], port=proxy.addr[1],
                   key='live/outage-key', timeout=0.3, retry_max_attempts=1)
    proxy.refuse()
    with job(tmp_path, agent.http_addr, 'live/outage', '--sleep-interval', '60',
             env=env) as program:
        program.wait_for('run succeeded')
        ended = time.time()
        program.wait_for('noting the success fails')
        assert agent.api.kv('live/outage-key') is None
        proxy.pass_through()
        program.wait_for('noting the success works again')
    entry = agent.api.kv('live/outage-key')
    assert entry is not None
    assert json.loads(entry['Value'])['timestamp'] < ended + 0.5


# The check

@pytest.fixture(scope='module')
def dns_port() -> int:
    """The port of Consul's DNS."""
    return free_ports(1)[0]


@pytest.fixture(scope='module')
def on_disk(consul_bin: pathlib.Path, dns_port: int) -> Iterator[Agent]:
    """A server that can be restarted, and that answers DNS."""
    with Agent(binary=consul_bin, on_disk=True, config={
            'ports': {'dns': dns_port}}) as running:
        yield running


def checked(folder: pathlib.Path, agent: Agent, key: str, *args: str,
            **options: object) -> Any:
    """A job whose service is called as the key, with slashes as hyphens."""
    return job(folder, agent.http_addr, key, *args, env=liveness(
        CHECK_BACKEND, service=key.replace('/', '-'), key=f'{key}-alive',
        ttl=TTL, **options))


def test_service_in_catalog_and_dns(
        on_disk: Agent, dns_port: int, tmp_path: pathlib.Path) -> None:
    """Holder and standby are found, by their health, until they end."""
    args = ('--keep-lock', '--run-interval', '1')
    with checked(tmp_path, on_disk, 'live/Both', *args) as first:
        first.wait_for('run succeeded')
        with checked(tmp_path, on_disk, 'live/Both', *args) as second:
            wait_for_checks(on_disk.api, 'live-Both',
                            ('passing', ' succeeded after '),
                            ('passing', 'standby: the lock is held by '))
            wait_until(lambda: len(on_disk.api.get(
                'health/service/live-Both', passing='').json()) == 2, DEADLINE,
                'both in the health API')
            # One node has both, and DNS names a node once.
            assert lookup(dns_port, 'live-both.service.consul') == 1
            second.send(signal.SIGTERM)
            assert second.wait() == ExitCode.TERMINATED
        wait_for_checks(on_disk.api, 'live-Both', ('passing', ' succeeded '))
        first.send(signal.SIGTERM)
        assert first.wait() == ExitCode.TERMINATED
    assert checks(on_disk.api, 'live-Both') == []
    wait_until(lambda: lookup(dns_port, 'live-both.service.consul') == 0, DEADLINE,
               'nobody in DNS')


def test_agent_restarted(on_disk: Agent, tmp_path: pathlib.Path) -> None:
    """An agent that comes back without its memory gets the service again."""
    with checked(tmp_path, on_disk, 'live/again', '--run-interval', '1') as program:
        wait_for_checks(on_disk.api, 'live-again', ('passing', ' succeeded '))
        on_disk.terminate()
        for name in ('services', 'checks'):
            shutil.rmtree(on_disk.folder / 'data' / name)
        on_disk.restart()
        program.wait_for('the agent has forgotten the service live-again')
        wait_for_checks(on_disk.api, 'live-again', ('passing', ''))
        assert program.popen.poll() is None


def test_failure_and_success(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A failed run is a warning with its error; nobody's success critical."""
    with checked(tmp_path, agent, 'live/fails', '--run-interval', '0.5',
                 'tasks.Task', '--fail', max_age=5):
        # Until it is critical; so long that it can be seen.
        wait_for_checks(agent.api, 'live-fails',
                        ('warning', ': RuntimeError: went wrong'))
        wait_for_checks(agent.api, 'live-fails',
                        ('critical', 'nobody succeeded for 5 s'))

        def beta_succeeds() -> bool:
            agent.api.put('kv/live/fails-alive', {
                'timestamp': time.time(), 'fqdn': 'beta', 'time_local': 'x'})
            [(status, _)] = checks(agent.api, 'live-fails')
            return status == 'warning'
        wait_until(beta_succeeds, DEADLINE, 'no longer critical')


# Access control

def test_least_policy(
    consul_bin: pathlib.Path, tmp_path: pathlib.Path,
) -> None:
    """The rules of the guide suffice; a forgotten check is registered again."""
    with Agent(binary=consul_bin, acl=True) as denying:
        token = denying.api.create_token(
            f'session "{denying.name}" {{ policy = "write" }}\n'
            f'key_prefix "live/" {{ policy = "write" }}\n'
            f'service "live-least" {{ policy = "write" }}')
        env = liveness(CHECK_BACKEND, service='live-least',
                       key='live/least-alive', ttl=TTL)
        with job(tmp_path, denying.http_addr, 'live/least', '--sleep-interval',
                 '60', env=env, token=token) as program:
            wait_for_checks(denying.api, 'live-least', ('passing', 'succeeded'))
            wait_until(lambda: denying.api.kv('live/least-alive'), DEADLINE, 'a key')
            # The agent passes it on to the servers with the same token.
            wait_until(lambda: denying.api.get(
                'health/service/live-least', passing='').json(), DEADLINE,
                'the service in the health API')
            [service] = denying.api.get('agent/services').json()
            assert denying.api.put(
                f'agent/service/deregister/{service}').ok
            program.wait_for('the agent has forgotten the service live-least')
            wait_for_checks(denying.api, 'live-least', ('passing', 'succeeded'))
            assert 'fails' not in program.output
            program.send(signal.SIGTERM)
            assert program.wait() == ExitCode.TERMINATED
        assert checks(denying.api, 'live-least') == []
        assert token not in program.output


# What was left behind at the beginning

def test_dead_process(
        agent: Agent, dead: str, tmp_path: pathlib.Path) -> None:
    """A process that died is critical after its TTL; the next replaces it."""
    name = dead.replace('/', '-')
    wait_for_checks(agent.api, name, ('critical', 'TTL expired'))
    with checked(tmp_path, agent, dead, '--keep-lock'):
        wait_for_checks(agent.api, name, ('passing', 'standby: '))
