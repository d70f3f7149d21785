"""The keeper's process, as its ward sees it."""

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

from jobslib.clock import now
from jobslib.exceptions import LockUnavailableError
from jobslib.keeper import launch
from jobslib.keeper.memory import LeaseMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ['KeeperHandle', 'Kept']

# How long an answer of the keeper is waited for, and the pause before a message
# that failed is sent again, in seconds.
REPLY_TIMEOUT = 5.0
PAUSE = 0.01
# How often it is looked whether the keeper is at work, and after how long without
# a sign of life it is replaced, in seconds; with a short window after a part of
# that, or the guard would end this process before.
CHECK_INTERVAL = 1.0
STALLED = 2.0
PART = 5
# When more keepers than this die within this time, in seconds, no other is
# started.
MAX_RESTARTS = 5
RESTART_PERIOD = 10.0


# The keepers of leases that a supervisor has closed, with a pidfd of each: they
# are still to be waited for, so that none stays as a zombie.
_LEFT: list[tuple[int, int]] = []


class Kept:
    """What a keeper is there for; to be implemented."""

    @property
    def needs_keeper(self) -> bool:
        """Whether there is something that it would be bad not to keep."""
        raise NotImplementedError

    def first_message(self) -> Mapping[str, object]:
        """Return what a keeper has to know from its first moment."""
        raise NotImplementedError

    def messages(self) -> Iterable[Mapping[str, object]]:
        """Return what a keeper that takes the place of another is told next."""
        raise NotImplementedError

    def give_up(self, reason: str) -> None:
        """There is no keeper, and there will be none."""
        raise NotImplementedError


