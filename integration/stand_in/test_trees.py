"""Reads of all keys with a prefix are alike in the two."""

from collections.abc import Callable

from integration.agents import Api
from integration.stand_in.servers import LATE, Server, operation, timed, told


def tree_index(server: Server, prefix: str) -> int:
    """Return the index that a blocking query on *prefix* waits on."""
    return server.index(prefix, recurse='', consistent='')


def names(server: Server, prefix: str) -> list[str]:
    """Return the keys that start with *prefix*."""
    return [each['Key'] for each in
            server.api.get(f'kv/{prefix}', recurse='').json()]


def test_tree(server: Server, key: str) -> None:
    """The keys with a prefix come in the order of their bytes."""
    api, session = server.api, server.session()
    api.put(f'kv/another/{key}', 'v')
    for name in ('/b', '/a/c', '/é', '/a', '', '/B', 'x'):
        # Not by its own path, which takes no such letter in some versions.
        assert server.txn('set', f'{key}{name}', value='v').ok
    api.put(f'kv/{key}/a', 'w', acquire=session, flags=3)
    assert names(server, f'{key}/') == [
        f'{key}/{name}' for name in ('B', 'a', 'a/c', 'b', 'é')]
    assert names(server, key)[0] == key
    assert names(server, key)[-1] == f'{key}x'
    assert set(names(server, key)) < set(names(server, ''))
    for params in ({'consistent': ''}, {'stale': ''}, {'raw': ''}):
        found = api.get(f'kv/{key}/', recurse='', **params).json()
        assert found[1] == api.get(f'kv/{key}/a').json()[0]
        assert found[1]['Session'] == session
    assert names(server, f'{key}/B') == [f'{key}/B']
    # A parameter without a meaning for writes.
    assert told(api.put(f'kv/{key}/B', 'w', recurse='')) == (200, 'true')


def test_no_tree(server: Server, key: str) -> None:
    """A prefix that never had a key has the index of the whole store."""
    api = server.api
    api.put(f'kv/{key}/other', 'v')
    answer = api.get(f'kv/{key}/tree/', recurse='')
    assert told(answer) == (404, '')
    assert int(answer.headers['X-Consul-Index']) == (
        server.index(f'{key}/other')) == tree_index(server, '')
    api.delete(f'kv/{key}/other')
    index = tree_index(server, f'{key}/tree/')
    assert index == tree_index(server, f'{key}/') == tree_index(server, '')
    # What was not there leaves no trace.
    api.delete(f'kv/{key}/tree/a')
    assert tree_index(server, f'{key}/tree/') == index


def test_index_of_tree(server: Server, key: str) -> None:
    """The index is that of the last change under the prefix."""
    api, prefix = server.api, f'{key}/tree/'
    api.put(f'kv/{prefix}a', 'v')
    api.put(f'kv/{prefix}b', 'v')
    assert tree_index(server, prefix) == server.index(f'{prefix}b')
    api.put(f'kv/{prefix}a', 'w')
    index = server.index(f'{prefix}a')
    api.put(f'kv/{key}/other', 'v')
    assert tree_index(server, prefix) == index


def test_index_of_deleted(server: Server, key: str) -> None:
    """The deletion of a key counts, also when nothing is left."""
    api, prefix = server.api, f'{key}/tree/'
    session = server.session(Behavior='delete', LockDelay='0s')
    api.put(f'kv/{prefix}a', 'v', acquire=session)
    api.put(f'kv/{prefix}b', 'v')
    seen = [tree_index(server, prefix)]
    api.destroy_session(session)
    seen += [tree_index(server, prefix)]
    api.delete(f'kv/{prefix}b')
    seen += [tree_index(server, prefix)]
    assert seen == sorted(set(seen))
    api.put(f'kv/{key}/other', 'v')
    assert tree_index(server, prefix) == seen[-1]
    assert server.index(f'{prefix}b') > seen[-1]
    api.put(f'kv/{prefix}a', 'v')
    assert tree_index(server, prefix) == server.index(f'{prefix}a') > seen[-1]


def waits(server: Server, prefix: str,
          disturb: Callable[[], object] | None = None) -> bool:
    """Return whether a query on *prefix* waits in full, unchanged."""
    index = tree_index(server, prefix)
    took, new = server.blocked(prefix, index, disturb, recurse='')
    assert took < 1 + 1 / 16 + LATE
    assert took > 0.95 or new > index
    return took > 0.95 and new == index


@timed
def test_query_on_tree_wakes(server: Server, key: str) -> None:
    """A query on a prefix ends with each change under it."""
    other, prefix = Api(server.url), f'{key}/tree/'
    session = server.session(LockDelay='0s')
    for disturb in [
        lambda: other.put(f'kv/{prefix}a', 'v'),
        lambda: other.put(f'kv/{prefix}b', 'v'),
        lambda: other.put(f'kv/{prefix}a', 'v', acquire=session),
        lambda: other.destroy_session(session),
        lambda: other.put('txn', [operation('set', f'{prefix}a', value='w'),
                                  operation('set', f'{prefix}b')]),
        lambda: other.delete(f'kv/{prefix}b'),
        lambda: other.delete(f'kv/{prefix}a'),
        lambda: other.put(f'kv/{prefix}a', 'v'),
    ]:
        assert not waits(server, prefix, disturb)


@timed
def test_query_on_tree_waits(server: Server, key: str) -> None:
    """A query on a prefix does not end with changes elsewhere."""
    other, prefix = Api(server.url), f'{key}/tree/'
    server.api.put(f'kv/{prefix}a', 'v')
    server.api.put(f'kv/{key}/other', 'v')
    assert waits(server, prefix)
    for disturb in [
        lambda: other.put(f'kv/{key}/other', 'w'),
        lambda: other.put(f'kv/{prefix}a', 'v'),
        lambda: other.put(f'kv/{prefix}a', 'w', cas=1),
        lambda: other.delete(f'kv/{prefix}missing'),
        lambda: other.put('txn', [operation('set', f'{prefix}a', value='w'),
                                  operation('get', f'{prefix}missing')]),
    ]:
        assert waits(server, prefix, disturb)
    # The same with nothing left.
    server.api.delete(f'kv/{prefix}a')
    assert waits(server, prefix, lambda: other.put(f'kv/{key}/other', 'x'))


@timed
def test_query_on_no_tree(server: Server, key: str) -> None:
    """A prefix that never had a key wakes for keys beside it."""
    other, prefix = Api(server.url), f'{key}/tree/'
    server.api.put(f'kv/{key}/other', 'v')
    assert waits(server, prefix, lambda: other.create_session())
    assert waits(server, prefix, lambda: other.put(f'kv/{key}/other', 'v'))
    assert not waits(server, prefix, lambda: other.put(f'kv/{key}/other', 'w'))
    assert not waits(server, prefix, lambda: other.put(f'kv/{prefix}a', 'v'))
