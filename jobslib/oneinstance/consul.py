"""A lock across machines, kept in Consul."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from functools import cached_property

from jobslib import needs
from jobslib.clock import now
from jobslib.consul.keys import DEFAULT_PREFIX, refuse_lock_key
from jobslib.exceptions import (
    LockError,
    LockUnavailableError,
    OneInstanceWatchdogError,
)
from jobslib.history import HandIn, encode
from jobslib.keeper.memory import LeaseMemory
from jobslib.keeper.timings import Timings
from jobslib.oneinstance import BaseLock, FoundLocks, LockState
from jobslib.oneinstance.consuloptions import MAX_LOCK_DELAY, ConsulOptions
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.record import parse
from jobslib.oneinstance.watchdog import Watchdog
from jobslib.owner import OwnerRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.consul.client import (
        Acquired,
        ConsulClient,
        KeyState,
    )
    from jobslib.consul.lease import Lease
    from jobslib.oneinstance.diagnosis import Finding

__all__ = ['ConsulLock']

#: The signal by which the keeper interrupts a run.
INTERRUPT_SIGNAL = signal.SIGRTMIN + 5

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
# How long on_acquired() may take until a supervisor is taken to stand still, in
# seconds.
LONGEST_HOOK = 60.0
# How long a signal waits for a session that is being created, in seconds.
UNDISTURBED = 1.0


class ConsulLock(BaseLock):
    """One instance across machines.

    The lock is a key of Consul, held by a session that a process of its own
    renews; see the guide for what that guarantees.  A subclass can extend the
    owner record (:meth:`make_record`), and do something when the lock was taken
    and when it is gone (:meth:`on_acquired`, :meth:`on_released`,
    :meth:`on_lost`).

    It can be used without ``runjob`` as well.  When the lock is lost between
    :meth:`acquire` and :meth:`release`,
    :class:`jobslib.OneInstanceWatchdogError` is raised in the main thread, and
    :meth:`release` must follow within the grace time; otherwise the process is
    killed, with all that it started.  A lock that was acquired in another
    thread interrupts nothing: the process is only killed.
    """

    class OptionsConfig(ConsulOptions):
        """Options of :class:`ConsulLock`."""

    def __init__(self, context: BackendContext, options: Any) -> None:
        super().__init__(context, options)
        self.timings: Timings = options.timings
        self.key = options.key or f'{DEFAULT_PREFIX}{context.config.task_name}/lock'
        refuse_lock_key(self.key, options.source('key') if options.key else '')
        self._pid = os.getpid()
        self._token: int | None = None
        self._record: dict[str, object] = {}
        self._lease: Lease | None = None
        self._previous_handler: (
            Callable[[int, FrameType | None], object] | int | None) = None
        self._handles_interrupt = False
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
        # In the run's process: what it shares with the keeper.
        self._run_memory: LeaseMemory | None = None
        # The version of what operators ask as it was read last, and what it is.
        self._control = 0, Control()

    @cached_property
    def client(self) -> ConsulClient:
        """The client of Consul."""
        # Imported here, because it takes longer than all the rest, and the run's
        # process does not need it.
        from jobslib.consul.client import ConsulClient
        return ConsulClient(
            self.options.endpoint, self.options.retry_max_attempts,
            patience=self.options.patience)

    @cached_property
    def watchdog(self) -> Watchdog:
        return KeeperWatchdog(self)

    @property
    def held(self) -> bool:
        # A forked child holds nothing.
        return self._token is not None and self._pid == os.getpid()

    @property
    def fencing_token(self) -> int | None:
        """The index of Consul at which the lock was acquired."""
        return self._token

    @property
    def place(self) -> dict[str, str | None]:
        dc = self.options.dc
        return super().place | {
            'address': self.options.endpoint.url + (
                f', datacenter {dc}' if dc else ''),
            'key': self.key}

    @property
    def own_record(self) -> dict[str, object]:
        return self._record

    @property
    def control(self) -> Control:
        if self.held and self._lease is not None and (
                version := self._lease.memory.version):
            if version != self._control[0]:
                version, value = self._lease.memory.read_control()
                self._control = version, Control.parse(value)
            return self._control[1]
        return Control.parse(self._state.control if self._state else None)

    @property
    def lease(self) -> Lease | None:
        """The session of this process and its keeper, if there is one."""
        return self._lease

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it was.

        When the last holder vanished without a release, its lock-delay is
        waited out first.

        :raises LockAlreadyHeldError: this object holds it.
        :raises LockUnavailableError: Consul did not answer, or refused.
        """
        self.refuse_if_held()
        with contextlib.closing(self.client):
            acquired = self._acquire()
        if acquired and not self.refresh():
            # The lock was lost in the same instant, before there was a run that
            # could be interrupted.
            self.unheard = self._record
            if self.release():
                self.unheard = None
            return False
        if acquired:
            assert self._lease is not None
            self._lease.sign_of_life(LONGEST_HOOK)
            try:
                self.on_acquired()
            finally:
                self._lease.sign_of_life()
        return acquired

    def _acquire(self) -> bool:
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

    def release(self) -> bool:
        self.refuse_unless_held()
        lease = self._lease
        assert lease is not None
        token, self._token = self._token, None
        record = self._last_record(token) | {'released': time.time()}
        history: bytes | None = None
        try:
            if self.history is not None:
                history = encode(self.history)
            lease.end_run(self.spared)
            released = lease.is_valid()
            if released:
                lease.release(record, self._last_notes(history))
                record['released'] = time.time()
                with contextlib.closing(self.client):
                    released = self.client.release(
                        self.key, json.dumps(record).encode(), lease.session,
                        token, history, sorted(self.handed_in)[:MAX_MERGED])
        except BaseException:
            # The keeper goes on trying.
            lease.keep_claim(record)
            if history is not None:
                self._note_history(history, token)
            self._drop_lease(record, history)
            raise
        if released:
            lease.released()
            if self.client.is_doubtful(lease.session):
                self._drop_lease()
            self.on_released()
        else:
            self._drop_lease(record, history)
            self.on_lost(lease.memory.reason or 'the lease ran out')
        return released

    def refresh(self) -> bool:
        if self._lease is None or self._token is None:
            return False
        self._lease.beat()
        return self._lease.is_valid()

    @property
    def marker(self) -> str | None:
        return None if self._lease is None else self._lease.marker

    def sign_of_life(self, seconds: float = 0.0) -> None:
        if self._lease is not None:
            self._lease.sign_of_life(seconds)

    def handles(self) -> Sequence[int]:
        return () if self._lease is None else (self._lease.memory_fd,)

    def adopt_handles(self, descriptors: Sequence[int]) -> None:
        self._run_memory = LeaseMemory(descriptors[0])

    def refresh_in_run(self) -> bool | None:
        memory = self._run_memory
        if memory is None:
            return None
        memory.beat = now()
        return memory.is_valid()

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

    def secure_outcome(self, kept: bool) -> None:
        if (self._lease is not None and self._token is not None
                and self._pid == os.getpid()):
            history = None if self.history is None else encode(self.history)
            self._lease.leave(self._last_record(self._token),
                              self._last_notes(history))
        super().secure_outcome(kept)

    def save_history(self) -> None:
        if self.history is not None:
            self._note_history(encode(self.history), self._token)

    def find_handed_in(self) -> dict[str, HandIn]:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            self.handed_in = consulview.find_handed_in(self.client, self.key)
        return self.handed_in

    def hand_in(self, handed_in: HandIn) -> bool:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            return consulview.hand_in(self.client, self.key, handed_in)

    def _last_record(self, token: int | None) -> dict[str, object]:
        """Return what is left in the key for the next holder."""
        record = self._record | {
            'schedule': dict(self.schedule), 'token': token}
        if self.history is not None:
            # It has the runs of those who vanished.
            record.pop('before', None)
        return record

    def _last_notes(self, history: bytes | None) -> dict[str, str]:
        from jobslib.consul.client import history_key
        return ({} if history is None
                else {history_key(self.key): history.decode()})

    def _note_history(self, history: bytes, token: int | None) -> None:
        from jobslib.consul.client import history_key
        self._note(history_key(self.key), history.decode(), token)

    def report_progress(self, progress: Mapping[str, object]) -> None:
        from jobslib.consul.client import progress_key
        self._note(progress_key(self.key),
                   json.dumps({**progress, 'token': self._token}), self._token)

    def _note(self, key: str, value: str, token: int | None) -> None:
        if (self._lease is not None and token is not None
                and self._pid == os.getpid()):
            self._lease.note(key, value, token)

    def lease_left(self) -> float | None:
        if self._lease is None or not self.held:
            return None
        return max(self._lease.memory.until - now(), 0.0)

    def close(self) -> None:
        self._token = None
        self._drop_lease()
        # If another lock has installed its handler since, this one stays: it is
        # called by the other.
        if (self._handles_interrupt and _in_main_thread()
                and signal.getsignal(INTERRUPT_SIGNAL) == self._interrupt):
            self._handles_interrupt = False
            signal.signal(INTERRUPT_SIGNAL, self._previous_handler)
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

    def on_acquired(self) -> None:
        """The lock was acquired; to be overridden."""

    def on_released(self) -> None:
        """The lock was released; to be overridden."""

    def on_lost(self, reason: str) -> None:
        """The lock was lost, and the run has stopped; to be overridden."""
        self.logger.warning('the lock was lost: %s', reason)

    def look(self) -> LockState:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            return consulview.look(self.client, self.key)

    def ask(self, control: Control, expected: Control) -> bool:
        from jobslib.oneinstance import consulview
        with contextlib.closing(self.client):
            asked = consulview.ask(self.client, self.key, control, expected)
        if asked and self._state is not None:
            # A holder asks its keeper, which looks for the first time a moment
            # after the lock was taken; its run may be over by then.
            self._state.control = control.encode()
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
        self._state = state
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

    def _get_lease(self) -> Lease:
        if self._pid != os.getpid():
            # This process was forked.  The session and its keeper belong to the
            # parent, and two processes with one session would both get the lock.
            self._pid, self._lease, self._token = os.getpid(), None, None
        if self._lease is not None and self._lease.has_ended:
            self.logger.debug('the session was lost while idle')
            self._drop_lease()
        if self._lease is None:
            # Where the system lacks what a keeper needs, there is no lock, rather
            # than one that nobody keeps.  A supervisor has looked already.
            if not self.supervised and (lack := needs.missing()):
                raise LockUnavailableError(lack)
            # If an interrupt were raised in there, a session would be left that
            # nobody knows.
            _call_undisturbed(self._make_lease)
        assert self._lease is not None
        return self._lease

    def _make_lease(self) -> None:
        from jobslib.consul.lease import Lease
        name = f'jobslib {self.key}'
        check = self._register_check(name)
        made = now()
        session = self.client.create_session(
            f'{name} {self.machine()} {os.getpid()}',
            self.timings.ttl, self.timings.lock_delay,
            ('serfHealth', check) if check else ())
        try:
            self._lease = Lease(
                session, self.key, self.options.endpoint, self.timings, check,
                self.supervised, made, self._about())
            # The new keeper counts the versions from the beginning.
            self._control = 0, Control()
        except BaseException:
            self.client.destroy_session(session)
            raise

    def _about(self) -> dict[str, str]:
        """Return what the keeper has to know for its lines in the log."""
        config = self.context.config
        return {'task': config.task_name, 'fqdn': self.machine(),
                'format': getattr(config, 'log_format', 'text')}

    def _register_check(self, name: str) -> str | None:
        """Return the id of the check that the session is to be bound to."""
        if self.timings.check_ttl is None:
            return None
        # First remove the checks of processes that could not do so themselves.
        self.client.deregister_checks(name)
        check = f'jobslib-{os.urandom(16).hex()}'
        self.client.register_check(check, name, self.timings.check_ttl)
        return check

    def _drop_lease(self, record: Mapping[str, object] | None = None,
                    history: bytes | None = None) -> None:
        """Need the lease no more.

        :param record: what to leave in the key, if it is still ours.
        :param history: what to leave beside it.
        """
        lease, self._lease = self._lease, None
        if lease is not None and not lease.close():
            # There is no keeper to clear up after this process.
            record = {**(record or self._record), 'released': time.time()}
            with contextlib.suppress(LockError):
                self.client.release(
                    self.key, json.dumps(record).encode(), lease.session,
                    None, history)
                self.client.destroy_session(lease.session)

    def _handle_interrupts(self) -> int:
        """Handle the keeper's signal; return it, 0 if that is impossible."""
        if not _in_main_thread():
            return 0
        if not self._handles_interrupt:
            self._previous_handler = signal.signal(
                INTERRUPT_SIGNAL, self._interrupt)
            self._handles_interrupt = True
        return INTERRUPT_SIGNAL

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        lease = self._lease
        if lease is not None and self.held and lease.memory.state:
            self.watchdog.interrupt(OneInstanceWatchdogError(
                lease.memory.reason,
                overdue=lease.memory.state == LeaseMemory.STOPPING))
        elif callable(self._previous_handler):
            # The signal is about another lock of this process.
            self._previous_handler(signum, frame)


