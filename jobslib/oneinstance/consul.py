"""A lock across machines, kept in Consul."""

from __future__ import annotations

import contextlib
import json
import os
import time
from functools import cached_property

from jobslib.clock import now
from jobslib.consul.keys import DEFAULT_PREFIX, refuse_lock_key
from jobslib.consul.names import history_key, progress_key
from jobslib.exceptions import LockUnavailableError
from jobslib.history import HandIn
from jobslib.oneinstance import FoundLocks, LockState
from jobslib.oneinstance.consuloptions import MAX_LOCK_DELAY, ConsulOptions
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.lease import LeaseLock
from jobslib.oneinstance.record import parse
from jobslib.owner import OwnerRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.consul.client import (
        Acquired,
        ConsulClient,
        KeyState,
    )
    from jobslib.oneinstance.diagnosis import Finding

__all__ = ['ConsulLock']

# The pause before a lock is tried again that was refused although it was free,
# because its lock-delay is not over yet, in seconds.
REFUSED_PAUSE = 0.5
# How often it is looked whether a free lock may be taken again, in seconds, while
# something other than a pause forbids it.
BARRED_WAIT = 2.0
# How long a key that was read free counts as just read, in seconds.
JUST_READ = 0.5
# How much that was handed in is removed at once: Consul takes 64 operations in a
# transaction.
MAX_MERGED = 50


