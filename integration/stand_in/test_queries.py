"""Indexes and blocking queries of the two are alike."""

from integration.agents import Api
from integration.stand_in.servers import LATE, UNKNOWN, Server, timed, told


def test_raft_entries(server: Server, key: str) -> None:
    """The same requests write to the Raft log."""
    api, other = server.api, server.session()
    session = server.session(LockDelay='15s')
    server.lock(key, session)
    assert server.cost(lambda: api.put(f'session/renew/{session}')) == 0
    assert server.cost(lambda: api.get(f'kv/{key}', consistent='')) == 0
    assert server.cost(lambda: server.txn('get', key)) == 0
    assert server.cost(lambda: server.txn('foo', key)) == 0
    assert server.cost(lambda: api.put('session/create', {'TTL': '1ms'})) == 0
    assert server.cost(server.session) == 1
    assert server.cost(lambda: server.txn('lock', key, other)) == 1
    assert server.cost(lambda: api.put(f'kv/{key}', acquire=other)) == 1
    assert server.cost(lambda: server.txn('unlock', key, other)) == 1
    assert server.cost(lambda: server.txn('set', key)) == 1
    assert server.cost(lambda: api.delete(f'kv/{key}/missing')) == 1
    assert server.cost(lambda: api.put(f'session/destroy/{UNKNOWN}')) == 1
    assert server.cost(lambda: api.put('session/create', {'Node': 'x'})) == 1
    server.lock(key, session)
    api.destroy_session(session)
    assert server.cost(lambda: server.txn('lock', key, other)) == 0
    assert server.cost(lambda: api.put(f'kv/{key}', acquire=other)) == 0


@timed
def test_blocking_query_waits(server: Server, key: str) -> None:
    """A blocking query on a key without a change waits in full."""
    server.api.put(f'kv/{key}', 'v')
    index = server.index(key)
    other = Api(server.url)
    for given, disturb in [
        (index, None),
        (index, lambda: other.put(f'kv/{key}', 'v')),
        (index, lambda: other.put(f'kv/{key}/other', 'v')),
        (index, lambda: other.create_session()),
        (index + 1000, lambda: other.put(f'kv/{key}/other', 'w')),
    ]:
        took, new = server.blocked(key, given, disturb)
        assert 0.95 < took < 1 + 1 / 16 + LATE
        assert new == index


@timed
def test_blocking_query_wakes(server: Server, key: str) -> None:
    """A blocking query ends with each change of the key."""
    session = server.session()
    other = Api(server.url)
    for disturb in [
        lambda: other.put(f'kv/{key}', 'v'),
        lambda: other.put(f'kv/{key}', '', acquire=session),
        lambda: other.put(f'kv/{key}', '', release=session),
        lambda: other.put(f'kv/{key}', '', acquire=session),
        lambda: other.destroy_session(session),
        lambda: other.delete(f'kv/{key}'),
    ]:
        index = server.index(key)
        took, new = server.blocked(key, index, disturb)
        assert LATE / 2 < took < 0.9
        assert new > index


@timed
def test_query_that_does_not_block(server: Server, key: str) -> None:
    """No index, 0 and one of the past are answered at once."""
    server.api.put(f'kv/{key}', 'v')
    for index in (0, server.index(key) - 1):
        took, _ = server.blocked(key, index)
        assert took < LATE


@timed
def test_blocking_query_on_missing_key(server: Server, key: str) -> None:
    """A missing key has the index of the whole store, and wakes with it."""
    server.api.put(f'kv/{key}/other', 'v')
    other = Api(server.url)
    index = server.index(key)
    assert index == server.index(f'{key}/other')
    took, new = server.blocked(key, index, server.session)
    assert took > 0.95 and new == index
    took, new = server.blocked(
        key, index, lambda: other.put(f'kv/{key}/other', 'w'))
    assert took < 0.9 and new > index


def test_queries_that_are_refused(server: Server, key: str) -> None:
    """Wrong parameters, methods and paths are refused with the same words."""
    api = server.api
    for index in ('x', '-1'):
        assert told(api.get(f'kv/{key}', index=index)) == (400, 'Invalid index')
    assert told(api.get(f'kv/{key}', index=1, wait='x')) == (
        400, 'Invalid wait time')
    assert told(api.get('kv/')) == (400, 'Missing key name')
    assert told(api.put('kv/', 'v')) == (400, 'Missing key name')
    assert told(api.get(f'kv/{key}', consistent='', stale='')) == (
        400, 'Cannot specify ?stale with ?consistent, conflicting semantics.')
    for answer in (api.get(f'kv/{key}', dc='no'), api.put('txn', [], dc='no'),
                   api.put('session/create', {}, dc='no')):
        assert told(answer) == (500, 'No path to datacenter')
    assert told(api.get(f'kv/{key}', ns='x')) == (
        400, 'Bad request: Invalid query parameter: "ns" - Namespaces are a '
        'Consul Enterprise feature')
    for path in ('session/create', f'session/renew/{UNKNOWN}', 'txn'):
        assert told(api.get(path)) == (405, 'method GET not allowed')
    assert told(api.get('nonsense')) == (404, '')
    assert told(api.put(f'kv/{key}', b'x' * 524289))[0] == 413


def test_index_header(server: Server, key: str) -> None:
    """What can be waited on has an index, and what went wrong has none."""
    api = server.api
    for answer in (api.get(f'kv/{key}'), api.get('session/list')):
        assert int(answer.headers['X-Consul-Index']) > 0
    for answer in (api.put(f'kv/{key}', ''), api.get('nonsense'),
                   server.txn('lock', key, 'xx'),
                   api.put(f'session/renew/{UNKNOWN}')):
        assert 'X-Consul-Index' not in answer.headers


def test_keys_are_listed(server: Server, key: str) -> None:
    """The keys below a prefix are listed alike, folders as one of them."""
    for name in ('a', 'b/c', 'b/d', 'e'):
        server.api.put(f'kv/{key}/{name}', 'v')
    for prefix, separator, found in [
        (f'{key}/', '', ['a', 'b/c', 'b/d', 'e']),
        (f'{key}/', '/', ['a', 'b/', 'e']),
        (f'{key}/b', '', ['b/c', 'b/d']),
        (f'{key}/b', '/', ['b/']),
        (f'{key}/b/', '/', ['b/c', 'b/d']),
    ]:
        given = {'separator': separator} if separator else {}
        answer = server.api.get(f'kv/{prefix}', keys='', **given)
        assert answer.json() == [f'{key}/{name}' for name in found]
    assert server.api.get(f'kv/{key}/x', keys='').status_code == 404
