"""The calls that a lock needs, through the API of the ``consul`` package."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from jobslib.consul import transactions
from jobslib.consul.api import FAILURES, duration, make_consul
from jobslib.consul.refusals import Refused
from jobslib.consul.transactions import (
    CHANGED,
    HELD,
    MAY_NOT,
    NOT_HELD,
    SESSION_LOST,
    unchanged,
)
from jobslib.consul.transport import Endpoint, Transport, TransportError
from jobslib.exceptions import ConfigError, LockError, LockUnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['Acquired', 'ConsulClient', 'KeyState', 'PermissionDeniedError',
           'Entry', 'SessionLostError', 'control_key', 'handed_in_key', 'handed_in_of',
           'history_key', 'progress_key']

T = TypeVar('T')

# Pauses between attempts, in seconds: the first, doubled each time, and the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0

# Some servers cut every answer that takes longer than 30 s, and a blocking query
# is answered up to a sixteenth late.
LONGEST_WAIT = 20.0
# A blocking query that was cut is not begun again within so many seconds.
SHORTEST_WAIT = 1.0

# What Consul says, in lower case.  A failed call is 500 whatever the cause, so
# the text decides.
_NO_LEADER = ('no cluster leader',)
_UNKNOWN = ('does not have associated ttl', 'unknown check', 'unknown service')
_NO_NODE = ('missing node registration',)
# What creating a session on the agent's node in another datacenter can lead to.
_ELSEWHERE = _NO_NODE + ('permission denied',)
_BAD_NAME = ('invalid key name',)
_FINAL = MAY_NOT + SESSION_LOST + _NO_NODE + (
    'invalid session ttl', 'missing check ', 'failed session lookup',
    'cross datacenter lock', *_BAD_NAME,
)


class PermissionDeniedError(LockUnavailableError):
    """The token does not allow the call, or Consul does not know the token."""


class SessionLostError(LockError):
    """The session that the call was made for has ended."""


class KeyState:
    """A key as it was read, and what is asked of its job.

    *index* is what a blocking query waits on.  *record* is the value, None if
    the key is missing or empty.  *session* is the holder's, None if the key
    is free.  A missing key has the *modify_index* 0; so has *control*, the
    value of its control key, an index of 0 if that is missing.
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
    """A key that was just taken: the fencing *token*, and the *history*.

    The token is the index of the key as long as it is held, and what is
    written for the holder names it.  *handed_in* is what was handed in for
    the history, by name.
    """

    token: int
    history: bytes | None
    handed_in: dict[str, bytes]


def control_key(key: str) -> str:
    """The key of what operators ask of the job whose lock is *key*.

    It begins with *key*, so that one query on that prefix sees to both.
    """
    return f'{key}.control'


def history_key(key: str) -> str:
    """The key of the history of the job whose lock is *key*."""
    return _beside(key, 'history')


def handed_in_key(key: str, name: str = '') -> str:
    """The key of what was handed in for that history by *name*.

    It begins with the history's, so that one read finds both.
    """
    return f'{history_key(key)}.handed.{name}'


def progress_key(key: str) -> str:
    """The key of how far the run is, of the job whose lock is *key*."""
    return _beside(key, 'progress')


def _beside(key: str, folder: str) -> str:
    # Not below the lock's own prefix: it changes too often to be watched.
    parent, slash, name = key.rpartition('/')
    return f'{parent}{slash}{folder}/{name}'


class Entry(NamedTuple):
    """A key as it was read; *session* is its holder's, None if it is free."""

    value: bytes
    session: str | None
    modify_index: int