class ConsulLock(LeaseLock):
    """One instance across machines.

    The lock is a key of Consul, held by a session that a process of its own
    renews; see the guide for what that guarantees.  A subclass can extend the
    owner record (:meth:`make_record`), and do something when the lock was taken
    and when it is gone (:meth:`~.LeaseLock.on_acquired`,
    :meth:`~.LeaseLock.on_released`, :meth:`~.LeaseLock.on_lost`).

    It can be used without ``runjob`` as well.  When the lock is lost between
    :meth:`~.LeaseLock.acquire` and :meth:`~.LeaseLock.release`,
    :class:`jobslib.OneInstanceWatchdogError` is raised in the main thread, and
    :meth:`~.LeaseLock.release` must follow within the grace time; otherwise the
    process is killed, with all that it started.  A lock that was acquired in
    another thread interrupts nothing: the process is only killed.
    """

    _engines = 'jobslib.consul.engine'

    class OptionsConfig(ConsulOptions):
        """Options of :class:`ConsulLock`."""

    def __init__(self, context: BackendContext, options: Any) -> None:
        super().__init__(context, options)
        self.key = options.key or f'{DEFAULT_PREFIX}{context.config.task_name}/lock'
        refuse_lock_key(self.key, options.source('key') if options.key else '')
        # The state of the key as it was read last.
        self._state: KeyState | None = None
        # The key as wait() found it free, and when.
        self._found_free: tuple[KeyState, float] | None = None
        # The index of the key when it was read free first, and when.
        self._free_since: tuple[int, float] | None = None
        # The index at which a free key was refused, because of its lock-delay.
        self._refused: int | None = None
        # The record that was read last while the lock was held, and the fencing
        # token of its holder.
        self._seen: tuple[bytes | None, int] = None, 0

    @cached_property
    def client(self) -> ConsulClient:
        """The client of Consul."""
        # Imported here, because it takes longer than all the rest, and the run's
        # process does not need it.
        from jobslib.consul.client import ConsulClient
        return ConsulClient(
            self.options.endpoint, self.options.retry_max_attempts,
            patience=self.options.patience)

    @property
    def place(self) -> dict[str, str | None]:
        dc = self.options.dc
        return super().place | {
            'address': self.options.endpoint.url + (
                f', datacenter {dc}' if dc else ''),
            'key': self.key}

    def _acquire(self) -> bool:
        with contextlib.closing(self.client):
            return self._acquire_key()

    def _acquire_key(self) -> bool:
        self.unheard = None
        state = self._just_found_free() or self._read()
        while state.session is None and (left := self._delay_left(state)) > 0:
            self.logger.info(
                'the last holder vanished; waiting out its lock-delay, '
                '%.1f s', left)
            self.client.close()
            time.sleep(left)
            state = self._read()
        self._give_back_unknown(state)
        self.barred = self._find_restraint_in(state)
        if state.session is not None or self.barred:
            return False
        if not self.consider(self._read_record(state)):
            return False
        before = self._record
        try:
            acquired = self._take(state)
            if acquired is not None:
                self.previous_history = parse(acquired.history)
                self.handed_in = {
                    name: HandIn.parse(parse(value))
                    for name, value in acquired.handed_in.items()}
                self.history = None
                self._token = acquired.token
        except BaseException:
            # The request may have been carried out nevertheless.
            self._token = None
            if self._record is not before:
                self.unheard = self._record
            self._drop_lease()
            raise
        if acquired is None:
            self._refused = state.modify_index
        return acquired is not None

    def _read_record(self, state: KeyState) -> dict[str, object] | None:
        """Return the record of the last holder.

        A holder that vanished has not written its fencing token into it, and the
        key has another index by now.  A process that has waited for the lock has
        seen the token, and adds it.
        """
        record, (seen, token) = parse(state.record), self._seen
        if record is not None and state.record == seen:
            record.setdefault('token', token)
        return record

    def _give_back_unknown(self, state: KeyState) -> None:
        """Give back a lock that the session of this process holds unknowingly.

        It should never happen, because a session with a request in doubt is not
        used again.  But if it did, nobody would ever run again.
        """
        lease = self._lease
        if (lease is not None and self._pid == os.getpid()
                and state.session == lease.session):
            self.logger.warning('giving back a lock that was granted unasked')
            lease.claim(parse(state.record) or {})
            self._drop_lease()

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        if (self.supervised and self.held and self._lease is not None
                and self._lease.is_valid()):
            # A supervisor knows the answer itself.  It does not wait for Consul,
            # which may be slow, while it has to look after a run.
            return dict(self._record)
        with contextlib.closing(self.client):
            state = self.client.read(self.key)
        return None if state.session is None else parse(state.record)

    def wait(self, timeout: float) -> None:
        try:
            self._wait(timeout)
        finally:
            # A lock that is free is taken next, by the same connection.
            if self._found_free is None:
                self.client.close()

    def _wait(self, timeout: float) -> None:
        self._found_free = None
        ends = time.monotonic() + timeout
        state = self._state
        if state is None or state.session is None:
            # That the lock was free is old, or somebody else was faster.
            state = self._read()
        while state.session is not None or self._find_restraint_in(state):
            # The session is made in advance, so that taking over costs a single
            # request, and is made again if it has ended meanwhile: others see
            # by it that this process waits.
            self._get_lease()
            left = ends - time.monotonic()
            if left <= 0:
                return
            if state.session is None and (
                    Control.parse(state.control).paused is None):
                # Other restraints than a pause end after some time, which
                # changes nothing in Consul.
                left = min(left, BARRED_WAIT)
            state = self._read(state.index, left)
        if state.modify_index == self._refused:
            # The key is free, but Consul has just refused it, because its
            # lock-delay is not over.  The end of the delay does not change the
            # key, so a blocking query would not tell; it is simply tried again.
            time.sleep(min(REFUSED_PAUSE, timeout))
        self._found_free = state, time.monotonic()

    def peek(self) -> None:
        with contextlib.closing(self.client):
            self._read()

    def find_handed_in(self) -> dict[str, HandIn]:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            self.handed_in = consulview.find_handed_in(self.client, self.key)
        return self.handed_in

    def hand_in(self, handed_in: HandIn) -> bool:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            return consulview.hand_in(self.client, self.key, handed_in)

    def close(self) -> None:
        super().close()
        if 'client' in vars(self):
            self.client.close()

    def make_record(self) -> dict[str, object]:
        return super().make_record() | {
            'ttl': self.timings.ttl, 'lock_delay': self.timings.lock_delay}

    @classmethod
    def diagnose(cls, context: BackendContext, options: Any) -> list[Finding]:
        from jobslib.consul.rights import examine
        config = context.config
        known = options.key or config.task_cls is not None
        return examine(options.endpoint, options.timings,
                       cls(context, options).key if known else None,
                       bool(getattr(config, 'history', 0)))

    @classmethod
    def compare_clocks(cls, context: BackendContext,
                       options: Any) -> tuple[float, float] | None:
        from jobslib.consul.calls import Calls
        from jobslib.consul.transport import TransportError
        from jobslib.oneinstance.clocks import compare
        with contextlib.closing(Calls(options.endpoint)) as calls:
            try:
                return compare(lambda: calls.ask_leader().header('Date'))
            except TransportError as exc:
                raise LockUnavailableError(str(exc)) from exc

    def look(self) -> LockState:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            return consulview.look(self.client, self.key)

    def ask(self, control: Control, expected: Control) -> bool:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            asked = consulview.ask(self.client, self.key, control, expected)
        if asked:
            # A holder asks its keeper, which looks for the first time a moment
            # after the lock was taken; its run may be over by then.
            self._asked = control.encode()
        return asked

    def force_release(self) -> None:
        """End the session of the holder.

        That interrupts its run.  Nobody else gets the lock before the holder's
        lock-delay is over, and by then its keeper has ended the run.
        """
        with contextlib.closing(self.client):
            session = self.client.read(self.key).session
            if session is not None:
                self.client.destroy_session(session)

    @classmethod
    def find_all(cls, context: BackendContext, options: Any,
                 prefix: str | None = None) -> FoundLocks:
        from jobslib.consul.client import ConsulClient
        from jobslib.oneinstance import consulview
        client = ConsulClient(options.endpoint, options.retry_max_attempts,
                              patience=options.patience)
        try:
            return consulview.find_all(
                client, options.endpoint.url,
                DEFAULT_PREFIX if prefix is None else prefix)
        finally:
            client.close()

    def _read(self, index: int | None = None, wait: float = 0) -> KeyState:
        state = self.client.read(self.key, index, wait)
        if index and state.index < index:
            state = self.client.read(self.key)
        self._state, self._asked = state, state.control
        if state.session is not None:
            self._seen = state.record, state.modify_index
            self._free_since = None
        elif (self._free_since is None
              or self._free_since[0] != state.modify_index):
            self._free_since = (state.modify_index, time.monotonic())
        return state

    def _just_found_free(self) -> KeyState | None:
        """Return the state of the key if :meth:`wait` has just read it free.

        Then it need not be read again: if the key has changed since, it cannot
        be taken as that state.  The state is returned once, because the key
        changes when it is used.
        """
        found, self._found_free = self._found_free, None
        if found is None or time.monotonic() > found[1] + JUST_READ:
            return None
        return found[0]

    def _delay_left(self, state: KeyState) -> float:
        """Return how long the lock-delay of a vanished holder lasts."""
        record = OwnerRecord(parse(state.record) or {})
        if state.record is None or record.released:
            return 0.0
        delay = record.lock_delay
        if delay is None or delay < 0:
            delay = self.timings.lock_delay
        assert self._free_since is not None
        return (self._free_since[1] + min(delay, MAX_LOCK_DELAY)
                - time.monotonic())

    def _find_restraint_in(self, state: KeyState) -> str | None:
        return self._find_restraint(
            Control.parse(state.control), parse(state.record))

    def _take(self, state: KeyState) -> Acquired | None:
        from jobslib.consul.client import PermissionDeniedError, SessionLostError
        for final in (False, True):
            lease = self._get_lease()
            self._record = self.make_record()
            lease.claim(self._record)
            sent = now()
            try:
                acquired = self.client.acquire(
                    self.key, json.dumps(self._record).encode(),
                    lease.session, state)
            except SessionLostError as exc:
                # The session has ended while nothing was held, so another one
                # can be made.
                self.logger.debug('the session was lost while idle')
                self._drop_lease()
                if final:
                    raise LockUnavailableError(str(exc)) from exc
                continue
            except PermissionDeniedError:
                if not self.client.is_doubtful(lease.session):
                    # Nothing was taken, so the keeper need not try to give it
                    # back, which would be denied as well.
                    lease.released()
                raise
            if acquired is not None:
                lease.hold(sent, self._record, acquired.token,
                           self._handle_interrupts())
            elif self.client.is_doubtful(lease.session):
                # The request may still be carried out.  The keeper gives back
                # what may have been taken by it.
                self.unheard = self._record
                self._drop_lease()
            else:
                lease.released()
            return acquired
        raise AssertionError('not reached')

    def _free(self, session: str, record: Mapping[str, object],
              token: int | None, history: bytes | None) -> bool:
        with contextlib.closing(self.client):
            return self.client.release(
                self.key, json.dumps(record).encode(), session, token, history,
                sorted(self.handed_in)[:MAX_MERGED])

    def _make_session(self) -> tuple[str, dict[str, object]]:
        name = f'jobslib {self.key}'
        check = self._register_check(name)
        session = self.client.create_session(
            f'{name} {self.machine()} {os.getpid()}',
            self.timings.ttl, self.timings.lock_delay,
            ('serfHealth', check) if check else ())
        endpoint = self.options.endpoint.to_dict()
        return session, {
            'endpoint': {**endpoint, 'timeout': self.timings.timeout},
            'session': session, 'key': self.key, 'check': check,
            'check_ttl': self.timings.check_ttl,
            'lock_delay': self.timings.lock_delay}

    def _end_session(self, session: str) -> None:
        self.client.destroy_session(session)

    def _is_doubtful(self, session: str) -> bool:
        return self.client.is_doubtful(session)

    @property
    def _history_key(self) -> str:
        return history_key(self.key)

    @property
    def _progress_key(self) -> str:
        return progress_key(self.key)

    def _register_check(self, name: str) -> str | None:
        """Return the id of the check that the session is to be bound to."""
        if self.timings.check_ttl is None:
            return None
        # First remove the checks of processes that could not do so themselves.
        self.client.deregister_checks(name)
        check = f'jobslib-{os.urandom(16).hex()}'
        self.client.register_check(check, name, self.timings.check_ttl)
        return check
