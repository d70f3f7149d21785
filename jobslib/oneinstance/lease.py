"""A session of Consul and the keeper that keeps it, seen from the task.

See :mod:`jobslib.oneinstance.keeper` for the other side.
"""

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
from typing import Any

from jobslib.clock import now
from jobslib.exceptions import LockUnavailableError
from jobslib.oneinstance import processes
from jobslib.oneinstance.page import Page
from jobslib.oneinstance.timings import Timings
from jobslib.oneinstance.transport import Endpoint

__all__ = ['Lease']

# What the interpreter and the TLS library need of the environment.
PASSED_ON = ('LD_LIBRARY_PATH', 'SSL_CERT_FILE', 'SSL_CERT_DIR', 'TZ')

REPLY_TIMEOUT = 5.0
PAUSE = 0.01
CHECK_INTERVAL = 1.0
STALLED = 2.0
MAX_RESTARTS = 5
RESTART_PERIOD = 10.0

# The folder of the package jobslib.
ROOT = os.path.realpath(__file__).rsplit(os.sep, 3)[0]

# Runs the keeper without the __init__ of the packages it is in, which would
# import what it does not need; and without the TLS library, which http.client
# loads if it can: the transport loads it when there is TLS.  At its end there
# is nothing that the interpreter would have to clear up.
BOOT = """
import os, sys, types
for name in ('jobslib', 'jobslib.oneinstance'):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [sys.argv[1] + '/' + name.replace('.', '/')]
sys.modules['ssl'] = None
from jobslib.oneinstance.keeper import main
del sys.modules['ssl']
main()
os._exit(0)
"""


