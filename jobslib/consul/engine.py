"""Consul as the lock service of the lease keeper.

All that the keeper asks of Consul, and what the answers mean, is in this
file.  Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import binascii
import json
import threading

from jobslib.consul.transport import Endpoint, Transport, TransportError
from jobslib.consul.writes import free, write_note
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
    from collections.abc import Mapping
    from typing import Any

    from jobslib.consul.transport import Response
    from jobslib.documents import Document

__all__ = ['Connections', 'ConsulEngine', 'make']

# The longest that a blocking query waits, in seconds.
WATCH = 20.0
# A check is passed so often in its TTL.
PASSES = 3
# What reading an answer raises that is not Consul's.
_NOT_CONSULS = (TransportError, LookupError, TypeError, ValueError,
                AttributeError)


def make(options: Document) -> ConsulEngine:
    """Return the engine that *options*, the arguments of it, describe."""
    return ConsulEngine(Endpoint(**options.pop('endpoint')), **options)


class Connections:
    """Requests of several threads over one connection that is kept open.

    An agent of Consul has room for 200 connections of a machine, by default,
    and all who talk to it share them.  While the one that is kept is in use,
    another one is opened for the time of a request: a renewal never waits
    for an answer to something else.

    :param endpoint: how to reach Consul.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        # Of what follows; all threads of the keeper write it.
        self._lock = threading.Lock()
        # Not in use.  Whoever takes it out is its owner until it is back.
        self._idle: Transport | None = None
        self._resting = True

    def request(self, *args: Any, **kwargs: Any) -> Response:
        """Send a request, see :meth:`.transport.Transport.request`."""
        with self._lock:
            transport, self._idle = self._idle, None
        if transport is None:
            transport = Transport(self._endpoint)
        try:
            return transport.request(*args, **kwargs)
        finally:
            with self._lock:
                if self._idle is None and not self._resting:
                    transport, self._idle = None, transport
            if transport is not None:
                transport.close()

    def rest(self, resting: bool) -> None:
        """Keep no connection open, or one again."""
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
    :param lock_delay: that of the session, in seconds.
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
        # A blocking query needs one of its own.  Used by the thread that
        # watches alone.
        self._watching = Transport(endpoint)
        # By key and token: the index of a note as it was written last.  Of the
        # thread that writes them.
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
                # The status alone could come from anybody on the way.
                return (ENDED if self.session in response.text
                        and self._has_ended(timeout) else UNKNOWN)
            renewed = (response.status == 200 and
                       response.json()[0].get('ID') == self.session)
        except _NOT_CONSULS:
            return UNKNOWN
        return RENEWED if renewed else UNKNOWN

    def _has_ended(self, timeout: float) -> bool:
        """Return whether the session is gone, as the leader of a quorum
        knows it.

        A server that was just restarted answers renewals before it has read
        its log, and then knows of no session.
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
            # With all that begins with the key, so with its control key.
            response = self._watching.request(
                'GET', f'/v1/kv/{self.key}', [('recurse', '1'), *params],
                timeout=timeout)
            entries = _entries_of(response)
            holder = self._holder(response, entries.get(self.key))
            if holder == OURS:
                return Sight(
                    holder, _control_of(entries.get(f'{self.key}.control')),
                    response.index if response.index >= mark else 0)
            if holder != UNKNOWN:
                # What a token may not read is left out of a list, and a
                # server that was just restarted answers before it has read
                # its log: asked for by its name, and of a quorum.
                response = self._watching.request(
                    'GET', f'/v1/kv/{self.key}', [('consistent', '1')])
                holder = self._holder(
                    response, _entries_of(response).get(self.key))
        except _NOT_CONSULS:
            return Sight(UNKNOWN)
        return Sight(holder)

    def _holder(self, response: Response,
                entry: Mapping[str, object] | None) -> str:
        if response.status not in (200, 404) or not response.index:
            return UNKNOWN
        if entry is None:
            if response.header('X-Consul-Results-Filtered-By-ACLs') == 'true':
                # The token may not see it any more; what is there is not
                # known.
                return UNKNOWN
            return GONE
        holder = entry.get('Session')
        if holder == self.session:
            return OURS
        return ANOTHERS if holder else NOBODYS

    def write(self, key: str, value: str, token: int) -> bool:
        # Between two holds others may have written to it.
        known = self._indexes.pop((key, token), None)
        done, index = write_note(
            self._connections, self.key, token, key, value, known)
        if index is not None:
            # Those of earlier holds are of no use any more.
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

    def _succeeds(self, path: str, body: bytes = b'',
                  statuses: tuple[int, ...] = (200, 404),
                  timeout: float | None = None) -> bool:
        """Send a PUT; return whether the answer has one of *statuses*."""
        try:
            return self._connections.request(
                'PUT', path, body=body, timeout=timeout).status in statuses
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
