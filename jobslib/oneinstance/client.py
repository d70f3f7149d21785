"""The calls that a lock needs, through the API of the ``consul`` package.

The only module that uses that package.  It works with py-consul and with
its forerunner python-consul alike: their HTTP layer, which lacks timeouts or
keeps the token in the URL, is replaced by :mod:`.transport`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ..exceptions import LockError, LockUnavailableError
from .consulpackage import import_base
from .transport import Endpoint, Response, Transport, TransportError

__all__ = ['ConsulClient', 'KeyState', 'PermissionDeniedError', 'SessionLostError']

T = TypeVar('T')

base: Any = import_base()

# Pauses between attempts, in seconds: the first, doubled each time, and the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0

# What Consul says, in lower case.  A failed transaction is status 409 and a
# failed call 500 whatever the cause, so the text decides.
_HELD = ('lock is already held', 'due to lock delay')
_NOT_HELD = ("lock isn't held",)
_DENIED = ('permission denied', 'acl not found')
_SESSION_LOST = ('invalid session "',)
_NO_LEADER = ('no cluster leader',)
_NO_NODE = ('missing node registration',)
# What creating a session on the agent's node in another datacenter can lead to.
_ELSEWHERE = _NO_NODE + ('permission denied',)
_FINAL = _DENIED + _SESSION_LOST + _NO_NODE + (
    'invalid session ttl', 'missing check ', 'failed session lookup',
)


class PermissionDeniedError(LockUnavailableError):
    """The token does not allow the call, or Consul does not know the token."""


class SessionLostError(LockError):
    """The session that the call was made for has ended."""


class KeyState:
    """A key as it was read.

    *index* is what a blocking query waits on.  *record* is the value, None if
    the key is missing or empty.  *session* is the holder's, None if the key
    is free.  A missing key has *modify_index* and *lock_index* 0.
    """

    def __init__(
        self, index: int, exists: bool, record: bytes | None, session: str | None,
        modify_index: int, lock_index: int,
    ) -> None:
        self.index = index
        self.exists = exists
        self.record = record
        self.session = session
        self.modify_index = modify_index
        self.lock_index = lock_index


class _Refused(Exception):
    """An answer that is not the one hoped for."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.status = response.status
        self.index = response.index
        self.text = ' '.join(_reason(response).split())
        self.origin = response.origin

    def says(self, phrases: Sequence[str]) -> bool:
        return any(phrase in self.text.lower() for phrase in phrases)

    def __str__(self) -> str:
        return f'{self.origin}: {self.status} {self.text[:200]}'


def _reason(response: Response) -> str:
    """Why, in Consul's words."""
    if response.status == 409:
        with contextlib.suppress(TransportError, LookupError, TypeError):
            return '; '.join(error['What'] for error in response.json()['Errors'])
    return response.text


# What a call can raise; the last four are what the package makes of an answer
# that is not as Consul's are.
_FAILURES = (TransportError, _Refused, base.ConsulException, ValueError, TypeError,
             LookupError, AttributeError)


