"""Transactions of the stand-in and of a real agent are alike."""

from integration.stand_in.servers import (
    BAD_ID,
    UNKNOWN,
    Server,
    errors,
    result,
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
    operation = {'KV': {'Verb': 'get', 'Key': key}}
    assert told(server.api.put('txn', [operation] * 65)) == (
        413, 'Transaction contains too many operations (65 > 64)')
