"""A world in which processes run a job by its schedule, and what is right in
it.

:class:`World` moves the processes and the lock, second by second.  Who decides
in it is either :class:`ByLedger`, with a ledger in the lock, or
:class:`Reference`, which has a table of all slots, and looks at each second of
the past to see what is to be done.  Both must do the same.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jobslib.schedule.belief import Memory, Situation
from jobslib.schedule.decisions import decide, ended
from jobslib.schedule.ledger import Ending, Ledger, Records
from jobslib.schedule.plans import CatchUp, Plan
from jobslib.schedule.rhythms import Rhythm

#: The world begins here: UNIX time, the begin of a minute.
BEGIN = 1_700_000_040

#: What happened: second, process, what it did, slot, and more.
Event = tuple[Any, ...]


@dataclass
class Story:
    """What happens to the processes, in seconds since the world began."""

    #: The seconds of the minute that are slots, and the same as a rhythm.
    seconds: set[int]
    rhythm: Rhythm
    keep_lock: bool
    #: How far the clock of each process is ahead.
    clocks: list[int]
    #: Second, process, and ``start``, ``kill``, ``term`` or ``hand over``;
    #: with -1, whichever has the lock.
    events: list[tuple[int, int, str]]
    #: When nobody can reach the lock, and when the job is paused.
    outages: list[tuple[int, int]]
    pauses: list[tuple[int, int]]
    #: How long each run takes, and whether it succeeds.
    runs: list[tuple[int, bool]]
    options: dict[str, Any] = field(default_factory=dict)
    length: int = 100


@dataclass
class Process:
    """A process that runs the job."""

    number: int
    clock: int
    born: int | None = None
    #: When the run that is under way ends, and whether it succeeds.
    ends: tuple[int, bool] | None = None
    #: It keeps off the lock until then, since it has given it away.
    away: int = 0


class Decider:
    """Decides what a process does, and is told what becomes of it."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def born(self, process: int, now: int) -> None:
        """The *process* was started."""

    def decide(self, process: int, now: int,
               hold: bool) -> Iterator[Event]:
        """Yield what *process* does, which has the lock or could take it.

        :param hold: whether it takes or has the lock, whatever it does.
        """
        raise NotImplementedError

    def ended(self, now: int, how: str) -> Iterator[Event]:
        """The run that is under way ended; yield what is given up by it."""
        raise NotImplementedError

    def vanished(self) -> None:
        """The holder of the lock was killed."""
        raise NotImplementedError


class World:
    """Processes, and one lock."""

    def __init__(self, story: Story, decider: Decider) -> None:
        self.story = story
        self.decider = decider
        self.processes = [Process(number, clock) for number, clock
                          in enumerate(story.clocks)]
        self.holder: Process | None = None
        self.log: list[Event] = []
        self.begun = 0

    def run(self) -> list[Event]:
        """Return all that happens."""
        for second in range(self.story.length):
            for when, number, what in self.story.events:
                victim = (self.processes[number] if number >= 0
                          else self.holder)
                if when == second and victim is not None:
                    self._befall(victim, what, second)
            for process in self.processes:
                if process.born is not None:
                    self._act(process, second)
        return self.log

    def _note(self, second: int, process: Process,
              events: Iterator[Event]) -> bool:
        """Note what *process* does; return whether it begins a run."""
        noted = [(second, process.number, *event) for event in events]
        self.log += noted
        return any(event[2] == 'run' for event in noted)

    def _now(self, process: Process, second: int) -> int:
        return BEGIN + second + process.clock

    def _befall(self, process: Process, what: str, second: int) -> None:
        now = self._now(process, second)
        if what == 'start':
            if process.born is None:
                process.born = now
                self.decider.born(process.number, now)
            return
        if what in ('kill', 'term'):
            process.born = None
        if process is not self.holder:
            return
        if what == 'kill':
            self.decider.vanished()
        elif process.ends is not None:
            if what == 'hand over':
                return
            self._note(second, process, self.decider.ended(now, 'cut'))
        process.ends = self.holder = None
        process.away = second + 5

    def _act(self, process: Process, second: int) -> None:
        now = self._now(process, second)
        if process.ends is not None:
            when, success = process.ends
            if second < when:
                return
            process.ends = None
            self._note(second, process, self.decider.ended(
                now, 'success' if success else 'failure'))
            if not self.story.keep_lock:
                self.holder = None
            return
        if self.holder not in (None, process) or process.away > second:
            return
        if self._is_in(second, self.story.pauses):
            # Nobody may have the lock.
            self.holder = None
            return
        if self.holder is None and self._is_in(second, self.story.outages):
            return
        keep = self.story.keep_lock
        if self._note(second, process,
                      self.decider.decide(process.number, now, keep)):
            length, success = self.story.runs[
                self.begun % len(self.story.runs)]
            self.begun += 1
            process.ends = second + length, success
            self.holder = process
        elif keep:
            self.holder = process

    def _is_in(self, second: int, spans: list[tuple[int, int]]) -> bool:
        return any(begin <= second < end for begin, end in spans)


