"""What is to be done about a job now.

:func:`decide` is called with the ledger that was found with the lock, before the
lock is taken, and again and again while it is held.  Its answer counts only as long
as the ledger does not change.  The lock ensures that: the ledger of the answer is
written in the transaction that takes the lock, and that transaction fails if the
record has changed since it was read.

:func:`ended` is told how a run ended.  Each slot that is given up is named, with
the reason, in exactly one answer whose ledger is written.
"""

from __future__ import annotations

import enum

from jobslib.schedule.belief import believe, due_after, retry_at, take_over
from jobslib.schedule.ledger import Ending, State
from jobslib.schedule.plans import CatchUp
from jobslib.schedule.rhythms import Every

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobslib.schedule.belief import Memory, Situation
    from jobslib.schedule.ledger import Ledger
    from jobslib.schedule.plans import Plan
    from jobslib.schedule.rhythms import Slots

__all__ = ['Decision', 'GivenUp', 'Reason', 'Why', 'decide', 'ended',
           'upcoming']

#: How many slots that have passed are named one by one.
MOST = 1000

#: When a run begins later than this after its slot was due, in seconds, it is
#: called catching up.
LATE = 60.0


class Reason(enum.Enum):
    """Why a slot is run."""

    DUE = 'due'
    CATCH_UP = 'catch-up'
    RETRY = 'retry'
    RECOVERY = 'recovery'


class Why(enum.Enum):
    """Why a slot is given up."""

    PASSED = 'nobody could run it before a later one was due'
    LATE = 'nobody could run it before its start deadline'
    PAUSED = 'the job was paused'
    SKIPPED = 'an operator had it skipped'
    FAILED = 'its runs failed'
    CUT_SHORT = 'its runs were cut short'
    STOPPED = 'it was stopped'
    SUPERSEDED = 'it was to be tried again, and a later one is due'
    CHANGED = 'it was to be tried again, and the schedule was changed'


class GivenUp:
    """A slot that is given up: no run of it has succeeded, and none will be tried.

    :param slot: UNIX time; ``None`` where the schedule has no slots.
    :param why: the reason.
    """

    def __init__(self, slot: float | None, why: Why) -> None:
        self.slot = slot
        self.why = why

    def __repr__(self) -> str:
        return f'GivenUp({self.slot!r}, {self.why})'


class Decision:
    """What is to be done now.

    :param ledger: the ledger to write, if the lock is taken or held.
    :param run: whether the slot of the ledger is to be run now.
    :param reason: why it is run.
    :param due: the UNIX time at which there will be something to do, if there is
        nothing now; ``None`` if only the holder of the lock knows it.
    :param given_up: the slots that are given up when the ledger is written.
    :param more: whether there are more of them, further back.
    """

    def __init__(self, ledger: Ledger, *, run: bool = False,
                 reason: Reason | None = None, due: float | None = None,
                 given_up: Sequence[GivenUp] = (), more: bool = False) -> None:
        self.ledger = ledger
        self.run = run
        self.reason = reason
        self.due = due
        self.given_up = list(given_up)
        self.more = more

    @property
    def slot(self) -> float | None:
        """The slot that is run, or the newest one that was run."""
        return self.ledger.slot


def decide(plan: Plan, found: Ledger | None, situation: Situation,
           memory: Memory) -> Decision:
    """Decide what is to be done now.

    :param found: the ledger, ``None`` if there is none.
    :param situation: what is known apart from it.
    :param memory: what this process remembers.
    """
    ledger = believe(plan, found, situation.now, memory)
    if situation.held:
        return _Chooser(plan, ledger, situation).wait()
    chooser = _Chooser(plan, take_over(plan, ledger, situation), situation)
    if (found is not None and found.schedule != plan.fingerprint
            and found.state is not State.DONE):
        chooser.give_up(found.slot, Why.CHANGED)
    if not plan.may_try_again(chooser.ledger):
        chooser.close(Why.FAILED if chooser.ledger.ending is Ending.FAILED
                      else Why.CUT_SHORT)
    if chooser.slots is not None:
        return chooser.choose(chooser.slots)
    return chooser.choose_next()


