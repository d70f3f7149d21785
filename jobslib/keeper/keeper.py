"""The lease keeper: a small process that keeps the lease of another.

Why it is a process.  A lease has to be renewed while its *ward*, the process
that it belongs to, does whatever it does, and the ward has to stop when the
lease is lost.  A thread of the ward's could do neither: it stands still while
a C call keeps the interpreter, for seconds at a time, and it cannot kill what
it is part of.  A signal handler of the ward's runs only when that call
returns.  A timer of the kernel's that kills (``SIGALRM`` without a handler)
knows nothing of what the ward has started, and anybody may set it anew.

What it does.  It renews the session, watches the lock, interrupts the run
when the lease is lost or about to be, kills it, and whatever it started, when
it does not stop in time, and gives up the lock when the ward is gone.  It
counts from when the last renewal that succeeded was *sent*: the service may
have carried it out at that moment, so nothing later is certain.  It
ignores the signals by which a process manager or a terminal stops a whole
group, because it has to leave last.

What it does not do by itself:

- It knows no lock service.  It asks an *engine*, see
  :mod:`jobslib.keeper.engine`, by threads of their own, see
  :mod:`jobslib.keeper.service`: no answer that is late holds it up.
- When to interrupt and when to kill is decided by
  :mod:`jobslib.keeper.decisions`, which has neither clock nor threads.

Where it can still fail.  When the keeper itself is killed or stopped, its ward
starts another one with the same session; where the ward cannot, the guard
that the keeper forked ends the ward before the lease ends
(:mod:`jobslib.keeper.guard`).  When both are stopped by a signal, and the
ward is not, nobody is left; and a machine that freezes as a whole cannot know
of it before it wakes.  For these there is the fencing token.

It is started by :mod:`jobslib.keeper.launch`, beside programs of users in
an interpreter without installed packages (``-I -S``), so it uses the standard
library only, and of jobslib what does the same.

All times are of ``CLOCK_BOOTTIME``, in seconds, which all processes of the
machine share and which goes on while it is suspended.
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
from jobslib.keeper import proc, processes
from jobslib.keeper.decisions import Decisions, Interrupt, Kill
from jobslib.keeper.guard import Guard
from jobslib.keeper.memory import LeaseMemory
from jobslib.keeper.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from jobslib.documents import Document
    from jobslib.keeper.engine import Engine

__all__ = ['Keeper', 'main']

# What a process manager or a terminal sends to all processes of a group; the
# keeper must outlive them.
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT,
           signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTOU,
           signal.SIGPIPE)

# The longest wait while the lock may be held, in seconds.  A wait in poll() does
# not count the time for which the machine was suspended, so after waking up a
# longer one would go on although the lease has ended.
MAX_POLL = 0.25
# The name of the logger in the keeper's lines of the log.
LOGGER = 'jobslib.keeper'
# The longest message of the ward, in bytes.
MAX_MESSAGE = 1 << 18
# How often the keeper looks what the run has started, in seconds.
LOOK = 1.0


class Keeper:
    """Keeps one session, for one ward.

    It has three parts: what it does itself, in its main thread, is here; the
    threads that speak with the lock service are in :class:`Service`; what
    has to be done when is up to :class:`Decisions`.

    :param messages: the socket by which the ward sends its messages.
    :param memory: shared with the ward.
    :param config: ``pid, marker, since, supervised, ttl, window,
        renew_interval, grace, kill, renewed, record``.
    :param engine: speaks with the lock service.
    :param pidfd: a pidfd of the ward; -1 when it is gone already.
    """

    # All fields are written by the main thread alone.  So are the keeper's
    # fields in the memory, except `until` and what operators ask, which the
    # threads of the service write.

    def __init__(self, messages: socket.socket, memory: LeaseMemory,
                 config: Document, engine: Engine, pidfd: int) -> None:
        self.messages = messages
        self.memory = memory
        self.pid: int = config['pid']
        self.marker: str = config['marker']
        self.since: int = config['since']
        self.ttl: float = config['ttl']
        self.window: float = config['window']
        self.kill: float = config['kill']
        self.pidfd = pidfd
        self.decisions = Decisions(
            config['grace'], self.kill, config['supervised'])
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.service = Service(
            engine, memory, self.ttl, self.window, config['renew_interval'],
            config['renewed'], lambda: os.eventfd_write(self.wake_fd, 1))
        # While the ward may hold the lock: the record to leave in it when the
        # keeper has to release it; None when the ward certainly does not.
        self.record: Mapping[str, object] | None = config['record']
        # The fencing token of the hold that such a release is to end; None when
        # it is not known whether the ward got the lock.
        self.token: int | None = None
        # What such a release is to leave beside the lock.
        self.last_notes: dict[str, str] = {}
        # The run that is under way.  When the ward cannot say any more how it
        # ended, the keeper leaves it in the record, for the history.
        self.run_begun: Mapping[str, object] | None = None
        self.run_begins = 0.0
        # The signal that interrupts the ward's run, or 0 for none.
        self.signal = 0
        # What was seen below the ward, and may have left it since.
        self.known: set[tuple[int, int]] = set()
        self.look_at = 0.0
        self.quit = False

    def run(self) -> None:
        """Keep the lease until the ward is gone or does not need it any more."""
        if self.pidfd < 0:
            return self._process_is_gone()
        self.service.start()
        poller = select.poll()
        for fd in (self.pidfd, self.messages.fileno(), self.wake_fd):
            poller.register(fd, select.POLLIN)
        while not self.quit:
            self._be_alive()
            timeout = self.ttl / 4 if self.record is None else MAX_POLL
            ready = [fd for fd, _ in poller.poll(timeout * 1000)]
            self._be_alive()
            if self.pidfd in ready:
                return self._process_is_gone()
            if self.wake_fd in ready:
                os.eventfd_read(self.wake_fd)
            if self.messages.fileno() in ready and not self._receive():
                # The ward has become another program by exec(), which closed
                # its end of the socket.  It still is the process to watch.
                poller.unregister(self.messages.fileno())
            self._enforce()
        self._give_up()

    # The messages of the ward: "do" names a method do_...; where that returns
    # true, the ward waits for an answer.

    def _receive(self) -> bool:
        try:
            data = self.messages.recv(MAX_MESSAGE)
        except ConnectionResetError:
            # The ward ended before it had read an answer.  The socket says so
            # once; what the ward had sent before is still to be read.
            return True
        if not data:
            return False
        self.decisions.heard()
        message = json.loads(data)
        number = message.pop('number')
        replies = getattr(self, f'do_{message.pop("do")}')(**message)
        if replies:
            try:
                self.messages.send(json.dumps({'number': number}).encode())
            except OSError:
                # The ward has closed its end and waits for no answer.  What it
                # had sent before, such as that it quits, is still to be read.
                pass
        return True

    def do_claim(self, record: Mapping[str, object]) -> bool:
        """The ward is about to take the lock, and would leave *record*."""
        self.record = record
        self.token = None
        return True

    def do_hold(self, proof: float, record: Mapping[str, object], token: int,
                signum: int, notes: dict[str, str] | None = None) -> bool:
        """The ward took the lock; the session was alive at *proof*.

        :param notes: what a keeper before this one was to leave.
        """
        self.record, self.last_notes = record, notes or {}
        self.token = token
        self.signal = signum
        # The memory has the state that a keeper before this one has left.
        self.decisions.hold_begins(now(), self.memory.state, self.memory.reason)
        self.memory.forget_control()
        self.service.hold_begins(
            proof, lambda: now() >= self.decisions.stop_at(self.memory.until))
        self.memory.cleared = False
        self.memory.held = True
        return True

    def do_run(self, max_run_time: float | None, heartbeat: float | None,
               run: Mapping[str, object] | None, elapsed: float) -> bool:
        """A *run* begins, or began *elapsed* seconds ago."""
        self.run_begun = run
        self.run_begins = now() - elapsed
        self.memory.cleared = False
        self.memory.beat = max(self.memory.beat, self.run_begins)
        self.decisions.run_begins(self.run_begins, max_run_time, heartbeat)
        return True

    def do_stopping(self) -> None:
        """The ward told its run to stop."""
        self.decisions.run_is_told(now())

    def do_end(self, stopped: bool, spared: list[int]) -> bool:
        """The run is over; it was told to stop, if *stopped*.

        :param spared: processes that are left alone, but what they started
            is not.
        """
        self.run_begun = None
        if self.decisions.run_ends(stopped):
            self._end_processes(None, frozenset(spared))
            state = self.decisions.is_cleared(
                now(), self.memory.until,
                self.service.loss_of_hold() is not None)
            if state == LeaseMemory.FINE:
                self.memory.set_state(LeaseMemory.FINE)
            else:
                self.memory.set_state(LeaseMemory.LOST, self.decisions.reason)
                self.memory.held = False
        return True

    def do_leave(self, record: Mapping[str, object],
                 notes: dict[str, str]) -> None:
        """The run has an outcome, which is in these: what the ward would leave
        if it released the lock now."""
        self.record, self.last_notes = record, notes
        self.run_begun = None

    def do_note(self, key: str, value: str, token: int) -> None:
        """Write *value* to *key*, while the ward holds the lock."""
        self.service.notes.add(key, value, token)
        if key in self.last_notes:
            self.last_notes[key] = value

    def do_release(self, record: Mapping[str, object],
                   notes: dict[str, str]) -> bool:
        """The process is about to release the key, and to leave these."""
        self.record, self.last_notes = record, notes
        self._hold_ends()
        return True

    def do_released(self) -> None:
        """The process does not have the key."""
        self._hold_ends()
        self.record, self.last_notes = None, {}

    def _hold_ends(self) -> None:
        self.memory.held = False
        self.decisions.hold_ends()
        self.service.hold_ends()

    def do_quit(self) -> None:
        """The process needs the lease no more."""
        self.quit = True

    # Stopping the run.

    def _enforce(self) -> None:
        loss = self.service.loss_of_hold()
        if not self.decisions.held:
            if loss is not None:
                # The session ended while nothing was held.  No run is
                # concerned, but the ward has to know that it needs another one.
                self.memory.set_state(LeaseMemory.LOST, loss.reason)
            return
        if now() >= self.look_at:
            self.look_at = now() + LOOK
            self.known = processes.still_there(self.known)
            self.known |= processes.children(self.pid)
        memory = self.memory
        for action in self.decisions.decide(
                now(), memory.until, memory.beat, memory.ward_alive, loss):
            if isinstance(action, Interrupt):
                self._interrupt(action)
            else:
                self._kill(action)

    def _interrupt(self, interrupt: Interrupt) -> None:
        self.memory.set_state(interrupt.state, interrupt.reason)
        if self.signal and interrupt.signal:
            try:
                signal.pidfd_send_signal(self.pidfd, self.signal)
            except OSError:
                # It is gone, or runs as another user by now and may not be
                # signalled; then the kill has to do.
                pass

    def _kill(self, kill: Kill) -> None:
        if kill.ward:
            _log(f'killing process {self.pid}: {kill.reason}')
            self._end_processes(self.pidfd)
            self.quit = True
        else:
            _log(f'killing the run of process {self.pid}: {kill.reason}')
            self._end_processes(None)
            self.memory.cleared = True
            self.decisions.run_is_killed(now())

    def _process_is_gone(self) -> None:
        # Its last messages count: it may have been about to take the lock.
        while (select.select([self.messages], [], [], 0)[0]
               and self._receive()):
            pass
        if self.record is not None:
            count = self._end_processes(None)
            if count:
                _log(f'process {self.pid} is gone; ended {count} processes '
                     f'that it left running')
        self._give_up()

    def _end_processes(self, pidfd: int | None,
                       spared: frozenset[int] = frozenset()) -> int:
        return processes.end(self.pid, pidfd, self.marker, self.known,
                             self._be_alive, self.since, spared, _log)

    def _be_alive(self) -> None:
        self.memory.alive = now()

    def _give_up(self) -> None:
        """Release the lock and end the session, if the service lets us."""
        self.memory.held = False
        self.service.give_up(
            None if self.record is None else self._last_record,
            self.last_notes, self.token,
            max(now(), self.memory.until) + self.window)
        self.service.stop()

    def _last_record(self) -> dict[str, object]:
        record = {**(self.record or {}), 'released': time.time()}
        if self.run_begun is not None:
            record['killed'] = {
                **self.run_begun, 'outcome': 'killed',
                'duration': round(now() - self.run_begins, 3),
                'error': self.decisions.reason or 'its process ended'}
        return record


def _open_process(pid: int) -> int:
    """Return a pidfd, or -1 when the process is gone already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