class Lease:
    """Keeps *session* alive while this process lives.

    The keeper is a child process.  If it dies or is stopped, another takes
    its place, with the same session.

    :param session: the id of the session.
    :param key: the key of the lock.
    :param endpoint: how to reach Consul.
    :param timings: of the lease.
    :param check: the id of the agent check that the session is bound to.
    :raises LockUnavailableError: the keeper cannot be started.
    """

    def __init__(self, session: str, key: str, endpoint: Endpoint,
                 timings: Timings, check: str | None = None) -> None:
        self.session = session
        self.pid = os.getpid()
        self.marker = os.urandom(16).hex()
        self._config = {
            'pid': self.pid, 'session': session, 'key': key,
            'marker': self.marker, 'check': check,
            'since': processes.start_time(self.pid),
            'check_ttl': timings.check_ttl,
            'endpoint': {**endpoint.to_dict(), 'timeout': timings.timeout},
            'ttl': timings.ttl, 'window': timings.window,
            'renew_interval': timings.renew_interval,
            'grace': timings.grace, 'kill': timings.kill}
        self._kill = timings.kill
        # What a new keeper has to be told, newest last.
        self._claim: dict[str, Any] | None = None
        self._hold: dict[str, Any] | None = None
        self._run: dict[str, Any] | None = None
        self._run_begins = 0.0
        self._stopping = False
        self._restarts: list[float] = []
        # Since when a sign of life of the keeper is waited for.
        self._awaited = 0.0
        self._closed = False
        # There is no keeper, and there will be none.
        self._abandoned = False
        # Reentrant: a signal handler may have something to tell, too.
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._page_fd = _above_standard(
            os.memfd_create(f'jobslib-{self.marker}'))
        os.ftruncate(self._page_fd, Page.SIZE)
        self.page = Page(self._page_fd)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._start_keeper()
        except BaseException:
            os.close(self._page_fd)
            os.close(self._wake_fd)
            raise
        threading.Thread(target=self._supervise, daemon=True,
                         name='jobslib-lease').start()

    @property
    def keeper_pid(self) -> int:
        """The process id of the keeper."""
        return self._keeper

    def is_valid(self) -> bool:
        """Return whether the lease is certainly ours at this moment."""
        return self.page.state != Page.LOST and now() < self.page.until

    @property
    def has_ended(self) -> bool:
        """Whether it is known to be of no use, while nothing is held: its
        session has ended, or nobody keeps it."""
        return self._hold is None and (
            self._abandoned or self.page.state == Page.LOST)

    def beat(self) -> None:
        """The run makes progress."""
        self.page.beat = now()

    def claim(self, record: dict[str, Any]) -> None:
        """This process is about to take the key."""
        self._claim = {'do': 'claim', 'record': record}
        self._tell(self._claim)

    def hold(self, proof: float, record: dict[str, Any],
             signum: int) -> None:
        """This process took the key, in a request that it sent at *proof*.

        :param signum: the signal that interrupts this process, or 0.
        :raises LockUnavailableError: there is no keeper to keep it.
        """
        # For the processes that the task starts from here on.
        processes.mark(self.marker)
        self.page.set_state(Page.FINE)
        # While idle, nobody looked whether the keeper is at work.
        self._awaited = now()
        self._hold = {'do': 'hold', 'proof': proof, 'record': record,
                      'signum': signum}
        if not self._closed:
            with contextlib.suppress(OSError):  # closed in this instant
                os.eventfd_write(self._wake_fd, 1)
        self._ask(self._hold)

    def start_run(self, max_run_time: float | None, heartbeat: float | None,
                  run: dict[str, Any] | None = None) -> None:
        """A *run* begins."""
        self._run_begins = now()
        self._run = {'do': 'run', 'max_run_time': max_run_time,
                     'heartbeat': heartbeat, 'run': run, 'elapsed': 0.0}
        self._ask(self._run)

    def stopping(self) -> None:
        """The run was told to stop."""
        self._stopping = True
        self._tell({'do': 'stopping'})

    def end_run(self) -> None:
        """The run is over.

        If it was told to stop, this returns when all that it started is
        gone.
        """
        self._run = None
        stopped = self._stopping or self.page.state != Page.FINE
        # Killing and waiting for processes takes as long as it takes.
        self._ask({'do': 'end', 'stopped': stopped}, timeout=None)
        self._stopping = False

    def note(self, key: str, value: str, token: int) -> None:
        """Write *value* to *key* soon, if the lock is held with *token*."""
        # Dropped when the keeper is too busy to take it: it is no more than a
        # note, and the next one is newer.
        self._exchange(
            {'do': 'note', 'key': key, 'value': value, 'token': token},
            reply=False, timeout=0)

    def release(self) -> None:
        """This process is about to release the key."""
        self._hold = None
        processes.unmark()
        self._ask({'do': 'release'})

    def released(self) -> None:
        """This process does not have the key."""
        self._hold = self._claim = None
        self._tell({'do': 'released'})

    def close(self) -> bool:
        """Need the lease no more; return whether the keeper is told so.

        It releases the key if this process may still have it, and destroys
        the session.  It is not waited for.
        """
        if os.getpid() != self.pid or self._closed and not self._abandoned:
            return True
        self._closed = True
        processes.unmark()
        # The thread waits for the end of the keeper, and ends with it; it may
        # have closed everything when this returns.
        return self._exchange({'do': 'quit'}, reply=False, timeout=None)

    # The keeper's process.

    def _start_keeper(self) -> None:
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs_fd = _above_standard(theirs.detach())
        environment = {processes.KEEPER_VARIABLE: '1'} | {
            name: os.environ[name] for name in PASSED_ON if name in os.environ}
        # Not page.alive: to write that is up to the keeper.  As long as none
        # is at work, the guard of the last one stays.
        self._awaited = now()
        record = self._claim['record'] if self._claim else None
        try:
            # Sent in advance: this process may be killed the moment after.
            ours.send(json.dumps({**self._config, 'record': record}).encode())
            keeper = os.posix_spawn(
                sys.executable,
                [sys.executable, '-I', '-S', '-c', BOOT, ROOT], environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs_fd, 0),
                    (os.POSIX_SPAWN_DUP2, self._page_fd, 1)],
                setsigmask=[])
        except (OSError, ValueError, TypeError) as exc:
            ours.close()
            raise LockUnavailableError(
                f'the lease keeper cannot be started with '
                f'{sys.executable!r}: {exc}') from exc
        finally:
            os.close(theirs_fd)
        self._keeper_fd = os.pidfd_open(keeper)
        self._keeper = keeper
        self._control = ours

    def _tell(self, message: dict[str, Any]) -> None:
        """Send a message that has no reply."""
        self._exchange(message, reply=False, timeout=None)

    def _ask(self, message: dict[str, Any],
             timeout: float | None = REPLY_TIMEOUT) -> None:
        """Send a message and wait until it was dealt with.

        :raises LockUnavailableError: no keeper, not even a new one, did.
        """
        ends = None if timeout is None else now() + timeout
        tries = 1
        while not self._exchange(message, reply=True, timeout=timeout):
            if tries * PAUSE > REPLY_TIMEOUT:
                # Each failed at once, and the keeper is not replaced: the
                # task has closed what leads to it.
                self._end_process('the lease keeper cannot be reached')
            if self._closed or (ends is not None and now() >= ends):
                raise LockUnavailableError('the lease keeper does not answer')
            # The thread replaces a keeper that has died.
            time.sleep(PAUSE)
            tries += 1

    def _exchange(self, message: dict[str, Any], reply: bool,
                  timeout: float | None) -> bool:
        if os.getpid() != self.pid:
            return True
        number = next(self._numbers)
        try:
            with self._lock:
                self._control.settimeout(timeout)
                self._control.send(
                    json.dumps({**message, 'number': number}).encode())
                # A reply that was not waited for to the end, because an
                # interrupt was raised, may still be there.
                while reply:
                    answer = self._control.recv(1 << 12)
                    if not answer:
                        return False
                    if json.loads(answer)['number'] == number:
                        break
        except OSError:
            return False
        return True

    def _supervise(self) -> None:
        """See that there is a keeper at work; runs in a thread."""
        while not self._closed:
            poller = select.poll()
            poller.register(self._keeper_fd, select.POLLIN)
            poller.register(self._wake_fd, select.POLLIN)
            timeout = CHECK_INTERVAL * 1000 if self._hold else None
            ready = [fd for fd, _ in poller.poll(timeout)]
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if self._closed:
                break
            if self._keeper_fd in ready:
                self._replace_keeper()
            elif self._hold is not None:
                self._replace_if_stalled()
        self._reap()
        os.close(self._page_fd)
        os.close(self._wake_fd)

    def _replace_if_stalled(self) -> None:
        # Looked at twice: after a freeze of the whole machine the keeper is
        # as late as this thread.
        for _ in range(2):
            seen = max(self.page.alive, self._awaited)
            if self._hold is None or now() - seen < STALLED:
                return
            time.sleep(CHECK_INTERVAL / 2)
        os.kill(self._keeper, signal.SIGKILL)

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
            if self._claim is not None:
                self._tell(self._claim)
            for message in (self._hold, self._current_run()):
                if message is not None:
                    self._exchange(message, True, REPLY_TIMEOUT)

    def _current_run(self) -> dict[str, Any] | None:
        run = self._run
        return run and {**run, 'elapsed': now() - self._run_begins}

    def _end_process(self, reason: str) -> None:
        """End this process, if it holds a lock that nothing keeps."""
        if self._hold is not None:
            text = f'jobslib: {reason}; ending the process\n'
            # Whatever fails of this, the process has to end.
            with contextlib.suppress(OSError):
                os.write(2, text.encode())
            # Where no keeper can be started, a thread may be too much as
            # well; then the children are left to the guard.
            with contextlib.suppress(RuntimeError):
                self._end_children()
            os.kill(self.pid, signal.SIGKILL)
        self._abandoned = self._closed = True

    def _end_children(self) -> None:
        """End what the task started, if the lease leaves time for it."""
        ending = threading.Thread(
            target=processes.end, args=(self.pid, None, self.marker, set()),
            daemon=True)
        ending.start()
        ending.join(max(self.page.until - self._kill - now(), 0))

    def _reap(self) -> None:
        """Wait for the keeper's end, so that it leaves no zombie."""
        if self._keeper_fd < 0:
            # Done before, and no other could be started.
            return
        try:
            os.waitpid(self._keeper, 0)
        except ChildProcessError:
            pass
        os.close(self._keeper_fd)
        self._keeper_fd = -1
        self._control.close()


def _above_standard(fd: int) -> int:
    """Move *fd* out of the way of standard input, output and error."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved
