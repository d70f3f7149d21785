"""The guide's examples for the days on which the clock changes."""

import datetime
import re

import pytest
from pages import DOCS

from jobslib.schedule.calendars import Calendar

PAGE = (DOCS / 'guide/schedule.rst').read_text()
ROW = re.compile(r'   \* - ``(?P<text>[^`]+)``\n'
                 r'     - (?P<zone>\w+/\w+), (?P<day>[\d-]{10})\n'
                 r'     - (?P<slots>.+(?:\n       .+)*)')


@pytest.mark.parametrize('row', list(ROW.finditer(PAGE)),
                         ids=lambda row: row['text'])
def test_example(row: re.Match[str]) -> None:
    """The slots of the day are those that the table has."""
    calendar = Calendar.parse([row['text']], row['zone'])
    day = datetime.datetime.fromisoformat(row['day'])
    begin = day.replace(tzinfo=calendar.zone.tzinfo).timestamp()
    found = {f'{calendar.zone.shown(slot):%H:%M%z}' for slot
             in calendar.between(begin - 1, begin + 86400 * 1.2, 1000)
             if calendar.zone.shown(slot).date() == day.date()}
    shown = {f'{time}{sign}{hours}{minutes}' for time, sign, hours, minutes
             in re.findall(r'(\d\d:\d\d)([+-])(\d\d):(\d\d)', row['slots'])}
    if 'among others' in row['slots']:
        assert shown <= found
    else:
        assert shown == found


def test_there_are_examples() -> None:
    """All rows of the table are examined."""
    assert len(list(ROW.finditer(PAGE))) == 7
