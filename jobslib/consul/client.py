"""The calls of locks: sessions, and keys that are taken and released by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jobslib.consul import transactions
from jobslib.consul.calls import decode
from jobslib.consul.endpoint import Endpoint
from jobslib.consul.failures import (
    PermissionDeniedError,
    SessionLostError,
    is_settled,
    is_undone,
)
from jobslib.consul.keyclient import KeyClient, KeyState
from jobslib.consul.names import (
    control_key,
    handed_in_key,
    handed_in_of,
    history_key,
)
from jobslib.consul.refusals import Refused
from jobslib.consul.transactions import (
    CHANGED,
    HELD,
    MAY_NOT,
    NOT_HELD,
    SESSION_LOST,
    unchanged,
)
from jobslib.exceptions import LockUnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['Acquired', 'ConsulClient', 'KeyState', 'PermissionDeniedError',
           'SessionLostError']


class Acquired(NamedTuple):
    """A lock that was just taken.

    *token* is the fencing token: the index that its key has as long as the lock
    is held.  Whatever is written for the holder names it.  *history* is the
    value of the history's key, None if there is none, and *handed_in* what was
    handed in for the history, by name.
    """

    token: int
    history: bytes | None
    handed_in: dict[str, bytes]


class ConsulClient(KeyClient):
    """A client of one Consul agent, for locks.

    It also takes and releases keys, by sessions.
    """

    def __init__(
        self, endpoint: Endpoint, retry_max_attempts: int,
        sleep: Callable[[float], object] = time.sleep,
        patience: float = float('inf'),
    ) -> None:
        super().__init__(endpoint, retry_max_attempts, sleep, patience)
        # The sessions of requests that may still be carried out, because their
        # answers did not come.
        self._doubtful: set[str] = set()
        # With another datacenter: the node there that sessions are bound to.
        self._node: str | None = None

    def create_session(
        self, name: str, ttl: float, lock_delay: float, checks: Sequence[str] = (),
        node: str | None = None,
    ) -> str:
        """Create a session and return its id, see :meth:`.Calls.create_session`.

        In another datacenter than the agent's it is bound to a server there,
        which the token must be allowed to look up.

        It is not repeated when Consul may have carried it out: a session whose
        id nobody knows would stay until its TTL ends.
        """
        def create(node: str | None) -> str:
            return self._calls.create_session(name, ttl, lock_delay, checks, node)

        def call() -> str:
            try:
                return create(node or self._node)
            except Refused as exc:
                if node or not self._calls.is_elsewhere(exc):
                    raise
                self._node = self._find_server(exc)
            return create(self._node)
        return self._call('create a session', call, is_undone)

    def register_check(self, check: str, name: str, ttl: float) -> None:
        """Register a check, see :meth:`.Calls.register_check`."""
        self._call('register a check',
                   lambda: self._calls.register_check(check, name, ttl))

    def deregister_checks(self, name: str) -> None:
        """Deregister the checks called *name* that have failed."""
        self._call('deregister checks',
                   lambda: self._calls.deregister_checks(name))

    def destroy_session(self, session: str) -> None:
        """Destroy *session*, if it still exists."""
        self._call('destroy the session',
                   lambda: self._calls.api.session.destroy(session))

    def acquire(self, key: str, value: bytes, session: str,
                state: KeyState) -> Acquired | None:
        """Take *key* for *session*, and write *value* to it.

        *state* is the key as it was just read: free, or held by this very
        session.  Returns None if the key is held or in its lock-delay by now,
        or if it or its control key has changed.  Raises
        :class:`SessionLostError` if the session has ended.

        Call :meth:`is_doubtful` afterwards: whatever this returned or raised,
        the session may hold the key, or get it later.
        """
        index: int | None = state.modify_index
        repeated = False

        def call() -> Acquired | None:
            nonlocal index, repeated
            if repeated:
                index = self._find_index(key, session, state)
            if index is None:
                return None
            repeated = True
            try:
                results = self._transact([
                    unchanged(key, index),
                    transactions.lock(key, value, session),
                    unchanged(control_key(key), state.control_index),
                    transactions.get_tree(history_key(key))], session)
            except Refused as exc:
                # Consul may name several reasons.  If one of them is that the
                # session has ended, no other attempt with it can succeed.
                if not exc.conflicts(HELD + CHANGED) or exc.says(SESSION_LOST):
                    raise
                return None
            values = {entry['Key']: decode(entry) for entry in results
                      if entry['Key'].startswith(history_key(key))}
            return Acquired(transactions.modify_index(results, key),
                            values.get(history_key(key)),
                            handed_in_of(key, values))
        return self._call(f'acquire {key}', call)

    def release(self, key: str, value: bytes, session: str,
                token: int | None, history: bytes | None = None,
                merged: Sequence[str] = ()) -> bool:
        """Free *key* and leave *value* in it; False if *session* does not hold it.

        *token* is the fencing token of the hold that is to end, so that a
        request that is carried out late does not end a later hold; None if it
        is not known whether the session holds the key.  A *history* is written
        in the same transaction.  *merged* are the names of what was handed in
        and is part of it by now; the transaction deletes them.
        """
        index = token

        def call() -> bool:
            nonlocal index
            if index is None:
                state = self._read(key)
                if state.session != session:
                    # True if an earlier attempt has freed it.
                    return state.session is None and state.record == value
                index = state.modify_index
            operations = [unchanged(key, index),
                          transactions.unlock(key, value, session)]
            if history is not None:
                operations.append(transactions.put(history_key(key), history))
                operations += [transactions.delete(handed_in_key(key, name))
                               for name in merged]
            try:
                transactions.modify_index(
                    self._transact(operations, session), key)
            except Refused as exc:
                if not exc.conflicts(CHANGED + NOT_HELD):
                    raise
                # The lock was lost, or freed by an earlier attempt, or somebody
                # has written to its key by hand: read which of these it is.
                index = None
                return call()
            return True
        return self._call(f'release {key}', call)

    def is_doubtful(self, session: str) -> bool:
        """Return whether a request with *session* may still be carried out.

        Its answer did not come, or did not tell.  Such a session must not be
        used again: it could come to hold a key without anybody's knowing.
        """
        return session in self._doubtful

    def _find_server(self, reason: Refused) -> str:
        """Return the name of a server of the datacenter, the same for all."""
        if names := self._calls.servers():
            return names[0]
        if reason.says(MAY_NOT):
            raise reason
        # An empty list can also mean that the token may read none of them.
        raise LockUnavailableError(
            f'cannot create a session: {reason}; and no server of datacenter '
            f'{self._calls.endpoint.dc!r} is there, or may be read with this '
            f'token, to bind the session to') from reason

    def _find_index(self, key: str, session: str, state: KeyState) -> int | None:
        """Return the index at which to take *key*, after an attempt whose
        answer was lost; None if it cannot be taken any more.

        *state* is the key for which that attempt was made.
        """
        found = self._read(key)
        if found.session == session:
            # That attempt was carried out.  The key is taken once more, which
            # gives it a new token: a copy of that request that arrives late is
            # then refused.
            return found.modify_index
        # When the key has changed, somebody may have held it in between.  The
        # lock-delay keeps out only those who have read the key free, so the
        # caller has to read it and to begin again.
        unchanged = (found.session is None
                     and found.modify_index == state.modify_index)
        return state.modify_index if unchanged else None

    def _transact(
        self, operations: Sequence[Mapping[str, object]], session: str,
    ) -> list[Document]:
        """Do *operations* on keys, see :meth:`.Calls.transact`.

        If it is interrupted in a way that it may still be carried out,
        *session* becomes doubtful.
        """
        try:
            return self._calls.transact(operations)
        except BaseException as exc:
            if not is_settled(exc):
                self._doubtful.add(session)
            raise
