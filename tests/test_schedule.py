"""When runs are due."""

import json
import random
from typing import Any

import pytest
from support import FakeClock

from jobslib.schedule import Schedule


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


def test_first_run_is_due_at_once(clock: FakeClock) -> None:
    """Whatever the interval, the first run is due at the start."""
    assert Schedule(clock).due == clock.time
    assert Schedule(clock, sleep_interval=5).due == clock.time
    assert Schedule(clock, run_interval=5).due == clock.time


def test_has_interval(clock: FakeClock) -> None:
    """A schedule without intervals, or with a pause of zero, has none."""
    assert not Schedule(clock).has_interval
    assert not Schedule(clock, sleep_interval=0).has_interval
    assert Schedule(clock, sleep_interval=0.5).has_interval
    assert Schedule(clock, run_interval=0.5).has_interval


def test_sleep_interval_counts_from_the_end(clock: FakeClock) -> None:
    """The pause is counted from the end of a run, failed or not."""
    schedule = Schedule(clock, sleep_interval=5)
    for failed in False, True, True:
        clock.time += 3.5
        schedule.ran(failed)
        assert schedule.due == clock.time + 5


def test_runs_follow_at_once(clock: FakeClock) -> None:
    """Without intervals the next run is due when one succeeded."""
    schedule = Schedule(clock)
    clock.time += 7
    schedule.ran(failed=False)
    assert schedule.due == clock.time


@pytest.mark.parametrize('sleep_interval', [None, 0.0])
def test_backoff(clock: FakeClock, sleep_interval: float | None) -> None:
    """Without intervals the pause after failures doubles, 1 s to 60 s."""
    schedule = Schedule(clock, sleep_interval)
    pauses = []
    for _ in range(9):
        schedule.ran(failed=True)
        pauses.append(schedule.due - clock.time)
        clock.time = schedule.due + 0.25
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_backoff_ends_with_success(clock: FakeClock) -> None:
    """A run that succeeds takes the pause after failures back to 1 s."""
    schedule = Schedule(clock)
    for failed, pause in (True, 1), (True, 2), (False, 0), (True, 1):
        schedule.ran(failed)
        assert schedule.due == clock.time + pause


@pytest.mark.parametrize('interval', [0.1, 0.3, 1.0, 1 / 3, 60.0])
@pytest.mark.parametrize('start', [0.0, 1000.7, 123456.789])
def test_grid_does_not_drift(interval: float, start: float) -> None:
    """Thousands of runs, each late and of its own length, keep the grid."""
    clock = FakeClock(start)
    schedule = Schedule(clock, run_interval=interval)
    noise = random.Random(1)
    for slot in range(5000):
        assert schedule.due == start + slot * interval
        clock.time = schedule.due + noise.uniform(0, 0.4) * interval
        schedule.starts()
        clock.time += noise.uniform(0, 0.4) * interval
        schedule.ran(failed=bool(slot % 2))
    assert schedule.missed == 0


def test_grid_with_runs_of_no_length(clock: FakeClock) -> None:
    """No slot is run twice, however the sums are rounded."""
    clock.time = 1000.7
    schedule = Schedule(clock, run_interval=0.1)
    for slot in range(5000):
        assert schedule.due == 1000.7 + slot * 0.1
        clock.time = schedule.due
        schedule.starts()
        schedule.ran(failed=False)
    assert schedule.missed == 0


@pytest.mark.parametrize(('duration', 'due', 'missed'), [
    (9.5, 10, 0),
    (10.0, 10, 0),
    (11.0, 10, 0),
    (19.5, 10, 0),
    (20.0, 20, 1),
    (38.0, 30, 2),
])
def test_overrun(clock: FakeClock, duration: float, due: float,
                 missed: int) -> None:
    """After an overrun the current slot starts at once; others are lost."""
    schedule = Schedule(clock, run_interval=10)
    start = clock.time
    clock.time += duration
    schedule.ran(failed=False)
    assert schedule.due - start == due
    assert schedule.missed == missed


def test_grid_after_overrun(clock: FakeClock) -> None:
    """The late run that follows an overrun is not repeated in its slot."""
    schedule = Schedule(clock, run_interval=10)
    start = clock.time
    clock.time = start + 35
    schedule.ran(failed=False)
    clock.time = start + 37
    schedule.ran(failed=False)
    assert schedule.due == start + 40


