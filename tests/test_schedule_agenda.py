"""What a process remembers of its schedule when its wall clock is set."""

import random
from typing import Any

import pytest
from support import FakeClock

from jobslib.history import written_ledger
from jobslib.owner import OwnerRecord
from jobslib.schedule.agenda import Agenda
from jobslib.schedule.calendars import Calendar
from jobslib.schedule.decisions import Why
from jobslib.schedule.ledger import Ending, Records
from jobslib.schedule.plans import CatchUp, Plan
from jobslib.schedule.rhythms import Endless, Every, Grid, Pause, Rhythm

DAY = 86400.0
#: Put on or back, by so much that no grid of these tests goes on as it was.
JUMPS = [DAY + 3, -DAY - 3, 40.0, -40.0]


def holder(rhythm: Rhythm, clock: FakeClock) -> Agenda:
    """Return the agenda of a process that has run its job once, just now."""
    agenda = Agenda(Plan(rhythm), clock, 'alpha', keeps=True)
    agenda.consider(None)
    finish(agenda)
    return agenda


def finish(agenda: Agenda) -> None:
    """The run that was decided on begins, and succeeds."""
    assert agenda.runs
    agenda.begin()
    agenda.end(Ending.SUCCEEDED)
    if agenda.plan.has_slots:
        agenda.look()
        assert not agenda.runs


@pytest.mark.parametrize('jump', JUMPS)
@pytest.mark.parametrize('rhythm', [Every(30), Pause(30)])
def test_interval_goes_on(rhythm: Rhythm, jump: float) -> None:
    """A run interval is time that passes, whatever the wall clock says."""
    clock = FakeClock()
    agenda = holder(rhythm, clock)
    clock.time += 10
    clock.ahead += jump
    assert agenda.seconds_left == pytest.approx(20)
    agenda.look()
    assert not agenda.runs
    assert agenda.seconds_left == pytest.approx(20)
    for _ in range(3):
        clock.time += agenda.seconds_left
        agenda.look()
        finish(agenda)
        assert agenda.seconds_left == pytest.approx(30)
    assert not agenda.given_up
    assert agenda.due == pytest.approx(clock.wall() + 30)


@pytest.mark.parametrize('jump', JUMPS)
def test_clock_is_set_during_a_run(jump: float) -> None:
    """The same if it is set while a run is decided on, or under way."""
    clock = FakeClock()
    agenda = holder(Every(30), clock)
    clock.time += 30
    agenda.look()
    clock.ahead += jump
    agenda.look()
    agenda.begin()
    clock.ahead += jump
    clock.time += 5
    agenda.end(Ending.SUCCEEDED)
    agenda.look()
    assert not agenda.runs
    assert agenda.seconds_left == pytest.approx(25)
    assert not agenda.given_up


@pytest.mark.parametrize('jump', JUMPS)
def test_run_is_cancelled(jump: float) -> None:
    """A run that does not begin is due as before."""
    clock = FakeClock()
    agenda = holder(Every(30), clock)
    clock.time += 30
    agenda.look()
    clock.ahead += jump
    agenda.look()
    agenda.cancel()
    agenda.look()
    assert agenda.runs and not agenda.given_up


@pytest.mark.parametrize('jump', JUMPS)
@pytest.mark.parametrize('rhythm', [Every(30), Pause(30), Endless()])
def test_standby_looks_at_once(rhythm: Rhythm, jump: float) -> None:
    """A standby that is to wait for the lock does so with any clock."""
    clock = FakeClock()
    record = {'schedule': holder(rhythm, clock).export()}
    standby = Agenda(Plan(rhythm), clock, 'beta', keeps=True)
    standby.is_held_elsewhere(OwnerRecord(record))
    left = standby.seconds_left
    assert left <= 30
    clock.ahead += jump
    assert standby.seconds_left == pytest.approx(left)


def test_taken_over_from_the_future() -> None:
    """Who takes over from a clock that is ahead runs within an interval."""
    clock = FakeClock()
    agenda = holder(Every(30), clock)
    clock.ahead += DAY + 3
    clock.time += 30
    agenda.look()
    finish(agenda)
    record = {'schedule': agenda.export(), 'released': 'x'}
    clock.ahead -= DAY + 3
    other = Agenda(Plan(Every(30)), clock, 'beta', keeps=True)
    other.consider(OwnerRecord(record))
    assert not other.runs and other.seconds_left <= 30
    clock.time += other.seconds_left
    other.look()
    finish(other)
    assert other.seconds_left == pytest.approx(30)