class ConsulClient:
    """A client of one Consul agent.  Not thread-safe.

    Every call is tried up to *retry_max_attempts* times if it failed in a way
    that passes and is safe to repeat.  What it raises then is a
    :class:`LockUnavailableError`, :class:`PermissionDeniedError` among them,
    and whatever more its description names.  *sleep* takes seconds.  What has
    been tried for *patience* seconds is not tried again.
    """

    def __init__(
        self, endpoint: Endpoint, retry_max_attempts: int,
        sleep: Callable[[float], object] = time.sleep,
        patience: float = float('inf'),
    ) -> None:
        self._transport = Transport(endpoint)
        self._attempts = retry_max_attempts
        self._sleep = sleep
        # Sessions with a request that may still be carried out.
        self._doubtful: set[str] = set()
        self._patience = patience
        # The node of another datacenter that sessions are bound to.
        self._node: str | None = None
        self._consul = make_consul(self._transport)

    def create_session(
        self, name: str, ttl: float, lock_delay: float, checks: Sequence[str] = (),
        node: str | None = None,
    ) -> str:
        """Create a session and return its id.

        *ttl*, 10 to 86400, and *lock_delay* are in seconds.  The session is
        bound to the health checks with the ids *checks*, to none if there are
        none, and to *node*, by default the agent's own; in another datacenter
        than the agent's, to a server of that datacenter, which the token has
        to be allowed to look up.

        It is not repeated when Consul may have carried it out: a session whose
        id nobody knows would stay until its TTL ends.
        """
        def create(node: str | None) -> str:
            session = self._consul.session.create(
                name=name, node=node, checks=list(checks), lock_delay=lock_delay,
                behavior='release', ttl=ttl)
            return _expect(str, session)

        def call() -> str:
            try:
                return create(node or self._node)
            except Refused as exc:
                # Another datacenter does not know the agent's node, and the
                # token need have no rights to a node of that name.
                elsewhere = self._transport.endpoint.dc and not node
                if not elsewhere or not exc.says(_ELSEWHERE):
                    raise
                self._node = self._find_server(exc)
            return create(self._node)
        return self._call('create a session', call, _is_undone)

    def register_check(self, check: str, name: str, ttl: float) -> None:
        """Register a check, passing, that fails *ttl* seconds after a pass.

        *check* is its id, *name* is for people.
        """
        self._call('register a check', lambda: self._consul.agent.check.register(
            name, check_id=check,
            check={'ttl': duration(ttl), 'status': 'passing'}))

    def deregister_checks(self, name: str) -> None:
        """Deregister the checks called *name* that have failed."""
        def call() -> None:
            for check, about in self._consul.agent.checks().items():
                if about['Name'] == name and about['Status'] == 'critical':
                    self._consul.agent.check.deregister(check)
        self._call('deregister checks', call)

    def destroy_session(self, session: str) -> None:
        """Destroy *session*, if it still is."""
        self._call('destroy the session',
                   lambda: self._consul.session.destroy(session))

    def read(
        self, key: str, index: int | None = None, wait: float = LONGEST_WAIT,
    ) -> KeyState:
        """Read *key*, as the leader that a quorum confirms has it, and with
        it its control key.

        With *index* the answer comes when the key has changed since then, or
        after *wait* seconds, 20 at the most, and up to a sixteenth more; it
        can also come with nothing changed.  An index that falls, or is 0, is
        no good for the next call: start again without one.  A blocking query
        that is cut or gets no answer is no error: the key is then read at
        once, and only if that fails something is wrong.
        """
        if index:
            began = time.monotonic()
            try:
                return self._read(key, index, min(wait, LONGEST_WAIT))
            except FAILURES as exc:
                if not _is_passing(exc):
                    raise _translated(f'read {key}', exc) from exc
            # Where every query is cut at once, no rush follows.
            early = began + min(wait, SHORTEST_WAIT) - time.monotonic()
            if early > 0:
                self._sleep(early)
        return self._call(f'read {key}', lambda: self._read(key))

    def acquire(self, key: str, value: bytes, session: str,
                state: KeyState) -> Acquired | None:
        """Take *key*, which was read as *state*, for *session*, with *value*
        in it.

        Returns None if the key is held or in its lock-delay, or if it or its
        control key is not as it was read.  Raises :class:`SessionLostError`.
        To be called only for a key that was just read free, or held by this
        very session.  Afterwards, see :meth:`is_doubtful`: the session may
        hold the key, or get it later, whatever this returned or raised.
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
                # A session that is gone is the cause, whatever else is.
                if (exc.status == 409 and exc.says(HELD + CHANGED)
                        and not exc.says(SESSION_LOST)):
                    return None
                raise
            values = {entry['Key']: _decode(entry) for entry in results
                      if entry['Key'].startswith(history_key(key))}
            return Acquired(transactions.modify_index(results, key),
                            values.get(history_key(key)),
                            handed_in_of(key, values))
        return self._call(f'acquire {key}', call)

    def release(self, key: str, value: bytes, session: str,
                token: int | None, history: bytes | None = None,
                merged: Sequence[str] = ()) -> bool:
        """Free *key* and leave *value* in it; False if *session* does not hold it.

        *token* is that of the hold that is to end, so that a request that is
        late does not end another one; None if it is not known whether the
        session holds the key.  A *history* is written in the same transaction,
        in which what is *merged* into it is removed, by its names.
        """
        index = token

        def call() -> bool:
            nonlocal index
            if index is None:
                state = self._read(key)
                if state.session != session:
                    # An attempt before may have freed it.
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
                if exc.status != 409 or not exc.says(CHANGED + NOT_HELD):
                    raise
                # Lost, or freed by an attempt before, or written to by hand.
                index = None
                return call()
            return True
        return self._call(f'release {key}', call)

    def is_doubtful(self, session: str) -> bool:
        """Return whether a request with *session* may still be carried out.

        Its answer did not come, or did not tell.  The session is not to be
        used again: it could hold a key without anybody's knowing.
        """
        return session in self._doubtful

    def read_all(self, prefixes: Sequence[str]) -> dict[str, Entry]:
        """Read all keys that begin with any of *prefixes*."""
        def call() -> dict[str, Entry]:
            found = self._transact(
                [transactions.get_tree(prefix) for prefix in prefixes])
            return {_expect(str, each['Key']): Entry(
                _decode(each), each.get('Session') or None,
                _expect(int, each['ModifyIndex'])) for each in found}
        return self._call(f'read {", ".join(prefixes)}', call)

    def list_keys(self, prefix: str) -> list[str]:
        """The names of all keys that begin with *prefix*, as far as the
        token may read them."""
        def call() -> list[str]:
            try:
                _, found = self._consul.kv.get(
                    prefix, keys=True, consistency='consistent')
            except Refused as exc:
                if exc.is_missing:
                    return []
                raise
            return [_expect(str, key) for key in found or ()]
        return self._call(f'list the keys in {prefix}', call)

    def prove_readable(self, key: str) -> None:
        """Do nothing if the token may read *key*, whether it is there or not.

        Of several keys Consul leaves out those that may not be read, so that
        they look like keys that are not there; of one alone it says so.

        Raises :class:`PermissionDeniedError`.
        """
        def call() -> None:
            try:
                self._consul.kv.get(key, consistency='consistent')
            except Refused as exc:
                if not exc.is_missing:
                    raise
        self._call(f'read {key}', call)

    def write_if(self, key: str, value: bytes, index: int) -> bool:
        """Write *value* to *key* if that is as at *index*, 0: missing."""
        def call() -> bool:
            try:
                transactions.modify_index(self._transact([
                    unchanged(key, index), transactions.put(key, value)]), key)
            except Refused as exc:
                if exc.status != 409 or not exc.says(CHANGED):
                    raise
                # By an attempt before, perhaps, whose answer was lost.
                return self._read(key).record == value
            return True
        return self._call(f'write {key}', call)

    def hand_in(self, key: str, name: str, value: bytes, state: KeyState,
                control: bytes | None) -> bool:
        """Leave *value* for the holder of *key* by *name*, once, if the key is
        still as it was read, as *state*; False if it is not.

        With *control* that is written, if it is as it was read too.  What
        comes late, when the key has changed, does nothing.
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
                if exc.status == 409 and exc.says(CHANGED):
                    return False
                # By an attempt before, whose answer was lost.
                if exc.status != 409 or not exc.says(transactions.STALE):
                    raise
            return True
        return self._call(f'write {handed_in_key(key, name)}', call)

    def sessions(self) -> dict[str, str]:
        """The names of all sessions that the token may read, by their ids."""
        def call() -> dict[str, str]:
            _, found = self._consul.session.list()
            return {_expect(str, each['ID']): each.get('Name') or ''
                    for each in found}
        return self._call('list the sessions', call)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._transport.close()

    def _read(self, key: str, index: int | None = None, wait: float = 0) -> KeyState:
        try:
            new_index, items = self._consul.kv.get(
                key, index=index, wait=duration(wait), recurse=True,
                consistency='consistent')
        except Refused as exc:
            if not exc.is_missing:
                raise
            return KeyState(exc.index, None, None, 0)
        found = {_expect(str, item['Key']): item for item in items}
        if not found:
            raise LookupError('an empty list is no answer of Consul')
        return _key_state(int(new_index), key, found)

    def _find_server(self, reason: Refused) -> str:
        """The name of a server of the datacenter, the same for all clients."""
        _, servers = self._consul.catalog.service('consul')
        names = sorted(_expect(str, server['Node']) for server in servers)
        if names:
            return names[0]
        if reason.says(MAY_NOT):
            raise reason
        # What the token may not read, Consul leaves out.
        raise LockUnavailableError(
            f'cannot create a session: {reason}; and no server of datacenter '
            f'{self._transport.endpoint.dc!r} is there, or may be read with this '
            f'token, to bind the session to') from reason

    def _find_index(self, key: str, session: str, state: KeyState) -> int | None:
        """The index to take *key* at, after an attempt whose answer was lost.

        It was made for a key that was as *state*.  None if that is over.
        """
        found = self._read(key)
        if found.session == session:
            # That attempt was carried out.  Taken once more, so that its
            # token is not that of a request that may come again.
            return found.modify_index
        # Somebody may have held the key in between, and the lock-delay is
        # sure to keep out only those who read the key free.
        unchanged = (found.session is None
                     and found.modify_index == state.modify_index)
        return state.modify_index if unchanged else None

    def _transact(
        self, operations: Sequence[Mapping[str, object]], session: str | None = None,
    ) -> list[Document]:
        """Do all *operations* on keys or none; returns the keys that result.

        Whatever interrupts it, *session* is noted as doubtful if it may be
        carried out all the same.
        """
        try:
            result = self._consul.txn.put([{'KV': each} for each in operations])
            return [each['KV'] for each in _expect(list, result['Results'])]
        except BaseException as exc:
            if session is not None and not _is_settled(exc):
                self._doubtful.add(session)
            raise

    def _call(
        self, what: str, call: Callable[[], T],
        may_repeat: Callable[[Exception], bool] | None = None,
    ) -> T:
        attempt = 1
        ends = time.monotonic() + self._patience
        while True:
            try:
                return call()
            except FAILURES as exc:
                repeat = (may_repeat or _is_passing)(exc)
                if (not repeat or attempt >= self._attempts
                        or time.monotonic() >= ends):
                    _refuse_key_name(what, exc)
                    raise _translated(what, exc) from exc
            self._sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            attempt += 1

    def put(self, key: str, value: bytes) -> None:
        """Write *value* to *key*, whoever else writes to it."""
        self._call(f'write {key}', lambda: self._consul.kv.put(key, value))

    def register_service(
        self, service: str, name: str, ttl: float, status: str, remove_after: float,
    ) -> None:
        """Register a service with the agent, with a check that has to be updated.

        *service* is its id, *name* is for DNS.  The check, ``service:`` and the
        id, has the *status* to begin with, becomes critical *ttl* seconds after
        an update, and removes the service when it was critical for
        *remove_after* seconds.
        """
        self._call(f'register the service {name}', lambda: (
            self._consul.agent.service.register(name, service_id=service, check={
                'TTL': duration(ttl), 'Status': status,
                'DeregisterCriticalServiceAfter': duration(remove_after)})))

    def deregister_service(self, service: str) -> None:
        """Remove the service with this id from the agent, if it is there."""
        def call() -> None:
            try:
                self._consul.agent.service.deregister(service)
            except Refused as exc:
                if not exc.says(_UNKNOWN):
                    raise
        self._call(f'remove the service {service}', call)

    def expired_services(self, name: str) -> list[str]:
        """The ids of the services called *name* that nobody updates any more."""
        def call() -> list[str]:
            return [about['ServiceID']
                    for about in self._consul.agent.checks().values()
                    if about['ServiceName'] == name
                    and about['Status'] == 'critical'
                    and about['Output'].startswith('TTL expired')]
        return self._call('list the checks', call)

    def update_check(self, check: str, status: str, note: str) -> bool:
        """Set a check with a TTL to passing, warning or critical.

        Returns False if the agent does not know the check.
        """
        ttl = self._consul.agent.check
        update = {'passing': ttl.ttl_pass, 'warning': ttl.ttl_warn,
                  'critical': ttl.ttl_fail}[status]

        def call() -> bool:
            try:
                update(check, notes=note)
            except Refused as exc:
                if exc.says(_UNKNOWN):
                    return False
                raise
            return True
        return self._call('update the check', call)


