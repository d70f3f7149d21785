"""Health checks of the stand-in and of a real agent are alike."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from integration.stand_in.servers import LATE, Server, timed, told


def test_agent(server: Server) -> None:
    """The agent names its node, its datacenter and the leader."""
    about = server.api.get('agent/self').json()
    assert about['Config']['Datacenter'] == 'dc1'
    assert about['Config']['NodeName'] == about['Member']['Name']
    assert ':' in server.api.get('status/leader').json()


@contextmanager
def registered(server: Server, ttl: str) -> Iterator[str]:
    """Register a check; yields its id."""
    name = f'check-{time.monotonic_ns()}'
    assert told(server.api.put('agent/check/register', {
        'ID': name, 'name': 'a check', 'TTL': ttl})) == (200, '')
    yield name
    assert told(server.api.put(f'agent/check/deregister/{name}')) == (200, '')


@pytest.fixture
def check(server: Server) -> Iterator[str]:
    """The id of a check that does not expire while it is looked at."""
    with registered(server, '60s') as name:
        yield name


@pytest.fixture
def brief_check(server: Server) -> Iterator[str]:
    """The id of a check that passes for a second at a time."""
    with registered(server, '1s') as name:
        yield name


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


@timed
def test_check_that_expires(server: Server, key: str, brief_check: str) -> None:
    """A session ends when its check was not passed for the check's TTL."""
    passes(server, brief_check)
    session = server.api.create_session(
        TTL='10s', LockDelay='15s', NodeChecks=['serfHealth', brief_check])
    assert server.lock(key, session)
    server.elapse(0.4)
    server.api.put(f'agent/check/pass/{brief_check}')
    server.elapse(1 - LATE)
    assert server.is_alive(session)
    server.elapse(LATE)
    server.until(lambda: not server.is_alive(session))
    assert not server.lock(key, server.session())
    shown = server.api.get('agent/checks').json()[brief_check]
    assert shown['Status'] == 'critical'


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


def state(server: Server, check: str) -> tuple[str, str]:
    """Return status and text of *check*."""
    shown = server.api.get('agent/checks').json()[check]
    return shown['Status'], shown['Output']


def test_text_of_check(server: Server, check: str) -> None:
    """A check shows the text that came with its status, and its notes."""
    api = server.api
    assert state(server, check) == ('critical', '')
    for verb, status in (('pass', 'passing'), ('warn', 'warning'),
                         ('fail', 'critical')):
        assert api.put(f'agent/check/{verb}/{check}', note='é b').ok
        assert state(server, check) == (status, 'é b')
        assert api.put(f'agent/check/{verb}/{check}').ok
        assert state(server, check) == (status, '')
    api.put(f'agent/check/pass/{check}', note='kept')
    api.put('agent/check/register', {'ID': check, 'Name': 'n', 'TTL': '60s',
                                     'Notes': 'some notes'})
    shown = api.get('agent/checks').json()[check]
    assert shown['Notes'] == 'some notes'
    assert (shown['Status'], shown['Output']) == ('passing', 'kept')


def test_update_of_check(server: Server, check: str) -> None:
    """Status and text are set in one go."""
    path = f'agent/check/update/{check}'
    for status in ('passing', 'warning', 'critical', 'passing'):
        assert told(server.api.put(
            path, {'Status': status, 'Output': f'is {status}'})) == (200, '')
        assert state(server, check) == (status, f'is {status}')
    assert server.api.put(path, {'status': 'warning', 'output': None}).ok
    assert state(server, check) == ('warning', '')
    server.api.put(path, {'Status': 'passing', 'Output': 'x' * 4096})
    assert state(server, check) == ('passing', 'x' * 4096)
    text = 'x' * 4095 + 'é'
    cut = 'x' * 4095 + '\ufffd ... (captured 4096 of 4097 bytes)'
    server.api.put(path, {'Status': 'warning', 'Output': text})
    assert state(server, check) == ('warning', cut)
    server.api.put(f'agent/check/pass/{check}', note=text)
    assert state(server, check) == ('passing', cut)


def test_update_that_is_refused(server: Server, check: str) -> None:
    """An update with a wrong field, or of no check, changes nothing."""
    api, path = server.api, f'agent/check/update/{check}'
    for fields, text in [
        ({'Status': 'nope', 'Output': 'x'}, "Invalid check status: 'nope'"),
        ({'Output': 'x'}, "Invalid check status: ''"),
        ({'Status': 'passing', 'Extra': 1},
         'Request decode failed: json: unknown field "Extra"'),
    ]:
        assert told(api.put(path, fields)) == (400, text)
    assert told(api.put(path)) == (400, 'Request decode failed: EOF')
    assert api.put(path, {'Status': 'passing', 'Output': 5}).status_code == 400
    assert api.put(path, []).status_code == 400
    assert told(api.put('agent/check/update/nope', {'Status': 'x'})) == (
        400, "Invalid check status: 'x'")
    assert told(api.put('agent/check/update/nope', {'Status': 'passing'})) == (
        500, 'CheckID "nope" does not have associated TTL')
    assert told(api.get(path)) == (405, 'method GET not allowed')
    assert state(server, check) == ('critical', '')


@pytest.mark.parametrize(('note', 'shown'), [
    ('', 'TTL expired'),
    ('mine', 'TTL expired (last output before timeout follows): mine'),
])
def test_text_of_check_that_expires(server: Server, brief_check: str, note: str,
                                    shown: str) -> None:
    """A check that was not passed in time shows its last text, too."""
    server.api.put(f'agent/check/pass/{brief_check}', note=note)
    server.until(lambda: state(server, brief_check) == ('critical', shown))


def test_cost_of_text(server: Server, check: str) -> None:
    """A new text alone writes nothing; a new status does."""
    path = f'agent/check/update/{check}'
    passes(server, check)
    assert server.cost(lambda: server.api.put(
        path, {'Status': 'passing', 'Output': str(time.monotonic())})) == 0