class ByLedger(Decider):
    """Decides by the ledger, which goes through JSON each time."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.plan = Plan(story.rhythm, **story.options)
        self.record = 'null'
        self.has_vanished = False
        self.memories: dict[int, Memory] = {}
        at_most_once = self.plan.recoveries == 0
        self.records = (Records.ENDS if story.keep_lock and not at_most_once
                        else Records.BEGINS)

    def born(self, process: int, now: int) -> None:
        self.memories[process] = Memory.of_a_loop(self.plan, now)

    def decide(self, process: int, now: int, hold: bool) -> Iterator[Event]:
        situation = Situation(
            now, str(process), vanished=self.has_vanished,
            pauses=[(BEGIN + begin, BEGIN + end)
                    for begin, end in self.story.pauses])
        decision = decide(self.plan, self.read(), situation,
                          self.memories[process])
        if not decision.run:
            assert decision.due is None or decision.due > now
            if not hold:
                return
        for given_up in decision.given_up:
            yield 'given up', given_up.slot, given_up.why.name
        self.has_vanished = False
        self.write(decision.ledger)
        if decision.run:
            assert decision.reason is not None
            yield ('run', decision.slot, decision.ledger.attempt,
                   decision.reason.name)

    def ended(self, now: int, how: str) -> Iterator[Event]:
        ledger = self.read()
        assert ledger is not None
        ending = {'success': Ending.SUCCEEDED, 'failure': Ending.FAILED,
                  'cut': Ending.CUT_SHORT}[how]
        ledger, given_up = ended(self.plan, ledger, ending, now)
        self.write(ledger)
        for each in given_up:
            yield 'given up', each.slot, each.why.name

    def vanished(self) -> None:
        self.has_vanished = True

    def read(self) -> Ledger | None:
        """Return the ledger that is with the lock."""
        return Ledger.parse(json.loads(self.record))

    def write(self, ledger: Ledger) -> None:
        """Put *ledger* into the lock."""
        self.record = json.dumps(
            ledger.changed(records=self.records).export())


@dataclass
class Row:
    """What became of one slot."""

    state: str = 'none'
    failures: int = 0
    cuts: int = 0
    ended: int = 0
    presumed: bool = False

    @property
    def last_failed(self) -> bool:
        """Whether its last run failed, and was not cut short."""
        return self.state == 'failed'


class Reference(Decider):
    """Decides by a table of all slots."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        options = {'catch_up': CatchUp.LATEST, 'start_deadline': None,
                   'retries': 0, 'retry_delay': 60.0, 'recoveries': 1,
                   'jitter': 0} | story.options
        self.catch_up = options['catch_up']
        self.deadline = options['start_deadline']
        if self.deadline is None and self.catch_up is CatchUp.NONE:
            self.deadline = 60
        self.retries = options['retries']
        self.delay = options['retry_delay']
        self.recoveries = options['recoveries']
        self.jitter = options['jitter']
        self.births: dict[int, int] = {}
        #: Slots up to here are nobody's business; None until anybody wrote.
        self.since: int | None = None
        self.table: dict[int, Row] = {}
        self.running: int | None = None
        self.doubtful = False

    def born(self, process: int, now: int) -> None:
        # What comes due from here on: the slot may have been before it.
        self.births[process] = now - self.jitter

    def decide(self, process: int, now: int, hold: bool) -> Iterator[Event]:
        since = self.births[process] if self.since is None else self.since
        old = {slot: Row(**vars(row)) for slot, row in self.table.items()}
        if self.doubtful:
            self._presume(since, now)
        given_up, chosen, reason = self._choose(since, now)
        if chosen is None and not hold:
            # Nothing is written: all is as before.
            self.table = old
            return
        self.doubtful = False
        self.since = since
        for slot, why in given_up:
            yield 'given up', float(slot), why
            self._row(slot).state = 'given up'
        if chosen is not None:
            row = self._row(chosen)
            row.state = 'begun'
            self.running = chosen
            yield ('run', float(chosen), row.failures + row.cuts + 1, reason)

    def ended(self, now: int, how: str) -> Iterator[Event]:
        assert self.running is not None
        row, slot = self._row(self.running), self.running
        self.running = None
        row.ended = now
        row.presumed = False
        row.failures += how == 'failure'
        row.cuts += how == 'cut'
        row.state = {'success': 'done', 'failure': 'failed',
                     'cut': 'cut'}[how]
        if how != 'success' and self._used_up(row):
            row.state = 'given up'
            if how == 'cut':
                yield 'given up', float(slot), 'CUT_SHORT'
            elif self.retries:
                yield 'given up', float(slot), 'FAILED'

    def vanished(self) -> None:
        if self.running is None:
            self.doubtful = self.story.keep_lock and self.recoveries > 0
        else:
            self._cut(self.running)
            self.running = None

    def _row(self, slot: int) -> Row:
        return self.table.setdefault(slot, Row())

    def _cut(self, slot: int, presumed: bool = False) -> None:
        row = self._row(slot)
        row.state = 'cut'
        row.cuts += 1
        row.presumed = presumed

    def _used_up(self, row: Row) -> bool:
        return bool(row.failures > self.retries
                    or row.cuts > self.recoveries)

    def _passed(self, since: int, now: int) -> list[int]:
        """Return slots of which nothing is known, the oldest first."""
        return [second for second in range(since + 1, now - self.jitter + 1)
                if second % 60 in self.story.seconds
                and self.table.get(second, Row()).state == 'none'
                and not any(slot > second for slot, row in self.table.items()
                            if row.state != 'none')]

    def _open(self) -> int | None:
        """Return the slot that is to be tried again."""
        found = [slot for slot, row in self.table.items()
                 if row.state in ('failed', 'cut')]
        assert len(found) <= 1
        return found[0] if found else None

    def _presume(self, since: int, now: int) -> None:
        slot = self._open()
        if slot is not None:
            if self._again_at(slot) <= now:
                self._cut(slot, presumed=True)
            return
        for slot in self._passed(since, now)[:1]:
            if not self._was_paused(slot):
                self._cut(slot, presumed=True)

    def _again_at(self, slot: int) -> float:
        row = self._row(slot)
        if row.state == 'cut':
            return 0
        return float(row.ended + self.delay * 2 ** (row.failures - 1))

    def _was_paused(self, slot: int) -> bool:
        return any(BEGIN + begin <= slot + self.jitter < BEGIN + end
                   for begin, end in self.story.pauses)

    def _why_not(self, slot: int, now: int) -> str | None:
        if self._was_paused(slot):
            return 'PAUSED'
        if self.deadline is not None and (
                now - slot - self.jitter > self.deadline):
            return 'LATE'
        return None

    def _choose(self, since: int, now: int) -> tuple[
            list[tuple[int, str]], int | None, str]:
        given_up: list[tuple[int, str]] = []
        again = self._open()
        if again is not None and self._used_up(self._row(again)):
            given_up.append((again, 'CUT_SHORT'))
            again = None
        if again is not None and self._row(again).presumed and (
                self.deadline is not None
                and now - again - self.jitter > self.deadline):
            given_up.append((again, 'LATE'))
            again = None
        choose: Callable[..., tuple[list[tuple[int, str]], int | None]]
        if self.catch_up is CatchUp.ALL:
            choose = self._choose_oldest
        else:
            choose = self._choose_newest
        more, chosen = choose(self._passed(since, now), now, again)
        given_up += more
        if chosen is not None:
            late = now - chosen - self.jitter > 60
            return given_up, chosen, 'CATCH_UP' if late else 'DUE'
        if again is not None and self._again_at(again) <= now:
            failed = self._row(again).last_failed
            return given_up, again, 'RETRY' if failed else 'RECOVERY'
        return given_up, None, ''

    def _choose_oldest(self, passed: list[int], now: int, again: int | None
                       ) -> tuple[list[tuple[int, str]], int | None]:
        given_up: list[tuple[int, str]] = []
        for slot in passed if again is None else []:
            why = self._why_not(slot, now)
            if why is None:
                return given_up, slot
            given_up.append((slot, why))
        return given_up, None

    def _choose_newest(self, passed: list[int], now: int, again: int | None
                       ) -> tuple[list[tuple[int, str]], int | None]:
        fit = [slot for slot in passed if self._why_not(slot, now) is None]
        if not fit:
            return [(slot, str(self._why_not(slot, now)))
                    for slot in passed], None
        given_up = [] if again is None else [(again, 'SUPERSEDED')]
        given_up += [(slot, self._why_not(slot, now) or 'PASSED')
                     for slot in passed if slot < fit[-1]]
        return given_up, fit[-1]
