"""The lock with the versions of Consul that the stand-in can be.

All but 1.8 are made from changelogs and source; no such agent was run.
"""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import STEADY, until
from test_stand_in import ask, create_session

from jobslib import OneInstanceWatchdogError
from jobslib.consul.client import ConsulClient
from jobslib.consul.engine import ConsulEngine
from jobslib.consul.transport import Endpoint, Transport, TransportError
from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.keeper.engine import GONE, UNKNOWN
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.consul import ConsulLock
from jobslib.testing import ConsulStandIn, LockContract, make_lock
from jobslib.testing.consul_profiles import PROFILES, Profile, profile_of

KEY = 'jobs/plain/lock'
NEWER = [version for version in PROFILES if version != '1.8']


@pytest.fixture(scope='module', params=NEWER)
def newer(request: pytest.FixtureRequest) -> Iterator[ConsulStandIn]:
    """Each version after 1.8, shared by tests that leave it as it was."""
    with ConsulStandIn(version=request.param) as consul:
        yield consul


class TestContract(LockContract):
    """The contract of locks, on each version."""

    @pytest.fixture(autouse=True)
    def use_consul(self, newer: ConsulStandIn) -> None:
        """Use the shared Consul."""
        self.consul = newer

    def make_lock(self, name: str) -> BaseLock:
        return make_lock(ConsulLock, name, **self.consul.options(**STEADY))


@contextlib.contextmanager
def locked(consul: ConsulStandIn, **options: Any) -> Iterator[ConsulLock]:
    """A lock that uses *consul*, closed at the end of the block."""
    lock = make_lock(ConsulLock, 'plain', **consul.options(**STEADY | options))
    try:
        yield lock
    finally:
        lock.close()


