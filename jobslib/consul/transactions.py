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
    from typing import Any

    from jobslib.documents import Document

__all__ = ['CHANGED', 'HELD', 'MAY_NOT', 'NOT_HELD', 'SESSION_LOST', 'STALE',
           'body', 'compare_and_set', 'delete', 'get_tree', 'lock', 'modify_index',
           'put', 'reasons', 'unchanged', 'unlock']

# What Consul says, in lower case.  A failed transaction has status 409 whatever
# the cause, so the text decides.
#: Of ``lock``: somebody has the key, or nobody may have it yet.
HELD = ('lock is already held', 'due to lock delay')
#: Of :func:`unchanged`: the key is not as it was, exists, or exists no more.
CHANGED = ('failed index check', 'failed to check index', '" exists')
#: Of ``unlock``.
NOT_HELD = ("lock isn't held",)
#: Of :func:`compare_and_set`.
STALE = ('index is stale',)
#: Of any operation with a session.
SESSION_LOST = ('invalid session "',)
#: Of any operation at all: the token does not allow it.
MAY_NOT = ('permission denied', 'acl not found')


def lock(key: str, value: bytes, session: str) -> dict[str, object]:
    """Take *key* for *session*, with *value* in it."""
    return {'Verb': 'lock', 'Key': key, 'Value': _encode(value),
            'Session': session}


def unlock(key: str, value: bytes, session: str) -> dict[str, object]:
    """Free *key*, which *session* holds, and leave *value* in it."""
    return {'Verb': 'unlock', 'Key': key, 'Value': _encode(value),
            'Session': session}


def put(key: str, value: bytes) -> dict[str, object]:
    """Write *value* to *key*, whoever else writes to it."""
    return {'Verb': 'set', 'Key': key, 'Value': _encode(value)}


def delete(key: str) -> dict[str, object]:
    """Delete *key*."""
    return {'Verb': 'delete', 'Key': key}


def compare_and_set(key: str, value: bytes, index: int) -> dict[str, object]:
    """Write *value* to *key* if that is as at *index*, 0: missing."""
    return {'Verb': 'cas', 'Key': key, 'Value': _encode(value), 'Index': index}


def unchanged(key: str, index: int) -> dict[str, object]:
    """Fail unless *key* is as at *index*, 0: missing."""
    if not index:
        return {'Verb': 'check-not-exists', 'Key': key}
    return {'Verb': 'check-index', 'Key': key, 'Index': index}


def get_tree(prefix: str) -> dict[str, object]:
    """Read all keys that begin with *prefix*."""
    return {'Verb': 'get-tree', 'Key': prefix}


def body(operations: Sequence[Mapping[str, object]]) -> bytes:
    """Return what a request for these operations contains."""
    return json.dumps([{'KV': each} for each in operations]).encode()


def reasons(answer: Any) -> str:
    """Return why Consul refused a transaction, in its own words.

    :param answer: the decoded body of a 409.
    :raises LookupError, TypeError: it is not an answer of Consul.
    """
    return '; '.join(str(error['What']) for error in answer['Errors'])


def modify_index(results: Sequence[Document], key: str) -> int:
    """Return the index at which a transaction wrote to *key*.

    :param results: the entries that it returned.  A check of a key returns
        the key as it was before, with a lower index.
    :raises ValueError, LookupError, TypeError: it did not write to it.
    """
    index = max(each['ModifyIndex'] for each in results if each['Key'] == key)
    if not isinstance(index, int):
        raise TypeError(f'not an index: {index!r:.100}')
    return index


def _encode(value: bytes) -> str:
    # Not by base64, whose import costs the keeper milliseconds.
    return binascii.b2a_base64(value, newline=False).decode()
