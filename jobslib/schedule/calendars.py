"""Slots by the calendar: cron expressions in a time zone.

``cronsim`` works out which local times an expression names, on a calendar without
a time zone.  Which instants these are is worked out here, by the rule of Debian's
cron, which is in its manual:

- When clocks are put forward by less than three hours, a slot in the time that is
  skipped is at the instant of the change.
- When clocks are put back by up to three hours, a slot in the time that comes
  twice is in the first of the two.
- Both hold for expressions with a fixed time of day.  An expression with a star at
  the beginning of a field for the time of day follows the clocks as they run: it
  has no slots in the time that is skipped, and has slots twice in the time that
  comes twice.
- A larger change, such as a day that is skipped where the date line moves, is a
  correction of the clock: the time that is skipped has no slots, and the time that
  comes twice has slots twice.

``cronsim`` has this rule as well, but assumes changes of whole hours, makes up for
the slots of a day that is skipped, and does not apply it to expressions with
seconds.
"""

from __future__ import annotations

import datetime
import re

from jobslib.schedule.rhythms import Slots
from jobslib.schedule.zones import UTC, Zone

__all__ = ['Calendar', 'Expression', 'ExpressionError']

#: A change of the clock that is larger than this, in seconds, is a correction.
THREE_HOURS = 10800

EPOCH = datetime.datetime(1970, 1, 1)
SECOND = datetime.timedelta(seconds=1)

#: The nicknames of Debian's cron, except ``@reboot``, which has no slots.
NICKNAMES = {
    '@yearly': '0 0 1 1 *', '@annually': '0 0 1 1 *',
    '@monthly': '0 0 1 * *', '@weekly': '0 0 * * 0',
    '@daily': '0 0 * * *', '@midnight': '0 0 * * *',
    '@hourly': '0 * * * *',
}

#: What a field may hold, by the name that cronsim has for it.
FIELDS = {
    'second': '0-59', 'minute': '0-59', 'hour': '0-23',
    'day-of-month': '1-31, L for the last day, LW for the last weekday',
    'month': '1-12 or JAN-DEC',
    'day-of-week': '0-7 or SUN-SAT, 5L for the last Friday, 1#2 for the '
                   'second Monday',
}

#: A range of one number, with a step: ``4-4/2``.
RANGE_OF_ONE = re.compile(r'(?<!\w)(\w+)-\1/\d+(?!\w)', re.IGNORECASE)

NO_SUCH_DAY = 'there is no such day in the next 50 years'


class ExpressionError(ValueError):
    """A text is not a cron expression; the message says what is wrong with it."""


class Expression:
    """A cron expression: a set of local times.

    :param text: five or six fields, or a nickname such as ``@daily``.
    :raises ExpressionError: it is not an expression, or names no day.
    """

    def __init__(self, text: str) -> None:
        self.text = ' '.join(text.split())
        self._fields = _expand(self.text)
        _refuse_wrong(self._fields)
        # cronsim takes a range of one number and a step for a range without an end.
        self._fields = RANGE_OF_ONE.sub(r'\1', self._fields)
        fields = self._fields.split()
        #: Whether it names times of day, and not each minute or each hour.
        self.fixed = not any(
            field.startswith('*') for field in fields[:len(fields) - 3])

    def after(self, local: int) -> int:
        """Return the first local time after *local* that the expression names.

        Local times are counted in seconds, as UNIX time is in UTC.
        """
        from cronsim import CronSim
        begin = EPOCH + local * SECOND
        found: datetime.datetime = next(CronSim(self._fields, begin))
        return (found - EPOCH) // SECOND

    def explain(self) -> str:
        """Return the expression in words."""
        from cronsim import CronSim
        return CronSim(self._fields, EPOCH).explain()


def _expand(text: str) -> str:
    if not text.startswith('@'):
        return text
    fields = NICKNAMES.get(text.lower())
    if fields is None:
        import difflib
        near = difflib.get_close_matches(text.lower(), NICKNAMES, 1, 0.0)
        raise ExpressionError(
            f'there is no such nickname, nearest known: {near[0]}; allowed: '
            f'{", ".join(NICKNAMES)}')
    return fields


