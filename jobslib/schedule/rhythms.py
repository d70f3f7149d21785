"""Rhythms: which slots there are, or how long after a run the next is due."""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ['Endless', 'Every', 'Grid', 'Pause', 'Rhythm', 'Slots']

# How far back a search for the newest slot looks first, in seconds, and by
# which factor it looks further back each time.
FIRST_LOOK = 60.0
LOOK_FACTOR = 8.0
# Longest look, in seconds: expressions whose slots are more than 50 years
# apart are refused.
LAST_LOOK = 51 * 366 * 86400.0

#: No two slots are closer than this, in seconds.
RESOLUTION = 0.001

# Where runs follow one another at once: the first and the longest pause after
# failures in a row, in seconds.
FIRST_BACKOFF = 1.0
LAST_BACKOFF = 60.0


class Rhythm:
    """When a job is due."""

    @property
    def identity(self) -> str:
        """A text that is different for each rhythm."""
        raise NotImplementedError

    def words(self) -> str:
        """Return in words when the job is due."""
        raise NotImplementedError


class Slots(Rhythm):
    """A rhythm whose slots do not depend on when the job runs."""

    def after(self, at: float) -> float:
        """Return the first slot after *at*."""
        raise NotImplementedError

    def newest(self, at: float) -> float | None:
        """Return the newest slot at or before *at*, ``None`` if none is."""
        found, _ = self.last(at - LAST_LOOK, at, 1)
        return found[0] if found else None

    def last(self, begin: float, end: float,
             most: int) -> tuple[list[float], bool]:
        """Return the newest slots in (*begin*, *end*], no more than *most* of
        them, the oldest first, and whether there are more.
        """
        look = FIRST_LOOK
        while True:
            since = max(begin, end - look)
            found = list(self._all_between(since, end))
            if since == begin or len(found) > most:
                return found[-most:], len(found) > most
            look *= LOOK_FACTOR

    def between(self, begin: float, end: float, most: int) -> list[float]:
        """Return the slots in (*begin*, *end*], no more than *most* of them,
        the oldest first.
        """
        import itertools
        return list(itertools.islice(self._all_between(begin, end), most))

    def _all_between(self, begin: float, end: float) -> Iterator[float]:
        slot = self.after(begin)
        while slot <= end:
            yield slot
            slot = self.after(slot)


class Grid(Slots):
    """Slots every so many seconds, without drift.

    :param interval: seconds.
    :param origin: one of the slots, as UNIX time.
    """

    def __init__(self, interval: float, origin: float) -> None:
        self.interval = interval
        self.origin = origin
        self._step = max(interval, RESOLUTION)

    @property
    def identity(self) -> str:
        """The interval and the origin, as text."""
        return f'every {self.interval!r} from {self.origin!r}'

    def words(self) -> str:
        """Return in words the interval and the origin of the grid."""
        import datetime
        origin = datetime.datetime.fromtimestamp(self.origin, datetime.UTC)
        return f'every {self.interval:g} s on the grid of {origin.isoformat()}'

    def after(self, at: float) -> float:
        """Return the first slot after *at*."""
        return self._slot(self._number_after(at))

    def last(self, begin: float, end: float,
             most: int) -> tuple[list[float], bool]:
        """Return the newest slots in (*begin*, *end*], no more than *most* of
        them, the oldest first, and whether there are more.
        """
        number = self._number_after(end) - 1
        found: list[float] = []
        while len(found) <= most and (slot := self._slot(number)) > begin:
            if not found or slot < found[-1]:
                found.append(slot)
            number -= 1
        return found[:most][::-1], len(found) > most

    def _number_after(self, at: float) -> int:
        # The quotient is rounded and may be one too large, so the search begins
        # one slot earlier.
        number = math.floor((at - self.origin) / self._step) - 1
        while self._slot(number) <= at:
            number += 1
        return number

    def _slot(self, number: int) -> float:
        # Rounded, so that a slot is the same number on each machine.
        return round(self.origin + number * self._step, 3)


class Every(Rhythm):
    """A grid that begins with the first run; its origin is in the ledger.

    :param interval: seconds.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval

    @property
    def identity(self) -> str:
        """The interval, as text."""
        return f'every {self.interval!r}'

    def words(self) -> str:
        """Return in words how long the interval is."""
        return f'every {self.interval:g} s'


class Pause(Rhythm):
    """A run is due some time after the last one has ended, on whatever machine.

    :param interval: seconds.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval

    @property
    def identity(self) -> str:
        """The length of the pause."""
        return f'after {self.interval!r}'

    def words(self) -> str:
        """Return in words how long the pause is."""
        return f'{self.interval:g} s after the end of each run'

    def pause(self, failures: int) -> float:
        """Return how long after the end of a run the next is due.

        :param failures: how many runs failed in a row.
        """
        return self.interval


class Endless(Pause):
    """Runs follow one another at once, except for pauses after failures.

    :param backs_off: whether there are these pauses.
    """

    def __init__(self, *, backs_off: bool = True) -> None:
        super().__init__(0.0)
        self.backs_off = backs_off

    @property
    def identity(self) -> str:
        """That there is no schedule."""
        return 'endless'

    def words(self) -> str:
        """Return in words that runs follow one another."""
        return 'runs follow one another at once'

    def pause(self, failures: int) -> float:
        """Return the pause after *failures* in a row, which doubles."""
        if not (failures and self.backs_off):
            return 0.0
        return min(FIRST_BACKOFF * 2.0 ** min(failures - 1, 10), LAST_BACKOFF)
