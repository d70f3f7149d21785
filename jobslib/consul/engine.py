"""Consul as the lock service of the lease keeper.

All that the keeper asks of Consul is in this file, and what the answers mean;
what it writes is in :mod:`jobslib.consul.writes`.  Standard library only, see
:mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import binascii
import json
import threading

from jobslib.consul.endpoint import Endpoint
from jobslib.consul.names import control_key
from jobslib.consul.transport import Transport, TransportError
from jobslib.consul.writes import NOT_CONSULS, free, write_note
from jobslib.keeper.engine import (
    ANOTHERS,
    ENDED,
    GONE,
    NOBODYS,
    OURS,
    RENEWED,
    UNKNOWN,
    Chore,
    Engine,
    Sight,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobslib.consul.transport import Response
    from jobslib.documents import Document

__all__ = ['Connections', 'ConsulEngine', 'make']

# The longest that a blocking query waits, in seconds.
WATCH = 20.0
# How often an agent check is passed within its TTL.
PASSES = 3


def make(options: Document) -> ConsulEngine:
    """Return an engine.

    :param options: its arguments, and in ``endpoint`` those of the endpoint.
    """
    return ConsulEngine(Endpoint(**options.pop('endpoint')), **options)


class Connections:
    """Requests of several threads over one connection that is kept open.

    By default an agent of Consul takes 200 connections from a machine, which
    all its clients share.  So one is kept, and while it is in use another one
    is opened for the time of a request: a renewal must never wait for the
    answer to something else.

    :param endpoint: how to reach Consul.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        # Protects the two fields that follow; all threads of the keeper write
        # them.
        self._lock = threading.Lock()
        # The connection that is kept, unless it is in use.  A thread that takes
        # it out is the only one to use it until it puts it back.
        self._idle: Transport | None = None
        self._resting = True

    def request(self, method: str, path: str,
                params: Iterable[tuple[str, object]] = (),
                body: bytes = b'', timeout: float | None = None) -> Response:
        """Send a request, see :meth:`.transport.Transport.request`."""
        with self._lock:
            transport, self._idle = self._idle, None
        if transport is None:
            transport = Transport(self._endpoint)
        try:
            return transport.request(method, path, params, body, timeout)
        finally:
            with self._lock:
                if self._idle is None and not self._resting:
                    transport, self._idle = None, transport
            if transport is not None:
                transport.close()

    def rest(self, resting: bool) -> None:
        """Keep no connection open while *resting*, otherwise one."""
        with self._lock:
            self._resting = resting
            transport = None
            if resting:
                transport, self._idle = self._idle, None
        if transport is not None:
            transport.close()