def send(consul: ConsulStandIn, method: str, path: str,
         body: str = 'v') -> tuple[int, str]:
    """Return status and text of the answer to a request."""
    connection = http.client.HTTPConnection(*consul.address, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, f'/v1/{path}', body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def transact(consul: ConsulStandIn,
             **operation: str) -> tuple[int, dict[str, Any]]:
    """Return the answer to a transaction of one operation."""
    status, text = send(consul, 'PUT', 'txn', json.dumps([{'KV': operation}]))
    return status, json.loads(text) if status == 200 else {}


def test_lock_is_lost(newer: ConsulStandIn) -> None:
    """A run whose session ends is interrupted, and its lock is not its own."""
    with locked(newer, key='lost/lock') as lock:
        assert lock.acquire() is True
        with pytest.raises(OneInstanceWatchdogError):
            newer.lose_lock('lost/lock')
            until(lambda: False)
        assert lock.release() is False


# The versions.

def test_version_is_told() -> None:
    """The agent says which version it is; one that it cannot be is refused."""
    for version, profile in PROFILES.items():
        with ConsulStandIn(version=version) as consul:
            about = ask(consul, 'GET', 'agent/self')[1]['Config']
            assert about['Version'] == profile.version
            assert profile.version.startswith(version)
            assert about['Server'] is True
    with pytest.raises(ValueError, match="'1.9' is not allowed; .* 1.8, 1.21.5"):
        ConsulStandIn(version='1.9')
    with pytest.raises(TypeError):
        ConsulStandIn(no_such_limit=1)


# Names of keys.

@pytest.mark.parametrize(('key', 'versions'), [
    ('a/b-c_d.e,f/?&=', '1.8 1.21.5 1.22 2.1'),
    ('a b', '1.8 1.22 2.1'), ('ä', '1.8 1.22 2.1'), ('a:b', '1.8 1.22 2.1'),
    ('a//b', '1.8 1.21.5 1.22 2.1'), ('', '1.8 1.21.5 1.22 2.1'),
    (' a', '1.8'), ('a ', '1.8'), ('a%20', '1.8'), ('a/%2e%2e/b', '1.8'),
    ('a/../b', '1.8 1.21.5'), ('a..b', '1.8 1.21.5 1.22 2.1'),
])
def test_names_of_keys(key: str, versions: str) -> None:
    """Each version takes the names that it is known to take."""
    assert [version for version, profile in PROFILES.items()
            if profile.takes_name(key)] == versions.split()


def test_refused_name() -> None:
    """A name is refused by its own path, and taken by a transaction."""
    with ConsulStandIn(version='1.21.5') as consul:
        session = create_session(consul, NodeChecks=[])
        assert send(consul, 'PUT', 'kv/a%20b')[0] == 500
        assert send(consul, 'GET', 'kv/a%20b') == (
            500, 'Invalid key name: /v1/kv/a b')
        assert transact(consul, Verb='lock', Key='a b', Value='',
                        Session=session)[0] == 200
        with locked(consul, key='a b') as lock, pytest.raises(
                ConfigError, match='not allowed by this version of Consul'):
            lock.acquire()


# Other datacenters.

@pytest.mark.parametrize('version', PROFILES)
def test_session_in_another_datacenter(version: str) -> None:
    """An agent that is a server, or an old one, makes a session elsewhere."""
    with ConsulStandIn(version=version, datacenters=['dc2'],
                       client_agent=version == '1.8') as consul:
        with locked(consul, dc='dc2') as lock:
            assert lock.acquire() is True
            assert consul.holder(KEY) in consul.sessions


@pytest.mark.parametrize('version', NEWER)
def test_client_agent_refuses_other_datacenters(version: str) -> None:
    """A newer client agent does not, and is not asked again and again."""
    with ConsulStandIn(version=version, datacenters=['dc2'],
                       client_agent=True) as consul:
        with locked(consul, dc='dc2') as lock, pytest.raises(
                LockUnavailableError,
                match='must be created at server agent'):
            lock.acquire()
        asked = [each for each in consul.requests
                 if each.path == '/v1/session/create']
        assert len(asked) == 1
        with locked(consul) as lock:
            assert lock.acquire() is True


# Limits.

def test_answer_that_takes_long_is_cut() -> None:
    """A query that waits for longer than an answer may take gets none."""
    with ConsulStandIn(version='1.22', longest_answer=0.2) as consul:
        send(consul, 'PUT', f'kv/{KEY}')
        index = ask(consul, 'GET', f'kv/{KEY}')[1][0]['ModifyIndex']
        path = f'kv/{KEY}?index={index}'
        began = time.monotonic()
        with pytest.raises(http.client.RemoteDisconnected):
            send(consul, 'GET', f'{path}&wait=60s')
        assert time.monotonic() - began >= 0.2
        assert send(consul, 'GET', f'{path}&wait=100ms')[0] == 200
    assert Profile().longest_answer is None
    assert profile_of('1.22').longest_answer == 30
    assert profile_of('2.1').longest_answer == 900


def test_standby_whose_queries_are_cut() -> None:
    """A standby whose queries are all cut gets the lock when it is free."""
    with ConsulStandIn(version='1.22', longest_answer=0.2) as consul:
        with locked(consul) as holder, locked(consul) as standby:
            assert holder.acquire() is True and standby.acquire() is False
            cut = len(consul.requests) + 2
            until(lambda: has_waited(standby) and len(consul.requests) > cut)
            assert holder.refresh() is True
            assert holder.release() is True
            until(standby.acquire)


def has_waited(lock: ConsulLock) -> bool:
    """Wait for *lock* for a moment; what is cut is tried again."""
    with contextlib.suppress(LockUnavailableError):
        lock.wait(0.3)
    return True


def test_idle_connection_is_closed() -> None:
    """A connection without a request is closed, and the client opens another.
    """
    with ConsulStandIn(version='1.22', idle_timeout=0.1) as consul:
        host, port = consul.address
        client = ConsulClient(Endpoint(host=host, port=port), 1)
        try:
            client.put('a', b'1')
            with socket.create_connection(consul.address, 5) as idle:
                assert idle.recv(1) == b''
            client.put('a', b'2')
        finally:
            client.close()
        assert consul.value('a') == b'2'
        with locked(consul) as lock:
            assert lock.acquire() is True
            time.sleep(0.3)
            assert lock.release() is True


@pytest.mark.parametrize(('version', 'says'), [
    ('1.8', 'reset'), ('2.1', '429')])
def test_cap_on_connections(version: str, says: str) -> None:
    """One connection too many is reset, or told so; the others go on."""
    with ConsulStandIn(version=version, max_connections=2) as consul:
        host, port = consul.address
        clients = [Transport(Endpoint(host=host, port=port, timeout=5))
                   for _ in range(3)]

        def answer_to(client: Transport) -> str:
            try:
                return str(client.request('GET', '/v1/status/leader').status)
            except TransportError as exc:
                return 'reset' if 'reset' in str(exc) else str(exc)
        try:
            for _ in range(2):
                assert [*map(answer_to, clients)] == ['200', '200', says]
            clients[0].close()
            until(lambda: answer_to(clients[2]) == '200')
        finally:
            for client in clients:
                client.close()


@pytest.mark.parametrize('status', [429, 503])
def test_renewals_are_limited(newer: ConsulStandIn, status: int) -> None:
    """Renewals that are refused for a while cost neither lock nor run."""
    with locked(newer) as lock:
        assert lock.acquire() is True

        def renewals() -> int:
            return sum('renew' in each.path for each in newer.requests)
        with newer.limit_requests(status):
            renewal = f'session/renew/{newer.holder(KEY)}'
            assert send(newer, 'PUT', renewal)[0] == status
            refused = renewals() + 2
            until(lambda: renewals() >= refused)
            assert lock.refresh() is True
            with locked(newer) as other:
                assert other.acquire() is False
        assert send(newer, 'PUT', renewal)[0] == 200
        assert lock.release() is True


def test_limits_that_a_version_does_not_have() -> None:
    """1.8 limits no requests, and no version answers with another status."""
    with ConsulStandIn() as consul, pytest.raises(ValueError, match='1.8.7'):
        consul.limit_requests()
    with ConsulStandIn(version='2.1') as consul, pytest.raises(ValueError):
        consul.limit_requests(418)


@pytest.mark.parametrize(('version', 'status'), [('1.22', 200), ('2.1', 413)])
def test_large_request_to_the_agent(version: str, status: int) -> None:
    """2.1 takes no more than half a megabyte for the agent itself."""
    check = {'Name': 'x', 'TTL': '10s', 'Notes': 'n' * (512 * 1024)}
    with ConsulStandIn(version=version) as consul:
        connection = http.client.HTTPConnection(*consul.address, timeout=5)
        with contextlib.closing(connection):
            import json
            connection.request('PUT', '/v1/agent/check/register',
                               json.dumps(check))
            assert connection.getresponse().status == status


# What the token may not read.

@pytest.mark.parametrize('version', PROFILES)
def test_hidden_keys(version: str) -> None:
    """Keys that may not be read are left out; newer versions say so."""
    with ConsulStandIn(version=version) as consul:
        send(consul, 'PUT', 'kv/jobs/a')
        send(consul, 'PUT', 'kv/jobs/b')
        host, port = consul.address
        client = Transport(Endpoint(host=host, port=port))
        marked = None if version == '1.8' else 'true'

        def read(path: str, *params: tuple[str, str]) -> Any:
            return client.request('GET', f'/v1/kv/{path}', params)
        with contextlib.closing(client), consul.hide('jobs/a'):
            found = read('jobs/', ('recurse', ''))
            assert [each['Key'] for each in found.json()] == ['jobs/b']
            header = 'X-Consul-Results-Filtered-By-ACLs'
            assert found.header(header) == marked
            found = read('jobs/a', ('recurse', ''))
            assert (found.status, found.header(header)) == (404, marked)
            assert read('jobs/a').status == 403
            assert read('jobs/b').header(header) is None
            tree = transact(consul, Verb='get-tree', Key='jobs/')[1]
            assert [each['KV']['Key'] for each in tree['Results']] == ['jobs/b']
            for verb in ('get', 'set'):
                assert transact(consul, Verb=verb, Key='jobs/a')[0] == 409
            for method in ('PUT', 'DELETE'):
                assert send(consul, method, 'kv/jobs/a') == (
                    403, 'Permission denied')
        assert send(consul, 'PUT', 'kv/jobs/a')[0] == 200


def test_hidden_lock_is_not_free() -> None:
    """A lock that the token may not read is not taken for a free one."""
    with ConsulStandIn(version='2.1') as newer, locked(newer) as lock:
        send(newer, 'PUT', f'kv/{KEY}', '')
        with newer.hide('jobs/'), pytest.raises(
                LockUnavailableError, match='the token may not read it'):
            lock.acquire()
        assert lock.acquire() is True and lock.release() is True


@pytest.mark.parametrize('version', PROFILES)
def test_hidden_lock_is_not_lost(version: str) -> None:
    """The keeper takes a key that it may not read for lost only in 1.8."""
    with ConsulStandIn(version=version) as consul:
        send(consul, 'PUT', f'kv/{KEY}')
        host, port = consul.address
        client = Transport(Endpoint(host=host, port=port))
        with contextlib.closing(client), consul.hide('jobs/'):
            answer = client.request('GET', f'/v1/kv/{KEY}', [('recurse', '')])
        engine = ConsulEngine(Endpoint(host=host, port=port), 'session', KEY, 15)
        assert engine._holder(answer, None) == (
            GONE if version == '1.8' else UNKNOWN)
