"""The calls of locks and commands, tried again where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from jobslib.consul import transactions
from jobslib.consul.api import FAILURES
from jobslib.consul.calls import Calls, Entry, decode, expect
from jobslib.consul.endpoint import Endpoint
from jobslib.consul.failures import (
    PermissionDeniedError,
    SessionLostError,
    give_up,
    is_passing,
    is_settled,
    is_undone,
)
from jobslib.consul.names import (
    control_key,
    handed_in_key,
    handed_in_of,
    history_key,
    progress_key,
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

__all__ = ['Acquired', 'ConsulClient', 'Entry', 'KeyState', 'PermissionDeniedError',
           'SessionLostError', 'history_key', 'progress_key']

T = TypeVar('T')

# A key that is not there.
MISSING = Entry(b'', None, 0)

# The pause after the first attempt, in seconds; it doubles up to the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0

# The longest wait of a blocking query, in seconds.  Consul answers up to a
# sixteenth later, and some proxies cut off every answer that takes longer than
# 30 seconds.
LONGEST_WAIT = 20.0
# How long after it began a blocking query that was cut off is followed by another
# read, in seconds.
SHORTEST_WAIT = 1.0


class KeyState:
    """The key of a lock as it was read, and its control key.

    *index* is where a blocking query goes on from.  *record* is the value, None
    if the key is missing or empty.  *session* is the holder's, None if the lock
    is free.  *modify_index* is 0 if the key is missing.  *control* is the value
    of the control key, and *control_index* its index, 0 if it is missing.
    """

    def __init__(
        self, index: int, record: bytes | None, session: str | None,
        modify_index: int, control: bytes | None = None, control_index: int = 0,
    ) -> None:
        self.index = index
        self.record = record
        self.session = session
        self.modify_index = modify_index
        self.control = control
        self.control_index = control_index


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


class ConsulClient:
    """A client of one Consul agent.  Not thread-safe.

    A call that failed is tried again when the cause may pass and the call is
    safe to repeat: up to *retry_max_attempts* times in all, and not after
    *patience* seconds.  Then it raises :class:`LockUnavailableError`, or its
    subclass :class:`PermissionDeniedError`; what else a call raises is in its
    description.  *sleep* is called with the seconds to pause.
    """

    def __init__(
        self, endpoint: Endpoint, retry_max_attempts: int,
        sleep: Callable[[float], object] = time.sleep,
        patience: float = float('inf'),
    ) -> None:
        self._calls = Calls(endpoint)
        self._attempts = retry_max_attempts
        self._sleep = sleep
        # The sessions of requests that may still be carried out, because their
        # answers did not come.
        self._doubtful: set[str] = set()
        self._patience = patience
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

    def read(
        self, key: str, index: int | None = None, wait: float = LONGEST_WAIT,
    ) -> KeyState:
        """Read *key* and its control key, from a leader that a quorum confirms.

        With *index* this is a blocking query: the answer comes when the key has
        changed since then, or after *wait* seconds, 20 at the most, and up to a
        sixteenth more.  It can also come with nothing changed.  When the index
        of an answer is lower than the one before, or 0, start again without
        one.  A blocking query that is cut off or gets no answer is not an
        error: the key is then read without waiting, and only if that fails an
        error is raised.
        """
        if index:
            began = time.monotonic()
            try:
                return self._read(key, index, min(wait, LONGEST_WAIT))
            except FAILURES as exc:
                if not is_passing(exc):
                    give_up(f'read {key}', exc)
            # Where each query is cut off at once, requests must not follow each
            # other without a pause.
            early = began + min(wait, SHORTEST_WAIT) - time.monotonic()
            if early > 0:
                self._sleep(early)
        return self._call(f'read {key}', lambda: self._read(key))

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

    def read_all(self, prefixes: Sequence[str]) -> dict[str, Entry]:
        """Read all keys that begin with any of *prefixes*."""
        def call() -> dict[str, Entry]:
            found = self._calls.transact(
                [transactions.get_tree(prefix) for prefix in prefixes])
            return {expect(str, each['Key']): Entry.of(each, decode(each))
                    for each in found}
        return self._call(f'read {", ".join(prefixes)}', call)

    def list_keys(self, prefix: str) -> list[str]:
        """Return the names of all keys that begin with *prefix* and that the
        token may read."""
        return self._call(f'list the keys in {prefix}',
                          lambda: self._calls.list_keys(prefix))

    def prove_readable(self, key: str) -> None:
        """Raise :class:`PermissionDeniedError` if the token may not read *key*.

        When several keys are read at once, Consul leaves out those that the
        token may not read, as if they did not exist.  When one is read by its
        name, Consul says so, even if it does not exist.
        """
        self._call(f'read {key}', lambda: self._calls.read(key))

    def write_if(self, key: str, value: bytes, index: int) -> bool:
        """Write *value* to *key* if that has the *index*; 0 stands for a key
        that does not exist."""
        def call() -> bool:
            try:
                transactions.modify_index(self._transact([
                    unchanged(key, index), transactions.put(key, value)]), key)
            except Refused as exc:
                if not exc.conflicts(CHANGED):
                    raise
                # An earlier attempt whose answer was lost may have written it.
                return self._read(key).record == value
            return True
        return self._call(f'write {key}', call)

    def hand_in(self, key: str, name: str, value: bytes, state: KeyState,
                control: bytes | None) -> bool:
        """Hand in *value* by *name* for the history of the job; False if the
        key or its control key is not *state*, as it was read, any more.

        It is written once, however often it is tried.  *control*, if it is
        given, is written to the control key in the same transaction.
        """
        operations = [
            unchanged(key, state.modify_index),
            unchanged(control_key(key), state.control_index),
            transactions.compare_and_set(handed_in_key(key, name), value, 0)]
        if control is not None:
            operations.append(transactions.put(control_key(key), control))

        def call() -> bool:
            try:
                self._transact(operations)
            except Refused as exc:
                if exc.conflicts(CHANGED):
                    return False
                # An earlier attempt whose answer was lost has written it.
                if not exc.conflicts(transactions.STALE):
                    raise
            return True
        return self._call(f'write {handed_in_key(key, name)}', call)

    def sessions(self) -> dict[str, str]:
        """Return the names of all sessions that the token may read, by id."""
        return self._call('list the sessions', self._calls.sessions)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._calls.close()

    def _read(self, key: str, index: int | None = None, wait: float = 0) -> KeyState:
        new_index, found = self._calls.read_tree(key, index, wait)
        entry = found.get(key, MISSING)
        control = found.get(control_key(key), MISSING)
        return KeyState(new_index, entry.value or None, entry.session,
                        entry.modify_index, control.value or None,
                        control.modify_index)

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
        self, operations: Sequence[Mapping[str, object]], session: str | None = None,
    ) -> list[Document]:
        """Do *operations* on keys, see :meth:`.Calls.transact`.

        If it is interrupted in a way that it may still be carried out,
        *session* becomes doubtful.
        """
        try:
            return self._calls.transact(operations)
        except BaseException as exc:
            if session is not None and not is_settled(exc):
                self._doubtful.add(session)
            raise

    def _call(
        self, what: str, call: Callable[[], T],
        may_repeat: Callable[[Exception], bool] = is_passing,
    ) -> T:
        attempt = 1
        ends = time.monotonic() + self._patience
        while True:
            try:
                return call()
            except FAILURES as exc:
                if (not may_repeat(exc) or attempt >= self._attempts
                        or time.monotonic() >= ends):
                    give_up(what, exc)
            self._sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            attempt += 1

    def put(self, key: str, value: bytes) -> None:
        """Write *value* to *key*, whoever else writes to it."""
        self._call(f'write {key}', lambda: self._calls.api.kv.put(key, value))
