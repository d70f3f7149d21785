"""A lock in another datacenter than the agent's own."""

import pathlib
from collections.abc import Iterator

import pytest

from integration.agents import HOST, Agent, Ports, wait_until
from integration.locks import lock_on
from jobslib.consul.client import PermissionDeniedError
from jobslib.exceptions import LockUnavailableError
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.diagnosis import DENIED, OK

MANAGEMENT = '11111111-2222-3333-4444-555555555555'

#: What a lock in another datacenter needs: the usual, for the first of its
#: servers by name, and to be allowed to look that server up.
LEAST_POLICY = '''
session "server-2" { policy = "write" }
key_prefix "jobs/" { policy = "write" }
service "consul" { policy = "read" }
node "server-2" { policy = "read" }
'''


def joined(binary: pathlib.Path, ports: list[Ports], number: int,
           **config: object) -> Agent:
    """A server of datacenter dc1 or dc2, which are joined."""
    return Agent(
        binary=binary, ports=ports[number], name=f'server-{number + 1}', wait=False,
        config={'datacenter': f'dc{number + 1}', 'disable_coordinates': True,
                'retry_join_wan': [f'{HOST}:{each.serf_wan}' for each in ports],
                'retry_interval_wan': '1s', **config})


@pytest.fixture(scope='module')
def near(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server of datacenter dc1, joined with one of dc2."""
    ports = Ports.free(2)
    with joined(consul_bin, ports, 0) as near, joined(consul_bin, ports, 1) as far:
        near.wait_ready()
        far.wait_ready()
        wait_until(lambda: near.api.get('kv/any', dc='dc2').status_code == 404, 60,
                   'the datacenters joined')
        yield near


def test_lock_in_another_datacenter(near: Agent) -> None:
    """Naming the datacenter is enough: a session is made on a server of it."""
    key = 'far/lock'
    with (lock_on(near.http_addr, key, dc='dc2') as lock,
          lock_on(near.http_addr, key, dc='dc2') as other,
          lock_on(near.http_addr, key) as here):
        assert lock.acquire() and lock.refresh() and not other.acquire()
        assert near.api.get(f'kv/{key}', dc='dc2').json()[0]['Session']
        [session] = [each for each in near.api.get('session/list', dc='dc2').json()
                     if lock.lease and each['ID'] == lock.lease.session]
        assert session['Node'] == 'server-2'
        assert here.acquire()
        assert lock.release() and other.acquire()


def test_own_datacenter_named(near: Agent) -> None:
    """The agent's own datacenter can be named as well."""
    with lock_on(near.http_addr, 'own/lock', dc='dc1') as lock:
        assert lock.acquire() and lock.release()


def test_unknown_datacenter(near: Agent) -> None:
    """A datacenter that there is not is named in the error."""
    with lock_on(near.http_addr, 'no/lock', dc='dc3', retry_max_attempts=1) as lock:
        with pytest.raises(LockUnavailableError, match='[Nn]o path to datacenter'):
            lock.acquire()


@pytest.mark.parametrize(('dc', 'looks_up'), [('dc1', False), ('dc2', True)])
def test_check(near: Agent, dc: str, looks_up: bool) -> None:
    """What the lock needs in a datacenter is tried there, and removed."""
    key = f'checked-{dc}/lock'
    with lock_on(near.http_addr, key, dc=dc) as lock:
        findings = ConsulLock.diagnose(lock.context, lock.options)
    assert {each.result for each in findings} == {OK}
    assert (f'look up a server of datacenter {dc}' in {
        each.what for each in findings}) == looks_up
    assert near.api.get(f'kv/checked-{dc}/', keys='', dc=dc).status_code == 404
    assert not [each for each in near.api.get('session/list', dc=dc).json()
                if each['Name'] == 'jobslib check']


@pytest.fixture(scope='module')
def denying(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """The same under access control that denies by default."""
    ports = Ports.free(2)
    tokens = {'agent': MANAGEMENT, 'replication': MANAGEMENT}
    acl = {'enabled': True, 'default_policy': 'deny', 'enable_token_replication': True}
    config = {'primary_datacenter': 'dc1'}
    with (joined(consul_bin, ports, 0, **config, acl={
              **acl, 'tokens': {**tokens, 'master': MANAGEMENT}}) as near,
          joined(consul_bin, ports, 1, **config, acl={**acl, 'tokens': tokens})):
        near.api.close()
        near.api = near.new_api(MANAGEMENT)
        wait_until(lambda: near.api.put('kv/any', '', dc='dc2').ok, 60,
                   'the datacenters joined')
        # A server can answer before it is in its own catalogue.
        wait_until(lambda: near.api.get('catalog/service/consul', dc='dc2').json(),
                   60, 'server-2 in the catalogue')
        yield near


@pytest.mark.parametrize('left_out', [None, 'session', 'key_prefix', 'service', 'node'])
def test_least_policy(denying: Agent, left_out: str | None) -> None:
    """It suffices, and none of it can be left out."""
    rules = [line for line in LEAST_POLICY.splitlines()
             if line.split()[:1] != [left_out]]
    token = denying.api.create_token('\n'.join(rules))
    api = denying.new_api(token)
    expected = 403 if left_out == 'key_prefix' else 404

    def is_known() -> bool:
        answer = api.get('kv/jobs/none', dc='dc2')
        return (answer.status_code == expected
                and 'ACL not found' not in answer.text)

    # Tokens and policies are copied from one datacenter to the other.
    wait_until(is_known, 60, 'token and policy known in dc2')
    api.close()
    with lock_on(denying.http_addr, 'jobs/far/lock', dc='dc2', token=token) as lock:
        denied = {each.what for each in ConsulLock.diagnose(
            lock.context, lock.options) if each.result == DENIED}
        assert bool(denied) == (left_out is not None)
        if left_out is None:
            assert lock.acquire() and lock.refresh() and lock.release()
        else:
            with pytest.raises(PermissionDeniedError):
                lock.acquire()
