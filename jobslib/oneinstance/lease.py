"""A lock that is held by a lease, whatever service it is kept in.

The lease is a session of the service with a keeper, a process that renews it, see
``jobslib.keeper``.  Here is what that means for a lock: who holds it, how its
run is limited and interrupted, what is left to the keeper.  How a lock is read,
taken and freed is said by a subclass for one service, like
:class:`jobslib.oneinstance.consul.ConsulLock`.
"""

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
from jobslib.exceptions import (
    LockError,
    LockUnavailableError,
    OneInstanceWatchdogError,
)
from jobslib.history import encode
from jobslib.keeper.memory import LeaseMemory
from jobslib.keeper.timings import Timings
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.watchdog import Watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.keeper.lease import Lease

__all__ = ['LeaseLock']

#: The signal by which the keeper interrupts a run.
INTERRUPT_SIGNAL = signal.SIGRTMIN + 5

# How long on_acquired() may take until a supervisor is taken to stand still, in
# seconds.
LONGEST_HOOK = 60.0
# How long a signal waits for a session that is being created, in seconds.
UNDISTURBED = 1.0


class LeaseLock(BaseLock):
    """One instance, as long as a session of the lock's service is renewed.

    The base of :class:`jobslib.oneinstance.consul.ConsulLock`, with what its users
    call.  Nothing in it depends on Consul.
    """

    # The module that makes the keeper's engine for the lock's service.
    _engines = ''

    def __init__(self, context: BackendContext, options: Any) -> None:
        super().__init__(context, options)
        self.timings: Timings = options.timings
        self._pid = os.getpid()
        self._token: int | None = None
        self._record: dict[str, object] = {}
        self._lease: Lease | None = None
        self._previous_handler: (
            Callable[[int, FrameType | None], object] | int | None) = None
        self._handles_interrupt = False
        # In the run's process: what it shares with the keeper.
        self._run_memory: LeaseMemory | None = None
        # What operators ask, as this process has read it while the lock was not
        # held; while it is held, the keeper reads it.
        self._asked: bytes | None = None
        # The version of what the keeper has read last, and what it is.
        self._control = 0, Control()

    # What the lock's service is asked: all of it is to be implemented.

    def _acquire(self) -> bool:
        """Take the lock if it is free; return whether it was.

        It gets a lease, tells it what it is about to do, and sets the token and
        the record of the hold.  When it fails after that it leaves no lease
        behind.
        """
        raise NotImplementedError

    def _free(self, session: str, record: Mapping[str, object],
              token: int | None, history: bytes | None) -> bool:
        """Free the lock if *session* holds it.

        :param record: the owner record to leave in it.
        :param token: the fencing token of the hold; ``None`` if it may be any.
        :param history: the history to leave beside it, if there is one.
        :returns: whether it was held.
        """
        raise NotImplementedError

    def _make_session(self) -> tuple[str, dict[str, object]]:
        """Make a session; return its id, and what the engine is made of."""
        raise NotImplementedError

    def _end_session(self, session: str) -> None:
        """End a session that has no keeper."""
        raise NotImplementedError

    def _is_doubtful(self, session: str) -> bool:
        """Return whether a request of *session* that was not answered may still
        be carried out; then the session is not used again."""
        raise NotImplementedError

    @property
    def _history_key(self) -> str:
        """Where the history is, in the words of the keeper's engine."""
        raise NotImplementedError

    @property
    def _progress_key(self) -> str:
        """Where the progress is, in the words of the keeper's engine."""
        raise NotImplementedError

    # The lock as its process sees it.

    @cached_property
    def watchdog(self) -> Watchdog:
        return KeeperWatchdog(self)

    @property
    def held(self) -> bool:
        # A forked child holds nothing.
        return self._token is not None and self._pid == os.getpid()

    @property
    def fencing_token(self) -> int | None:
        """A number of the lock's service that only grows; that of Consul is the
        index at which the lock was acquired."""
        return self._token

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
        return Control.parse(self._asked)

    @property
    def lease(self) -> Lease | None:
        """The session of this process and its keeper, if there is one."""
        return self._lease

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it was.

        When the last holder vanished without a release, its lock-delay is
        waited out first.

        :raises LockAlreadyHeldError: this object holds it.
        :raises LockUnavailableError: the service did not answer, or refused.
        """
        self.refuse_if_held()
        acquired = self._acquire()
        if acquired and not self.refresh():
            # The lock was lost in the same instant, before there was a run that
            # could be interrupted.
            self.unheard = self._record
            if self.release():
                self.unheard = None
            return False
        if acquired:
            with self.silence(LONGEST_HOOK):
                self.on_acquired()
        return acquired

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
                released = self._free(lease.session, record, token, history)
        except BaseException:
            # The keeper goes on trying.
            lease.keep_claim(record)
            if history is not None:
                self._note(self._history_key, history.decode(), token)
            self._drop_lease(record, history)
            raise
        if released:
            lease.released()
            if self._is_doubtful(lease.session):
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

    def on_acquired(self) -> None:
        """The lock was acquired; to be overridden."""

    def on_released(self) -> None:
        """The lock was released; to be overridden."""

    def on_lost(self, reason: str) -> None:
        """The lock was lost, and the run has stopped; to be overridden."""
        self.logger.warning('the lock was lost: %s', reason)

    # What is written beside the lock.

    def secure_outcome(self, kept: bool) -> None:
        if (self._lease is not None and self._token is not None
                and self._pid == os.getpid()):
            history = None if self.history is None else encode(self.history)
            self._lease.leave(self._last_record(self._token),
                              self._last_notes(history))
        super().secure_outcome(kept)

    def save_history(self) -> None:
        if self.history is not None:
            self._note(self._history_key, encode(self.history).decode(),
                       self._token)

    def report_progress(self, progress: Mapping[str, object]) -> None:
        self._note(self._progress_key,
                   json.dumps({**progress, 'token': self._token}), self._token)

    def _last_record(self, token: int | None) -> dict[str, object]:
        """Return what is left in the lock for the next holder."""
        record = self._record | {
            'schedule': dict(self.schedule), 'token': token}
        if self.history is not None:
            # It has the runs of those who vanished.
            record.pop('before', None)
        return record

    def _last_notes(self, history: bytes | None) -> dict[str, str]:
        return {} if history is None else {self._history_key: history.decode()}

    def _note(self, key: str, value: str, token: int | None) -> None:
        if (self._lease is not None and token is not None
                and self._pid == os.getpid()):
            self._lease.note(key, value, token)

    # The lease.

    def _get_lease(self) -> Lease:
        """Return the lease; make one if there is none that is of use.

        :raises LockUnavailableError: none can be made.
        """
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
        from jobslib.keeper.lease import Lease
        made = now()
        session, engine = self._make_session()
        try:
            self._lease = Lease(session, self._engines, engine, self.timings,
                                self.supervised, made, self._about())
            # The new keeper counts the versions from the beginning.
            self._control = 0, Control()
        except BaseException:
            self._end_session(session)
            raise

    def _about(self) -> dict[str, str]:
        """Return what the keeper has to know for its lines in the log."""
        config = self.context.config
        return {'task': config.task_name, 'fqdn': self.machine(),
                'format': getattr(config, 'log_format', 'text')}

    def _drop_lease(self, record: Mapping[str, object] | None = None,
                    history: bytes | None = None) -> None:
        """Need the lease no more.

        :param record: what to leave in the lock, if it is still ours.
        :param history: what to leave beside it.
        """
        lease, self._lease = self._lease, None
        if lease is not None and not lease.close():
            # There is no keeper to clear up after this process.
            record = {**(record or self._record), 'released': time.time()}
            with contextlib.suppress(LockError):
                self._free(lease.session, record, None, history)
                self._end_session(lease.session)

    # The keeper's interrupt.

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

    def __init__(self, lock: LeaseLock) -> None:
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