@pytest.mark.parametrize('jump', [DAY, -DAY])
def test_calendar_follows_the_clock(jump: float) -> None:
    """A schedule by the calendar is about the clock: it is looked at anew."""
    clock = FakeClock()
    agenda = Agenda(Plan(Calendar.parse(['0 * * * *'])), clock, 'alpha',
                    keeps=True)
    agenda.consider(None)
    assert 0 < agenda.seconds_left <= 3600
    clock.time += agenda.seconds_left
    agenda.look()
    finish(agenda)
    clock.ahead += jump
    assert agenda.seconds_left == 0
    agenda.look()
    if agenda.runs:
        finish(agenda)
    assert 0 < agenda.seconds_left <= 3600


def test_small_differences() -> None:
    """What NTP does all the time is no setting of the clock."""
    clock = FakeClock()
    agenda = holder(Every(30), clock)
    clock.ahead += 0.5
    assert agenda.seconds_left == pytest.approx(29.5)


def test_stopped_between_the_clocks() -> None:
    """A process that stands still while it reads them sees no jump."""
    class Slow(FakeClock):
        stands_still = 0.0

        def wall(self) -> float:
            self.time += self.stands_still
            return super().wall()

    clock = Slow()
    agenda = holder(Every(30), clock)
    clock.stands_still = 20.0
    assert agenda.seconds_left == pytest.approx(10)
    clock.stands_still = 0.0
    assert agenda.seconds_left == pytest.approx(10)


@pytest.mark.parametrize('options', [
    {}, {'catch_up': CatchUp.ALL}, {'start_deadline': 5.0}])
def test_another_process_was_faster(options: dict[str, Any]) -> None:
    """What was decided on before the lock was lost to another process is
    neither run nor given up by this one."""
    clock = FakeClock()
    plan = Plan(Every(30), **options)
    agendas = [Agenda(plan, clock, name, keeps=True) for name in ('a', 'b')]
    record = OwnerRecord({
        'schedule': holder(Every(30), clock).export(), 'released': 'x'})
    clock.time += 200
    for agenda in agendas:
        agenda.consider(record)
        assert agenda.runs != ('start_deadline' in options)
    faster, slower = agendas
    faster.inherit(record, None)
    while faster.runs:
        faster.begin()
        faster.end(Ending.SUCCEEDED)
        faster.look()
    assert bool(faster.given_up) == ('catch_up' not in options)
    record = OwnerRecord({'schedule': faster.export(), 'released': 'x'})
    slower.consider(record)
    slower.inherit(record, None)
    slower.look()
    assert not slower.runs and not slower.given_up


@pytest.mark.parametrize('rhythm', [
    Every(1e12), Pause(1e300), Grid(1e12, 5.0)])
def test_due_in_the_far_future(rhythm: Rhythm) -> None:
    """What is due when no calendar goes so far is never due, as people say."""
    clock = FakeClock()
    agenda = Agenda(Plan(rhythm), clock, 'alpha')
    agenda.consider(None)
    if agenda.runs:
        finish(agenda)
    assert agenda.seconds_left > 1e10
    assert agenda.describe().endswith('next at never')
    assert '9999' not in agenda.explain()


def test_late_slot_of_one_run() -> None:
    """A process for one run that comes too late for its slot says so."""
    clock = FakeClock()
    plan = Plan(Grid(1000.0, clock.wall() - 500), start_deadline=5.0)
    agenda = Agenda(plan, clock, 'alpha', one_run=True)
    assert agenda.consider(None) is None
    assert agenda.describe().startswith('given up: the slot of ')
    assert Why.LATE.value in agenda.describe()


def take(agenda: Agenda, record: dict[str, Any] | None,
         history: dict[str, Any] | None) -> dict[str, Any]:
    """Take the lock from a holder that vanished; return the new owner record."""
    left = OwnerRecord.parse(record)
    schedule = agenda.consider(left)
    assert schedule is not None
    agenda.inherit(left, written_ledger(history, left))
    return {'timestamp': agenda.clock.wall(), 'schedule': schedule}


