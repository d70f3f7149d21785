"""Cron expressions in time zones: which slots there are."""

import datetime

import debian_cron
import pytest

from jobslib.schedule.calendars import Calendar, Expression, ExpressionError
from jobslib.schedule.zones import Zone, ZoneError

HOUR = 3600
DAY = 86400

#: Zones, and days on which their clocks are changed (or are not).
CHANGES = [
    ('UTC', '2026-03-29'),
    ('Europe/Prague', '2026-03-29'),
    ('Europe/Prague', '2026-10-25'),
    ('America/New_York', '2026-03-08'),
    ('America/New_York', '2026-11-01'),
    ('America/Sao_Paulo', '2018-02-18'),
    ('America/Sao_Paulo', '2018-11-04'),
    ('Australia/Lord_Howe', '2026-04-04'),
    ('Australia/Lord_Howe', '2026-10-03'),
    ('Africa/Casablanca', '2026-02-15'),
    ('Africa/Casablanca', '2026-03-22'),
    ('Pacific/Apia', '2011-12-30'),
    ('Asia/Kathmandu', '2026-06-01'),
    ('Asia/Kathmandu', '1985-12-31'),
]
FIVE_FIELDS = [
    '@daily', '0 0 * * *', '30 2 * * *', '45 1 * * *', '0,15,30,45 1,2,3 * * *',
    '0 2,3 * * *', '30 0,23 * * *', '59 23 * * *', '*/20 * * * *',
    '*/15 2 * * *', '17 * * * *', '10 */2 * * *', '5-55/10 0-4 * * *',
    '30 2 L * *', '15 2 * * 0#2', '15 2 * * SUN#4', '45 1 * * 0L',
    '27 2-2/1 * * *', '1,15-15/4 2 * * SUN-sun/2',
    '30 2 15 * SUN', '30 2 */2 * SUN', '30 1 * MAR,OCT,NOV 6,7',
]
SIX_FIELDS = [
    '0 30 2 * * *', '30 59 1,23 * * *', '15 */7 * * * *', '*/10 30 2 * * *',
    '5,35 15,45 0-3 * * *', '0 0 0 L * *', '20 40 1 * * 0#1',
]


def midnight(day: str) -> int:
    """Return when *day* begins in UTC."""
    return int(datetime.datetime.fromisoformat(f'{day}T00:00Z').timestamp())


def slots(texts: list[str], zone: str, begin: int, end: int) -> list[float]:
    """Return the slots of a calendar in (*begin*, *end*]."""
    return Calendar.parse(texts, zone).between(begin, end, 1_000_000)


@pytest.mark.parametrize(('zone', 'day'), CHANGES)
@pytest.mark.parametrize('text', FIVE_FIELDS)
def test_as_debian(text: str, zone: str, day: str) -> None:
    """In the days about a change of the clock slots are where Debian's cron
    starts the job."""
    begin, end = midnight(day) - DAY, midnight(day) + 2 * DAY
    assert slots([text], zone, begin, end) == debian_cron.starts(
        text, zone, begin, end)


@pytest.mark.parametrize(('zone', 'day'), CHANGES)
@pytest.mark.parametrize('text', SIX_FIELDS)
def test_seconds(text: str, zone: str, day: str) -> None:
    """The rule is the same for expressions that name seconds."""
    change = Zone(zone).change(midnight(day) - DAY, midnight(day) + 2 * DAY)
    middle = change or midnight(day)
    begin, end = middle - 4 * HOUR, middle + 5 * HOUR
    assert slots([text], zone, begin, end) == debian_cron.starts(
        text, zone, begin, end)


@pytest.mark.parametrize(('zone', 'day'), [
    ('Europe/Prague', '2026-10-25'), ('Australia/Lord_Howe', '2026-04-04'),
    ('America/Sao_Paulo', '2018-11-04')])
@pytest.mark.parametrize('text', ['30 2 * * *', '45 1 * * *', '*/20 2 * * *'])
def test_from_any_instant(text: str, zone: str, day: str) -> None:
    """The next slot does not depend on where the search for it begins."""
    calendar = Calendar.parse([text], zone)
    begin = midnight(day) - 12 * HOUR
    expected = calendar.between(begin, begin + 3 * DAY, 1000)
    for at in range(begin, begin + 2 * DAY, 420):
        assert calendar.after(at) == min(
            slot for slot in expected if slot > at)
        assert calendar.after(at + 0.25) == calendar.after(at)


@pytest.mark.parametrize('text', ['30 2 * * *', '0 0 L * *', '0 9 * * 5L',
                                  '0 9 * * MON#2', '0 6 29 2 *'])
