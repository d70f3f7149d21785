"""Time zones: how far a zone's clocks are ahead of UTC, and when that changes."""

from __future__ import annotations

import datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import zoneinfo

__all__ = ['UTC', 'Zone', 'ZoneError']

UTC = 'UTC'
DAY = 86400
#: Names that the time zone database has, and that are another zone on another machine.
OF_THE_MACHINE = ('localtime', 'posixrules')


ALLOWED = 'a name of the IANA database, as Europe/Prague or UTC'


class ZoneError(ValueError):
    """There is no such time zone; the message says what to write instead."""


class Zone:
    """A time zone of the IANA database.

    :param name: its name, such as ``Europe/Prague``.
    :raises ZoneError: there is no such zone.
    """

    def __init__(self, name: str = UTC) -> None:
        self.name = name
        self.tzinfo: datetime.tzinfo = datetime.UTC
        self._fixed = name == UTC
        if not self._fixed:
            self.tzinfo = _load(name)

    def offset(self, at: int) -> int:
        """Return by how many seconds the zone's clocks are ahead of UTC."""
        if self._fixed:
            return 0
        offset = datetime.datetime.fromtimestamp(at, self.tzinfo).utcoffset()
        assert offset is not None
        return round(offset.total_seconds())

    def change(self, after: int, until: int) -> int | None:
        """Return the first instant in (*after*, *until*] at which the zone's
        clocks are changed; ``None`` if there is none.

        A change that is undone within a day is not found; no time zone has ever
        had one.
        """
        if self._fixed:
            return None
        offset = self.offset(after)
        while after < until:
            step = min(after + DAY, until)
            if self.offset(step) != offset:
                return self._bisect(after, step, offset)
            after = step
        return None

    def _bisect(self, before: int, after: int, offset: int) -> int:
        while after - before > 1:
            middle = (before + after) // 2
            if self.offset(middle) == offset:
                before = middle
            else:
                after = middle
        return after

    def shown(self, at: float) -> datetime.datetime:
        """Return the UNIX time *at* as an aware datetime of the zone."""
        return datetime.datetime.fromtimestamp(at, self.tzinfo)


def _load(name: str) -> zoneinfo.ZoneInfo:
    import zoneinfo
    if name in OF_THE_MACHINE:
        raise ZoneError(f'it is another zone on each machine; allowed: {ALLOWED}')
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # These are raised for a name that does not exist, that is not a relative
        # path, and that is a folder of zones.
        raise ZoneError(f'there is no such time zone{_nearest(name)}; allowed: '
                        f'{ALLOWED}') from None


def _nearest(name: str) -> str:
    import difflib
    import zoneinfo
    known = {each.lower(): each for each in zoneinfo.available_timezones()
             if each not in OF_THE_MACHINE}
    wanted = name.strip().lower().replace(' ', '_')
    near = difflib.get_close_matches(wanted, known, 1, 0.6)
    if not near:
        # Perhaps the city is right, and the continent missing or wrong.
        city = wanted.rpartition('/')[2]
        cities = {each.rpartition('/')[2]: each for each in sorted(known)}
        near = [cities[each] for each in
                difflib.get_close_matches(city, cities, 1, 0.6)]
    return f', nearest known: {known[near[0]]}' if near else ''
