"""The keeper's dealings with the lock service, by threads of their own.

They renew the session, watch the lock while it is held, write notes and do
the service's chores.  What they find out is for the keeper's main thread,
which decides, in :mod:`jobslib.keeper.keeper`.

Which thread may write a field stands beside it: *main* is the keeper's main
thread, the others are named after their methods here.  Standard library only.
"""

from __future__ import annotations

import threading
import time

from jobslib.clock import now
from jobslib.keeper.decisions import Loss
from jobslib.keeper.engine import (
    ANOTHERS,
    ENDED,
    GONE,
    NOBODYS,
    RENEWED,
)
from jobslib.keeper.notes import RETRY, Notes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from jobslib.keeper.engine import Chore, Engine
    from jobslib.keeper.memory import LeaseMemory

__all__ = ['Hold', 'Service']

# When a renewal is overdue, a short request is sent every so often.
PROBE_TIMEOUT = 0.3
PROBE_INTERVAL = 0.4
# How much of the TTL an idle session lives on between renewals.
IDLE_SHARE = 0.8
# What was taken a moment ago needs no look: a run that is shorter costs none.
WATCH_DELAY = 0.2

REASONS = {
    GONE: 'the key was deleted',
    ANOTHERS: 'another session holds the key',
    NOBODYS: 'the session does not hold the key any more',
}


class Hold:
    """One time that the lock is held; each is an object of its own.

    :param began: when the lock was taken.
    """

    def __init__(self, began: float) -> None:
        self.began = began