def test_a_year(text: str) -> None:
    """Through a whole leap year slots are where Debian's cron has them."""
    begin, end = midnight('2024-01-01'), midnight('2025-01-01')
    expected = []
    for at in range(begin, end, DAY):
        # Days without a change: only the minutes that may match.
        expected += [at + offset for offset in (2 * HOUR + 1800, 0, 9 * HOUR,
                                                6 * HOUR)
                     if debian_cron.Entry(text).matches(
                         debian_cron.local(at + offset))]
    assert slots([text], 'UTC', begin - 1, end - 1) == expected


def test_list() -> None:
    """A calendar of several expressions has a slot when any of them has one,
    and one slot where several have it."""
    begin = midnight('2026-03-28')
    texts = ['30 2 * * *', '0 3 * * *', '15 */12 * * *']
    together = {
        each for text in texts for each in debian_cron.starts(
            text, 'Europe/Prague', begin, begin + 3 * DAY)}
    assert slots(texts, 'Europe/Prague', begin, begin + 3 * DAY) == sorted(
        together)


def test_most() -> None:
    """A list of slots is no longer than asked for, and has the oldest."""
    calendar = Calendar.parse(['* * * * *'])
    assert calendar.between(0, 1e9, 3) == [60, 120, 180]


@pytest.mark.parametrize('text', ['* * * * * *', '30 2 * * *', '0 0 29 2 *',
                                  '0 0 1 1 *'])
def test_newest(text: str) -> None:
    """The newest slot is found however long ago it was."""
    calendar = Calendar.parse([text], 'Europe/Prague')
    slot = calendar.after(1.75e9)
    assert calendar.newest(slot) == slot
    assert calendar.newest(slot - 1) != slot
    assert calendar.newest(calendar.after(slot) - 0.5) == slot


@pytest.mark.parametrize(('text', 'detail'), [
    ('61 2 * * *', "the minute '61' is wrong; allowed: 0-59, *,"),
    ('0 2 * * FOO', "the day-of-week 'FOO' is wrong; allowed: 0-7 or SUN-SAT"),
    ('99 0 2 * * *', "the second '99' is wrong"),
    ('0 2 32 * *', "the day-of-month '32' is wrong"),
    ('0 2 31 2 *', 'there is no such day'),
    ('0 2 30 2 1#5', None),
    ('* * */20 * 1L', 'there is no such day'),
    ('0 2 * *', 'it has 4 fields instead of five or six; allowed: minute'),
    ('0', 'it has one field instead'),
    (' ', 'it has no fields instead'),
    ('* * * * * * *', 'it has 7 fields instead'),
    ('@dayly', 'no such nickname, nearest known: @daily; allowed: @yearly'),
    ('@reboot', 'no such nickname'),
    ('TZ=UTC 0 2 * * *', 'the time zone is the option time_zone'),
])
def test_wrong_expression(text: str, detail: str | None) -> None:
    """What is wrong with an expression is said."""
    if detail is None:
        assert Expression(text)
        return
    with pytest.raises(ExpressionError) as caught:
        Expression(text)
    assert detail in str(caught.value)


@pytest.mark.parametrize(('name', 'nearest'), [
    ('Europe/Praha', ', nearest known: Europe/Prague;'),
    ('europe/prague', ', nearest known: Europe/Prague;'),
    ('Prague', ', nearest known: Europe/Prague;'),
    ('New York', ', nearest known: America/New_York;'),
    ('Europe', 'no such time zone'),
    ('../../etc/passwd', 'no such time zone; allowed'),
    ('/etc/localtime', 'no such time zone'),
    ('', 'no such time zone; allowed'),
    ('\0', 'no such time zone; allowed'),
])
def test_wrong_zone(name: str, nearest: str) -> None:
    """A zone that does not exist is refused, with the nearest that does."""
    with pytest.raises(ZoneError) as caught:
        Zone(name)
    assert nearest in str(caught.value)


def test_words() -> None:
    """A calendar is put into words."""
    calendar = Calendar.parse(['30 2 * * *', '@hourly'], 'Europe/Prague')
    assert calendar.words() == (
        'At 02:30 every day; At the start of every hour (Europe/Prague)')


def test_identity() -> None:
    """Calendars are the same if their expressions and zones are, in any order
    and with any space."""
    one = Calendar.parse(['30 2 * * *', '@daily'], 'Europe/Prague')
    two = Calendar.parse(['@daily', '30  2 * * *'], 'Europe/Prague')
    assert one.identity == two.identity
    assert one.identity != Calendar.parse(['30 2 * * *', '@daily']).identity
    assert one.identity != Calendar.parse(['@daily'], 'Europe/Prague').identity
