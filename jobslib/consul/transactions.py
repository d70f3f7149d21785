"""Operations on Consul's keys, and why a transaction of them was refused.

A request whose answer did not come may be carried out seconds later.  So
everything that is written for a holder names the state that it was made for
(:func:`unchanged`, :func:`compare_and_set`): when it is late, it is refused.

Standard library only: the lease keeper uses it as well, see
:mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import binascii
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobslib.documents import Document

__all__ = ['CHANGED', 'HELD', 'MAY_NOT', 'NOT_HELD', 'SESSION_LOST', 'STALE',
           'body', 'compare_and_set', 'delete', 'get_tree', 'lock', 'modify_index',
           'put', 'unchanged', 'unlock']

# Texts of Consul's refusals, in lower case.  A transaction that failed has the
# status 409 whatever the cause, so the text decides.
#: Why :func:`lock` fails: somebody holds the key, or its lock-delay is not over.
HELD = ('lock is already held', 'due to lock delay')
#: Why :func:`unchanged` fails: the key has changed, or came to be, or was deleted.
CHANGED = ('failed index check', 'failed to check index', '" exists')
#: Why :func:`unlock` fails: the session does not hold the key.
NOT_HELD = ("lock isn't held",)
#: Why :func:`compare_and_set` fails: the key has changed.
STALE = ('index is stale',)
#: Why any operation with a session fails: the session has ended.
SESSION_LOST = ('invalid session "',)
#: Why any operation at all fails: the token does not allow it, or is unknown.
MAY_NOT = ('permission denied', 'acl not found')


def lock(key: str, value: bytes, session: str) -> dict[str, object]:
    """Take *key* for *session*, with *value* in it."""
    return {'Verb': 'lock', 'Key': key, 'Value': _encode(value),
            'Session': session}


def unlock(key: str, value: bytes, session: str) -> dict[str, object]:
    """Free *key*, which *session* must hold, and leave *value* in it."""
    return {'Verb': 'unlock', 'Key': key, 'Value': _encode(value),
            'Session': session}


def put(key: str, value: bytes) -> dict[str, object]:
    """Write *value* to *key*, whoever else writes to it."""
    return {'Verb': 'set', 'Key': key, 'Value': _encode(value)}


def delete(key: str) -> dict[str, object]:
    """Delete *key*."""
    return {'Verb': 'delete', 'Key': key}


def compare_and_set(key: str, value: bytes, index: int) -> dict[str, object]:
    """Write *value* to *key* if that has the *index*; 0 stands for a key that
    does not exist."""
    return {'Verb': 'cas', 'Key': key, 'Value': _encode(value), 'Index': index}


def unchanged(key: str, index: int) -> dict[str, object]:
    """Fail unless *key* has the *index*; 0 stands for a key that does not exist."""
    if not index:
        return {'Verb': 'check-not-exists', 'Key': key}
    return {'Verb': 'check-index', 'Key': key, 'Index': index}


def get_tree(prefix: str) -> dict[str, object]:
    """Read all keys that begin with *prefix*."""
    return {'Verb': 'get-tree', 'Key': prefix}


def body(operations: Sequence[Mapping[str, object]]) -> bytes:
    """Return the body of a request for these operations."""
    return json.dumps([{'KV': each} for each in operations]).encode()


def modify_index(results: Sequence[Document], key: str) -> int:
    """Return the index at which a transaction wrote to *key*.

    :param results: the entries that it returned.  A check of the key returns it
        as it was before, with a lower index.
    :raises ValueError, LookupError, TypeError: it did not write to it.
    """
    index = max(each['ModifyIndex'] for each in results if each['Key'] == key)
    if not isinstance(index, int):
        raise TypeError(f'not an index: {index!r:.100}')
    return index


def _encode(value: bytes) -> str:
    # The module base64 does the same, but its import takes milliseconds of the
    # keeper's start.
    return binascii.b2a_base64(value, newline=False).decode()