class ConsulEngine(Engine):
    """A session of Consul, and the key that it is for.

    :param endpoint: how to reach Consul.
    :param session: the id of the session.
    :param key: the key of the lock.
    :param lock_delay: the lock-delay of the session, in seconds.
    :param check: the id of the agent check that the session is bound to.
    :param check_ttl: the TTL of that check, in seconds.
    """

    def __init__(self, endpoint: Endpoint, session: str, key: str,
                 lock_delay: float, check: str | None = None,
                 check_ttl: float | None = None) -> None:
        self.session = session
        self.key = key
        self.protects_after_end = lock_delay
        self.check = check
        self._timeout = endpoint.timeout
        self._connections = Connections(endpoint)
        # A blocking query occupies its connection, so it has one of its own,
        # which only the thread that watches uses.
        self._watching = Transport(endpoint)
        # By key and token: the index of each note as it was written last.  Only
        # the thread that writes the notes uses it.
        self._indexes: dict[tuple[str, int], int] = {}
        if check is not None and check_ttl is not None:
            interval = check_ttl / PASSES
            path = f'/v1/agent/check/pass/{check}'
            self.chores = Chore(interval, lambda: self._succeeds(
                path, timeout=min(endpoint.timeout, interval))),

    def renew(self, timeout: float | None = None) -> str:
        timeout = min(timeout or self._timeout, self._timeout)
        try:
            response = self._connections.request(
                'PUT', f'/v1/session/renew/{self.session}', timeout=timeout)
            if response.status == 404:
                # The status alone could come from a proxy before Consul.
                return (ENDED if self.session in response.text
                        and self._has_ended(timeout) else UNKNOWN)
            renewed = (response.status == 200 and
                       response.json()[0].get('ID') == self.session)
        except NOT_CONSULS:
            return UNKNOWN
        return RENEWED if renewed else UNKNOWN

    def _has_ended(self, timeout: float) -> bool:
        """Return whether the session is gone, by a leader that a quorum confirms.

        A server that was just restarted answers renewals before it has read
        its log, and knows of no session then.
        """
        response = self._connections.request(
            'GET', f'/v1/session/info/{self.session}', [('consistent', '1')],
            timeout=timeout)
        return response.status == 200 and response.json() == []

    def watch(self, mark: int) -> Sight:
        params: list[tuple[str, object]] = [('consistent', '1')]
        if mark:
            params = [('index', mark), ('wait', f'{WATCH:g}s')]
        timeout = self._timeout + (WATCH * 17 / 16 if mark else 0)
        try:
            # The control key begins with the key of the lock, so that one query
            # for all keys that do watches both.
            response = self._watching.request(
                'GET', f'/v1/kv/{self.key}', [('recurse', '1'), *params],
                timeout=timeout)
            entries = _entries_of(response)
            holder = self._holder(response, entries.get(self.key))
            if holder == OURS:
                return Sight(
                    holder, _control_of(entries.get(control_key(self.key))),
                    response.index if response.index >= mark else 0)
            if holder != UNKNOWN:
                # That the lock is not ours is believed only when it is read by
                # its name, from a leader that a quorum confirms: a list leaves
                # out what the token may not read, and a server that was just
                # restarted answers before it has read its log.
                response = self._watching.request(
                    'GET', f'/v1/kv/{self.key}', [('consistent', '1')])
                holder = self._holder(
                    response, _entries_of(response).get(self.key))
        except NOT_CONSULS:
            return Sight(UNKNOWN)
        return Sight(holder)

    def _holder(self, response: Response,
                entry: Mapping[str, object] | None) -> str:
        if response.status not in (200, 404) or not response.index:
            return UNKNOWN
        if entry is None:
            # Where something was left out, the token may not see the key any
            # more, and it is not known who holds it.
            return UNKNOWN if response.is_filtered else GONE
        holder = entry.get('Session')
        if holder == self.session:
            return OURS
        return ANOTHERS if holder else NOBODYS

    def write(self, key: str, value: str, token: int) -> bool:
        # An index counts for one hold only: between two of them others may have
        # written to the key.
        known = self._indexes.pop((key, token), None)
        done, index = write_note(
            self._connections, self.key, token, key, value, known)
        if index is not None:
            # The indexes of earlier holds are of no use any more.
            self._indexes = {each: known for each, known in
                             self._indexes.items() if each[1] == token}
            self._indexes[key, token] = index
        return done

    def release(self, record: Mapping[str, object], notes: dict[str, str],
                token: int | None) -> bool:
        return free(self._connections, self.key, self.session, token,
                    json.dumps(record), notes)

    def end(self) -> bool:
        return self._succeeds(f'/v1/session/destroy/{self.session}')

    def clear_up(self) -> None:
        if self.check is not None:
            self._succeeds(f'/v1/agent/check/deregister/{self.check}')

    def rest(self, resting: bool) -> None:
        self._connections.rest(resting)

    def look_away(self) -> None:
        self._watching.close()

    def _succeeds(self, path: str, timeout: float | None = None) -> bool:
        """Send a PUT; return whether it was done, or had been done before."""
        try:
            return self._connections.request(
                'PUT', path, timeout=timeout).status in (200, 404)
        except TransportError:
            return False


def _entries_of(response: Response) -> dict[str, dict[str, object]]:
    """Return the keys that were read, by name."""
    if response.status != 200:
        return {}
    return {entry['Key']: entry for entry in response.json()}


def _control_of(entry: Document | None) -> bytes:
    """Return the value of a control key, read as *entry*."""
    return binascii.a2b_base64((entry or {}).get('Value') or '')
