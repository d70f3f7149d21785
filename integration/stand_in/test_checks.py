"""Health checks of the stand-in and of a real agent are alike."""

import time
from collections.abc import Iterator

import pytest

from integration.stand_in.servers import LATE, Server, told


def test_agent(server: Server) -> None:
    """The agent names its node, its datacenter and the leader."""
    about = server.api.get('agent/self').json()
    assert about['Config']['Datacenter'] == 'dc1'
    assert about['Config']['NodeName'] == about['Member']['Name']
    assert ':' in server.api.get('status/leader').json()


@pytest.fixture
def check(server: Server) -> Iterator[str]:
    """The id of a check that passes for a second at a time."""
    name = f'check-{time.monotonic_ns()}'
    assert told(server.api.put('agent/check/register', {
        'ID': name, 'name': 'a check', 'TTL': '1s'})) == (200, '')
    yield name
    assert told(server.api.put(f'agent/check/deregister/{name}')) == (200, '')


def passes(server: Server, check: str) -> None:
    """Let *check* pass, and wait until the servers know it."""
    server.until(lambda: server.api.put(f'agent/check/pass/{check}').ok
                 and server.api.put('session/create', {'Checks': [check]}).ok)
    server.api.put(f'agent/check/pass/{check}')


def test_check_that_did_not_pass(server: Server, check: str) -> None:
    """A check that never passed is critical and takes no session."""
    server.until(lambda: told(server.api.put(
        'session/create', {'NodeChecks': [check]})) == (
            500, f"Check '{check}' is in critical state"))
    shown = server.api.get('agent/checks').json()[check]
    assert (shown['Status'], shown['Name']) == ('critical', 'a check')


def test_check_that_expires(server: Server, key: str, check: str) -> None:
    """A session ends when its check was not passed for the check's TTL."""
    passes(server, check)
    session = server.api.create_session(
        TTL='10s', LockDelay='1s', NodeChecks=['serfHealth', check])
    assert server.lock(key, session)
    server.elapse(0.4)
    server.api.put(f'agent/check/pass/{check}')
    server.elapse(1 - LATE)
    assert server.is_alive(session)
    server.elapse(LATE)
    server.until(lambda: not server.is_alive(session))
    assert not server.lock(key, server.session())
    assert server.api.get('agent/checks').json()[check]['Status'] == 'critical'


@pytest.mark.parametrize('how', ['fail', 'deregister'])
def test_check_that_ends(server: Server, check: str, how: str) -> None:
    """A session ends when its check fails or is removed."""
    passes(server, check)
    session = server.session(Checks=['serfHealth', check])
    server.api.put(f'agent/check/{how}/{check}')
    server.until(lambda: told(server.api.put(f'session/renew/{session}')) == (
        404, f"Session id '{session}' not found"))


@pytest.mark.parametrize(('fields', 'expected'), [
    ({}, ['serfHealth']),
    ({'Checks': []}, []),
    ({'Checks': None}, []),
    ({'NodeChecks': []}, []),
    ({'Checks': [], 'NodeChecks': ['serfHealth']}, []),
    ({'nodechecks': ['serfHealth']}, ['serfHealth']),
])
def test_checks_of_session(server: Server, fields: dict[str, object],
                           expected: list[str]) -> None:
    """The checks have two names, of which the old one wins when empty."""
    session = server.api.create_session(**fields)
    info = server.api.get(f'session/info/{session}').json()[0]
    assert info['NodeChecks'] == expected


def test_check_that_is_refused(server: Server) -> None:
    """A check with a wrong field, or that is not there, is refused."""
    api = server.api
    for fields, text in [
        ({'ID': 'c', 'TTL': '1s'}, 'Missing check name'),
        ({'Name': 'c'}, 'Invalid check: TTL must be > 0 for TTL checks'),
        ({'Name': 'c', 'TTL': 'x'},
         'Request decode failed: time: invalid duration "x"'),
        ({'Name': 'c', 'TTL': '1s', 'Status': 'x'}, 'Bad check status'),
        ({'CheckID': 'c', 'Name': 'c', 'TTL': '1s'},
         'Request decode failed: json: unknown field "CheckID"'),
    ]:
        assert told(api.put('agent/check/register', fields)) == (400, text)
    for verb in ('pass', 'warn', 'fail'):
        assert told(api.put(f'agent/check/{verb}/nope')) == (
            500, 'CheckID "nope" does not have associated TTL')
    assert told(api.put('agent/check/deregister/nope')) == (200, '')
