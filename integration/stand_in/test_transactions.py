"""Transactions of the stand-in and of a real agent are alike."""

from typing import Any

import requests

from integration.stand_in.servers import (
    BAD_ID,
    UNKNOWN,
    Server,
    errors,
    operation,
    result,
    results,
    told,
)


def test_lock_in_transaction(server: Server, key: str) -> None:
    """A transaction takes a key and returns its index, without the value."""
    session = server.session()
    got = result(server.txn('lock', key, session, 'v'))
    assert got['ModifyIndex'] == got['CreateIndex'] == server.index(key)
    assert got == {
        'LockIndex': 1, 'Key': key, 'Flags': 0, 'Value': None,
        'Session': session, 'CreateIndex': got['CreateIndex'],
        'ModifyIndex': got['ModifyIndex']}
    # The same again, as after an answer that was lost.
    assert result(server.txn('lock', key, session, 'v')) == got
    again = result(server.txn('lock', key, session, 'w'))
    assert again['ModifyIndex'] > got['ModifyIndex']
    read = result(server.txn('get', key))
    assert read == {**again, 'Value': 'dw=='}
    freed = result(server.txn('unlock', key, session, 'x'))
    assert 'Session' not in freed and freed['Value'] is None


def test_errors_of_transaction(server: Server, key: str) -> None:
    """A transaction that fails says why in the same words."""
    first, second = server.session(), server.session()
    not_held = (f'failed to unlock key "{key}", lock isn\'t held, or is held '
                'by another session')
    assert errors(server.txn('get', key)) == [(0, f'key "{key}" doesn\'t exist')]
    assert errors(server.txn('unlock', key, first)) == [(0, not_held)]
    assert server.lock(key, first)
    assert errors(server.txn('unlock', key, second)) == [(0, not_held)]
    assert errors(server.txn('unlock', key, UNKNOWN)) == [(0, not_held)]
    assert errors(server.txn('unlock', key, 'xx')) == [(0, not_held)]
    assert errors(server.txn('lock', key, second)) == [
        (0, f'failed to lock key "{key}", lock is already held')]
    assert errors(server.txn('lock', key, UNKNOWN)) == [
        (0, f'invalid session "{UNKNOWN}"')]
    assert errors(server.txn('lock', key, 'xx')) == [(0, BAD_ID)]
    assert errors(server.txn('lock', key)) == [(0, 'missing session')]
    assert errors(server.txn('unlock', key)) == [(0, 'missing session')]
    assert errors(server.txn('foo', key)) == [(0, 'unknown KV verb "foo"')]
    assert errors(server.txn('get', '')) == [(0, 'Must provide key')]


def test_transaction_is_all_or_nothing(server: Server, key: str) -> None:
    """Of a transaction that fails nothing is done, and every error shown."""
    assert errors(server.api.put('txn', [
        {'KV': {'Verb': 'set', 'Key': key, 'Value': 'dg=='}},
        {'KV': {'Verb': 'get', 'Key': f'{key}/missing'}},
        {'KV': {'Verb': 'lock', 'Key': key, 'Session': UNKNOWN}},
    ])) == [(1, f'key "{key}/missing" doesn\'t exist'),
            (2, f'invalid session "{UNKNOWN}"')]
    assert server.api.kv(key) is None
    done = server.api.put('txn', [
        {'KV': {'Verb': 'set', 'Key': key, 'Value': 'dg=='}},
        {'KV': {'Verb': 'get', 'Key': key}},
        {'KV': {'Verb': 'delete', 'Key': key}}]).json()['Results']
    assert [each['KV']['Value'] for each in done] == [None, 'dg==']
    assert server.api.kv(key) is None
    assert told(server.api.put('txn', 'xx'))[0] == 400
    assert told(server.transact(*[operation('get', key)] * 65)) == (
        413, 'Transaction contains too many operations (65 > 64)')


def test_reads_in_transaction(server: Server, key: str) -> None:
    """A transaction finds keys with a prefix, or none, and no fault in it."""
    server.api.put(f'kv/{key}/b', '2')
    server.api.put(f'kv/{key}/a', '1')
    found = server.txn('get-tree', f'{key}/')
    assert results(found) == (
        server.api.get(f'kv/{key}/', recurse='').json())
    assert [each['Value'] for each in results(found)] == ['MQ==', 'Mg==']
    nothing = server.txn('get-tree', f'{key}/none/')
    assert nothing.json() == {
        'Results': [], 'Errors': None, 'Index': 0, 'LastContact': 0,
        'KnownLeader': True, 'ConsistencyLevel': ''}
    assert results(server.txn('check-not-exists', key)) == []
    assert errors(server.txn('get-tree', '')) == [(0, 'Must provide key')]


def test_check_of_index(server: Server, key: str) -> None:
    """A transaction can depend on the index of a key."""
    def check(index: int | None) -> requests.Response:
        return server.transact(operation('check-index', key, index=index))

    missing = [(0, f'failed to check index, key "{key}" doesn\'t exist')]
    assert errors(check(0)) == errors(check(5)) == missing
    server.api.put(f'kv/{key}', 'v')
    index = server.index(key)
    for given in (None, 0, index + 1):
        assert errors(check(given)) == [
            (0, f'failed index check for key "{key}", current modify index '
                f'{index} != {given or 0}')]
    assert result(check(index)) == {
        **result(server.txn('get', key)), 'Value': None}
    assert check(-1).status_code == 400
    assert errors(server.txn('check-not-exists', key)) == [
        (0, f'key "{key}" exists')]


