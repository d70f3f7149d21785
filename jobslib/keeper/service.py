"""What the keeper does with the lock service, in threads of its own.

They renew the session, watch the lock while it is held, write notes and do
the service's chores.  They decide nothing: what they find out is for the
keeper's main thread, in :mod:`jobslib.keeper.keeper`.

A comment beside each field says which thread may write it: *main* is the
keeper's main thread, the others are named after their methods here.  Standard
library only.
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

# While a renewal is overdue, a request with this short timeout is sent at this
# interval, both in seconds.
PROBE_TIMEOUT = 0.3
PROBE_INTERVAL = 0.4
# While nothing is held, the session is renewed after this share of its TTL.
IDLE_SHARE = 0.8
# How long after it was taken a lock is looked at first, in seconds, so that a
# run that is shorter costs no request for it.
WATCH_DELAY = 0.2

REASONS = {
    GONE: 'the key was deleted',
    ANOTHERS: 'another session holds the key',
    NOBODYS: 'the session does not hold the key any more',
}


class Hold:
    """One period in which the lock is held.

    A thread that waited for an answer compares the object, to know whether the
    answer is still about the hold that it was asked for.

    :param began: when the lock was taken.
    """

    def __init__(self, began: float) -> None:
        self.began = began


class Service:
    """Keeps one session of a lock service.

    :param engine: speaks with the service.
    :param memory: receives until when the lease is ours, and what operators ask.
    :param ttl: how long the session lives without a renewal.
    :param window: for how long a renewal proves that the lease is ours.
    :param renew_interval: from one renewal to the next, while the lock is held.
    :param renewed: when the session was made or renewed last.
    :param wake: wakes the main thread; called when the lease was lost.
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
        # Protects the two fields that follow, and memory.until.  All three are
        # written by main, _renew and _renew_overdue, the loss by _watch as well.
        self._lock = threading.Lock()
        self._renewed = renewed
        self.loss: Loss | None = None
        # Set and cleared by main.
        self._held = threading.Event()
        # Set by main when the next renewal is due at another time than before;
        # cleared by _renew.
        self._changed = threading.Event()
        # Set by main when the threads are to end.
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

        :param too_late: tells whether taking it took so long that no time is
            left for a run; then the session is renewed at once.
        """
        self._prove(proof)
        self.hold = Hold(now())
        self.engine.rest(False)
        if too_late():
            self.renew()
        self._held.set()
        self._changed.set()

    def hold_ends(self) -> None:
        """The lock is not held any more, or is about to be released."""
        self._held.clear()
        self.hold = None
        self.notes.clear()
        self.engine.rest(True)

    def loss_of_hold(self) -> Loss | None:
        """Return how this hold, or the session while idle, was lost, if it was."""
        loss = self.loss
        return loss if loss and loss.hold in (None, self.hold) else None

    def give_up(self, record: Callable[[], dict[str, object]] | None,
                notes: dict[str, str], token: int | None,
                ends: float) -> None:
        """Release the lock and end the session, if the service lets us.

        :param record: makes the record to leave in the lock; ``None`` when the
            lock is certainly not ours.
        :param notes: what to leave beside it, by key.
        :param token: the fencing token of the hold that is to end; ``None``
            when it is not known whether the lock was taken at all.
        :param ends: until when to try.
        """
        self.engine.rest(False)
        if record is not None:
            _insist(lambda: self.engine.release(
                record(), self.notes.pending() | notes, token), ends)
        _insist(self.engine.end, ends)
        self.engine.clear_up()

    def renew(self, timeout: float | None = None) -> bool:
        """Renew the session; return whether it was renewed."""
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
        """The session was alive at *sent*, or later."""
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
        """Renew the session each time that it is due."""
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
            # Counted from the last proof that the session lives, which may be
            # newer than the last renewal: taking the lock is a proof as well.
            at = min(at, self.memory.until - self.window + self.renew_interval)
        return at

    def _renew_overdue(self) -> None:
        """Renew the session by short requests when a renewal is overdue.

        When packets are lost, a request is waited for in vain for its whole
        timeout, which has to be long enough for a slow answer.  Short requests
        beside it succeed as soon as the network works again.
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
        """Do a chore again and again, until the session is over."""
        while not self._over.is_set():
            began = now()
            chore.call()
            self._over.wait(max(chore.interval - (now() - began), 0))


def _insist(call: Callable[[], bool], ends: float) -> None:
    while not call() and now() < ends:
        time.sleep(RETRY)