def _refuse_wrong(fields: str) -> None:
    from cronsim import CronSim, CronSimError
    parts = fields.split()
    if '=' in fields:
        raise ExpressionError(
            'variables are not allowed in it; the time zone is the option '
            'time_zone')
    if len(parts) not in (5, 6):
        raise ExpressionError(
            f'{_counted(len(parts))} instead of five or six; allowed: minute, '
            f'hour, day of the month, month, day of the week, with the second '
            f'before them if there are six')
    try:
        next(CronSim(fields, datetime.datetime(2000, 1, 1)))
    except CronSimError as exc:
        raise ExpressionError(_describe(parts, str(exc))) from None
    except StopIteration:
        raise ExpressionError(NO_SUCH_DAY) from None


def _describe(parts: list[str], error: str) -> str:
    """Return what is wrong, and what is allowed, for an *error* of cronsim."""
    from cronsim import CronSim, CronSimError
    name = error.removeprefix('Bad ')
    wrong = parts[list(FIELDS).index(name) - len(FIELDS)]
    if name == 'day-of-month':
        try:
            # A day that January does not have, no month has.
            CronSim(f'0 0 {wrong} 1 *', EPOCH)
        except CronSimError:
            pass
        else:
            return NO_SUCH_DAY
    return (f'the {name} {wrong!r} is wrong; allowed: {FIELDS[name]}, *, '
            f'lists (1,3), ranges (1-5) and steps (*/5)')


def _counted(number: int) -> str:
    return 'it has one field' if number == 1 else f'it has {number or "no"} fields'


class Calendar(Slots):
    """Slots by the calendar: due when any of the expressions is.

    :param expressions: cron expressions.
    :param zone: the time zone that they are meant in.
    """

    def __init__(self, expressions: list[Expression], zone: Zone) -> None:
        self.expressions = expressions
        self.zone = zone

    @classmethod
    def parse(cls, texts: list[str], zone: str = UTC) -> Calendar:
        """Return the calendar of the expressions *texts*.

        :raises ExpressionError: one of them is wrong.
        :raises ZoneError: there is no such time zone.
        """
        return cls([Expression(text) for text in texts], Zone(zone))

    @property
    def identity(self) -> str:
        """The expressions and the zone, as text."""
        texts = sorted({each.text for each in self.expressions})
        return f'cron {"; ".join(texts)} {self.zone.name}'

    def after(self, at: float) -> float:
        """Return the first slot after *at*."""
        return float(min(self._after(each, int(at // 1))
                         for each in self.expressions))

    def words(self) -> str:
        """Return in words when the slots are."""
        return (f'{"; ".join(each.explain() for each in self.expressions)} '
                f'({self.zone.name})')

    def _after(self, expression: Expression, at: int) -> int:
        zone = self.zone
        offset = zone.offset(at)
        local = at + offset
        if expression.fixed:
            local = max(local, self._passed(at, offset))
        while True:
            wanted = expression.after(local)
            change = zone.change(at, wanted - offset)
            if change is None:
                return wanted - offset
            # There is no slot before the change of the clock; go on from there.
            unchanged = change + offset
            at, offset = change, zone.offset(change)
            ahead = change + offset - unchanged
            if expression.fixed and 0 < ahead < THREE_HOURS and (
                    wanted < change + offset):
                return change
            local = change + offset - 1
            if expression.fixed and -THREE_HOURS <= ahead < 0:
                # The time that comes again has had its slots.
                local = unchanged - 1

    def _passed(self, at: int, offset: int) -> int:
        """Return the latest local time that the clock has shown by *at*.

        It is later than the time that the clock shows when the clock was put back
        shortly before.
        """
        begin = at - THREE_HOURS
        change = self.zone.change(begin, at)
        if change is None:
            return at + offset
        before = self.zone.offset(change - 1)
        return change + before - 1 if before > offset else at + offset
