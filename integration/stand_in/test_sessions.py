"""Sessions of the stand-in and of a real agent are alike."""

import pytest

from integration.stand_in.servers import (
    BAD_ID,
    LATE,
    TTL,
    UNKNOWN,
    Server,
    timed,
    told,
)


@timed
def test_session_lives_twice_its_ttl(server: Server) -> None:
    """A session ends at twice its TTL, and a renewal starts it anew."""
    session = server.session(TTL=f'{TTL:g}s')
    server.elapse(1.5 * TTL)
    assert server.is_alive(session)
    assert server.api.put(f'session/renew/{session}').status_code == 200
    server.elapse(2 * TTL - LATE)
    assert server.is_alive(session)
    server.elapse(2 * LATE)
    assert not server.is_alive(session)


def test_session_without_ttl(server: Server) -> None:
    """A session without a TTL does not end by itself."""
    session = server.session(TTL='')
    server.elapse(2 * TTL + LATE)
    assert server.is_alive(session)


def test_session_fields(server: Server) -> None:
    """A session is shown as it was created, also in the answer to a renewal."""
    session = server.session(Name='n', TTL='1m30s', LockDelay='2500ms')
    shown = server.api.get(f'session/info/{session}').json()
    assert server.api.put(f'session/renew/{session}').json() == shown
    assert shown[0].pop('CreateIndex') == shown[0].pop('ModifyIndex') > 1
    assert shown[0].pop('Node') == (
        server.api.get('agent/self').json()['Config']['NodeName'])
    assert shown == [{
        'ID': session, 'Name': 'n', 'TTL': '1m30s', 'Behavior': 'release',
        'LockDelay': 2500000000, 'NodeChecks': [], 'ServiceChecks': None}]


def test_session_defaults(server: Server) -> None:
    """A session has a lock-delay of 15 s and the node's check by default."""
    session = server.api.create_session()
    shown = server.api.get(f'session/info/{session}').json()[0]
    assert (shown['TTL'], shown['LockDelay'], shown['NodeChecks']) == (
        '', 15000000000, ['serfHealth'])


@pytest.mark.parametrize(('given', 'shown'), [
    (5, 5e9), (999, 999e9), (1000, 1000), ('1m', 6e10), ('0s', 0)])
def test_lock_delay(server: Server, given: object, shown: float) -> None:
    """A lock-delay is a duration, or few seconds, or many nanoseconds."""
    session = server.session(LockDelay=given)
    info = server.api.get(f'session/info/{session}').json()[0]
    assert info['LockDelay'] == shown


@pytest.mark.parametrize(('fields', 'status', 'text'), [
    ({'TTL': '500ms'}, 500, "Invalid Session TTL '500000000', must be between "
     '[1s=24h0m0s]'),
    ({'TTL': '90000s'}, 500, "Invalid Session TTL '90000000000000', must be "
     'between [1s=24h0m0s]'),
    ({'TTL': 'abc'}, 500,
     'Session TTL \'abc\' invalid: time: invalid duration "abc"'),
    ({'TTL': '15'}, 500,
     'Session TTL \'15\' invalid: time: missing unit in duration "15"'),
    ({'LockDelay': 'xx'}, 400,
     'Request decode failed: time: invalid duration "xx"'),
    ({'Behavior': 'xx'}, 500, "Invalid Behavior setting 'xx'"),
    ({'Node': 'nope'}, 500, 'Missing node registration'),
    ({'Checks': ['nope']}, 500, "Missing check 'nope' registration"),
    ({'NodeChecks': ['nope']}, 500, "Missing check 'nope' registration"),
])
def test_session_that_is_refused(server: Server, fields: dict[str, object],
                                 status: int, text: str) -> None:
    """A session with a wrong value is refused with the same words."""
    assert told(server.api.put('session/create', fields)) == (status, text)


def test_unknown_session(server: Server) -> None:
    """An unknown session cannot be renewed, and can be destroyed."""
    api = server.api
    assert told(api.put(f'session/renew/{UNKNOWN}')) == (
        404, f"Session id '{UNKNOWN}' not found")
    assert told(api.put(f'session/destroy/{UNKNOWN}')) == (200, 'true')
    assert told(api.get(f'session/info/{UNKNOWN}')) == (200, '[]')
    for call in (api.put('session/renew/xx'), api.put('session/destroy/xx'),
                 api.get('session/info/xx')):
        assert told(call) == (500, BAD_ID)
    for call in (api.put('session/renew/'), api.put('session/destroy/')):
        assert told(call) == (400, 'Missing session')


def test_destroyed_session(server: Server) -> None:
    """A destroyed session is gone, and can be destroyed again."""
    session = server.session()
    assert session in [each['ID'] for each in server.api.sessions()]
    for _ in range(2):
        assert told(server.api.put(f'session/destroy/{session}')) == (
            200, 'true')
    assert not server.is_alive(session)
    assert session not in [each['ID'] for each in server.api.sessions()]


def test_list_of_sessions(server: Server) -> None:
    """All sessions are listed with their names and their node."""
    node = server.api.get('agent/self').json()['Config']['NodeName']
    named = {server.session(Name=name): name for name in ('', 'host/job', 'é')}
    answer = server.api.get('session/list')
    assert {each['ID']: each['Name'] for each in answer.json()
            if each['ID'] in named} == named
    assert {each['Node'] for each in answer.json()} == {node}
    of_node = server.api.get(f'session/node/{node}')
    assert of_node.json() == answer.json()
    assert of_node.headers['X-Consul-Index'] == (
        answer.headers['X-Consul-Index'])
    assert told(server.api.get('session/node/nope')) == (200, '[]')
    assert told(server.api.get('session/node/')) == (400, 'Missing node name')
