"""The plan of a job: its rhythm, and what is done about slots that go wrong."""

from __future__ import annotations

import binascii
import enum

from jobslib.schedule.rhythms import Endless, Every, Grid, Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.schedule.ledger import Ledger
    from jobslib.schedule.rhythms import Rhythm

__all__ = ['CatchUp', 'Plan', 'jitter']

#: How late the run of a slot may begin without catching up, in seconds, if no other
#: deadline is set.  It is long enough for another machine to get the lock of one
#: that died.
PUNCTUAL = 60.0


class CatchUp(enum.Enum):
    """Which of the slots that passed while nobody could run are run late."""

    NONE = 'none'
    LATEST = 'latest'
    ALL = 'all'


class Plan:
    """When a job is due, and what is done about slots that go wrong.

    :param rhythm: which slots there are.
    :param jitter: by how many seconds each run is later than its slot.
    :param catch_up: which slots that passed are run late.
    :param start_deadline: seconds; no first run of a slot begins later than
        this after it was due.
    :param retries: how many more runs a slot gets after one that failed.
    :param retry_delay: seconds from the end of a failed run to the next run
        of its slot; it doubles from run to run.
    :param recoveries: how many more runs a slot gets after one that was cut
        short.
    """

    def __init__(self, rhythm: Rhythm, *, jitter: float = 0.0,
                 catch_up: CatchUp = CatchUp.LATEST,
                 start_deadline: float | None = None, retries: int = 0,
                 retry_delay: float = 60.0, recoveries: int = 1) -> None:
        self.rhythm = rhythm
        self.jitter = jitter
        self.catch_up = catch_up
        self.start_deadline = start_deadline
        self.retries = retries
        self.retry_delay = retry_delay
        self.recoveries = recoveries
        # A checksum is enough to tell a schedule from the one before, and needs
        # no slow import.
        identity = rhythm.identity.encode()
        self.fingerprint = f'{binascii.crc32(identity):08x}{len(identity):04x}'

    @property
    def latest_start(self) -> float | None:
        """How late a first run of a slot may begin, in seconds."""
        if self.start_deadline is None and self.catch_up is CatchUp.NONE:
            return PUNCTUAL
        return self.start_deadline

    def slots(self, ledger: Ledger) -> Slots | None:
        """Return the slots of the schedule; ``None`` if it has none, or it is not
        known yet where they are.
        """
        rhythm = self.rhythm
        if isinstance(rhythm, Every) and ledger.origin is not None:
            return Grid(rhythm.interval, ledger.origin)
        return rhythm if isinstance(rhythm, Slots) else None

    def may_try_again(self, ledger: Ledger) -> bool:
        """Return whether the newest slot, if it is open, may be run again."""
        return (ledger.failures <= self.retries
                and ledger.cuts <= self.recoveries)

    @property
    def has_slots(self) -> bool:
        """Whether a run is for a slot, and not just the next one."""
        return not isinstance(self.rhythm, Endless)


def jitter(name: str, most: float) -> float:
    """Return by how many seconds the job *name* is late, from 0 to *most*.

    It is the same on every machine, and different from job to job.
    """
    if not most:
        # Few jobs have a jitter; the others do not pay 3 ms for the import.
        return 0.0
    import hashlib
    digest = hashlib.sha256(name.encode()).digest()
    return round(int.from_bytes(digest[:8], 'big') / 2 ** 64 * most, 3)
