"""Writes that depend on the index of a key are alike in the two."""

from integration.stand_in.servers import Server, told

YES, NO = (200, 'true'), (200, 'false')


def test_put(server: Server, key: str) -> None:
    """A key is written when its index is the one given, 0 for no key."""
    api = server.api
    assert told(api.put(f'kv/{key}', 'v', cas=5)) == NO
    assert api.kv(key) is None
    assert told(api.put(f'kv/{key}', 'v', cas=0)) == YES
    index = server.index(key)
    for wrong in (0, index - 1, index + 1):
        assert told(api.put(f'kv/{key}', 'w', cas=wrong)) == NO
    assert told(api.put(f'kv/{key}', 'v', cas=index)) == YES
    assert server.index(key) == index
    assert told(api.put(f'kv/{key}', 'w', cas=index, flags=7)) == YES
    entry = api.kv(key)
    assert entry and (entry['Value'], entry['Flags']) == (b'w', 7)
    assert entry['CreateIndex'] == index < entry['ModifyIndex']


def test_delete(server: Server, key: str) -> None:
    """A key is deleted when its index is the one given, or there is none."""
    api = server.api
    api.put(f'kv/{key}', 'v')
    index = server.index(key)
    for wrong in (0, index - 1, index + 1):
        assert told(api.delete(f'kv/{key}', cas=wrong)) == NO
    assert server.index(key) == index
    for cas in (index, index, 0):
        assert told(api.delete(f'kv/{key}', cas=cas)) == YES
    assert api.kv(key) is None


def test_held_key(server: Server, key: str) -> None:
    """Who writes a held key so leaves it held, and sets its count back."""
    session = server.session()
    assert server.lock(key, session)
    assert told(server.api.put(f'kv/{key}', 'v', cas=server.index(key))) == YES
    entry = server.api.kv(key)
    assert entry and (entry['LockIndex'], entry['Session']) == (0, session)


def test_cost(server: Server, key: str) -> None:
    """An attempt costs as much as a success."""
    api = server.api
    api.put(f'kv/{key}', 'v')
    assert server.cost(lambda: api.put(f'kv/{key}', 'w', cas=0)) == 1
    assert server.cost(lambda: api.delete(f'kv/{key}', cas=1)) == 1
    assert server.cost(lambda: api.delete(f'kv/{key}/missing', cas=1)) == 1
    assert server.cost(lambda: api.put(f'kv/{key}', 'w', cas='x')) == 0


def test_refused(server: Server, key: str) -> None:
    """What is no index is refused, and what contradicts itself."""
    api = server.api
    for text in ('x', '', '-1'):
        expected = (500, f'strconv.ParseUint: parsing "{text}": invalid syntax')
        assert told(api.put(f'kv/{key}', 'v', cas=text)) == expected
        assert told(api.delete(f'kv/{key}', cas=text)) == expected
    assert told(api.put(f'kv/{key}', '', cas=1, acquire='a', flags=2)) == (
        400, 'Conflicting flags: acquire=a&cas=1&flags=2')
    assert told(api.put(f'kv/{key}', '', release='a b', cas=1)) == (
        400, 'Conflicting flags: cas=1&release=a+b')