class ConsulClient:
    """A client of one Consul agent.  Not thread-safe.

    Every call is tried up to *retry_max_attempts* times if it failed in a way
    that passes and is safe to repeat.  What it raises then is a
    :class:`LockUnavailableError`, :class:`PermissionDeniedError` among them,
    and whatever more its description names.  *sleep* takes seconds.
    """

    def __init__(
        self, endpoint: Endpoint, retry_max_attempts: int,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._transport = Transport(endpoint)
        self._attempts = retry_max_attempts
        self._sleep = sleep
        # The node of another datacenter that sessions are bound to.
        self._node: str | None = None
        with _hidden_environment():
            self._consul = _Consul(_Http(self._transport))

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
            except _Refused as exc:
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
            check={'ttl': _duration(ttl), 'status': 'passing'}))

    def deregister_checks(self, name: str) -> None:
        """Deregister the checks called *name* that have failed."""
        def call() -> None:
            for check, about in self._consul.agent.checks().items():
                if about['Name'] == name and about['Status'] == 'critical':
                    self._consul.agent.check.deregister(check)
        self._call('deregister checks', call)

    def renew_session(self, session: str) -> bool:
        """Renew *session*; False if it is gone."""
        def call() -> bool:
            try:
                self._consul.session.renew(session)
            except _Refused as exc:
                if exc.status == 404:
                    return False
                raise
            return True
        return self._call('renew the session', call)

    def destroy_session(self, session: str) -> None:
        """Destroy *session*, if it still is."""
        self._call('destroy the session',
                   lambda: self._consul.session.destroy(session))

    def read(
        self, key: str, index: int | None = None, wait: float = 60.0,
    ) -> KeyState:
        """Read *key*, as the leader that a quorum confirms has it.

        With *index* the answer comes when the key has changed since then, or
        after *wait* seconds and up to a sixteenth more; it can also come with
        nothing changed.  An index that falls, or is 0, is no good for the next
        call: start again without one.  A blocking query that gets no answer
        is not repeated.
        """
        if not index:
            return self._call(f'read {key}', lambda: self._read(key))
        return self._call(
            f'read {key}', lambda: self._read(key, index, wait), _is_prompt)

    def acquire(self, key: str, value: bytes, session: str) -> int | None:
        """Take *key* for *session*, with *value* in it.

        Returns the fencing token, None if the key is held or in its
        lock-delay.  Raises :class:`SessionLostError`.  To be called only for a
        key that was just read free.  After a :class:`LockUnavailableError` the
        session may hold the key nevertheless.
        """
        repeated = False

        def call() -> int | None:
            nonlocal repeated
            # Somebody may have held the key between the attempts, and the
            # lock-delay is sure to keep out only those who read the key free.
            if repeated and self._read(key).session not in (None, session):
                return None
            repeated = True
            try:
                return self._transact('lock', key, value, session)
            except _Refused as exc:
                if exc.status == 409 and exc.says(_HELD):
                    return None
                raise
        return self._call(f'acquire {key}', call)

    def release(self, key: str, value: bytes, session: str) -> bool:
        """Free *key* and leave *value* in it; False if *session* does not hold it.

        False also comes after an attempt that freed it and whose answer was lost.
        """
        def call() -> bool:
            try:
                self._transact('unlock', key, value, session)
            except _Refused as exc:
                if exc.status == 409 and exc.says(_NOT_HELD):
                    return False
                raise
            return True
        return self._call(f'release {key}', call)

    def leader(self) -> str:
        """The address of the leader, '' if there is none."""
        return self._call(
            'ask for the leader', lambda: _expect(str, self._consul.status.leader()))

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._transport.close()

    def _read(self, key: str, index: int | None = None, wait: float = 0) -> KeyState:
        try:
            new_index, item = self._consul.kv.get(
                key, index=index, wait=_duration(wait), consistency='consistent')
        except _Refused as exc:
            # A 404 without an index is not Consul's.
            if exc.status == 404 and exc.index:
                return KeyState(exc.index, False, None, None, 0, 0)
            raise
        return KeyState(
            int(new_index), True, item['Value'], item.get('Session') or None,
            _expect(int, item['ModifyIndex']), _expect(int, item['LockIndex']))

    def _find_server(self, reason: _Refused) -> str:
        """The name of a server of the datacenter, the same for all clients."""
        _, servers = self._consul.catalog.service('consul')
        names = sorted(_expect(str, server['Node']) for server in servers)
        if names:
            return names[0]
        if reason.says(_DENIED):
            raise reason
        # What the token may not read, Consul leaves out.
        raise LockUnavailableError(
            f'cannot create a session: {reason}; and no server of datacenter '
            f'{self._transport.endpoint.dc!r} is there, or may be read with this '
            f'token, to bind the session to') from reason

    def _transact(self, verb: str, key: str, value: bytes, session: str) -> int:
        """Lock or unlock *key*; returns its ModifyIndex."""
        encoded = base64.b64encode(value).decode('ascii')
        result = self._consul.txn.put([
            {'KV': {'Verb': verb, 'Key': key, 'Value': encoded, 'Session': session}},
        ])
        return _expect(int, result['Results'][0]['KV']['ModifyIndex'])

    def _call(
        self, what: str, call: Callable[[], T],
        may_repeat: Callable[[Exception], bool] | None = None,
    ) -> T:
        attempt = 1
        while True:
            try:
                return call()
            except _FAILURES as exc:
                repeat = (may_repeat or _is_passing)(exc)
                if not repeat or attempt >= self._attempts:
                    raise _translated(what, exc) from exc
            self._sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            attempt += 1


