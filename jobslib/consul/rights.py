"""Whether Consul answers, and lets a token do what a lock needs.

Each right is tried by a request that needs it and changes nothing of a job.
The right to write a key is tried without writing: the key is *unlocked* for a
session that does not hold it.  Consul first looks whether the token may write it
and then refuses the request, so neither the key nor its index changes.  What has
to be made (a session, a key beside the lock, a check of the agent) is removed
again.  If this process is killed, session and key go by themselves within twice
:data:`TTL` seconds, and the next examination removes the check.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable

from jobslib.consul import transactions
from jobslib.consul.api import FAILURES
from jobslib.consul.attempts import (
    Attempts,
    SkippedError,
    denial,
    undisturbed,
)
from jobslib.consul.calls import Entry
from jobslib.consul.endpoint import Endpoint
from jobslib.consul.names import (
    control_key,
    handed_in_key,
    history_key,
    scratch_key,
)
from jobslib.consul.refusals import BAD_TTL, Refused, refuse_failure
from jobslib.consul.transport import TransportError
from jobslib.findings import NOT_TRIED, Finding
from jobslib.keeper.timings import Timings

__all__ = ['TTL', 'examine']

#: The TTL of the session that is made, in seconds; the least that Consul takes.
TTL = 10
#: The name of the check that is made, by which people know it, and leftovers are
#: found.
CHECK_NAME = 'jobslib check (scratch)'
# The id of a session that nobody has.
NOBODY = '00000000-0000-0000-0000-000000000000'

# What is written to the key that is made.
_EMPTY = b'{}'


def examine(endpoint: Endpoint, timings: Timings, key: str | None,
            history: bool = True) -> list[Finding]:
    """Return what Consul lets the token of *endpoint* do.

    :param key: the key of the lock; ``None`` when it is not known.
    :param history: whether a history is kept beside the lock.
    """
    examination = _Examination(endpoint, timings, key)
    try:
        examination.ask_consul()
        examination.ask_session()
        if key is None:
            examination.findings.append(Finding(
                'read and write the key', NOT_TRIED,
                'no task is named, so the key is not known'))
        else:
            examination.ask_keys(key, history)
    finally:
        examination.clean()
    return examination.findings


class _Examination(Attempts):
    """Tries one right after the other; each leads to one finding."""

    def __init__(self, endpoint: Endpoint, timings: Timings,
                 key: str | None) -> None:
        super().__init__(endpoint)
        self._timings = timings
        # The agent's own node, if the token may know it, and with another
        # datacenter the node of a server there.
        self._own_node: str | None = None
        self._node: str | None = None
        # What was made and has to be removed.
        scratch = uuid.uuid4().hex
        self._scratch = scratch_key(key or '', scratch)
        self._scratch_made = False
        self._session: str | None = None
        self._check = f'jobslib-check-{scratch}'
        self._check_made = False
        self._key_exists = self._key_writable = False

    # The steps.

    def ask_consul(self) -> None:
        """Try whether Consul answers and has a leader."""
        self.attempt('reach Consul', self._ask_leader)
        # With another datacenter the session is on a node there, so the
        # agent's own does not matter.
        if not self.away and not self.endpoint.dc:
            with contextlib.suppress(*FAILURES):
                about = self.calls.api.agent.self()
                self._own_node = str(about['Config']['NodeName'])

    def ask_session(self) -> None:
        """Try all that a session needs."""
        if self._timings.check_ttl is not None:
            self.attempt('register a check of the agent', self._register,
                         self._rule('node', 'write'))
        self.attempt('create a session', self._create,
                     self._rule('session', 'write'))
        self.attempt('renew the session', self._with_session(
            self.calls.api.session.renew), self._rule('session', 'write'))
        self.attempt('read the session', self._with_session(self._read_session),
                     self._rule('session', 'read'))
        self.attempt('list the sessions', self._with_session(self._list_sessions),
                     self._rule('session', 'read'))

    def ask_keys(self, key: str, history: bool) -> None:
        """Try the key of the lock, and those beside it."""
        folder = key.rpartition('/')[0]
        prefix = f'{folder}/' if folder else ''
        control, runs = control_key(key), history_key(key)
        self.attempt(f'read {key}', lambda: self._read(key), _key_rule(key, 'read'))
        self.attempt(f'write {key}', lambda: self._ask_write(key), _key_rule(key))
        self.attempt('lock a scratch key beside it', self._lock,
                     _key_rule(key, prefix=True))
        self.attempt(f'write {control}', lambda: self._probe(control),
                     _key_rule(control))
        self.attempt(f'write {runs}', lambda: self._ask_history(key, history),
                     _key_rule(runs, prefix=True))
        self.attempt(f'list the keys in {prefix or "the root"}',
                     lambda: self._list(prefix, key),
                     f'key_prefix "{prefix}" {{ policy = "list" }}')

    def clean(self) -> None:
        """Remove what was made; a signal has to wait for it."""
        with undisturbed():
            if self._scratch_made:
                self.remove('delete the scratch key', self._delete_scratch)
            if self._session is not None:
                self.remove('destroy the session', self._with_session(
                    self.calls.api.session.destroy))
            if self._check_made:
                self.remove('deregister the check', lambda: (
                    self.calls.api.agent.check.deregister(self._check)))
            self.close()

    # The requests.

    def _ask_leader(self) -> str:
        response = self.calls.ask_leader()
        refuse_failure(response)
        leader = response.json()
        if not leader:
            self.away = True
            raise TransportError('the servers have no leader', False)
        return f'{self.endpoint.url}, the leader is {leader}'

    def _register(self) -> None:
        # First remove the checks of examinations that were killed.
        self.calls.deregister_checks(CHECK_NAME)
        self._check_made = True
        try:
            self.calls.register_check(
                self._check, CHECK_NAME, self._timings.check_ttl or 0)
        except Refused:
            self._check_made = False
            raise

    def _create(self) -> str:
        try:
            return self._create_on(None)
        except Refused as exc:
            if not self.calls.is_elsewhere(exc):
                raise
        self.attempt(f'look up a server of datacenter {self.endpoint.dc}',
                     self._look_up, 'service "consul" { policy = "read" } '
                     'node_prefix "" { policy = "read" }')
        if self._node is None:
            raise SkippedError('there is no server to bind it to')
        return self._create_on(self._node)

    def _create_on(self, node: str | None) -> str:
        checks = ['serfHealth', self._check] if self._check_made else []

        def create(ttl: float) -> None:
            # When the session ends, the key that it holds is deleted.
            self._session = self.calls.create_session(
                'jobslib check', ttl, 0, checks, node, behavior='delete')
        # A signal has to wait until the id of the session is known, so that it
        # can be removed.
        with undisturbed():
            try:
                create(TTL)
            except Refused as exc:
                if not exc.says(BAD_TTL):
                    raise
                create(self._timings.ttl)
        return f'on {node}' if node else ''

    def _look_up(self) -> str:
        nodes = self.calls.servers()
        if not nodes:
            raise denial('no server is there to be read')
        self._node = nodes[0]
        return self._node

    def _with_session(
        self, call: Callable[[str], object],
    ) -> Callable[[], object]:
        def with_session() -> object:
            if self._session is None:
                raise SkippedError('there is no session')
            return call(self._session)
        return with_session

    def _read_session(self, session: str) -> None:
        _, found = self.calls.api.session.info(session)
        if not found:
            raise denial('Consul leaves it out')

    def _list_sessions(self, session: str) -> None:
        if session not in self.calls.sessions():
            raise denial('Consul leaves it out')

    def _read(self, key: str) -> str:
        entry = self.calls.read(key)
        if entry is None:
            return 'nobody has held it yet'
        self._key_exists = True
        return _holder(entry)

    def _ask_write(self, key: str) -> None:
        self._probe(key)
        self._key_writable = True

    def _ask_history(self, key: str, wanted: bool) -> None:
        if not wanted:
            raise SkippedError('history is 0, no runs are kept')
        self._probe(history_key(key))
        # A process that was out of touch with Consul hands in what it has run.
        self._probe(handed_in_key(key, '0'))

    def _probe(self, key: str) -> None:
        """Try the right to write *key*, by a request that Consul refuses."""
        try:
            self.calls.transact([transactions.unlock(
                key, _EMPTY, self._session or NOBODY)])
        except Refused as exc:
            if not exc.says(transactions.NOT_HELD):
                raise

    def _lock(self) -> str:
        if self._session is None:
            raise SkippedError('there is no session')
        self._scratch_made = True
        try:
            self.calls.transact([transactions.lock(
                self._scratch, _EMPTY, self._session)])
        except Refused as exc:
            self._scratch_made = False
            if exc.is_denied and self._key_writable:
                raise SkippedError('the token may write the key of the lock '
                                   'and not beside it') from None
            raise
        return self._scratch

    def _delete_scratch(self) -> None:
        unlock = transactions.unlock(
            self._scratch, _EMPTY, self._session or NOBODY)
        delete = transactions.delete(self._scratch)
        try:
            self.calls.transact([unlock, delete])
        except Refused:
            self.calls.transact([delete])

    def _list(self, prefix: str, key: str) -> None:
        expected = {self._scratch} if self._scratch_made else set()
        expected |= {key} if self._key_exists else set()
        listed = self.calls.list_keys(prefix, '/')
        if not expected:
            raise SkippedError('there is nothing in it that is known of')
        if not expected <= set(listed):
            raise denial('Consul leaves keys out')

    def _rule(self, resource: str, policy: str) -> str:
        """Return the rule to grant, for the agent's node if it is known."""
        if self._own_node is None:
            return f'{resource}_prefix "" {{ policy = "{policy}" }}'
        return f'{resource} "{self._own_node}" {{ policy = "{policy}" }}'


def _key_rule(key: str, policy: str = 'write', prefix: bool = False) -> str:
    resource = 'key_prefix' if prefix else 'key'
    return f'{resource} "{key}" {{ policy = "{policy}" }}'


def _holder(entry: Entry) -> str:
    """Return who holds a key, from its record."""
    if entry.session is None:
        return 'free'
    try:
        record = json.loads(entry.value)
        return (f'held by {record["fqdn"]}, process {record["pid"]}, '
                f'since {record["time_local"]}')
    except (ValueError, LookupError, TypeError, RecursionError):
        return 'held, by whom is not written in it'