class Service:
    """Keeps one session of a lock service.

    :param engine: speaks with the service.
    :param memory: where it stands until when the lease is ours.
    :param ttl: how long the session lives without a renewal.
    :param window: for how long a renewal proves that the lease is ours.
    :param renew_interval: from one renewal to the next, while held.
    :param renewed: when the session was made or renewed last.
    :param wake: called when the lease was lost.
    """

    def __init__(self, engine: Engine, memory: LeaseMemory, ttl: float, window: float,
                 renew_interval: float, renewed: float,
                 wake: Callable[[], None]) -> None:
        self.engine = engine
        self.memory = memory
        self.ttl = ttl
        self.window = window
        self.renew_interval = renew_interval
        self.notes = Notes(engine.write)
        self._wake = wake
        # Written by main alone.
        self.hold: Hold | None = None
        # Of the two that follow, and of memory.until: written by main, _renew
        # and _renew_overdue; of the loss: by _watch as well.
        self._lock = threading.Lock()
        self._renewed = renewed
        self.loss: Loss | None = None
        # Set and cleared by main.
        self._held = threading.Event()
        # Set by main, cleared by _renew: there is another time to wait for.
        self._changed = threading.Event()
        # Set by main: the threads are to end.
        self._over = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        for target in (self._renew, self._renew_overdue, self._watch):
            threading.Thread(target=target, daemon=True).start()
        for chore in self.engine.chores:
            threading.Thread(target=self._do, args=(chore,),
                             daemon=True).start()

    def stop(self) -> None:
        """Let the threads end, each as soon as it has an answer."""
        self._over.set()
        self._held.set()
        self._changed.set()

    # Called by the main thread.

    def hold_begins(self, proof: float, too_late: Callable[[], bool]) -> None:
        """The lock was taken, by a request that was sent at *proof*.

        :param too_late: whether there is no time left for a run, since it
            took long to take it.
        """
        self._prove(proof)
        self.hold = Hold(now())
        self.engine.rest(False)
        if too_late():
            self.renew()
        self._held.set()
        self._changed.set()

    def hold_ends(self) -> None:
        """The lock is not held, or it is about to be released."""
        self._held.clear()
        self.hold = None
        self.notes.clear()
        self.engine.rest(True)

    def loss_of_hold(self) -> Loss | None:
        """Return how this hold was lost, if it was; or the idle session."""
        loss = self.loss
        return loss if loss and loss.hold in (None, self.hold) else None

    def give_up(self, record: Callable[[], dict[str, object]] | None,
                notes: dict[str, str], token: int | None,
                ends: float) -> None:
        """Release the lock and end the session, if the service lets us.

        :param record: makes what to leave in the lock; ``None``: the lock is
            not ours in any case.
        :param notes: what to leave beside it, by key.
        :param token: of the hold that is to end; ``None``: it is not known
            whether there is one.
        :param ends: until when to try.
        """
        self.engine.rest(False)
        if record is not None:
            _insist(lambda: self.engine.release(
                record(), self.notes.pending() | notes, token), ends)
        _insist(self.engine.end, ends)
        self.engine.clear_up()

    def renew(self, timeout: float | None = None) -> bool:
        """Renew the session; return whether it was."""
        sent = now()
        answer = self.engine.renew(timeout)
        if answer == ENDED:
            self._lose(Loss('the session has ended', None,
                            self.engine.protects_after_end > 0))
        if answer != RENEWED:
            return False
        self._prove(sent)
        with self._lock:
            self._renewed = max(self._renewed, sent)
        return True

    def _prove(self, sent: float) -> None:
        """The session lived at *sent*, or later."""
        with self._lock:
            self.memory.until = max(self.memory.until, sent + self.window)

    def _lose(self, loss: Loss) -> None:
        with self._lock:
            if self.loss is None or self.loss.hold is not None:
                self.loss = loss
        self._wake()

    # The threads.

    def _goes_on(self) -> bool:
        """Tell whether there is a session to keep."""
        return not self._over.is_set() and (
            self.loss is None or self.loss.hold is not None)

    def _renew(self) -> None:
        """Renew the session for ever."""
        while self._goes_on():
            self._changed.clear()
            left = self._renew_at() - now()
            if left <= 0:
                left = 0 if self.renew() else RETRY
            if left > 0:
                self._changed.wait(left)

    def _renew_at(self) -> float:
        at = self._renewed + self.ttl * IDLE_SHARE
        if self.hold is not None:
            # Whoever took the lock has proven that the session lives.
            at = min(at, self.memory.until - self.window + self.renew_interval)
        return at

    def _renew_overdue(self) -> None:
        """Renew the session when that is overdue.

        A request whose packets were lost is waited for in vain, as long as a
        slow answer may take.  Short ones beside it see when the line is back.
        """
        while self._goes_on():
            self._held.wait()
            if self._over.is_set():
                return
            began = now()
            due = (self.memory.until - self.window + self.renew_interval
                   + PROBE_TIMEOUT)
            if began >= due:
                self.renew(PROBE_TIMEOUT)
                due = began + PROBE_INTERVAL
            self._over.wait(max(due - now(), 0))

    def _watch(self) -> None:
        """Watch the lock while it is held."""
        while not self._over.is_set():
            self._held.wait()
            if self._over.is_set():
                return
            hold, mark = self.hold, 0
            if hold is not None:
                self._over.wait(max(hold.began + WATCH_DELAY - now(), 0))
            while (hold is not None and self.hold is hold
                   and not self._over.is_set()):
                mark = self._watch_once(hold, mark)
            self.engine.look_away()

    def _watch_once(self, hold: Hold, mark: int) -> int:
        sight = self.engine.watch(mark)
        if self.hold is not hold:
            return 0
        if sight.control is not None:
            self.memory.write_control(sight.control)
        if sight.holder in REASONS:
            self._lose(Loss(
                REASONS[sight.holder], hold, sight.holder == NOBODYS
                and self.engine.protects_after_end > 0))
        if not sight.mark:
            self._over.wait(RETRY)
        return sight.mark

    def _do(self, chore: Chore) -> None:
        """Do a chore for ever."""
        while not self._over.is_set():
            began = now()
            chore.call()
            self._over.wait(max(chore.interval - (now() - began), 0))


def _insist(call: Callable[[], bool], ends: float) -> None:
    while not call() and now() < ends:
        time.sleep(RETRY)
