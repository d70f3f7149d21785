"""A session of a lock service that a keeper renews, as the ward sees it.

The ward is the process that holds the lock: a supervisor, or a program with a
lock of its own.  It tells the keeper by messages what it is about to do, and reads
in the shared memory how the lease stands.  The keeper's side is in
:mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Mapping

from jobslib.clock import now
from jobslib.keeper import marks, proc, processes
from jobslib.keeper.handle import KeeperHandle, Kept
from jobslib.keeper.memory import LeaseMemory
from jobslib.keeper.timings import Timings

__all__ = ['Lease']


class Lease(Kept):
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
        #: :func:`.marks.mark`.
        self.marker = os.urandom(16).hex()
        self._config = {
            'pid': self.pid, 'marker': self.marker, 'supervised': supervised,
            'about': about,
            'since': proc.start_time(self.pid),
            'ttl': timings.ttl, 'window': timings.window,
            'renew_interval': timings.renew_interval,
            'grace': timings.grace, 'kill': timings.kill,
            'engine': engine}
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
        self._keeper = KeeperHandle(
            self, engines, f'jobslib-{self.marker}', timings.window, supervised)
        #: How the lease stands.
        self.memory = self._keeper.memory

    @property
    def memory_fd(self) -> int:
        """The file of :attr:`memory`, for the processes of the runs."""
        return self._keeper.memory_fd

    @property
    def keeper_pid(self) -> int:
        """The process id of the keeper."""
        return self._keeper.pid

    def is_valid(self) -> bool:
        """Return whether the lease is certainly ours at this moment."""
        return self.memory.is_valid()

    @property
    def has_ended(self) -> bool:
        """Whether, while nothing is held, the lease is of no use any more: its
        session has ended, or nobody keeps it."""
        return self._hold is None and (
            self._keeper.abandoned or self.memory.state == LeaseMemory.LOST)

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
        if self._supervised:
            self._keeper.look_after()

    def claim(self, record: Mapping[str, object]) -> None:
        """This process is about to take the key.

        :raises LockUnavailableError: there is no keeper to keep it.
        """
        self._claim = {'do': 'claim', 'record': record}
        self._keeper.watch_from_now()
        self._keeper.ask(self._claim)

    def keep_claim(self, record: Mapping[str, object]) -> None:
        """The key may still be this process's: the keeper is to release it
        when the lease is closed, and to leave *record*."""
        self._claim = {'do': 'claim', 'record': record}
        self._keeper.tell(self._claim)

    def hold(self, proof: float, record: Mapping[str, object], token: int,
             signum: int) -> None:
        """This process took the key, in a request that it sent at *proof*.

        :param token: the fencing token, which is the index of the key.
        :param signum: the signal that interrupts the run, or 0 for none.
        :raises LockUnavailableError: there is no keeper to keep it.
        """
        # The processes that the task starts from here on inherit the mark.
        marks.mark(self.marker)
        self.memory.set_state(LeaseMemory.FINE)
        self.sign_of_life()
        self._hold = {'do': 'hold', 'proof': proof, 'record': record,
                      'token': token, 'signum': signum}
        self._notes = {}
        self._keeper.watch_from_now()
        self._keeper.ask(self._hold)

    def start_run(self, max_run_time: float | None, heartbeat: float | None,
                  run: Mapping[str, object] | None = None) -> None:
        """A *run* begins."""
        self._run_begins = now()
        self._run = {'do': 'run', 'max_run_time': max_run_time,
                     'heartbeat': heartbeat, 'run': run, 'elapsed': 0.0}
        self._keeper.ask(self._run)

    def stopping(self) -> None:
        """The run was told to stop."""
        self._stopping = True
        self._keeper.tell({'do': 'stopping'})

    def end_run(self, spared: Collection[int] = ()) -> None:
        """The run is over.

        If it was told to stop, this returns when all that it started is
        gone.

        :param spared: processes that are left alone, but not what they
            started: that of a run, which is to end by a proper exit.
        """
        self._run = None
        if self._keeper.abandoned:
            # The run, and all that it started, is gone already.
            return
        stopped = self._stopping or self.memory.state != LeaseMemory.FINE
        # Killing and waiting for processes takes as long as it takes.
        self._keeper.ask({'do': 'end', 'stopped': stopped,
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
        self._keeper.offer({'do': 'leave', 'record': record, 'notes': notes})

    def note(self, key: str, value: str, token: int) -> None:
        """Write *value* to *key* soon, if the lock is held with *token*."""
        if key in self._notes:
            self._notes = {**self._notes, key: value}
        self._keeper.offer({'do': 'note', 'key': key, 'value': value, 'token': token})

    def release(self, record: Mapping[str, object],
                notes: dict[str, str]) -> None:
        """This process is about to release the key.

        If it does not get to that, the keeper does it.

        :param record: what to leave in the key.
        :param notes: what to leave in keys beside it.
        """
        self._hold = None
        marks.unmark()
        self._keeper.ask({'do': 'release', 'record': record, 'notes': notes})

    def released(self) -> None:
        """This process certainly does not have the key."""
        self._hold = self._claim = None
        self._keeper.tell({'do': 'released'})

    def close(self) -> bool:
        """Give the lease up; return whether the keeper could be told.

        The keeper releases the key, if this process may still have it, and
        destroys the session.  Nobody waits for that here.
        """
        if os.getpid() != self.pid or (
                self._keeper.closed and not self._keeper.abandoned):
            return True
        marks.unmark()
        return self._keeper.close()

    # What the keeper's handle asks.

    @property
    def needs_keeper(self) -> bool:
        return self._claim is not None or self._hold is not None

    def first_message(self) -> Mapping[str, object]:
        record = self._claim['record'] if self._claim else None
        renewed, self._renewed = self._renewed, 0.0
        return {**self._config, 'record': record, 'renewed': renewed}

    def messages(self) -> list[Mapping[str, object]]:
        claim, hold, run = self._claim, self._hold, self._run
        return [message for message in (
            claim,
            hold and {**hold, 'notes': self._notes},
            run and {**run, 'elapsed': now() - self._run_begins}) if message]

    def give_up(self, reason: str) -> None:
        """End this process, if it holds a lock that nothing keeps.

        A supervisor ends its run alone, if there is time for that.
        """
        if self._hold is None:
            return
        what = 'run' if self._supervised else 'process'
        text = f'jobslib: {reason}; ending the {what}\n'
        # Whatever fails of this, the process has to end.
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        # Where the system has no room for a keeper, it may have none for a thread
        # either; then the guard ends the children.
        ended = False
        with contextlib.suppress(RuntimeError):
            ended = self._end_children()
        if not (self._supervised and ended):
            os.kill(self.pid, signal.SIGKILL)
        # Written here for once, because there is no keeper to do it.
        self.memory.set_state(LeaseMemory.LOST, reason)
        self.memory.held = False

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