# What the lines of the log need to know: the ``task``, the ``fqdn`` of the
# machine, and the ``format`` of the log.  Set once, before anything is logged.
_about: dict[str, str] = {}


def _log(text: str) -> None:
    # Written by a thread, because a pipe that nobody reads would hold up
    # whoever writes to it.
    line = f'{_format(text, time.time())}\n'
    try:
        threading.Thread(target=os.write, args=(2, line.encode()),
                         daemon=True).start()
    except RuntimeError:
        # The system has no room for a thread.  The line is lost, which is
        # better than not to do what it reports.
        pass


def _format(text: str, at: float) -> str:
    """Return a line like those that :mod:`jobslib.logs` makes."""
    seconds, milliseconds = divmod(int(at * 1000), 1000)
    if _about.get('format') == 'json':
        utc = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))
        return json.dumps({
            'timestamp': f'{utc}.{milliseconds:03d}Z', 'level': 'WARNING',
            'logger': LOGGER, 'fqdn': _about['fqdn'], 'pid': os.getpid(),
            'message': text, 'task': _about['task']})
    local = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))
    of = f' ({_about["task"]})' if _about else ''
    return f'{local},{milliseconds:03d} WARNING {LOGGER}: {text}{of}'


def main(engines: ModuleType) -> None:
    """Keep a lease; the main function of the keeper's process.

    Its standard input is the socket for messages, its standard output the file
    of the shared memory.

    :param engines: the module whose function ``make`` makes the engine.
    """
    for signum in IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    # A group of its own: when the whole group of the job is killed, by the task for
    # instance, the keeper is left to release the lock.
    os.setpgid(0, 0)
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))
    os.chdir('/')
    messages = socket.socket(fileno=0)
    memory = LeaseMemory(1)
    data = messages.recv(MAX_MESSAGE)
    if data:
        config = json.loads(data)
        _about.update(config.get('about') or {})
        pidfd = _open_process(config['pid'])
        if pidfd >= 0 and os.getppid() != config['pid']:
            # The ward had ended, and its id was used again before it was
            # opened here: this is another process.
            os.close(pidfd)
            pidfd = -1
        engine = engines.make(config['engine'])
        keeper = Keeper(messages, memory, config, engine, pidfd)
        if pidfd >= 0:
            _fork_guard(keeper)
        keeper.run()


def _fork_guard(keeper: Keeper) -> None:
    """Start the guard; to be called before any thread is, since it forks."""
    # Opened here and not by the guard: the keeper may be gone, and its id used
    # again, by the time that the guard comes to it.
    keeper_fd = os.pidfd_open(os.getpid())
    # The guard has its own name from its first moment.  When its keeper is gone
    # it becomes a child of the supervisor, where only its name tells it from
    # the next keeper.
    name = proc.rename(proc.GUARD_NAME)
    if os.fork() == 0:
        # Whatever is raised here, the guard must never go on as a keeper.
        try:
            keeper.messages.close()
            Guard(keeper.memory, keeper_fd, keeper.pidfd, keeper.pid,
                  keeper.marker, keeper.since, keeper.kill, _log).run()
        finally:
            os._exit(0)
    proc.rename(name)
    os.close(keeper_fd)
