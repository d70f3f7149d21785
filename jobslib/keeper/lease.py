"""A session of a lock service and its keeper, as the ward sees them.

The ward is the process that holds the lock: a supervisor, or a program with a
lock of its own.  It starts the keeper, tells it by messages what it is about to
do, and reads in the shared memory how the lease stands.  It also watches the
keeper, and starts another one when it dies or stands still.  The keeper's side
is in :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Mapping

from jobslib.clock import now
from jobslib.exceptions import LockUnavailableError
from jobslib.keeper import launch, processes
from jobslib.keeper.memory import LeaseMemory
from jobslib.keeper.timings import Timings

__all__ = ['Lease']

# How long an answer of the keeper is waited for, and the pause before a message
# that failed is sent again, in seconds.
REPLY_TIMEOUT = 5.0
PAUSE = 0.01
# How often it is looked whether the keeper is at work, and after how long without
# a sign of life it is replaced, in seconds.
CHECK_INTERVAL = 1.0
STALLED = 2.0
# When more keepers than this die within this time, in seconds, no other is
# started.
MAX_RESTARTS = 5
RESTART_PERIOD = 10.0


# The keepers of leases that a supervisor has closed, with a pidfd of each: they
# are still to be waited for, so that none stays as a zombie.
_LEFT: list[tuple[int, int]] = []


class Lease:
    """Keeps *session* alive while this process lives.

    The keeper is a child process.  If it dies or is stopped, another takes
    its place, with the same session.

    :param session: the id of the session.
    :param engines: the name of the module whose function ``make`` makes the
        keeper's engine, see :mod:`jobslib.keeper.engine`.
    :param engine: what that function is given, as JSON takes it.
    :param timings: the timings of the lease.
    :param supervised: whether this process is a supervisor: it runs no code of
        users, and its runs are processes below it.  Then a run that does not
        stop is killed alone, and this process goes on, provided that it reports
        the end of the run.  It must call :meth:`sign_of_life` twice a second,
        or is taken to stand still.  That also looks after the keeper, which
        otherwise a thread of the lease does.
    :param made: when the session was made, or a moment before, so that it need
        not be renewed at once.
    :param about: ``task``, ``fqdn`` and ``format`` for the keeper's lines of
        the log.
    :raises LockUnavailableError: the keeper cannot be started.
    """

    def __init__(self, session: str, engines: str,
                 engine: Mapping[str, object], timings: Timings,
                 supervised: bool = False, made: float = 0.0,
                 about: dict[str, str] | None = None) -> None:
        self.session = session
        self.pid = os.getpid()
        #: Marks the processes that run under this lease, see
        #: :func:`.processes.mark`.
        self.marker = os.urandom(16).hex()
        self._config = {
            'pid': self.pid, 'marker': self.marker, 'supervised': supervised,
            'about': about,
            'since': processes.start_time(self.pid),
            'ttl': timings.ttl, 'window': timings.window,
            'renew_interval': timings.renew_interval,
            'grace': timings.grace, 'kill': timings.kill,
            'engine': engine}
        self._engines = engines
        # A supervisor forks the processes of its runs, so it has no threads.
        self._supervised = supervised
        # When the session was renewed last, as the first keeper is told; one
        # that takes the place of another does not know.
        self._renewed = made
        self._kill = timings.kill
        # The messages that a new keeper has to be sent, in this order.
        self._claim: dict[str, object] | None = None
        self._hold: dict[str, object] | None = None
        self._run: dict[str, object] | None = None
        # What a keeper leaves beside the key, if it comes to that.
        self._notes: dict[str, str] = {}
        self._run_begins = 0.0
        self._stopping = False
        self._restarts: list[float] = []
        # Since when a sign of life of the keeper is waited for.
        self._awaited = 0.0
        self._closed = False
        # Whether there is no keeper and no other will be started, and why.
        self._abandoned = False
        self._reason = ''
        # Reentrant, because a signal handler that interrupts a message may have
        # to send one itself.
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        #: The file that :class:`LeaseMemory` maps, for the processes of the runs.
        self.memory_fd = _above_standard(
            os.memfd_create(f'jobslib-{self.marker}'))
        os.ftruncate(self.memory_fd, LeaseMemory.SIZE)
        self.memory = LeaseMemory(self.memory_fd)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._start_keeper()
        except BaseException:
            os.close(self.memory_fd)
            os.close(self._wake_fd)
            raise
        if not supervised:
            threading.Thread(target=self._supervise, daemon=True,
                             name='jobslib-lease').start()

    @property
    def keeper_pid(self) -> int:
        """The process id of the keeper."""
        return self._keeper

    def is_valid(self) -> bool:
        """Return whether the lease is certainly ours at this moment."""
        return self.memory.is_valid()

    @property
    def has_ended(self) -> bool:
        """Whether, while nothing is held, the lease is of no use any more: its
        session has ended, or nobody keeps it."""
        return self._hold is None and (
            self._abandoned or self.memory.state == LeaseMemory.LOST)

    def beat(self) -> None:
        """The run makes progress."""
        self.memory.beat = now()

    def sign_of_life(self, seconds: float = 0.0) -> None:
        """Tell the keeper that this process is at work.

        A supervisor does so twice a second.  It also looks whether the keeper
        is at work, and starts another one if it is not.

        :param seconds: for how long this process may be silent from now on.
        """
        self.memory.ward_alive = now() + seconds
        if self._supervised and not self._closed and os.getpid() == self.pid:
            self._look_after_keeper()

    def claim(self, record: Mapping[str, object]) -> None:
        """This process is about to take the key.

        :raises LockUnavailableError: there is no keeper to keep it.
        """
        self._claim = {'do': 'claim', 'record': record}
        self._need_keeper()
        self._ask(self._claim)

    def keep_claim(self, record: Mapping[str, object]) -> None:
        """The key may still be this process's: the keeper is to release it
        when the lease is closed, and to leave *record*."""
        self._claim = {'do': 'claim', 'record': record}
        self._tell(self._claim)

    def hold(self, proof: float, record: Mapping[str, object], token: int,
             signum: int) -> None:
        """This process took the key, in a request that it sent at *proof*.

        :param token: the fencing token, which is the index of the key.
        :param signum: the signal that interrupts the run, or 0 for none.
        :raises LockUnavailableError: there is no keeper to keep it.
        """
        # The processes that the task starts from here on inherit the mark.
        processes.mark(self.marker)
        self.memory.set_state(LeaseMemory.FINE)
        self.sign_of_life()
        self._hold = {'do': 'hold', 'proof': proof, 'record': record,
                      'token': token, 'signum': signum}
        self._notes = {}
        self._need_keeper()
        self._ask(self._hold)

    def _need_keeper(self) -> None:
        """See to it that the keeper is watched from here on."""
        # Nobody looked while nothing was held, so an old sign of life does not
        # mean that the keeper has stalled.
        self._awaited = now()
        if not self._closed:
            with contextlib.suppress(OSError):  # closed in this instant
                os.eventfd_write(self._wake_fd, 1)

    def start_run(self, max_run_time: float | None, heartbeat: float | None,
                  run: Mapping[str, object] | None = None) -> None:
        """A *run* begins."""
        self._run_begins = now()
        self._run = {'do': 'run', 'max_run_time': max_run_time,
                     'heartbeat': heartbeat, 'run': run, 'elapsed': 0.0}
        self._ask(self._run)

    def stopping(self) -> None:
        """The run was told to stop."""
        self._stopping = True
        self._tell({'do': 'stopping'})

    def end_run(self, spared: Collection[int] = ()) -> None:
        """The run is over.

        If it was told to stop, this returns when all that it started is
        gone.

        :param spared: processes that are left alone, but not what they
            started: that of a run, which is to end by a proper exit.
        """
        self._run = None
        if self._abandoned:
            # The run, and all that it started, is gone already.
            return
        stopped = self._stopping or self.memory.state != LeaseMemory.FINE
        # Killing and waiting for processes takes as long as it takes.
        self._ask({'do': 'end', 'stopped': stopped,
                   'spared': sorted(spared)}, timeout=None)
        self._stopping = False

    def leave(self, record: Mapping[str, object],
              notes: dict[str, str]) -> None:
        """A run has an outcome, which is in *record* and *notes*: the keeper
        leaves these, should this process not live to release the key.

        :param record: what to leave in the key.
        :param notes: what to leave in keys beside it.
        """
        # A new keeper is told as well.
        if self._hold is not None:
            self._hold = {**self._hold, 'record': record}
        self._notes = notes
        if self._run is not None:
            self._run = {**self._run, 'run': None}
        self._offer({'do': 'leave', 'record': record, 'notes': notes})

    def note(self, key: str, value: str, token: int) -> None:
        """Write *value* to *key* soon, if the lock is held with *token*."""
        if key in self._notes:
            self._notes = {**self._notes, key: value}
        self._offer({'do': 'note', 'key': key, 'value': value, 'token': token})

    def release(self, record: Mapping[str, object],
                notes: dict[str, str]) -> None:
        """This process is about to release the key.

        If it does not get to that, the keeper does it.

        :param record: what to leave in the key.
        :param notes: what to leave in keys beside it.
        """
        self._hold = None
        processes.unmark()
        self._ask({'do': 'release', 'record': record, 'notes': notes})

    def released(self) -> None:
        """This process certainly does not have the key."""
        self._hold = self._claim = None
        self._tell({'do': 'released'})

    def close(self) -> bool:
        """Give the lease up; return whether the keeper could be told.

        The keeper releases the key, if this process may still have it, and
        destroys the session.  Nobody waits for that here.
        """
        if os.getpid() != self.pid or self._closed and not self._abandoned:
            return True
        self._closed = True
        processes.unmark()
        # Where there is a thread, it waits for the keeper to end, and then closes
        # everything, perhaps before this returns.
        told = self._exchange({'do': 'quit'}, reply=False, timeout=None)
        if self._supervised and self.memory_fd >= 0:
            self._leave_keeper()
        return told

    # The keeper's process.

    def _start_keeper(self) -> None:
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs_fd = _above_standard(theirs.detach())
        _reap_left()
        # memory.alive is not set here.  Only the keeper writes it, and as long as
        # no keeper has, the guard of the last one stays.
        self._awaited = now()
        record = self._claim['record'] if self._claim else None
        renewed, self._renewed = self._renewed, 0.0
        try:
            # Sent before the keeper is started, so that it knows what to do even
            # when this process is killed the moment after.
            ours.send(json.dumps({
                **self._config, 'record': record,
                'renewed': renewed}).encode())
            keeper = launch.start(
                self._engines, theirs_fd, self.memory_fd, self._supervised)
        except (OSError, ValueError, TypeError) as exc:
            ours.close()
            how = '' if self._supervised else f' with {sys.executable!r}'
            raise LockUnavailableError(
                f'the lease keeper cannot be started{how}: {exc}') from exc
        finally:
            os.close(theirs_fd)
        self._keeper_fd = os.pidfd_open(keeper)
        self._keeper = keeper
        self._messages = ours

    def _tell(self, message: dict[str, object]) -> None:
        """Send a message that has no reply."""
        self._exchange(message, reply=False, timeout=None)

    def _offer(self, message: dict[str, object]) -> None:
        """Send a message, unless the keeper is too busy to take it: the next
        one of its kind is newer."""
        self._exchange(message, reply=False, timeout=0)

    def _ask(self, message: dict[str, object],
             timeout: float | None = REPLY_TIMEOUT) -> None:
        """Send a message and wait until it was dealt with.

        :raises LockUnavailableError: no keeper did, not even a new one.
        """
        ends = None if timeout is None else now() + timeout
        tries = 1
        while not self._exchange(message, reply=True, timeout=timeout):
            if tries * PAUSE > REPLY_TIMEOUT:
                # All attempts failed at once, although the keeper is there: the
                # task has closed the socket that leads to it.
                self._end_process('the lease keeper cannot be reached')
            if self._closed or (ends is not None and now() >= ends):
                raise LockUnavailableError(
                    self._reason or 'the lease keeper does not answer')
            # Otherwise the thread replaces a keeper that has died.
            if self._supervised:
                self._look_after_keeper()
            time.sleep(PAUSE)
            tries += 1

    def _exchange(self, message: Mapping[str, object], reply: bool,
                  timeout: float | None) -> bool:
        if os.getpid() != self.pid:
            return True
        number = next(self._numbers)
        try:
            with self._lock:
                self._messages.settimeout(timeout)
                self._messages.send(
                    json.dumps({**message, 'number': number}).encode())
                # The reply to an earlier message may come first, if an interrupt
                # was raised while that one was waited for.
                while reply:
                    if self._supervised:
                        self._wait_for_reply(timeout)
                    answer = self._messages.recv(1 << 12)
                    if not answer:
                        return False
                    if json.loads(answer)['number'] == number:
                        break
        except OSError:
            return False
        return True

    def _wait_for_reply(self, timeout: float | None) -> None:
        """Wait until the keeper has answered or is gone.

        :raises TimeoutError: it is there, and does not answer.
        """
        ends = None if timeout is None else now() + timeout
        poller = select.poll()
        poller.register(self._messages, select.POLLIN)
        while not poller.poll(CHECK_INTERVAL * 500):
            self._replace_if_stalled()
            if ends is not None and now() >= ends:
                raise TimeoutError

    def _look_after_keeper(self) -> None:
        """Replace a keeper that is gone or stands still; a supervisor's substitute
        for the thread."""
        poller = select.poll()
        poller.register(self._keeper_fd, select.POLLIN)
        if poller.poll(0):
            self._replace_keeper()
        elif self._is_needed():
            self._replace_if_stalled()

    def _leave_keeper(self) -> None:
        """Close what leads to the keeper, and leave it to end by itself."""
        if self._keeper_fd >= 0:
            _LEFT.append((self._keeper, self._keeper_fd))
            self._keeper_fd = -1
            self._messages.close()
        os.close(self.memory_fd)
        os.close(self._wake_fd)
        self.memory_fd = -1

    def _supervise(self) -> None:
        """Replace each keeper that dies or stands still; runs in a thread."""
        while not self._closed:
            poller = select.poll()
            poller.register(self._keeper_fd, select.POLLIN)
            poller.register(self._wake_fd, select.POLLIN)
            timeout = CHECK_INTERVAL * 1000 if self._is_needed() else None
            ready = [fd for fd, _ in poller.poll(timeout)]
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if self._closed:
                break
            if self._keeper_fd in ready:
                self._replace_keeper()
            elif self._is_needed():
                self._replace_if_stalled()
        self._reap()
        os.close(self.memory_fd)
        os.close(self._wake_fd)

    def _is_needed(self) -> bool:
        return self._claim is not None or self._hold is not None

    def _replace_if_stalled(self) -> None:
        # Looked at twice, because after a freeze of the whole machine the keeper
        # is late as well, and gets the time to show that it is at work.
        for _ in range(2):
            seen = max(self.memory.alive, self._awaited)
            if not self._is_needed() or now() - seen < STALLED:
                return
            time.sleep(CHECK_INTERVAL / 2)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._keeper_fd, signal.SIGKILL)

    def _replace_keeper(self) -> None:
        with self._lock:
            self._reap()
            self._restarts = [time for time in self._restarts
                              if time > now() - RESTART_PERIOD]
            self._restarts.append(now())
            if len(self._restarts) > MAX_RESTARTS:
                return self._end_process('the lease keeper dies again and '
                                         'again')
            try:
                self._start_keeper()
            except LockUnavailableError as exc:
                return self._end_process(str(exc))
            hold = self._hold and {**self._hold, 'notes': self._notes}
            for message in (self._claim, hold, self._current_run()):
                if message is not None:
                    self._exchange(message, True, REPLY_TIMEOUT)

    def _current_run(self) -> Mapping[str, object] | None:
        run = self._run
        return run and {**run, 'elapsed': now() - self._run_begins}

    def _end_process(self, reason: str) -> None:
        """End this process, if it holds a lock that nothing keeps.

        A supervisor ends its run alone, if there is time for that.
        """
        if self._hold is not None:
            what = 'run' if self._supervised else 'process'
            text = f'jobslib: {reason}; ending the {what}\n'
            # Whatever fails of this, the process has to end.
            with contextlib.suppress(OSError):
                os.write(2, text.encode())
            # Where the system has no room for a keeper, it may have none for a
            # thread either; then the guard ends the children.
            ended = False
            with contextlib.suppress(RuntimeError):
                ended = self._end_children()
            if not (self._supervised and ended):
                os.kill(self.pid, signal.SIGKILL)
            # Written here for once, because there is no keeper to do it.
            self.memory.set_state(LeaseMemory.LOST, reason)
            self.memory.held = False
        self._reason = reason
        self._abandoned = self._closed = True

    def _end_children(self) -> bool:
        """End what the task started, if the lease leaves time for it.

        :returns: whether it is gone.
        """
        ending = threading.Thread(
            target=processes.end, args=(self.pid, None, self.marker, set()),
            daemon=True)
        ending.start()
        ending.join(max(self.memory.until - self._kill - now(), 0))
        return not ending.is_alive()

    def _reap(self) -> None:
        """Wait for the keeper's end, so that it leaves no zombie."""
        if self._keeper_fd < 0:
            # The last one was waited for, and no other could be started.
            return
        try:
            os.waitpid(self._keeper, 0)
        except ChildProcessError:
            pass
        os.close(self._keeper_fd)
        self._keeper_fd = -1
        self._messages.close()


def _reap_left() -> None:
    """Wait for those left keepers that have ended by now."""
    for keeper, keeper_fd in list(_LEFT):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(keeper, os.WNOHANG)[0] == 0:
                continue
        os.close(keeper_fd)
        _LEFT.remove((keeper, keeper_fd))


def _above_standard(fd: int) -> int:
    """Move *fd* out of the way of standard input, output and error."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved
