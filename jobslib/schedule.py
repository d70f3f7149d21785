"""When the next run is due."""

from __future__ import annotations

import math

from jobslib.clock import Clock

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['Schedule']

FIRST_BACKOFF = 1.0
LAST_BACKOFF = 60.0

# No UNIX time; sums with numbers as large would lose the seconds.
TOO_LARGE = 1e11


class Schedule:
    """Says when runs start.  Times are those of ``clock.now()``, in seconds.

    With *sleep_interval* the pause from the end of a run to the start of
    the next; with *run_interval* a grid of start times from the first start;
    with neither, runs follow one another at once, after a failure with a
    pause that doubles from 1 s to 60 s.

    :param clock: the clock to use.
    :param sleep_interval: seconds, or ``None``.
    :param run_interval: seconds, or ``None``.
    """

    def __init__(self, clock: Clock, sleep_interval: float | None = None,
                 run_interval: float | None = None) -> None:
        self._clock = clock
        self._sleep_interval = sleep_interval
        self._run_interval = run_interval
        self._backoff = 0.0
        self._slot = 0
        #: The time from which the grid is counted.
        self.origin = clock.now()
        #: The time at which the next run is due.
        self.due = self.origin
        #: How many slots of the grid passed without a run.
        self.missed = 0

    @property
    def has_interval(self) -> bool:
        """Whether there is any pause between runs."""
        return bool(self._sleep_interval or self._run_interval)

    def starts(self) -> None:
        """The run that is due starts just now: the run of this slot."""
        if self._run_interval:
            current = max(self._slot, self._slot_at(self._clock.now()))
            self.missed += current - self._slot
            self._slot = current

    def ran(self, failed: bool) -> None:
        """A run ended just now; work out when the next one is due."""
        if self._run_interval:
            self._next_slot()
        elif self._sleep_interval:
            self.due = self._clock.now() + self._sleep_interval
        else:
            self._backoff = self._next_backoff() if failed else 0.0
            self.due = self._clock.now() + self._backoff

    def skip(self) -> None:
        """The run that is due does not take place; go on to the next."""
        if self._run_interval:
            current = max(self._slot, self._slot_at(self._clock.now()))
            self.missed += current - self._slot + 1
            self._due_in_slot(current + 1)
        else:
            self.due = self._clock.now() + (self._sleep_interval or 0.0)

    def export(self) -> dict[str, float | None]:
        """Return ``origin`` and ``due`` as UNIX times, for a successor."""
        ahead = self._clock.wall() - self._clock.now()
        return {'origin': self.origin + ahead, 'due': self.due + ahead}

    def inherit(self, record: dict[str, Any] | None) -> None:
        """Go on with the schedule that the last holder left in *record*.

        A holder that released the lock says when the next run is due.  One
        that vanished leaves its grid; a slot that passed since it was last
        known to live is made up for at once.
        """
        record = record or {}
        left = record.get('schedule')
        if not isinstance(left, dict):
            return
        now = self._clock.now()
        ahead = self._clock.wall() - now
        origin, due = _number(left.get('origin')), _number(left.get('due'))
        if self._run_interval and origin is not None:
            self.origin = origin - ahead
            since = _number(record.get('released'))
            if since is None:
                since = ahead + now - (_number(record.get('lock_delay')) or 0)
            # No clock of another machine may delay a run for ever.
            self._slot = self._slot_at(min(since - ahead, now))
            missed = self.missed
            self._next_slot()
            # In that time nobody was there to miss a slot.
            self.missed = missed
        elif self._sleep_interval and 'released' in record and due is not None:
            self.due = min(due - ahead, now + self._sleep_interval)

    def _next_slot(self) -> None:
        current = self._slot_at(self._clock.now())
        if current > self._slot:
            # The slot that is running late starts now; those before it
            # are lost.
            self.missed += current - self._slot - 1
            self._due_in_slot(current)
        else:
            self._due_in_slot(self._slot + 1)

    def _due_in_slot(self, slot: int) -> None:
        assert self._run_interval
        self._slot = slot
        self.due = self.origin + slot * self._run_interval

    def _slot_at(self, time: float) -> int:
        assert self._run_interval
        return math.floor((time - self.origin) / self._run_interval)

    def _next_backoff(self) -> float:
        return min(max(FIRST_BACKOFF, 2 * self._backoff), LAST_BACKOFF)


def _number(value: Any) -> float | None:
    ok = isinstance(value, int | float) and abs(value) < TOO_LARGE
    return float(value) if ok else None
