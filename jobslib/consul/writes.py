"""What the lease keeper writes to Consul in the name of a holder.

Each write names the hold that it was made for by its fencing token, which is
the index of the lock's key as long as that hold lasts.  So when the answer did
not come, and the request is carried out seconds later, it does nothing.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

from jobslib.consul import transactions
from jobslib.consul.refusals import Refused
from jobslib.consul.transport import TransportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Protocol

    from jobslib.consul.transport import Response
    from jobslib.documents import Document

    class Requests(Protocol):
        """What sends requests, as a transport does."""

        def request(self, method: str, path: str,
                    params: Iterable[tuple[str, object]] = (),
                    body: bytes = b'') -> Response: ...

__all__ = ['NOT_CONSULS', 'free', 'write_note']

#: What a request raises that gets no answer, and what reading an answer raises
#: that is not Consul's.
NOT_CONSULS = (TransportError, LookupError, TypeError, ValueError, AttributeError)


def free(transport: Requests, key: str, session: str, token: int | None,
         record: str, notes: dict[str, str]) -> bool:
    """Free *key* if *session* has it; false if that is to be tried again.

    :param token: the fencing token of the hold that is to end; ``None`` when
        it is not known whether the key was taken at all.
    :param record: what to leave in the key.
    :param notes: what to leave in keys beside it.
    """
    try:
        if token is not None and _unlock(
                transport, key, session, token, record, notes):
            return True
        # An earlier request may have freed the key, or it was lost, or taken by
        # a request whose answer did not come, or written to by hand.  If our
        # session has it, it has to be freed, whatever its index is.
        index = _index_if_held(transport, key, session)
        return index == 0 or _unlock(
            transport, key, session, index, record, notes)
    except NOT_CONSULS:
        return False


def _unlock(transport: Requests, key: str, session: str, index: int,
            record: str, notes: dict[str, str]) -> bool:
    unlock = [transactions.unchanged(key, index),
              transactions.unlock(key, record.encode(), session)]
    puts = [transactions.put(name, value.encode())
            for name, value in notes.items()]
    response = _transact(transport, unlock + puts)
    if puts and response.status in (403, 409, 413) and not Refused(
            response).conflicts(transactions.CHANGED + transactions.NOT_HELD):
        # The notes may be what was refused; freeing the key matters more.
        response = _transact(transport, unlock)
    return response.status == 200


def _index_if_held(transport: Requests, key: str, session: str) -> int:
    """Return the index of *key* if *session* has it, else 0."""
    entry = _read(transport, key)
    if entry is None or entry.get('Session') != session:
        return 0
    return int(entry['ModifyIndex'])


def write_note(transport: Requests, lock: str, token: int, key: str,
               value: str, index: int | None) -> tuple[bool, int | None]:
    """Write *value* to *key* while *lock* is held with *token*.

    :param index: the index of *key* as it was written last, ``None`` if it is
        not known.  With it, an older note that is carried out late does not
        overwrite this one.
    :returns: whether there is nothing left to do for this value, and the index
        of *key* then.
    """
    try:
        if index is None:
            entry = _read(transport, key)
            index = int(entry['ModifyIndex']) if entry else 0
        response = _transact(transport, [
            transactions.unchanged(lock, token),
            transactions.compare_and_set(key, value.encode(), index)])
        if response.status == 200:
            results = [each['KV'] for each in response.json()['Results']]
            return True, transactions.modify_index(results, key)
        refused = Refused(response)
        if refused.conflicts(transactions.STALE):
            # Somebody else has written to it, or an earlier attempt of ours has
            # been carried out late: its index has to be read again.
            index = None
        # The lock has changed when it is not held with that token any more, and
        # then the note is of no use.
        return refused.conflicts(transactions.CHANGED), index
    except NOT_CONSULS:
        return False, index


def _read(transport: Requests, key: str) -> Document | None:
    """Read *key* from a leader that a quorum confirms; ``None`` if it is missing.

    :raises ValueError: the answer does not tell.
    """
    response = transport.request('GET', f'/v1/kv/{key}', [('consistent', '1')])
    # A 404 without an index comes from something before Consul.
    if response.status not in (200, 404) or not response.index:
        raise ValueError('the answer does not tell')
    entry: dict[str, object] | None = (
        response.json()[0] if response.status == 200 else None)
    return entry


def _transact(transport: Requests,
              operations: Sequence[Mapping[str, object]]) -> Response:
    return transport.request(
        'PUT', '/v1/txn', body=transactions.body(operations))
