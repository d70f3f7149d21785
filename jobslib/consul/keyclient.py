"""The calls by which keys are read and written, tried again where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from jobslib.consul import transactions
from jobslib.consul.api import FAILURES
from jobslib.consul.calls import Calls, Entry, decode, expect
from jobslib.consul.endpoint import Endpoint
from jobslib.consul.failures import give_up, is_passing
from jobslib.consul.names import control_key, handed_in_key
from jobslib.consul.refusals import Refused
from jobslib.consul.transactions import CHANGED, unchanged

__all__ = ['KeyClient', 'KeyState']

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


class KeyClient:
    """A client of one Consul agent that reads and writes keys.  Not thread-safe.

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
        self._patience = patience

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._calls.close()

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

    def put(self, key: str, value: bytes) -> None:
        """Write *value* to *key*, whoever else writes to it."""
        self._call(f'write {key}', lambda: self._calls.api.kv.put(key, value))

    def read_all(self, prefixes: Sequence[str]) -> dict[str, Entry]:
        """Read all keys that begin with any of *prefixes*."""
        def call() -> dict[str, Entry]:
            found = self._calls.transact(
                [transactions.get_tree(prefix) for prefix in prefixes])
            return {expect(str, each['Key']): Entry.of(each, decode(each))
                    for each in found}
        return self._call(f'read {", ".join(prefixes)}', call)

    def list_keys(self, prefix: str) -> list[str]:
        """Return the names of keys, see :meth:`.Calls.list_keys`."""
        return self._call(f'list the keys in {prefix}',
                          lambda: self._calls.list_keys(prefix))

    def prove_readable(self, key: str) -> None:
        """Raise :class:`PermissionDeniedError` if the token may not read *key*, which
        need not exist, see :meth:`.Calls.read`."""
        self._call(f'read {key}', lambda: self._calls.read(key))

    def write_if(self, key: str, value: bytes, index: int) -> bool:
        """Write *value* to *key* if that has the *index*; 0 stands for a key
        that does not exist."""
        def call() -> bool:
            try:
                transactions.modify_index(self._calls.transact([
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
                self._calls.transact(operations)
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

    def _read(self, key: str, index: int | None = None, wait: float = 0) -> KeyState:
        new_index, found = self._calls.read_tree(key, index, wait)
        entry = found.get(key, MISSING)
        control = found.get(control_key(key), MISSING)
        return KeyState(new_index, entry.value or None, entry.session,
                        entry.modify_index, control.value or None,
                        control.modify_index)

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
