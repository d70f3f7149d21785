"""The lease keeper: a small process that keeps the lease of another.

It renews the session, watches the key, stops the run when the lease is lost
or about to be, and gives up the lock when the process is gone.  A process of
its own, because a thread stands still while a C call keeps the interpreter,
and cannot kill what it is part of.

It is started by :mod:`jobslib.oneinstance.lease` in an interpreter without
installed packages (``-I -S``), so it uses the standard library only, and of
jobslib what does the same.

All times are of ``CLOCK_BOOTTIME``, in seconds, which both processes share
and which goes on while the machine is suspended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import time

from jobslib.clock import now
from jobslib.oneinstance import processes
from jobslib.oneinstance.guard import Guard
from jobslib.oneinstance.keeperconsul import (
    RETRY,
    Loss,
    Notes,
    control_of,
    entries_of,
    find_loss,
    operation,
    read_renewal,
    session_has_ended,
    succeeds,
    transaction,
)
from jobslib.oneinstance.page import Page
from jobslib.oneinstance.transport import Endpoint, Transport, TransportError

# Not typing.TYPE_CHECKING: importing typing costs the keeper milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['Keeper', 'main']

# What a process manager or a terminal sends to all processes of a group; the
# keeper leaves last.
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT,
           signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGPIPE)

# poll() does not count the time that a machine was suspended, so no wait is
# longer while the lock is held.
MAX_POLL = 0.25
# When a renewal is overdue, a short request is sent every so often.
PROBE_TIMEOUT = 0.3
PROBE_INTERVAL = 0.4
WATCH = 30.0
MAX_MESSAGE = 1 << 18
# How often the keeper looks what the run has started.
LOOK = 1.0
# How much of the TTL an idle session lives on between renewals.
IDLE_SHARE = 0.8
# A key that was deleted, or that another session holds, is protected by no
# lock-delay.
UNPROTECTED_GRACE = 0.2


class Keeper:
    """Keeps one session, for one process.

    :param control: where the process sends its messages.
    :param page: shared with the process.
    :param config: ``pid, session, key, marker, endpoint, ttl, window,
        renew_interval, grace, kill, check, check_ttl, since, record``.
    """

    def __init__(self, control: socket.socket, page: Page,
                 config: dict[str, Any]) -> None:
        self.control = control
        self.page = page
        self.pid: int = config['pid']
        self.session: str = config['session']
        self.key: str = config['key']
        self.marker: str = config['marker']
        self.since: int = config['since']
        self.endpoint = Endpoint(**config['endpoint'])
        self.ttl: float = config['ttl']
        self.window: float = config['window']
        self.renew_interval: float = config['renew_interval']
        self.grace: float = config['grace']
        self.kill: float = config['kill']
        # The agent check that the session is bound to, if there is one.
        self.check: str | None = config['check']
        self.check_ttl: float | None = config['check_ttl']
        self.pidfd = _open_process(self.pid)
        # A pid that was reused before it was opened is not our parent.
        self.orphan = self.pidfd < 0 or os.getppid() != self.pid
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.renew_now = threading.Event()
        self.hold_begins = threading.Event()
        # The process may have the key: what to write on its release.
        self.record: dict[str, Any] | None = config['record']
        # The run that is under way, for the history of its successors.
        self.run_begun: dict[str, Any] | None = None
        self.notes = Notes(self.endpoint, self.key)
        # The process holds the key; a new object for each time.
        self.hold: object | None = None
        self.lost: Loss | None = None
        self.signal = 0
        self.run_begins = 0.0
        self.run_ends: float | None = None
        self.max_run_time = 0.0
        self.heartbeat: float | None = None
        self.kill_at: float | None = None
        self.stop_reason = ''
        self.known: set[tuple[int, int]] = set()
        self.look_at = 0.0
        self.quit = False

    def run(self) -> None:
        """Keep the lease until the process is gone or wants no more."""
        if self.orphan:
            return self._process_is_gone()
        threading.Thread(target=self._renew, daemon=True).start()
        threading.Thread(target=self._renew_overdue, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        if self.check is not None and self.check_ttl is not None:
            threading.Thread(target=self._pass_check, daemon=True,
                             args=(self.check, self.check_ttl)).start()
        poller = select.poll()
        for fd in (self.pidfd, self.control.fileno(), self.wake_fd):
            poller.register(fd, select.POLLIN)
        while not self.quit:
            self._be_alive()
            timeout = MAX_POLL if self.hold else self.ttl / 4
            ready = [fd for fd, _ in poller.poll(timeout * 1000)]
            self._be_alive()
            if self.pidfd in ready:
                return self._process_is_gone()
            if self.wake_fd in ready:
                os.eventfd_read(self.wake_fd)
            if self.control.fileno() in ready and not self._receive():
                # Closed by exec(); the process itself goes on.
                poller.unregister(self.control.fileno())
            self._enforce()
        self._give_up()

    # Messages of the process; those that return True are answered.

    def _receive(self) -> bool:
        try:
            data = self.control.recv(MAX_MESSAGE)
        except ConnectionResetError:
            # The process ended before it had read an answer.  It is said
            # once; what the process had sent is still to be read.
            return True
        if not data:
            return False
        message = json.loads(data)
        number = message.pop('number')
        replies = getattr(self, f'do_{message.pop("do")}')(**message)
        if replies:
            try:
                self.control.send(json.dumps({'number': number}).encode())
            except OSError:
                return False
        return True

    def do_claim(self, record: dict[str, Any]) -> None:
        """The process is about to take the key."""
        self.record = record

    def do_hold(self, proof: float, record: dict[str, Any],
                signum: int) -> bool:
        """The process took the key; the session lived at *proof*."""
        self.record = record
        self.signal = signum
        self.kill_at = None
        if self.page.state != Page.FINE:
            # What the keeper before has begun.
            self._limit(now() + self.grace, self.page.reason)
        self.page.until = max(self.page.until, proof + self.window)
        self.page.forget_control()
        self.hold = object()
        if now() >= self._stop_at():
            # The process needed long to take the key.
            self._renew_once(Transport(self.endpoint), now())
        self.page.held = True
        self.hold_begins.set()
        self.renew_now.set()
        return True

    def do_run(self, max_run_time: float | None, heartbeat: float | None,
               run: dict[str, Any] | None, elapsed: float) -> bool:
        """A *run* begins, or began *elapsed* seconds ago."""
        self.run_begun = run
        self.run_begins = now() - elapsed
        self.page.beat = max(self.page.beat, self.run_begins)
        self.max_run_time = max_run_time or 0.0
        self.run_ends = (None if max_run_time is None
                         else self.run_begins + max_run_time)
        self.heartbeat = heartbeat
        return True

    def do_stopping(self) -> None:
        """The process told its run to stop."""
        self._limit(now() + self.grace, 'the run did not stop when told to')

    def do_end(self, stopped: bool) -> bool:
        """The run is over; it was told to stop, if *stopped*."""
        self.run_begun = None
        self.run_ends = self.heartbeat = None
        if stopped or self.kill_at is not None:
            self.kill_at = None
            self._end_processes(None)
            if not self._is_lost() and now() < self._stop_at():
                self.page.set_state(Page.FINE)
            else:
                self.page.set_state(Page.LOST, self.stop_reason)
                self.page.held = False
        return True

    def do_note(self, key: str, value: str, token: int) -> None:
        """Write *value* to *key*, while the process has the lock."""
        self.notes.add(key, value, token)

    def do_release(self) -> bool:
        """The process is about to release the key."""
        self.notes.clear()
        self.page.held = False
        self.hold = None
        self.hold_begins.clear()
        return True

    def do_released(self) -> None:
        """The process does not have the key."""
        self.page.held = False
        self.hold = None
        self.hold_begins.clear()
        self.record = None

    def do_quit(self) -> None:
        """The process needs the lease no more."""
        self.quit = True

    # Stopping the run.

    def _is_lost(self) -> bool:
        return self.lost is not None and self.lost.hold in (None, self.hold)

    def _stop_at(self) -> float:
        return self.page.until - self.grace - self.kill

    def _enforce(self) -> None:
        if self.hold is None:
            return
        if now() >= self.look_at:
            self.look_at = now() + LOOK
            self.known = processes.still_there(self.known)
            self.known |= processes.children(self.pid)
        self._stop_if_due(now())
        if self.kill_at is not None:
            self.kill_at = min(self.kill_at, self.page.until - self.kill)
            if now() >= self.kill_at:
                self._kill()

    def _stop_if_due(self, time: float) -> None:
        state = self.page.state
        if state == Page.LOST:
            return
        if self.lost is not None and self._is_lost():
            self._stop(Page.LOST, self.lost.reason,
                       self.grace if self.lost.protected
                       else UNPROTECTED_GRACE)
        elif time >= self._stop_at():
            self._stop(Page.LOST, 'the lease could not be renewed in time',
                       self.grace)
        elif state == Page.STOPPING:
            return
        elif self.run_ends is not None and time >= self.run_ends:
            self._stop(Page.STOPPING, 'the run took longer than '
                       f'{self.max_run_time:g} s', self.grace)
        elif (self.heartbeat is not None
              and time >= self.page.beat + self.heartbeat):
            self._stop(Page.STOPPING, 'the run was silent for '
                       f'{self.heartbeat:g} s', self.grace)

    def _stop(self, state: int, reason: str, grace: float) -> None:
        was_told = self.page.state == Page.STOPPING
        self.page.set_state(state, reason)
        self._limit(now() + min(grace, self.grace), reason)
        if self.signal and not was_told:
            try:
                signal.pidfd_send_signal(self.pidfd, self.signal)
            except OSError:
                # Gone, or of another user by now; then the kill has to do.
                pass

    def _limit(self, kill_at: float, reason: str) -> None:
        if self.kill_at is None or kill_at < self.kill_at:
            self.kill_at = kill_at
            self.stop_reason = reason

    def _kill(self) -> None:
        _log(f'killing process {self.pid}: {self.stop_reason}')
        self._end_processes(self.pidfd)
        self._give_up()
        os._exit(0)

    def _process_is_gone(self) -> None:
        # What it said last: that it is about to take the key, for instance.
        while (select.select([self.control], [], [], 0)[0]
               and self._receive()):
            pass
        if self.record is not None:
            count = self._end_processes(None)
            if count:
                _log(f'process {self.pid} is gone; ended {count} processes '
                     f'that it left running')
        self._give_up()

    def _end_processes(self, pidfd: int | None) -> int:
        return processes.end(self.pid, pidfd, self.marker, self.known,
                             self._be_alive, self.since)

    def _be_alive(self) -> None:
        self.page.alive = now()

    # Requests to Consul.

    def _renew(self) -> None:
        """Renew the session for ever; runs in a thread."""
        transport = Transport(self.endpoint)
        while self.lost is None or self.lost.hold is not None:
            self.renew_now.clear()
            sent = now()
            if not self._renew_once(transport, sent):
                pause = RETRY
            elif self.hold is not None:
                pause = self.renew_interval - (now() - sent)
            else:
                pause = self.ttl * IDLE_SHARE
            self.renew_now.wait(max(pause, 0))

    def _renew_overdue(self) -> None:
        """Renew the session when that is overdue; runs in a thread.

        A request whose packets were lost is waited for in vain, as long as a
        slow answer may take.  Short ones beside it see when the line is back.
        """
        transport = Transport(Endpoint(**{
            **self.endpoint.to_dict(),
            'timeout': min(self.endpoint.timeout, PROBE_TIMEOUT)}))
        while self.lost is None or self.lost.hold is not None:
            self.hold_begins.wait()
            began = now()
            due = (self.page.until - self.window + self.renew_interval
                   + PROBE_TIMEOUT)
            if began >= due:
                self._renew_once(transport, began)
                due = began + PROBE_INTERVAL
            time.sleep(max(due - now(), 0))

    def _renew_once(self, transport: Transport, sent: float) -> bool:
        try:
            response = transport.request(
                'PUT', f'/v1/session/renew/{self.session}')
            renewed, ended = read_renewal(response, self.session)
            ended = ended and session_has_ended(transport, self.session)
        except (TransportError, LookupError, TypeError, AttributeError):
            return False
        if ended:
            self._lose(Loss('the session has ended'))
        if not renewed:
            return False
        self.page.until = max(self.page.until, sent + self.window)
        return True

    def _pass_check(self, check: str, ttl: float) -> None:
        """Pass the check for ever; runs in a thread."""
        endpoint = Endpoint(**{**self.endpoint.to_dict(),
                               'timeout': min(self.endpoint.timeout, ttl / 3)})
        transport = Transport(endpoint)
        while True:
            began = now()
            succeeds(transport, f'/v1/agent/check/pass/{check}')
            time.sleep(max(ttl / 3 - (now() - began), 0))

    def _watch(self) -> None:
        """Watch the key while it is held; runs in a thread."""
        transport = Transport(self.endpoint)
        while True:
            self.hold_begins.wait()
            hold, index = self.hold, 0
            while hold is not None and self.hold is hold:
                index = self._watch_once(transport, hold, index)

    def _watch_once(self, transport: Transport, hold: object,
                    index: int) -> int:
        params: list[tuple[str, object]] = [('consistent', '1')]
        if index:
            params = [('index', index), ('wait', f'{WATCH:g}s')]
        timeout = self.endpoint.timeout + (WATCH * 17 / 16 if index else 0)
        try:
            # With all that begins with the key, so with its control key.
            response = transport.request(
                'GET', f'/v1/kv/{self.key}', [('recurse', '1'), *params],
                timeout=timeout)
            entries = entries_of(response)
            lost = find_loss(response, entries.get(self.key), self.session,
                             hold)
            if lost is not None:
                # What a token may not read is left out of a list, and a
                # server that was just restarted answers before it has read
                # its log: asked for by its name, and of a quorum.
                response = transport.request(
                    'GET', f'/v1/kv/{self.key}', [('consistent', '1')])
                lost = find_loss(
                    response, entries_of(response).get(self.key),
                    self.session, hold)
                index = 0
            elif response.status in (200, 404) and response.index:
                self.page.write_control(
                    control_of(entries.get(f'{self.key}.control')))
                index = response.index if response.index >= index else 0
            else:
                index = 0
        except (TransportError, LookupError, TypeError, ValueError,
                AttributeError):
            time.sleep(RETRY)
            return 0
        if lost is not None:
            self._lose(lost)
        if not index:
            time.sleep(RETRY)
        return index

    def _lose(self, loss: Loss) -> None:
        self.lost = loss
        if self.hold is None and loss.hold is None:
            # Nothing is lost with it, but the process needs another one.
            self.page.set_state(Page.LOST, loss.reason)
        os.eventfd_write(self.wake_fd, 1)

    def _give_up(self) -> None:
        """Release the key and destroy the session, if Consul lets us."""
        self.page.held = False
        transport = Transport(self.endpoint)
        ends = max(now(), self.page.until) + self.window
        if self.record is not None:
            self._insist(lambda: self._unlock(transport), ends)
        self._insist(lambda: succeeds(
            transport, f'/v1/session/destroy/{self.session}'), ends)
        if self.check is not None:
            succeeds(transport, f'/v1/agent/check/deregister/{self.check}')

    def _insist(self, call: Any, ends: float) -> None:
        while not call() and now() < ends:
            time.sleep(RETRY)

    def _unlock(self, transport: Transport) -> bool:
        record = {**(self.record or {}), 'released': time.time()}
        if self.run_begun is not None:
            record['killed'] = {
                **self.run_begun, 'outcome': 'killed',
                'duration': round(now() - self.run_begins, 3),
                'error': self.stop_reason or 'its process ended'}
        unlock = operation(
            'unlock', self.key, json.dumps(record), self.session)
        notes = [operation('set', key, value)
                 for key, value in self.notes.pending().items()]
        if notes and succeeds(transport, '/v1/txn',
                              transaction(unlock, *notes), (200,)):
            return True
        # The notes may be what was refused; without them 409 says that the
        # session does not hold the key.
        return succeeds(
            transport, '/v1/txn', transaction(unlock), (200, 409))


def _open_process(pid: int) -> int:
    """Return a pidfd, or -1 when the process is gone already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _log(text: str) -> None:
    # In a thread: a pipe that nobody reads must not hold up the keeper.
    line = f'{time.strftime("%Y-%m-%d %H:%M:%S")} jobslib keeper: {text}\n'
    try:
        threading.Thread(target=os.write, args=(2, line.encode()),
                         daemon=True).start()
    except RuntimeError:
        # There is no room for a thread.  What is reported has to be done.
        pass


def main() -> None:
    """Keep a lease: control socket on 0, shared page on 1."""
    for signum in IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    os.chdir('/')
    control = socket.socket(fileno=0)
    page = Page(1)
    data = control.recv(MAX_MESSAGE)
    if data:
        keeper = Keeper(control, page, json.loads(data))
        if not keeper.orphan:
            _fork_guard(keeper)
        keeper.run()


def _fork_guard(keeper: Keeper) -> None:
    """Start the guard; before any thread, since it is a fork."""
    # Not opened by the guard: until it gets to that, the keeper may be gone.
    keeper_fd = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        # Whatever happens, this must never go on as a keeper.
        try:
            keeper.control.close()
            Guard(keeper.page, keeper_fd, keeper.pidfd, keeper.pid,
                  keeper.marker, keeper.since, keeper.kill).run()
        finally:
            os._exit(0)
    os.close(keeper_fd)