class _Http(base.HTTPClient):  # type: ignore[misc, unused-ignore]
    """The HTTP layer of the ``consul`` package, on the transport.

    Raises :class:`_Refused` for what the two packages would turn into
    different exceptions, without the status.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, callback: Any, path: str, params: Any = None, **_: Any) -> Any:
        return self._send('GET', callback, path, params)

    def put(
        self, callback: Any, path: str, params: Any = None, data: Any = '', **_: Any,
    ) -> Any:
        return self._send('PUT', callback, path, params, data)

    def post(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError('a lock needs GET and PUT only')

    delete = post

    def close(self) -> None:
        self._transport.close()

    def _send(
        self, method: str, callback: Any, path: str, params: Any, data: Any = '',
    ) -> Any:
        # The token goes in the transport's header, never in a URL.
        params = [(name, value) for name, value in params or () if name != 'token']
        response = self._transport.request(
            method, path, params, data.encode() if isinstance(data, str) else data,
            timeout=self._timeout(dict(params)))
        if response.status != 200:
            raise _Refused(response)
        headers = {'X-Consul-Index': str(response.index)}
        return callback(base.Response(response.status, headers, response.text))

    def _timeout(self, params: dict[str, str]) -> float:
        """Seconds that a request may take, the wait of a blocking query included."""
        timeout = self._transport.endpoint.timeout
        wait = params.get('wait')
        return timeout + (_seconds(wait) * 17 / 16 if wait else 0)


class _Consul(base.Consul):  # type: ignore[misc, unused-ignore]
    """The client of the package, with that HTTP layer."""

    def __init__(self, http: _Http) -> None:
        self._http = http
        super().__init__()

    # py-consul asks for its HTTP layer by the one name, python-consul by the other.
    def http_connect(self, *_: Any, **__: Any) -> _Http:
        return self._http

    connect = http_connect


_environment = threading.Lock()


@contextlib.contextmanager
def _hidden_environment() -> Iterator[None]:
    """Hide CONSUL_HTTP_* while a client of the package is made.

    Both packages prefer CONSUL_HTTP_TOKEN to what they are told, and
    python-consul fails on a CONSUL_HTTP_ADDR with a scheme.  What applies of
    these variables is in the endpoint already.
    """
    with _environment:
        hidden = {name: value for name, value in os.environ.items()
                  if name.startswith('CONSUL_HTTP_')}
        try:
            for name in hidden:
                del os.environ[name]
            yield
        finally:
            os.environ.update(hidden)


def _duration(seconds: float) -> str:
    # 0 would be taken for Consul's default, five minutes.
    return f'{max(1, round(seconds * 1000))}ms'


def _seconds(duration: str) -> float:
    return int(duration.removesuffix('ms')) / 1000


def _expect(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f'not an answer of Consul: {value!r:.100}')
    return value


def _is_passing(exc: Exception) -> bool:
    """True if the same call may succeed in a moment."""
    if isinstance(exc, _Refused):
        return exc.status == 429 or exc.status >= 500 and not exc.says(_FINAL)
    return isinstance(exc, TransportError)


def _is_prompt(exc: Exception) -> bool:
    """True if it may succeed in a moment, and the failure took none."""
    return _is_passing(exc) and not (isinstance(exc, TransportError) and exc.sent)


def _is_undone(exc: Exception) -> bool:
    """True if it may succeed in a moment, and has certainly not been done."""
    if isinstance(exc, _Refused):
        return exc.status == 429 or exc.status >= 500 and exc.says(_NO_LEADER)
    return isinstance(exc, TransportError) and not exc.sent


def _translated(what: str, exc: Exception) -> LockError:
    message = f'cannot {what}: {exc}'
    if isinstance(exc, _Refused):
        if exc.status in (401, 403) or exc.says(_DENIED):
            return PermissionDeniedError(message)
        if exc.says(_SESSION_LOST):
            return SessionLostError(message)
    if isinstance(exc, TransportError | _Refused):
        return LockUnavailableError(message)
    return LockUnavailableError(
        f'cannot {what}: not an answer of Consul: {type(exc).__name__}: {exc!s:.200}')