class KeeperHandle:
    """Starts the keeper, sends it messages, and starts another one when it dies or
    stands still.

    :param kept: what it is for.
    :param engines: see :func:`.launch.start`.
    :param name: of the file of the shared memory, for people.
    :param window: for how long the lease lasts without a keeper, in seconds.
    :param supervised: whether this process is a supervisor.  It forks the processes
        of its runs, so it has no threads, and calls :meth:`look_after`; otherwise a
        thread does what that does.
    :raises LockUnavailableError: the keeper cannot be started.
    """

    def __init__(self, kept: Kept, engines: str, name: str, window: float,
                 supervised: bool) -> None:
        self._kept = kept
        self._engines = engines
        self._stalled = min(STALLED, window / PART)
        self._supervised = supervised
        self._ward = os.getpid()
        #: Whether no keeper is wanted any more.
        self.closed = False
        #: Whether there is no keeper and no other will be started, and why.
        self.abandoned = False
        self.reason = ''
        self._restarts: list[float] = []
        # Since when a sign of life of the keeper is waited for.
        self._awaited = 0.0
        # Reentrant, because a signal handler that interrupts a message may have
        # to send one itself.
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        #: The file that :class:`LeaseMemory` maps, for the processes of the runs.
        self.memory_fd = _above_standard(os.memfd_create(name))
        os.ftruncate(self.memory_fd, LeaseMemory.SIZE)
        #: The memory that is shared with the keeper.
        self.memory = LeaseMemory(self.memory_fd)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._start()
        except BaseException:
            os.close(self.memory_fd)
            os.close(self._wake_fd)
            raise
        if not supervised:
            threading.Thread(target=self._watch, daemon=True,
                             name='jobslib-lease').start()

    def watch_from_now(self) -> None:
        """See to it that the keeper is watched from here on."""
        # Nobody looked while it was not needed, so an old sign of life does not
        # mean that the keeper has stalled.
        self._awaited = now()
        if not self.closed:
            with contextlib.suppress(OSError):  # closed in this instant
                os.eventfd_write(self._wake_fd, 1)

    # Messages.

    def tell(self, message: Mapping[str, object]) -> bool:
        """Send a message that has no reply; return whether that succeeded."""
        return self._exchange(message, reply=False, timeout=None)

    def offer(self, message: Mapping[str, object]) -> None:
        """Send a message, unless the keeper is too busy to take it: the next
        one of its kind is newer."""
        self._exchange(message, reply=False, timeout=0)

    def ask(self, message: Mapping[str, object],
            timeout: float | None = REPLY_TIMEOUT) -> None:
        """Send a message and wait until it was dealt with.

        :param timeout: in seconds; ``None`` waits for as long as it takes.
        :raises LockUnavailableError: no keeper did, not even a new one.
        """
        ends = None if timeout is None else now() + timeout
        tries = 1
        while not self._exchange(message, reply=True, timeout=timeout):
            if tries * PAUSE > REPLY_TIMEOUT:
                # All attempts failed at once, although the keeper is there: the
                # task has closed the socket that leads to it.
                self._abandon('the lease keeper cannot be reached')
            if self.closed or (ends is not None and now() >= ends):
                raise LockUnavailableError(
                    self.reason or 'the lease keeper does not answer')
            # Otherwise the thread replaces a keeper that has died.
            if self._supervised:
                self.look_after()
            time.sleep(PAUSE)
            tries += 1

    def _exchange(self, message: Mapping[str, object], reply: bool,
                  timeout: float | None) -> bool:
        if os.getpid() != self._ward:
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

    # The process.

    def _start(self) -> None:
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs_fd = _above_standard(theirs.detach())
        _reap_left()
        # memory.alive is not set here.  Only the keeper writes it, and as long as
        # no keeper has, the guard of the last one stays.
        self._awaited = now()
        try:
            # Sent before the keeper is started, so that it knows what to do even
            # when this process is killed the moment after.
            ours.send(json.dumps(self._kept.first_message()).encode())
            keeper = launch.start(
                self._engines, theirs_fd, self.memory_fd, self._supervised)
        except (OSError, ValueError, TypeError) as exc:
            ours.close()
            how = '' if self._supervised else f' with {sys.executable!r}'
            raise LockUnavailableError(
                f'the lease keeper cannot be started{how}: {exc}') from exc
        finally:
            os.close(theirs_fd)
        self._pidfd = os.pidfd_open(keeper)
        #: The process id of the keeper.
        self.pid = keeper
        self._messages = ours

    def look_after(self) -> None:
        """Replace a keeper that is gone or stands still."""
        if self.closed or os.getpid() != self._ward:
            return
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if poller.poll(0):
            self._replace()
        else:
            self._replace_if_stalled()

    def close(self) -> bool:
        """Have the keeper finish; return whether it could be told.

        Nobody waits for it here.
        """
        self.closed = True
        # Where there is a thread, it waits for the keeper to end, and then closes
        # everything, perhaps before this returns.
        told = self.tell({'do': 'quit'})
        if self._supervised and self.memory_fd >= 0:
            self._leave()
        return told

    def _leave(self) -> None:
        """Close what leads to the keeper, and leave it to end by itself."""
        if self._pidfd >= 0:
            _LEFT.append((self.pid, self._pidfd))
            self._pidfd = -1
            self._messages.close()
        self._close_files()

    def _watch(self) -> None:
        """Replace each keeper that dies or stands still; runs in a thread."""
        while not self.closed:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            poller.register(self._wake_fd, select.POLLIN)
            is_needed = self._kept.needs_keeper
            ready = [fd for fd, _ in poller.poll(
                CHECK_INTERVAL * 1000 if is_needed else None)]
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if self.closed:
                break
            if self._pidfd in ready:
                self._replace()
            else:
                self._replace_if_stalled()
        self._reap()
        self._close_files()

    def _close_files(self) -> None:
        os.close(self.memory_fd)
        os.close(self._wake_fd)
        self.memory_fd = -1
        # The lease has this handle.  Without the circle both are gone, and with
        # them the memory, as soon as nobody needs them.
        del self._kept

    def _replace_if_stalled(self) -> None:
        # Looked at twice, because after a freeze of the whole machine the keeper
        # is late as well, and gets the time to show that it is at work.
        for _ in range(2):
            seen = max(self.memory.alive, self._awaited)
            if not self._kept.needs_keeper or now() - seen < self._stalled:
                return
            time.sleep(self._stalled / 4)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _replace(self) -> None:
        with self._lock:
            self._reap()
            self._restarts = [time for time in self._restarts
                              if time > now() - RESTART_PERIOD]
            self._restarts.append(now())
            if len(self._restarts) > MAX_RESTARTS:
                return self._abandon('the lease keeper dies again and again')
            try:
                self._start()
            except LockUnavailableError as exc:
                return self._abandon(str(exc))
            for message in self._kept.messages():
                self._exchange(message, True, REPLY_TIMEOUT)

    def _abandon(self, reason: str) -> None:
        """Be without a keeper from here on."""
        self._kept.give_up(reason)
        self.reason = reason
        self.abandoned = self.closed = True

    def _reap(self) -> None:
        """Wait for the keeper's end, so that it leaves no zombie."""
        if self._pidfd < 0:
            # The last one was waited for, and no other could be started.
            return
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        os.close(self._pidfd)
        self._pidfd = -1
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