class KeeperWatchdog(Watchdog):
    """Leaves the limits of the run to the keeper of the lease."""

    def __init__(self, lock: ConsulLock) -> None:
        super().__init__(lock.timings.grace, lock.options.heartbeat)
        self._lock = lock

    def start(self, max_run_time: float | None = None,
              run: Mapping[str, object] | None = None) -> None:
        if self._lock.lease is not None:
            self._lock.lease.start_run(max_run_time, self.heartbeat, run)

    def beat(self) -> None:
        if self._lock.lease is not None:
            self._lock.lease.beat()

    def stopping(self) -> None:
        if self._lock.lease is not None:
            self._lock.lease.stopping()

    def stop(self) -> None:
        """The run is over; if it was stopped, what it started is gone."""
        if self._lock.lease is not None:
            self._lock.lease.end_run(self._lock.spared)


def _call_undisturbed(call: Callable[[], None]) -> None:
    """Call *call* in a thread, where no signal handler can raise anything.

    What a handler raises meanwhile in this thread is raised when the call has
    returned, or after :data:`UNDISTURBED` seconds.
    """
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            errors.append(exc)
        finally:
            done.set()

    try:
        threading.Thread(
            target=run, daemon=True, name='jobslib-session').start()
        done.wait()
    except BaseException:
        done.wait(UNDISTURBED)
        raise
    if errors:
        raise errors[0]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