@pytest.mark.parametrize('catch_up', CatchUp)
@pytest.mark.parametrize('succeeds', [True, False])
def test_holders_vanish_one_after_the_other(
        catch_up: CatchUp, succeeds: bool) -> None:
    """What a holder that kept the lock has run is not run again, even if the
    next holder vanishes as well, before it has written anything."""
    clock = FakeClock()
    begin = clock.wall()
    plan = Plan(Grid(100.0, begin), catch_up=catch_up)

    def start() -> Agenda:
        return Agenda(plan, clock, 'alpha', keeps=True, records=Records.ENDS)

    clock.time += 10
    first = start()
    record = take(first, None, None)
    for later in 100, 200, 300:
        clock.time += begin + later - clock.wall()
        first.look()
        assert first.runs
        first.begin()
        first.end(Ending.SUCCEEDED if succeeds else Ending.FAILED)
    history = {'hold': record['timestamp'], 'ledger': first.ledger.export()}
    for _ in range(3):
        clock.time += 20
        later_one = start()
        record = take(later_one, record, history)
        assert not later_one.runs
        assert not later_one.given_up
    clock.time += begin + 400 - clock.wall()
    later_one.look()
    assert later_one.runs and later_one.ledger.slot == begin + 400


@pytest.mark.parametrize('catch_up', CatchUp)
@pytest.mark.parametrize('rhythm', [Grid(100.0, FakeClock().wall()), Every(100.0)])
def test_holders_of_all_kinds(rhythm: Rhythm, catch_up: CatchUp) -> None:
    """Whatever becomes of holders that keep the lock, no slot that has succeeded is
    run again."""
    for seed in range(100):
        chance = random.Random(seed)
        clock = FakeClock()
        plan = Plan(rhythm, catch_up=catch_up)
        record: dict[str, Any] | None = None
        history: dict[str, Any] | None = None
        done: list[float | None] = []
        for _ in range(12):
            clock.time += chance.choice([1, 20, 50, 99, 100, 130, 260])
            holder = Agenda(plan, clock, 'alpha', keeps=True, records=Records.ENDS)
            record = take(holder, record, history)
            while chance.random() < 0.7:
                clock.time += chance.choice([0.5, 20, 100])
                holder.look()
                # Otherwise it vanishes before the run, or hands the lock over.
                if holder.runs and chance.random() < 0.8:
                    holder.begin()
                    clock.time += chance.choice([0.1, 30])
                    done.append(holder.ledger.slot)
                    holder.end(Ending.SUCCEEDED)
                    history = {'hold': record['timestamp'],
                               'ledger': holder.ledger.export()}
            if chance.random() < 0.3:
                holder.cancel()
                record |= {'schedule': holder.export(), 'released': 'x'}
        assert len(done) == len(set(done)), (seed, done)


def test_schedule_is_changed_and_the_holder_vanishes() -> None:
    """A slot of the new schedule that comes due after the holder has vanished is
    caught up, though what is written beside the lock is of the old one."""
    clock = FakeClock()
    begin = clock.wall()
    old, new = Plan(Grid(100.0, begin)), Plan(Grid(250.0, begin))
    first = Agenda(old, clock, 'alpha', keeps=True, records=Records.ENDS)
    record = take(first, None, None)
    clock.time += 100
    first.look()
    first.begin()
    first.end(Ending.SUCCEEDED)
    history = {'hold': record['timestamp'], 'ledger': first.ledger.export()}
    clock.time += 5
    second = Agenda(new, clock, 'alpha', keeps=True, records=Records.ENDS)
    record = take(second, record | {'released': 'x'}, history)
    assert not second.runs
    clock.time += 245
    third = Agenda(new, clock, 'beta', keeps=True, records=Records.ENDS)
    take(third, record, history)
    assert third.runs and third.ledger.slot == begin + 250


def test_retry_of_a_holder_that_vanished() -> None:
    """A slot that failed and was begun again by the next holder has its last
    attempt, and not its first, for the newest."""
    clock = FakeClock()
    begin = clock.wall()
    plan = Plan(Grid(100.0, begin), retries=1, retry_delay=10.0, recoveries=0)
    first = Agenda(plan, clock, 'alpha', keeps=True)
    record = take(first, None, None)
    clock.time += 100
    first.look()
    first.begin()
    first.end(Ending.FAILED)
    history = {'hold': record['timestamp'], 'ledger': first.ledger.export()}
    clock.time += 20
    second = Agenda(plan, clock, 'alpha', keeps=True)
    record = take(second, record | {
        'released': 'x', 'schedule': first.export()}, history)
    assert second.runs and second.ledger.attempt == 2
    clock.time += 20
    third = Agenda(plan, clock, 'beta', keeps=True)
    take(third, record, history)
    assert not third.runs
