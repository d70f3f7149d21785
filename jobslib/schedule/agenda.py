"""The agenda of one process: its ledger, and when to look at it again."""

from __future__ import annotations

import time

from jobslib.schedule.belief import Memory, Situation, retry_at
from jobslib.schedule.decisions import decide, ended
from jobslib.schedule.ledger import Ledger, Records, State
from jobslib.schedule.rhythms import Endless, Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobslib.clock import Clock
    from jobslib.documents import Document
    from jobslib.owner import OwnerRecord
    from jobslib.runs import Run
    from jobslib.schedule.decisions import Decision, GivenUp
    from jobslib.schedule.ledger import Ending
    from jobslib.schedule.plans import Plan

__all__ = ['NEVER', 'Agenda', 'read_ledger']

#: When the wall clock and the clock that never jumps have come apart by this, in
#: seconds, the wall clock was set.
STEP = 1.0
#: The year 9999, the last that dates can show, as UNIX time.  Intervals and
#: pauses can be so long that nothing is due before; for people that is never.
NEVER = 253_370_764_800.0
#: When reading the two clocks took longer than this, in seconds, they cannot be
#: compared.
AT_ONCE = 0.1


class Agenda:
    """Decides for one process, and remembers what it has decided.

    :param plan: when the job is due.
    :param clock: the clocks of this machine.
    :param by: the name of this machine.
    :param keeps: whether the lock is kept between runs, so that it is taken
        even when nothing is due.
    :param records: what is written into the ledger while the lock is held.
    :param one_run: whether the process is there for one run only.
    """

    def __init__(self, plan: Plan, clock: Clock, by: str | None = None, *,
                 keeps: bool = False, records: Records = Records.BEGINS,
                 one_run: bool = False) -> None:
        if one_run and not plan.has_slots:
            # Somebody has asked for this run now.  The pauses of the schedule are
            # for runs that a loop begins.
            plan.rhythm = Endless(backs_off=False)
        self.plan = plan
        self.clock = clock
        self.by = by
        self.keeps = keeps
        self.one_run = one_run
        self.records = records
        now = clock.wall()
        # By how much the wall clock is ahead of the clock that never jumps.
        self._offset = now - clock.now()
        self.memory = (Memory.of_one_run(plan, now) if one_run
                       else Memory.of_a_loop(plan, now))
        #: The ledger, while the lock is held.
        self.ledger = Ledger(plan.fingerprint, now)
        #: UNIX time at which there may be something to do.
        self.due = now
        #: What was decided last.
        self.decision: Decision | None = None
        #: The slots that were given up and are not reported yet, and whether
        #: there are more of them than these.
        self.given_up: list[GivenUp] = []
        self.more = False
        #: When the job was paused: the begin and the end of each pause.
        self.pauses: Sequence[tuple[float, float]] = ()
        #: The slots that are not to be run.
        self.skips: Sequence[float] = ()
        #: Whether a run is wanted beside the schedule.
        self.extra = False
        # The ledger that the last decision was made from.
        self._found: Ledger | None = None
        # While a run is decided on and has not begun: the ledger without it.
        self._before: Ledger | None = None
        # The slots that are given up if the lock is taken.
        self._giving_up: list[GivenUp] = []

    @property
    def runs(self) -> bool:
        """Whether a run is decided on, and has not begun."""
        return self._before is not None

    @property
    def seconds_left(self) -> float:
        """In how many seconds there may be something to do; negative if that
        time has passed."""
        now = self._now()
        return self.due - now

    @property
    def is_imminent(self) -> bool:
        """Whether the time of a slot has come and only its jitter is left."""
        return 0 < self.seconds_left <= self.plan.jitter

    @property
    def retries(self) -> bool:
        """Whether the newest slot is to be tried again before a later one is
        due."""
        return self.ledger.state is State.OPEN and retry_at(
            self.plan, self.ledger, self.clock.wall()) <= self.due

    @property
    def reason(self) -> str | None:
        """Why the slot is run."""
        reason = self.decision.reason if self.decision else None
        return reason.value if reason else None

    def is_in_hand(self, record: OwnerRecord | None) -> bool:
        """Return whether the holder of the lock takes care of the slot that is
        due, or has already.

        :param record: the owner record of the holder.
        """
        ledger, _ = read_ledger(record)
        if ledger is None or not self.plan.has_slots:
            return False
        slots = self.plan.slots(ledger)
        newest = slots.newest(self._now() - self.plan.jitter) if (
            slots) else ledger.slot
        return newest is None or ledger.settled >= newest

    @property
    def _is_distrusted(self) -> bool:
        """Whether the ledger that was found is from the future."""
        return self._found is not None and self.memory.distrusts(self._found)

    @property
    def is_changed(self) -> bool:
        """Whether the ledger that was found is of another schedule, so that nothing
        is caught up."""
        return (self.plan.has_slots and self._found is not None
                and self._found.schedule != self.plan.fingerprint)

    def describe(self) -> str:
        """Return a line that says what became of the newest slot, and when the
        next one is due."""
        assert self.decision is not None
        ledger = self.decision.ledger
        parts = []
        if self._is_distrusted:
            parts.append('the ledger is of a clock that was ahead, and is not '
                         'believed')
        if ledger.slot is not None and ledger.began is not None:
            ending = ledger.ending.value if ledger.ending else 'begun'
            parts.append(
                f'the slot of {self.shown(ledger.slot)} was run by '
                f'{ledger.by or "somebody"} at {self.shown(ledger.began)}, '
                f'{ending}')
        elif not self.decision.given_up:
            parts.append('nothing is due')
        parts += [f'given up: {slots}; {why}'
                  for why, slots in self.by_reason(self.decision.given_up)]
        parts.append(f'next at {self.shown(self.due)}')
        return '; '.join(parts)

    def explain(self) -> str:
        """Return a line that says when the job is due, and when next, as far as
        that is known."""
        rhythm = self.plan.rhythm
        if self.one_run and not self.plan.has_slots:
            return 'one run, now'
        words = rhythm.words()
        if self.plan.jitter:
            words += f', {self.plan.jitter:g} s later'
        if not isinstance(rhythm, Slots):
            return words
        now = self.clock.wall()
        due = rhythm.after(now - self.plan.jitter) + self.plan.jitter
        if due >= NEVER:
            return f'{words}; next never'
        here = time.strftime('%Y-%m-%dT%H:%M:%S%z', time.localtime(due))
        there = self.shown(due)
        return f'{words}; next at {there}' + (
            '' if due == NEVER or here == there else f', here {here}')

    def shown(self, at: float) -> str:
        """Return the UNIX time *at* by the clocks of the schedule's zone, or
        ``never``."""
        if at >= NEVER:
            return 'never'
        from jobslib.schedule.calendars import Calendar
        rhythm = self.plan.rhythm
        if isinstance(rhythm, Calendar):
            moment = rhythm.zone.shown(at)
        else:
            import datetime
            moment = datetime.datetime.fromtimestamp(at).astimezone()
        return moment.strftime('%Y-%m-%dT%H:%M:%S%z')

    def by_reason(self, given_up: list[GivenUp]) -> list[tuple[str, str]]:
        """Return the reasons for which slots are given up, and which slots."""
        found: dict[str, list[float | None]] = {}
        for each in given_up:
            found.setdefault(each.why.value, []).append(each.slot)
        return [(why, self._listed(slots)) for why, slots in found.items()]

    def _listed(self, slots: list[float | None]) -> str:
        newest = slots[-1]
        text = 'a run' if newest is None else (
            f'the slot of {self.shown(newest)}')
        if len(slots) == 1:
            return text
        count = f'{len(slots) - 1}{" or more" if self.more else ""}'
        return f'{text} and {count} before it'

    def consider(self, record: OwnerRecord | None) -> Document | None:
        """Decide whether a lock that is free is taken.

        :param record: the owner record that was found in it.
        :returns: the ledger to take it with, ``None`` if it is not to be taken.
        """
        # What was decided before is void: if the lock was not taken then, another
        # process was faster, and has written what it did about the slots.
        self._before, self._giving_up = None, []
        decision = self._decide(*read_ledger(record))
        # A process for one run does not live until the next slot.  So it corrects
        # a ledger from the future itself; otherwise all such processes would find
        # it again, each for the first time, and never run.
        wanted = decision.run or self.keeps or self.extra or (
            self.one_run and self._is_distrusted)
        if not wanted:
            return None
        self._accept(decision)
        return self.export()

    def inherit(self, record: OwnerRecord | None,
                written: Ledger | None) -> None:
        """The lock was taken; decide again if that has brought news.

        :param record: the owner record of the previous holder.
        :param written: the ledger that a holder that kept the lock has written
            beside it, if it is newer.
        """
        found, vanished = read_ledger(record, written)
        if found != read_ledger(record)[0]:
            self.cancel()
            self._accept(self._decide(found, vanished))
        self._settle()

    def look(self) -> None:
        """Decide again, while the lock is held and no run is under way."""
        self._now()
        if not self.runs:
            self._accept(self._decide(self.ledger))
            self._settle()

    def is_held_elsewhere(self, record: OwnerRecord | None) -> Decision:
        """Somebody else has the lock, with *record* in it."""
        found, _ = read_ledger(record)
        return self._decide(found, held=True)

    def begin(self) -> None:
        """The run that was decided on begins."""
        assert self.decision is not None
        self._before = None
        self.given_up += self.decision.given_up

    def cancel(self) -> None:
        """The run that was decided on does not begin."""
        if self._before is not None:
            self.ledger, self._before = self._before, None

    def end(self, ending: Ending) -> None:
        """The run that is under way ended."""
        # Called before the ledger is used, because it may shift the ledger.
        now = self._now()
        self.ledger, given_up = ended(self.plan, self.ledger, ending, now)
        self.given_up += given_up
        # Decided again, so that `due` is right for those who read it.  What would
        # be given up by that decision is not given up yet.
        self._decide(self.ledger)

    def export(self) -> Document:
        """Return the ledger as the owner record has it, with ``due``, a UNIX
        time."""
        return self.ledger.export() | {'due': self.due}

    def _now(self) -> float:
        """Return the UNIX time; if the clock was set since it was read last,
        what is remembered follows it.
        """
        before = self.clock.now()
        now = self.clock.wall()
        step = now - before - self._offset
        if abs(step) > STEP and self.clock.now() - before < AT_ONCE:
            self._offset += step
            self._follow(now, step)
        return now

    def _follow(self, now: float, step: float) -> None:
        """The wall clock was put forward by *step* seconds."""
        if isinstance(self.plan.rhythm, Slots):
            # The schedule is by that clock, so it is looked at again.
            self.due = now
            return
        # The schedule is by the time that passes, so all times move along.
        self.due += step
        self.memory.since += step
        self.ledger = self.ledger.shifted(step)
        if self._before is not None:
            self._before = self._before.shifted(step)

    def _decide(self, found: Ledger | None, vanished: bool = False,
                held: bool = False) -> Decision:
        situation = Situation(
            self._now(), self.by, held=held, vanished=vanished,
            pauses=self.pauses, skips=self.skips)
        decision = decide(self.plan, found, situation, self.memory)
        self.decision, self._found = decision, found
        if decision.run or decision.due is None:
            self.due = situation.now
        else:
            self.due = min(decision.due, NEVER)
        return decision

    def _accept(self, decision: Decision) -> None:
        self.ledger = decision.ledger.changed(records=self.records)
        self.more = decision.more
        self._giving_up = [] if decision.run else decision.given_up
        if decision.run:
            self._before = self._found or Ledger(
                self.plan.fingerprint, self.memory.since)

    def _settle(self) -> None:
        """The lock is held, so what was decided on counts."""
        self.given_up += self._giving_up
        self._giving_up = []


def read_ledger(
    record: OwnerRecord | None, written: Ledger | None = None,
) -> tuple[Ledger | None, bool]:
    """Return the newest ledger, and whether the holder that left it vanished.

    :param record: the owner record, with the ledger in it.
    :param written: the ledger that stands beside it, if it is newer, see
        :func:`jobslib.history.written_ledger`.
    """
    found = written
    if found is None and record is not None:
        found = record.ledger
    if record is None:
        return found, False
    if found is not None and record.killed is not None:
        found = _with_killed(found, record.killed)
    return found, not record.released


def _with_killed(ledger: Ledger, killed: Run) -> Ledger:
    """Return *ledger* with a run begun whose process died, which the lease keeper
    has written down.
    """
    if killed.asked is not None:
        # This run was not by the schedule.
        return ledger
    if ledger.state is State.BEGUN or killed.started <= (ledger.began or 0.0):
        return ledger
    return ledger.begin(killed.slot, killed.started, ledger.by)