def test_check_of_session(server: Server, key: str) -> None:
    """A transaction can depend on who holds a key."""
    def check(session: str | None) -> requests.Response:
        return server.txn('check-session', key, session)

    def wrong(now: str, given: str) -> list[tuple[int, str]]:
        return [(0, f'failed session check for key "{key}", current session '
                    f'"{now}" != "{given}"')]

    session = server.session()
    missing = [(0, f'failed to check session, key "{key}" doesn\'t exist')]
    assert errors(check(session)) == errors(check(None)) == missing
    server.api.put(f'kv/{key}', 'v')
    assert errors(check(session)) == wrong('', session)
    assert 'Session' not in result(check(''))
    assert server.lock(key, session)
    for other in (server.session(), UNKNOWN, 'xx', ''):
        assert errors(check(other)) == wrong(session, other)
    assert result(check(session)) == {
        **result(server.txn('get', key)), 'Value': None}


def test_cas_in_transaction(server: Server, key: str) -> None:
    """A transaction writes or deletes a key of a given index only."""
    def cas(index: int, value: str, verb: str = 'cas') -> requests.Response:
        return server.transact(operation(verb, key, None, value, index))

    stale = [(0, f'failed to set key "{key}", index is stale')]
    assert errors(cas(5, 'v')) == stale
    index = result(cas(0, 'v'))['ModifyIndex']
    assert errors(cas(0, 'v')) == errors(cas(index + 1, 'v')) == stale
    assert result(cas(index, 'v'))['ModifyIndex'] == index
    assert result(cas(index, 'w'))['ModifyIndex'] > index
    assert errors(cas(index, '', 'delete-cas')) == [
        (0, f'failed to delete key "{key}", index is stale')]
    assert results(cas(server.index(key), '', 'delete-cas')) == []
    assert server.api.kv(key) is None
    assert results(cas(index, '', 'delete-cas')) == []


def test_taking_a_key_on_conditions(server: Server, key: str) -> None:
    """A key is taken if others are as expected, which are then read."""
    session, pause, tree = (
        server.session(LockDelay='15s'), f'{key}/pause', f'{key}/tree/')
    server.api.put(f'kv/{tree}a', 'v')
    index = server.index(f'{tree}a')
    lock = [operation('check-not-exists', pause),
            operation('lock', key, session, 'v'),
            operation('get-tree', f'{key}/none/'),
            operation('check-index', f'{tree}a', index=index),
            operation('get-tree', tree)]
    found = results(server.transact(*lock))
    assert [(each['Key'], each['Value']) for each in found] == [
        (key, None), (f'{tree}a', None), (f'{tree}a', 'dg==')]
    assert results(server.transact(*lock)) == found
    server.api.put(f'kv/{pause}', '')
    assert errors(server.transact(*lock)) == [(0, f'key "{pause}" exists')]
    # Who comes in vain learns all that is against him.
    lock[1] = operation('lock', key, server.session())
    server.api.put(f'kv/{tree}a', 'w')
    assert errors(server.transact(*lock)) == [
        (0, f'key "{pause}" exists'),
        (1, f'failed to lock key "{key}", lock is already held'),
        (3, f'failed index check for key "{tree}a", current modify index '
            f'{server.index(f"{tree}a")} != {index}')]
    # But in the lock-delay that alone.
    server.api.destroy_session(session)
    assert errors(server.transact(*lock)) == [
        (1, f'failed to lock key "{key}" due to lock delay')]


def test_writing_while_holding_a_key(server: Server, key: str) -> None:
    """A holder writes other keys, and gives the key back, in one go."""
    session, other = server.session(), f'{key}/other'
    server.lock(key, session)
    index = server.index(key)
    held, written = results(server.transact(
        operation('check-session', key, session), operation('set', other)))
    assert (held['ModifyIndex'], written['Key']) == (index, other)
    # What a transaction has written, it reads.
    assert errors(server.transact(
        operation('lock', key, session, 'w'),
        operation('check-index', key, index=index)))[0][0] == 1
    assert server.index(key) == index
    freed, written = results(server.transact(
        operation('unlock', key, session), operation('set', other, value='v')))
    assert freed['ModifyIndex'] == written['ModifyIndex']
    assert 'Session' not in freed
    assert errors(server.transact(
        operation('set', other, value='w'),
        operation('check-session', key, session))) == [
            (1, f'failed session check for key "{key}", current session "" '
                f'!= "{session}"')]
    entry = server.api.kv(other)
    assert entry and entry['Value'] == b'v'


def test_cost_of_transaction(server: Server, key: str) -> None:
    """A transaction with a write costs one, also when it fails."""
    session = server.session()
    server.lock(key, session)
    reads = [operation('get', key), operation('get-tree', f'{key}/'),
             operation('check-session', key, session),
             operation('check-not-exists', f'{key}/none')]
    write = operation('set', f'{key}/other')
    failure = operation('check-not-exists', key)
    refusal = operation('get', '')
    unknown = operation('foo', key)

    def cost(*operations: dict[str, Any]) -> int:
        return server.cost(lambda: server.transact(*operations))

    assert cost(*reads) == cost(*reads, failure) == cost(unknown) == 0
    assert cost(*reads, write, write) == 1
    assert cost(write, failure) == cost(failure, write) == 1
    assert cost(write, unknown) == 1
    assert cost(write, refusal) == 0
    index = server.index(f'{key}/none')
    assert cost(operation('set', f'{key}/other', value='v'), failure) == 1
    assert cost(operation('delete', f'{key}/other'), failure) == 1
    assert server.index(f'{key}/none') == index
    assert server.index(f'{key}/', recurse='') <= index
