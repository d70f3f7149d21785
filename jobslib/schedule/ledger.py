"""The ledger: what became of a job's slots, kept with its lock.

It is part of the owner record, so it needs no write of its own.  It has the newest
slot that was begun, and a time up to which all other slots are settled.  Slots
after that time become due one after the other.
"""

from __future__ import annotations

import enum

from jobslib.reading import count, member, number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from jobslib.documents import Document

__all__ = ['Ending', 'Ledger', 'Records', 'State']


class State(enum.Enum):
    """What is to become of the newest slot that was begun."""

    #: Its run is under way.
    BEGUN = 'begun'
    #: It is to be tried again.
    OPEN = 'open'
    #: It is over, whether a run of it succeeded or it was given up.
    DONE = 'done'


class Ending(enum.Enum):
    """How a run of a slot ended, as far as the schedule is concerned."""

    SUCCEEDED = 'succeeded'
    #: It ended with an error, took too long, or seemed to hang.
    FAILED = 'failed'
    #: It was told to end, its lock was lost, or its process or machine died.
    CUT_SHORT = 'cut short'
    #: An operator stopped it, and does not want it again.
    STOPPED = 'stopped'


class Records(enum.Enum):
    """What a holder writes into the ledger while it holds the lock."""

    #: Each slot is recorded before its run begins.
    BEGINS = 'begins'
    #: Each run is recorded when it has ended.
    ENDS = 'ends'
    #: Only the first run after the lock was taken is recorded, with that.
    NOTHING = 'nothing'


class Ledger:
    """What became of the slots.  It is a value: a change makes another one.

    :param schedule: the fingerprint of the schedule that it is about.
    :param settled: UNIX time; slots at or before it are over, except *slot*,
        of which *state* says whether it is.
    :param slot: the newest slot that was begun, ``None`` if none was, or if
        the schedule has no slots.
    :param state: what is to become of that slot.
    :param ending: how its last run ended, ``None`` while that is not known.
    :param failures: how many of its runs failed.
    :param cuts: how many of its runs were cut short.
    :param began: UNIX time at which its last run began.
    :param ended: UNIX time at which its last run ended.
    :param by: the machine of that run.
    :param origin: a slot of the grid, if the schedule is a grid.
    :param records: what the holder of the lock writes into it.
    :param presumed: whether it is only presumed that the slot was begun, because
        its holder vanished when it should have begun it.
    """

    def __init__(
        self, schedule: str, settled: float = 0.0, *,
        slot: float | None = None, state: State = State.DONE,
        ending: Ending | None = None, failures: int = 0, cuts: int = 0,
        began: float | None = None, ended: float | None = None,
        by: str | None = None, origin: float | None = None,
        records: Records = Records.BEGINS, presumed: bool = False,
    ) -> None:
        self.schedule = schedule
        self.settled = settled
        self.slot = slot
        self.state = state
        self.ending = ending
        self.failures = failures
        self.cuts = cuts
        self.began = began
        self.ended = ended
        self.by = by
        self.origin = origin
        self.records = records
        self.presumed = presumed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f'Ledger({self.export()!r})'

    @property
    def attempt(self) -> int:
        """The number of the next run of the slot, or of the one under way."""
        return self.failures + self.cuts + 1

    def changed(self, **values: object) -> Self:
        """Return a ledger in which *values* are different."""
        return type(self)(**{**vars(self), **values})

    def shifted(self, seconds: float) -> Self:
        """Return the ledger with all times later by *seconds*."""
        def later(at: float | None) -> float | None:
            return None if at is None else round(at + seconds, 3)

        return self.changed(
            settled=later(self.settled), slot=later(self.slot),
            began=later(self.began), ended=later(self.ended),
            origin=later(self.origin))

    def begin(self, slot: float | None, now: float, by: str | None) -> Self:
        """Return the ledger with a run of *slot* begun, by the machine *by*."""
        tried = slot is None or slot == self.slot
        return self.changed(
            settled=self.settled if slot is None else max(self.settled, slot),
            slot=slot, state=State.BEGUN, ending=None,
            failures=self.failures if tried else 0,
            cuts=self.cuts if tried else 0,
            began=now, ended=None, by=by, presumed=False)

    def agrees(self, other: Ledger) -> bool:
        """Return whether *other* says the same of the slots."""
        return (self.settled, self.slot, self.state, self.began) == (
            other.settled, other.slot, other.state, other.began)

    def export(self) -> Document:
        """Return the ledger as JSON takes it."""
        return {
            name: value.value if isinstance(value, enum.Enum) else value
            for name, value in vars(self).items()}

    @classmethod
    def parse(cls, found: object) -> Ledger | None:
        """Return the ledger that :meth:`export` returned, or ``None`` if
        *found* is anything else.
        """
        if not isinstance(found, dict):
            return None
        schedule = text(found.get('schedule'))
        settled = number(found.get('settled'))
        state = member(State, found.get('state'))
        if schedule is None or settled is None or state is None:
            return None
        return cls(
            schedule, settled, slot=number(found.get('slot')), state=state,
            ending=member(Ending, found.get('ending')),
            failures=count(found.get('failures')) or 0,
            cuts=count(found.get('cuts')) or 0,
            began=number(found.get('began')), ended=number(found.get('ended')),
            by=text(found.get('by')), origin=number(found.get('origin')),
            records=(member(Records, found.get('records'))
                     or Records.BEGINS),
            presumed=found.get('presumed') is True)