def test_late_start(clock: FakeClock) -> None:
    """A run that starts late is the run of the slot that it starts in."""
    schedule = Schedule(clock, run_interval=10)
    start = clock.time
    clock.time = start + 35
    schedule.starts()
    assert schedule.missed == 3
    clock.time = start + 37
    schedule.ran(failed=False)
    assert (schedule.due, schedule.missed) == (start + 40, 3)


def test_start_in_time(clock: FakeClock) -> None:
    """A start in its own slot, or without a grid, changes nothing."""
    for schedule in (Schedule(clock), Schedule(clock, sleep_interval=5),
                     Schedule(clock, run_interval=10)):
        schedule.starts()
        assert (schedule.due, schedule.missed) == (clock.time, 0)


def test_skip_with_sleep_interval(clock: FakeClock) -> None:
    """A skipped run is followed by the pause."""
    schedule = Schedule(clock, sleep_interval=5)
    clock.time += 2
    schedule.skip()
    assert schedule.due == clock.time + 5


def test_skip_without_interval(clock: FakeClock) -> None:
    """A skipped run without an interval is due again at once."""
    schedule = Schedule(clock)
    clock.time += 2
    schedule.skip()
    assert schedule.due == clock.time


def test_skip_on_the_grid(clock: FakeClock) -> None:
    """Skipped slots are counted, and the next slot is due."""
    schedule = Schedule(clock, run_interval=10)
    start = clock.time
    schedule.skip()
    assert (schedule.due, schedule.missed) == (start + 10, 1)
    clock.time = start + 34
    schedule.skip()
    assert (schedule.due, schedule.missed) == (start + 40, 4)


def test_skip_at_a_slot_that_rounds_down() -> None:
    """Skipping goes on to the next slot, however the sums are rounded."""
    clock = FakeClock(1000.7)
    schedule = Schedule(clock, run_interval=0.1)
    for slot in range(5000):
        assert schedule.due == 1000.7 + slot * 0.1
        clock.time = schedule.due
        schedule.skip()


def test_export(clock: FakeClock) -> None:
    """A schedule is exported as UNIX times that fit into JSON."""
    schedule = Schedule(clock, run_interval=10)
    start = clock.wall()
    clock.time += 4
    schedule.ran(failed=False)
    assert json.loads(json.dumps(schedule.export())) == {
        'origin': start, 'due': start + 10}


def successor(now: float, *, behind: float = 0.0,
              **intervals: float) -> tuple[FakeClock, Schedule]:
    """Return the clock and schedule of another machine.

    :param now: the time, in seconds after the UNIX time 1.7e9.
    :param behind: by how much the machine's wall clock is behind.
    """
    clock = FakeClock(50.0, 1.7e9 + now - behind)
    return clock, Schedule(clock, **intervals)


def record(origin: float = 0, due: float = 0, **more: Any) -> dict[str, Any]:
    """Return an owner record; times in seconds after 1.7e9."""
    schedule = {'origin': 1.7e9 + origin, 'due': 1.7e9 + due}
    if 'released' in more:
        more['released'] += 1.7e9
    return {'schedule': schedule, **more}


def test_inherit_the_grid() -> None:
    """A successor keeps to the grid of the holder that released the lock."""
    clock, schedule = successor(57, run_interval=10)
    schedule.inherit(record(origin=3, due=63, released=56))
    assert schedule.due - clock.time == pytest.approx(6)
    assert schedule.missed == 0


def test_inherit_a_missed_slot() -> None:
    """A slot that passed between release and takeover is made up for."""
    clock, schedule = successor(66, run_interval=10)
    schedule.inherit(record(origin=3, due=63, released=56))
    assert schedule.due - clock.time == pytest.approx(-3)
    assert schedule.missed == 0


def test_inherit_missed_slots() -> None:
    """Of several slots without a holder one is made up for, none counted."""
    clock, schedule = successor(96, run_interval=10)
    schedule.inherit(record(origin=3, due=63, released=56))
    assert schedule.due - clock.time == pytest.approx(-3)
    assert schedule.missed == 0


def test_inherit_from_one_that_vanished() -> None:
    """A slot within the lock-delay of a vanished holder is made up for."""
    clock, schedule = successor(66, run_interval=10)
    schedule.inherit(record(origin=3, due=23, lock_delay=5))
    assert schedule.due - clock.time == pytest.approx(-3)
    clock, schedule = successor(66, run_interval=10)
    schedule.inherit(record(origin=3, due=23, lock_delay=2))
    assert schedule.due - clock.time == pytest.approx(7)


def test_inherit_a_vanished_holder_without_lock_delay() -> None:
    """Of a vanished holder without a lock-delay the grid is kept."""
    clock, schedule = successor(66, run_interval=10)
    schedule.inherit(record(origin=3))
    assert schedule.due - clock.time == pytest.approx(7)


def test_inherited_grid_goes_on() -> None:
    """An inherited grid is exported as it came."""
    clock, schedule = successor(66, run_interval=10)
    schedule.inherit(record(origin=3, due=63, released=56))
    schedule.ran(failed=False)
    exported = schedule.export()
    assert exported['origin'] == pytest.approx(1.7e9 + 3)
    assert exported['due'] == pytest.approx(1.7e9 + 73)


def test_inherit_a_pause() -> None:
    """A successor waits out the pause of the holder that released."""
    clock, schedule = successor(57, sleep_interval=10)
    schedule.inherit(record(due=63, released=53))
    assert schedule.due - clock.time == pytest.approx(6)


def test_inherit_no_pause_longer_than_ours() -> None:
    """A clock that is ahead delays a run by one pause at most."""
    clock, schedule = successor(57, behind=3600, sleep_interval=10)
    schedule.inherit(record(due=63, released=53))
    assert schedule.due == clock.time + 10


def test_inherit_no_pause_of_one_that_vanished() -> None:
    """After a holder that vanished in its run, the next is due at once."""
    clock, schedule = successor(57, sleep_interval=10)
    schedule.inherit(record(due=63))
    assert schedule.due == clock.time


def test_inherit_a_release_in_the_future() -> None:
    """A clock that is ahead delays a run by one slot at most."""
    clock, schedule = successor(57, behind=3600, run_interval=10)
    schedule.inherit(record(origin=3, due=63, released=56))
    assert 0 <= schedule.due - clock.time <= 10


def test_inherit_nothing_without_interval() -> None:
    """Without an interval the first run stays due at once."""
    clock, schedule = successor(57)
    schedule.inherit(record(due=63, released=53))
    assert schedule.due == clock.time


RUBBISH: list[Any] = [
    None, {}, {'schedule': None}, {'schedule': []}, {'schedule': 'x'},
    {'schedule': {}}, {'schedule': {'origin': None, 'due': None}},
    {'schedule': {'origin': 'x', 'due': 'x'}, 'released': 'x'},
]


@pytest.mark.parametrize('left', RUBBISH)
@pytest.mark.parametrize('intervals', [
    {}, {'sleep_interval': 10.0}, {'run_interval': 10.0}])
def test_inherit_nothing_from_rubbish(
        left: dict[str, Any] | None, intervals: dict[str, float]) -> None:
    """A record without a schedule changes nothing."""
    clock, schedule = successor(57, **intervals)
    schedule.inherit(left)
    assert schedule.due == schedule.origin == clock.time
    assert schedule.missed == 0


NUMBERS: list[Any] = [
    None, 'x', True, [], {}, 0, -1, 1e300, -1e300, 1.7e308, -1.7e308,
    float('nan'), float('inf'), -float('inf'), 10 ** 400, 1.7e12]


@pytest.mark.parametrize('number', NUMBERS, ids=range(len(NUMBERS)))
@pytest.mark.parametrize('name', ['origin', 'due', 'released', 'lock_delay'])
@pytest.mark.parametrize('intervals', [
    {}, {'sleep_interval': 0.5}, {'run_interval': 0.5}])
def test_rubbish_delays_nothing(name: str, number: Any,
                                intervals: dict[str, float]) -> None:
    """No number in a record can delay the next run past an interval."""
    for released in {'released': 1.7e9 + 56}, {}:
        clock, schedule = successor(57, **intervals)
        left: dict[str, Any] = {
            'schedule': {'origin': 1.7e9 + 3, 'due': 1.7e9 + 57.2},
            'lock_delay': 5, **released}
        (left['schedule'] if name in left['schedule'] else left)[name] = number
        schedule.inherit(left)
        for _ in range(2):
            assert schedule.due < clock.time + 0.501
            clock.time = max(clock.time, schedule.due)
            schedule.ran(failed=False)
        assert isinstance(schedule.export()['origin'], float)
