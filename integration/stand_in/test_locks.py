"""Keys of the stand-in and of a real agent are alike, held or not."""

import pytest

from integration.stand_in.servers import (
    BAD_ID,
    DELAY,
    LATE,
    TTL,
    UNKNOWN,
    Server,
    errors,
    result,
    timed,
    told,
)


def test_plain_key(server: Server, key: str) -> None:
    """A key is written, read in every way, and deleted."""
    api = server.api
    assert told(api.get(f'kv/{key}')) == (404, '')
    assert told(api.put(f'kv/{key}', 'v', flags=3)) == (200, 'true')
    for params in ({}, {'consistent': ''}, {'stale': ''}):
        entry = api.get(f'kv/{key}', **params).json()[0]
        index = entry.pop('CreateIndex')
        assert entry.pop('ModifyIndex') == index == server.index(key)
        assert entry == {'LockIndex': 0, 'Key': key, 'Flags': 3,
                         'Value': 'dg=='}
    assert told(api.get(f'kv/{key}', raw='')) == (200, 'v')
    for _ in range(2):
        assert told(api.delete(f'kv/{key}')) == (200, 'true')
    assert told(api.get(f'kv/{key}', consistent='')) == (404, '')


def test_empty_value(server: Server, key: str) -> None:
    """An empty value is shown as null."""
    server.api.put(f'kv/{key}', '')
    assert server.api.get(f'kv/{key}').json()[0]['Value'] is None


def test_same_value(server: Server, key: str) -> None:
    """Writing what is there already changes no index."""
    server.api.put(f'kv/{key}', 'v')
    index = server.index(key)
    server.api.put(f'kv/{key}', 'v')
    assert server.index(key) == index


def test_acquire_and_release(server: Server, key: str) -> None:
    """A key is held by one session, which alone can release it."""
    first, second = server.session(), server.session()
    api = server.api
    assert told(api.put(f'kv/{key}', '1', acquire=first)) == (200, 'true')
    assert told(api.put(f'kv/{key}', '1', acquire=first)) == (200, 'true')
    assert told(api.put(f'kv/{key}', '2', acquire=second)) == (200, 'false')
    assert told(api.put(f'kv/{key}', '2', release=second)) == (200, 'false')
    entry = api.kv(key)
    assert entry and entry['Session'] == first and entry['Value'] == b'1'
    assert told(api.put(f'kv/{key}', '3', release=first)) == (200, 'true')
    assert told(api.put(f'kv/{key}', '4', release=first)) == (200, 'false')
    entry = api.kv(key)
    assert entry and 'Session' not in entry and entry['Value'] == b'3'


def test_acquire_with_wrong_session(server: Server, key: str) -> None:
    """A session that is not there cannot acquire."""
    api = server.api
    assert told(api.put(f'kv/{key}', '', acquire=UNKNOWN)) == (
        500, f'invalid session "{UNKNOWN}"')
    assert told(api.put(f'kv/{key}', '', acquire='xx')) == (500, BAD_ID)
    assert told(api.put(f'kv/{key}', '', acquire='')) == (
        500, 'missing session')
    assert told(api.put(f'kv/{key}', '', acquire='a', release='b')) == (
        400, 'Conflicting flags: acquire=a&release=b')
    assert told(api.put(f'kv/{key}', '', release=UNKNOWN)) == (200, 'false')


def test_release_has_no_delay(server: Server, key: str) -> None:
    """A released key is free at once, also when its session then ends."""
    first, second = server.session(), server.session()
    assert server.lock(key, first)
    assert server.txn('unlock', key, first).ok
    server.api.destroy_session(first)
    assert server.lock(key, second)


@pytest.mark.parametrize('end', ['destroy', 'expiry'])
@timed
def test_delay(server: Server, key: str, end: str) -> None:
    """The lock-delay keeps others from a key whose session ended."""
    first = server.session(TTL=f'{TTL:g}s' if end == 'expiry' else '10s')
    second = server.session()
    assert server.lock(key, first, 'v')
    if end == 'expiry':
        server.elapse(2 * TTL + LATE / 3)
    else:
        server.api.destroy_session(first)
    entry = server.api.kv(key)
    assert entry and 'Session' not in entry and entry['Value'] == b'v'
    assert entry['LockIndex'] == 1
    server.elapse(DELAY - LATE)
    assert errors(server.txn('lock', key, second)) == [
        (0, f'failed to lock key "{key}" due to lock delay')]
    assert told(server.api.put(f'kv/{key}', acquire=second)) == (200, 'false')
    # The delay is looked at before the session.
    assert told(server.api.put(f'kv/{key}', acquire=UNKNOWN)) == (200, 'false')
    server.elapse(2 * LATE)
    assert result(server.txn('lock', key, second))['LockIndex'] == 2


def test_no_delay(server: Server, key: str) -> None:
    """A session with no lock-delay leaves its key free."""
    session = server.session(LockDelay='0s')
    assert server.lock(key, session)
    server.api.destroy_session(session)
    assert server.lock(key, server.session())


def test_key_deleted_with_its_session(server: Server, key: str) -> None:
    """A session can take its keys with it, and the lock-delay stays."""
    session = server.session(Behavior='delete', LockDelay='15s')
    assert server.lock(key, session)
    server.api.destroy_session(session)
    assert server.api.kv(key) is None
    assert not server.lock(key, server.session())


def test_delete_in_delay(server: Server, key: str) -> None:
    """Deleting a key does not end its lock-delay."""
    session = server.session(LockDelay='15s')
    assert server.lock(key, session)
    server.api.destroy_session(session)
    server.api.delete(f'kv/{key}')
    assert not server.lock(key, server.session())


def test_delete_of_held_key(server: Server, key: str) -> None:
    """A held key can be deleted, and is free at once, counted from one."""
    first, second = server.session(), server.session()
    before = result(server.txn('lock', key, first))
    server.api.delete(f'kv/{key}')
    after = result(server.txn('lock', key, second))
    assert after['LockIndex'] == 1
    assert after['ModifyIndex'] > before['ModifyIndex']
    # The session that lost it has no part in it any more.
    server.api.destroy_session(first)
    entry = server.api.kv(key)
    assert entry and entry['Session'] == second


def test_lock_index(server: Server, key: str) -> None:
    """LockIndex counts acquisitions, and a plain write sets it to 0."""
    session = server.session()
    for count in (1, 2, 3):
        assert result(server.txn('lock', key, session))['LockIndex'] == count
        again = server.txn('lock', key, session, 'other')
        assert result(again)['LockIndex'] == count
        assert result(server.txn('unlock', key, session))['LockIndex'] == count
    server.txn('lock', key, session)
    server.api.put(f'kv/{key}', 'plain')
    entry = server.api.kv(key)
    assert entry and (entry['LockIndex'], entry['Session']) == (0, session)
    assert not server.lock(key, server.session())