def ended(plan: Plan, ledger: Ledger, ending: Ending,
          now: float) -> tuple[Ledger, list[GivenUp]]:
    """The run that is under way by *ledger* has just ended.

    :param ending: how it ended.
    :returns: the ledger after it, and the slots that are given up by that.
    """
    ledger = ledger.changed(
        state=State.DONE, ending=ending, ended=now,
        failures=ledger.failures + (ending is Ending.FAILED),
        cuts=ledger.cuts + (ending is Ending.CUT_SHORT))
    if not plan.has_slots:
        # Nothing is tried again, but the failures in a row are counted, for the
        # pause before the next run.
        failures = ledger.failures if ending is Ending.FAILED else 0
        return ledger.changed(failures=failures, cuts=0), []
    if ending is Ending.SUCCEEDED:
        return ledger, []
    if ending is Ending.STOPPED:
        return ledger, [GivenUp(ledger.slot, Why.STOPPED)]
    again = ledger.changed(state=State.OPEN)
    if plan.may_try_again(again):
        return again, []
    if ending is Ending.CUT_SHORT:
        return ledger, [GivenUp(ledger.slot, Why.CUT_SHORT)]
    # Without retries a run that failed was reported as that, and its slot is not
    # reported as given up as well.
    return ledger, [GivenUp(ledger.slot, Why.FAILED)] if plan.retries else []


def upcoming(plan: Plan, ledger: Ledger, now: float,
             count: int) -> list[float]:
    """Return the next *count* slots, as far as they are known."""
    slots = plan.slots(ledger)
    if slots is None:
        return []
    return slots.between(max(now, ledger.settled), float('inf'), count)


