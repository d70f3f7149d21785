"""How far a ledger that another process has left can be believed.

What is written there may not be so for three reasons: the schedule was changed
since, the clock of that process was wrong, or it vanished before it could write
what it had done.
"""

from __future__ import annotations

from jobslib.schedule.ledger import Ending, Ledger, Records, State
from jobslib.schedule.rhythms import Every, Pause, Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobslib.schedule.plans import Plan

__all__ = ['Memory', 'Situation', 'believe', 'due_after', 'retry_at',
           'take_over']

#: By how many seconds the clocks of machines may differ.  Within that, a slot that
#: one machine has run is not run again by another, for which it is still to come.
TOLERANCE = 10.0


class Memory:
    """What a process remembers from one decision to the next.

    :param since: UNIX time; slots before it do not concern this process, unless
        a ledger says that they are due.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        # The fields `settled` and `ended` of a ledger from the future, which
        # together tell it from all others.
        self._distrusted: tuple[float, float | None] | None = None

    @classmethod
    def of_a_loop(cls, plan: Plan, now: float) -> Memory:
        """Return the memory of a process that runs a loop.

        All slots concern it that come due from now on, which with a jitter is
        later than the slot.
        """
        return cls(now - plan.jitter)

    @classmethod
    def of_one_run(cls, plan: Plan, now: float) -> Memory:
        """Return the memory of a process that is started for one run.

        The newest slot concerns it, unless a ledger says that it is done.
        """
        rhythm = plan.rhythm
        newest = rhythm.newest(now) if isinstance(rhythm, Slots) else None
        return cls(now if newest is None else newest - 0.001)

    def distrusts(self, ledger: Ledger) -> bool:
        """Return whether *ledger* was from the future when it was seen."""
        return self._distrusted == (ledger.settled, ledger.ended)

    def distrust(self, ledger: Ledger, now: float) -> float:
        """Return when this process first saw that *ledger* is from the
        future.
        """
        if not self.distrusts(ledger):
            self._distrusted = ledger.settled, ledger.ended
            self.since = now
        return self.since


class Situation:
    """What is known apart from the ledger.

    :param now: the UNIX time.
    :param by: the name of this machine.
    :param held: whether somebody else holds the lock.
    :param vanished: whether the last holder died without releasing the lock.
    :param pauses: when the job was paused: the begin and the end of each pause.
    :param skips: slots that an operator does not want to be run.
    """

    def __init__(self, now: float, by: str | None = None, *,
                 held: bool = False, vanished: bool = False,
                 pauses: Sequence[tuple[float, float]] = (),
                 skips: Sequence[float] = ()) -> None:
        self.now = now
        self.by = by
        self.held = held
        self.vanished = vanished
        self.pauses = pauses
        self.skips = skips

    def paused(self, due: float) -> bool:
        """Return whether the job was paused at the time *due*."""
        return self.paused_until(due) is not None

    def paused_until(self, due: float) -> float | None:
        """Return when the pause ended that the time *due* fell into."""
        return max((end for begin, end in self.pauses if begin <= due < end),
                   default=None)

    def skipped(self, slot: float) -> bool:
        """Return whether *slot* is not to be run."""
        # Times are rounded to thousandths of a second, so within half of one
        # they are the same slot.
        return any(abs(slot - each) < 0.0005 for each in self.skips)


def believe(plan: Plan, found: Ledger | None, now: float,
            memory: Memory) -> Ledger:
    """Return the ledger that counts, when this one was *found*."""
    # The clock may have been put back since this process was started.
    memory.since = min(memory.since, now)
    if found is None:
        return Ledger(plan.fingerprint, memory.since)
    if found.schedule != plan.fingerprint:
        newest = max(found.settled, found.began or 0.0, found.ended or 0.0)
        if newest > now + TOLERANCE:
            newest = memory.distrust(found, now)
        return Ledger(plan.fingerprint, max(memory.since, newest),
                      origin=found.origin, ended=found.ended,
                      ending=found.ending)
    if memory.distrusts(found) or _is_from_the_future(plan, found, now):
        since = memory.distrust(found, now)
        return Ledger(plan.fingerprint, since, origin=found.origin,
                      ended=since)
    return found


def _is_from_the_future(plan: Plan, ledger: Ledger, now: float) -> bool:
    slots = plan.slots(ledger)
    if slots is None:
        return (ledger.ended or ledger.began or 0.0) > now + TOLERANCE
    # Up to the next slot it is believed: another machine, whose clock is ahead,
    # may have run that one already.
    return ledger.settled > max(slots.after(now - plan.jitter),
                                now + TOLERANCE)


def retry_at(plan: Plan, ledger: Ledger, now: float) -> float:
    """Return when the newest slot is to be tried again."""
    ended = ledger.ended
    if ledger.ending is not Ending.FAILED or ended is None or (
            ended > now + TOLERANCE):
        return now
    return ended + plan.retry_delay * 2.0 ** min(ledger.failures - 1, 30)


def due_after(plan: Plan, ledger: Ledger) -> float | None:
    """Return when the next run is due, where that depends on the last;
    ``None`` if there was none.
    """
    assert isinstance(plan.rhythm, Pause)
    last = ledger.began if ledger.ended is None else ledger.ended
    return None if last is None else round(
        last + plan.rhythm.pause(ledger.failures), 3)


def take_over(plan: Plan, ledger: Ledger, situation: Situation) -> Ledger:
    """Return what *ledger* would say if its last holder, which does not hold the
    lock any more, had written down all that it did.
    """
    if ledger.state is not State.BEGUN and not situation.vanished:
        return ledger
    if not plan.has_slots:
        # Without slots there is nothing to be run again; the next run is due in
        # any case.
        return ledger.changed(state=State.DONE)
    slot = _presumed(plan, ledger, situation)
    if slot is not None:
        # Whether the holder had begun this slot is not known, because it would
        # not have written that.  It counts as begun, and as cut short.
        return _cut_short(ledger.begin(slot, slot, ledger.by), presumed=True)
    return _cut_short(ledger) if ledger.state is State.BEGUN else ledger


def _cut_short(ledger: Ledger, presumed: bool = False) -> Ledger:
    return ledger.changed(state=State.OPEN, ending=Ending.CUT_SHORT,
                          cuts=ledger.cuts + 1, presumed=presumed)


def _presumed(plan: Plan, ledger: Ledger,
              situation: Situation) -> float | None:
    """Return the slot that a holder that vanished may have begun without having
    written so; ``None`` if there is none.
    """
    records = ledger.records
    if not situation.vanished or records is Records.BEGINS or (
            records is Records.ENDS and ledger.state is State.BEGUN):
        return None
    if ledger.state is State.OPEN and records is Records.ENDS:
        again = retry_at(plan, ledger, situation.now)
        return ledger.slot if again <= situation.now else None
    slots = plan.slots(ledger)
    if slots is not None:
        return _due_while_held(plan, slots, ledger, situation)
    if isinstance(plan.rhythm, Every):
        return None
    due = due_after(plan, ledger)
    return due if due is not None and due <= situation.now else None


def _due_while_held(plan: Plan, slots: Slots, ledger: Ledger,
                    situation: Situation) -> float | None:
    horizon = situation.now - plan.jitter
    if ledger.records is Records.NOTHING:
        found, _ = slots.last(ledger.settled, horizon, 1)
    else:
        found = slots.between(ledger.settled, horizon, 1)
    # Slots in a pause were not begun: the holder would have released the lock.
    return next((slot for slot in found
                 if not situation.paused(slot + plan.jitter)
                 and not situation.skipped(slot)), None)
