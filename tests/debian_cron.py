"""Debian's cron, as its program and its manual say, to compare with.

It walks through time minute by minute (second by second for expressions with
six fields) with a clock that is put forward and back, as cron.c does, and so
has nothing in common with the code that is tested.
"""

import calendar
import datetime
import zoneinfo

#: cron.c: changes of the clock up to this are not taken as corrections.
THREE_HOURS = 180 * 60

NAMES = {name: number for number, name in enumerate(
    'JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC'.split(), 1)} | {
    name: number for number, name in enumerate(
        'SUN MON TUE WED THU FRI SAT'.split())}
RANGES = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
DAILY = '0 0 * * *'


def number(text: str) -> int:
    """Return a number, or the number that a name stands for."""
    return NAMES[text] if text in NAMES else int(text)


def numbers(field: str, low: int, high: int) -> set[int]:
    """Return what *field* means, where it has no L and no #."""
    found: set[int] = set()
    for part in field.split(','):
        span, _, step = part.partition('/')
        begin, _, end = span.partition('-')
        if span == '*':
            first, last = low, high
        else:
            first = number(begin)
            last = number(end) if end else high if step else first
        found |= set(range(first, last + 1, int(step or 1)))
    return found


class Entry:
    """One line of a crontab."""

    def __init__(self, text: str) -> None:
        fields = (DAILY if text == '@daily' else text).upper().split()
        self.unit = 60 if len(fields) == 5 else 1
        fields = ['0'] * (6 - len(fields)) + fields
        self.times = [numbers(field, *span)
                      for field, span in zip(fields[:3], RANGES[:3], strict=True)]
        self.months = numbers(fields[4], *RANGES[4])
        self.day, self.weekday = fields[3], fields[5]
        self.wild = any(field.startswith('*') for field in fields[:3])

    def matches(self, at: datetime.datetime) -> bool:
        """Return whether the line is due at this local time."""
        if not (at.hour in self.times[2] and at.minute in self.times[1]
                and at.second in self.times[0] and at.month in self.months):
            return False
        day, weekday = self._is_day(at), self._is_weekday(at)
        if self.day.startswith('*') or self.weekday.startswith('*'):
            return day and weekday
        return day or weekday

    def _is_day(self, at: datetime.datetime) -> bool:
        last = calendar.monthrange(at.year, at.month)[1]
        return any(at.day == last if part == 'L'
                   else at.day in numbers(part, *RANGES[3])
                   for part in self.day.split(','))

    def _is_weekday(self, at: datetime.datetime) -> bool:
        today = at.isoweekday() % 7
        last = calendar.monthrange(at.year, at.month)[1]
        for part in self.weekday.split(','):
            if part.endswith('L'):
                matches = number(part[:-1]) % 7 == today and at.day + 7 > last
            elif '#' in part:
                name, _, nth = part.partition('#')
                matches = (number(name) % 7 == today
                           and (at.day - 1) // 7 + 1 == int(nth))
            else:
                matches = today in {
                    each % 7 for each in numbers(part, *RANGES[5])}
            if matches:
                return True
        return False


def local(seconds: int) -> datetime.datetime:
    """Return a local time, counted as UNIX time is."""
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)


def starts(text: str, zone: str, begin: int, end: int) -> list[int]:
    """Return when cron starts the line *text* in (*begin*, *end*]."""
    entry = Entry(text)
    tzinfo = zoneinfo.ZoneInfo(zone)

    def clock(at: int) -> int:
        offset = datetime.datetime.fromtimestamp(at, tzinfo).utcoffset()
        assert offset is not None
        return at + round(offset.total_seconds())

    found: list[int] = []
    unit = entry.unit
    virtual = clock(begin)
    for at in range(begin + unit, end + 1, unit):
        running = clock(at)
        difference = running - virtual
        missed: range | tuple[int, ...] = ()
        if difference == unit:
            virtual, missed = running, (running,)
        elif unit < difference <= THREE_HOURS:
            # Put forward: what was left out is made up for, but for jobs
            # with a star, which run by the new time.
            missed = ((running,) if entry.wild
                      else range(virtual + unit, running + unit, unit))
            virtual = running
        elif -THREE_HOURS < difference <= 0:
            # Put back: only jobs with a star run until time has caught up.
            missed = (running,) if entry.wild else ()
        else:
            virtual, missed = running, (running,)
        if any(entry.matches(local(each)) for each in missed):
            found.append(at)
    return found