def _key_state(index: int, key: str, found: Document) -> KeyState:
    """The state of *key*, of the entries *found* under its prefix."""
    item, control = found.get(key), found.get(control_key(key))
    asked = {} if control is None else {
        'control': control['Value'],
        'control_index': _expect(int, control['ModifyIndex'])}
    if item is None:
        return KeyState(index, None, None, 0, **asked)
    return KeyState(
        index, item['Value'], item.get('Session') or None,
        _expect(int, item['ModifyIndex']), **asked)


def handed_in_of(key: str, values: Mapping[str, T]) -> dict[str, T]:
    """Return those of *values*, by keys, that were handed in for the history
    of the job whose lock is *key*, by name."""
    prefix = handed_in_key(key)
    return {name[len(prefix):]: value for name, value in values.items()
            if name.startswith(prefix)}


def _decode(entry: Document) -> bytes:
    return base64.b64decode(entry['Value'] or '')


def _expect(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f'not an answer of Consul: {value!r:.100}')
    return value


def _is_passing(exc: Exception) -> bool:
    """True if the same call may succeed in a moment."""
    if isinstance(exc, Refused):
        return exc.status == 429 or exc.status >= 500 and not exc.says(_FINAL)
    return isinstance(exc, TransportError)


def _is_undone(exc: BaseException) -> bool:
    """True if it may succeed in a moment, and has certainly not been done."""
    if isinstance(exc, Refused):
        return exc.status == 429 or exc.status >= 500 and exc.says(_NO_LEADER)
    return isinstance(exc, TransportError) and not exc.sent


