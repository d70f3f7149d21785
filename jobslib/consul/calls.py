"""Single requests to Consul, from which everything but the lease keeper is made.

They use the API of the ``consul`` package.  For locks and commands they are tried
again, and what fails becomes an error of the lock (:mod:`.keyclient`);
``runjob check`` shows how each one went (:mod:`.rights`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from jobslib.consul.api import duration, make_consul
from jobslib.consul.endpoint import Endpoint
from jobslib.consul.refusals import (
    ELSEWHERE,
    UNKNOWN_FIELD,
    Refused,
    refuse_failure,
)
from jobslib.consul.transport import Response, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['Calls', 'Entry', 'decode', 'expect']

T = TypeVar('T')


class Entry(NamedTuple):
    """A key as it was read; *session* is None if nobody holds it."""

    value: bytes
    session: str | None
    modify_index: int

    @classmethod
    def of(cls, item: Document, value: bytes | None) -> Entry:
        """Return what an answer says of a key, of which *value* is decoded."""
        return cls(value or b'', item.get('Session') or None,
                   expect(int, item['ModifyIndex']))


class Calls:
    """Requests to one agent, each of which is sent once.  Not thread-safe.

    A call raises :class:`.Refused` when Consul refuses it, :class:`.TransportError`
    when no answer comes, and another of :data:`.FAILURES` when the answer is not
    Consul's.  *api* has the calls of the ``consul`` package, which raise the same.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._transport = Transport(endpoint)
        self.api = make_consul(self._transport)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._transport.close()

    def ask_leader(self) -> Response:
        """Ask who leads the servers, and return the answer, whatever its status.

        This needs no rights, and each answer has the time.
        """
        return self._transport.request('GET', '/v1/status/leader')

    def servers(self) -> list[str]:
        """Return the names of the datacenter's servers that the token may read."""
        _, servers = self.api.catalog.service('consul')
        return sorted(expect(str, server['Node']) for server in servers)

    def create_session(
        self, name: str, ttl: float, lock_delay: float, checks: Sequence[str] = (),
        node: str | None = None, **fields: object,
    ) -> str:
        """Create a session and return its id.

        *ttl*, 10 to 86400, and *lock_delay* are in seconds.  The session is
        bound to the health checks with the ids *checks*, which may be none, and
        to *node*, by default the agent's own.  Other *fields* are passed on.
        """
        fields |= {'name': name, 'ttl': f'{ttl}s', 'lockdelay': f'{lock_delay}s'}
        if node:
            fields['node'] = node
        try:
            return self._create_session(fields, NodeChecks=list(checks))
        except Refused as exc:
            if exc.status != 400 or not exc.says(UNKNOWN_FIELD):
                raise
            # Versions before 1.7 know these by their old name alone, which is the
            # one that the package uses.
            return self._create_session(fields, checks=list(checks))

    def _create_session(self, fields: dict[str, object], **checks: object) -> str:
        response = self._transport.request(
            'PUT', '/v1/session/create',
            body=json.dumps({**fields, **checks}).encode())
        refuse_failure(response)
        return expect(str, response.json()['ID'])

    def is_elsewhere(self, exc: Refused) -> bool:
        """Whether a session on the agent's own node may have been refused because
        another datacenter does not know it, or denies the token what has its
        name there."""
        return bool(self.endpoint.dc) and exc.says(ELSEWHERE)

    def sessions(self) -> dict[str, str]:
        """Return the names of all sessions that the token may read, by id."""
        _, found = self.api.session.list()
        return {expect(str, each['ID']): each.get('Name') or '' for each in found}

    def register_check(self, check: str, name: str, ttl: float) -> None:
        """Register a check that passes, and fails when it is not updated.

        *check* is its id, *name* is for people.  It fails *ttl* seconds after
        the last update.
        """
        self.api.agent.check.register(
            name, check_id=check,
            check={'ttl': duration(ttl), 'status': 'passing'})

    def deregister_checks(self, name: str) -> None:
        """Deregister the checks called *name* that have failed, one by one."""
        for check, about in self.api.agent.checks().items():
            if about['Name'] == name and about['Status'] == 'critical':
                self.api.agent.check.deregister(check)

    def read(self, key: str) -> Entry | None:
        """Read *key* by its name, from a leader that a quorum confirms; None if it
        is missing.

        When several keys are read at once, Consul leaves out those that the
        token may not read, as if they did not exist.  This is refused then.
        """
        try:
            _, item = self.api.kv.get(key, consistency='consistent')
        except Refused as exc:
            if not exc.is_missing:
                raise
            return None
        return Entry.of(item, item['Value'])

    def read_tree(self, prefix: str, index: int | None = None,
                  wait: float = 0) -> tuple[int, dict[str, Entry]]:
        """Read all keys that begin with *prefix* and that the token may read, from a
        leader that a quorum confirms.

        :param index: makes it a blocking query, which waits for a change.
        :param wait: how long that waits at the most, in seconds.
        :returns: the index to go on from, and the keys by name.
        """
        try:
            new_index, items = self.api.kv.get(
                prefix, index=index, wait=duration(wait), recurse=True,
                consistency='consistent')
        except Refused as exc:
            if not exc.is_missing:
                raise
            return exc.index, {}
        found = {expect(str, item['Key']): Entry.of(item, item['Value'])
                 for item in items}
        if not found:
            raise LookupError('an empty list is not an answer of Consul')
        return int(new_index), found

    def list_keys(self, prefix: str, separator: str = '') -> list[str]:
        """Return the names of all keys that begin with *prefix* and that the token
        may read; what follows the *separator* in them is cut off."""
        try:
            _, found = self.api.kv.get(
                prefix, keys=True, separator=separator, consistency='consistent')
        except Refused as exc:
            if not exc.is_missing:
                raise
            return []
        return [expect(str, key) for key in found or ()]

    def transact(self, operations: Sequence[Mapping[str, object]]) -> list[Document]:
        """Do all *operations* on keys or none; return the keys that result.

        See :mod:`.transactions`.
        """
        result = self.api.txn.put([{'KV': each} for each in operations])
        return [each['KV'] for each in expect(list, result['Results'])]


def decode(item: Document) -> bytes:
    """Return the value of a key, from what a transaction says of it."""
    return base64.b64decode(item['Value'] or '')


def expect(kind: type[T], value: object) -> T:
    """Return a part of an answer.

    :raises TypeError: it is of another type than Consul's are.
    """
    if not isinstance(value, kind):
        raise TypeError(f'not an answer of Consul: {value!r:.100}')
    return value