class _Chooser:
    """Makes one decision."""

    def __init__(self, plan: Plan, ledger: Ledger,
                 situation: Situation) -> None:
        self.plan = plan
        self.ledger = ledger
        self.situation = situation
        self.now = situation.now
        self.slots = plan.slots(ledger)
        self.given_up: list[GivenUp] = []
        self.more = False

    @property
    def is_open(self) -> bool:
        """Whether the newest slot is to be tried again."""
        return self.ledger.state is State.OPEN

    def give_up(self, slot: float | None, why: Why) -> None:
        """Give up *slot*."""
        self.given_up.append(GivenUp(slot, why))

    def close(self, why: Why) -> None:
        """Give up the newest slot, if it was to be tried again."""
        if self.is_open:
            self.give_up(self.ledger.slot, why)
            self.ledger = self.ledger.changed(state=State.DONE)

    def choose(self, slots: Slots) -> Decision:
        """Choose among the slots that there are."""
        if self.ledger.presumed and self.ledger.slot is not None and (
                self._is_late(self.ledger.slot)):
            self.close(Why.LATE)
        if self.plan.catch_up is CatchUp.ALL:
            if self.is_open:
                return self._try_again()
            chosen = self._oldest(slots)
        else:
            chosen = self._newest(slots)
        if chosen is not None:
            late = self.now - chosen - self.plan.jitter > LATE
            return self._run(chosen, Reason.CATCH_UP if late else Reason.DUE)
        return self._try_again() if self.is_open else self.wait()

    def choose_next(self) -> Decision:
        """Choose where the time of the next run depends on the last one."""
        if self.is_open:
            return self._try_again()
        if isinstance(self.plan.rhythm, Every):
            # The grid begins with this slot.
            slot = round(self.now, 3)
            self.ledger = self.ledger.changed(origin=slot)
            return self._run(slot, Reason.DUE)
        due = due_after(self.plan, self.ledger)
        if due is not None and due > self.now:
            return self.wait()
        slot = round(self.now, 3) if due is None else due
        return self._run(slot if self.plan.has_slots else None, Reason.DUE)

    def wait(self) -> Decision:
        """Nothing is to be done before the next slot is due."""
        return self._decision(due=self._next_due())

    def _next_due(self) -> float | None:
        if self.slots is not None:
            settled = max(self.ledger.settled, self.now - self.plan.jitter)
            return self.slots.after(settled) + self.plan.jitter
        if self.situation.held or isinstance(self.plan.rhythm, Every):
            return None
        return due_after(self.plan, self.ledger)

    def _try_again(self) -> Decision:
        again = retry_at(self.plan, self.ledger, self.now)
        if again <= self.now:
            failed = self.ledger.ending is Ending.FAILED
            return self._run(self.ledger.slot,
                             Reason.RETRY if failed else Reason.RECOVERY)
        if self.slots is not None and self.plan.catch_up is not CatchUp.ALL:
            again = min(again, self._next_due() or again)
        return self._decision(due=again)

    def _run(self, slot: float | None, reason: Reason) -> Decision:
        self.ledger = self.ledger.begin(slot, self.now, self.situation.by)
        return self._decision(run=True, reason=reason)

    def _decision(self, *, run: bool = False, reason: Reason | None = None,
                  due: float | None = None) -> Decision:
        return Decision(self.ledger, run=run, reason=reason, due=due,
                        given_up=self.given_up, more=self.more)

    def _newest(self, slots: Slots) -> float | None:
        """Return the newest slot to run; those before it are given up."""
        horizon = self.now - self.plan.jitter
        passed, self.more = slots.last(self.ledger.settled, horizon, MOST)
        wanted = [slot for slot in passed if self._refusal(slot) is None]
        chosen = wanted[-1] if wanted else None
        if chosen is not None:
            self.close(Why.SUPERSEDED)
        for slot in passed:
            if chosen is None or slot < chosen:
                self.give_up(slot, self._refusal(slot) or Why.PASSED)
        if chosen is None and passed:
            self.ledger = self.ledger.changed(settled=passed[-1])
        return chosen

    def _oldest(self, slots: Slots) -> float | None:
        """Return the oldest slot to run; those before it are given up."""
        horizon = self.now - self.plan.jitter
        begin = self.ledger.settled
        if (limit := self.plan.latest_start) is not None and (
                begin < horizon - limit):
            too_late, self.more = slots.last(begin, horizon - limit, MOST)
            # A slot exactly at the limit is not too late.
            too_late = [slot for slot in too_late if self._is_late(slot)]
            for slot in too_late:
                self.give_up(slot, self._refusal(slot) or Why.LATE)
            begin = too_late[-1] if too_late else begin
        while (slot := slots.after(begin)) <= horizon:
            if self._refusal(slot) is None:
                return slot
            begin = self._pass(slots, begin, slot, horizon)
        self.ledger = self.ledger.changed(
            settled=max(self.ledger.settled, begin))
        return None

    def _pass(self, slots: Slots, begin: float, slot: float,
              horizon: float) -> float:
        """Give up *slot*, the first one after *begin*, and all others in the same
        pause, which may be very many; return the last of them.
        """
        end = self.situation.paused_until(slot + self.plan.jitter)
        passed = [slot]
        if end is not None:
            found, more = slots.last(
                begin, min(end - self.plan.jitter, horizon), MOST)
            # A slot exactly at the end of the pause is not in it.
            passed = [each for each in found if self._refusal(each)] or passed
            self.more = self.more or more
        for each in passed:
            self.give_up(each, self._refusal(each) or Why.PAUSED)
        return passed[-1]

    def _refusal(self, slot: float) -> Why | None:
        if self.situation.skipped(slot):
            return Why.SKIPPED
        if self.situation.paused(slot + self.plan.jitter):
            return Why.PAUSED
        return Why.LATE if self._is_late(slot) else None

    def _is_late(self, slot: float) -> bool:
        limit = self.plan.latest_start
        return limit is not None and (
            self.now - slot - self.plan.jitter > limit)