def _refuse_key_name(what: str, exc: Exception) -> None:
    """Raise :class:`ConfigError` if it is the name of the key that is refused.

    It would be refused for ever, with a status like that of a passing fault.
    """
    if isinstance(exc, Refused) and exc.says(_BAD_NAME):
        raise ConfigError(
            f'key: not allowed by this version of Consul: cannot {what}: '
            f'{exc}; allowed by 1.21.5: ASCII letters, digits and ,_./-?&= '
            f'(versions before it, and those from 1.21.6 on, take more): '
            f'choose another name for the task, or another key') from None


def _is_settled(exc: BaseException) -> bool:
    """True if what was refused so is not done, and will not be."""
    if isinstance(exc, Refused):
        # 408 and its like can come from something on the way to Consul.
        return (exc.status in (400, 401, 403, 409, 413)
                or exc.status >= 500 and exc.says(_FINAL) or _is_undone(exc))
    return _is_undone(exc)


def _translated(what: str, exc: Exception) -> LockError:
    message = f'cannot {what}: {exc}'
    if isinstance(exc, Refused):
        if exc.is_denied:
            return PermissionDeniedError(message)
        if exc.says(SESSION_LOST):
            return SessionLostError(message)
    if isinstance(exc, TransportError | Refused):
        return LockUnavailableError(message)
    return LockUnavailableError(
        f'cannot {what}: not an answer of Consul: {type(exc).__name__}: {exc!s:.200}')
