"""What is done about a job: decided by its plan, its ledger and the time."""

from typing import Any

import pytest

from jobslib.schedule.belief import Memory, Situation
from jobslib.schedule.calendars import Calendar
from jobslib.schedule.decisions import (
    Decision,
    Reason,
    Why,
    decide,
    ended,
    upcoming,
)
from jobslib.schedule.ledger import Ending, Ledger, Records, State
from jobslib.schedule.plans import CatchUp, Plan, jitter
from jobslib.schedule.rhythms import Endless, Every, Grid, Pause

#: A grid of 100 s from here.
T0 = 1_700_000_000.0


def grid(**options: Any) -> Plan:
    """Return a plan with a slot each 100 s."""
    return Plan(Grid(100, T0), **options)


def ask(plan: Plan, ledger: Ledger | None, now: float, since: float = T0 + 1,
        **situation: Any) -> Decision:
    """Return what a process decides that was started at *since*."""
    return decide(plan, ledger, Situation(now, 'alpha', **situation),
                  Memory(since))


def ran(plan: Plan, slot: float | None, ending: Ending | None, *,
        took: float = 1.0) -> Ledger:
    """Return the ledger after a run of *slot*; ``None``: it is under way."""
    begun = Ledger(plan.fingerprint).begin(slot, slot or T0, 'beta')
    if ending is None:
        return begun
    return ended(plan, begun, ending, (slot or T0) + took)[0]


def whys(decision: Decision) -> list[tuple[float | None, Why]]:
    """Return what is given up, and why."""
    return [(each.slot, each.why) for each in decision.given_up]


def test_first_slot() -> None:
    """The first slot of all is the first after the start of the process."""
    decision = ask(grid(), None, T0 + 50)
    assert not decision.run
    assert decision.due == T0 + 100
    decision = ask(grid(), None, T0 + 100)
    assert (decision.run, decision.slot) == (True, T0 + 100)
    assert decision.reason is Reason.DUE


def test_done() -> None:
    """A slot that is done is not run again; the next one is waited for."""
    plan = grid()
    for ending in (Ending.SUCCEEDED, Ending.FAILED, Ending.STOPPED):
        decision = ask(plan, ran(plan, T0 + 100, ending), T0 + 150)
        assert not decision.run
        assert decision.due == T0 + 200
        assert not decision.given_up


def test_in_hand() -> None:
    """Who sees that somebody else has the lock waits for the next slot."""
    plan = grid()
    decision = ask(plan, ran(plan, T0 + 100, None), T0 + 150, held=True)
    assert not decision.run
    assert decision.due == T0 + 200
    assert decision.ledger.by == 'beta'
    assert not ask(plan, ran(plan, T0, None), T0 + 350, held=True).run


def test_run() -> None:
    """The ledger of a run says that it is begun, when, and by whom."""
    plan = grid()
    ledger = ask(plan, ran(plan, T0 + 100, Ending.SUCCEEDED), T0 + 203).ledger
    assert ledger == Ledger(
        plan.fingerprint, T0 + 200, slot=T0 + 200, state=State.BEGUN,
        began=T0 + 203, by='alpha')


def test_recovery() -> None:
    """A run that was cut short is due again at once, for anybody."""
    plan = grid()
    for left in (ran(plan, T0 + 100, Ending.CUT_SHORT),
                 ran(plan, T0 + 100, None)):
        decision = ask(plan, left, T0 + 110, vanished=True)
        assert (decision.run, decision.slot) == (True, T0 + 100)
        assert decision.reason is Reason.RECOVERY
        assert decision.ledger.attempt == 2


def test_recoveries() -> None:
    """A slot is recovered as often as the plan says, and then given up."""
    plan = grid(recoveries=1)
    again = ask(plan, ran(plan, T0 + 100, None), T0 + 110).ledger
    decision = ask(plan, again, T0 + 120)
    assert not decision.run
    assert whys(decision) == [(T0 + 100, Why.CUT_SHORT)]
    # It was written: nothing is given up twice.
    assert not ask(plan, decision.ledger, T0 + 130).given_up


def test_at_most_once() -> None:
    """Without recoveries a slot that was begun is not run again."""
    plan = grid(recoveries=0)
    ledger, given_up = ended(
        plan, ran(plan, T0 + 100, None), Ending.CUT_SHORT, T0 + 101)
    assert ledger.state is State.DONE
    assert [each.why for each in given_up] == [Why.CUT_SHORT]
    assert not ask(plan, ran(plan, T0 + 100, None), T0 + 110).run


def test_retries() -> None:
    """A failed run is tried again in its slot, after pauses that double."""
    plan = grid(retries=2, retry_delay=10)
    ledger = ran(plan, T0 + 100, Ending.FAILED, took=5)
    assert ask(plan, ledger, T0 + 114).due == T0 + 115
    decision = ask(plan, ledger, T0 + 115)
    assert decision.reason is Reason.RETRY
    ledger, given_up = ended(plan, decision.ledger, Ending.FAILED, T0 + 120)
    assert not given_up
    assert ask(plan, ledger, T0 + 130).due == T0 + 140
    decision = ask(plan, ledger, T0 + 140)
    assert decision.ledger.attempt == 3
    ledger, given_up = ended(plan, decision.ledger, Ending.FAILED, T0 + 150)
    assert [each.why for each in given_up] == [Why.FAILED]
    assert ask(plan, ledger, T0 + 160).due == T0 + 200


def test_retry_is_superseded() -> None:
    """The next slot ends the retries of the last one."""
    plan = grid(retries=1, retry_delay=500)
    ledger = ran(plan, T0 + 100, Ending.FAILED)
    assert ask(plan, ledger, T0 + 150).due == T0 + 200
    decision = ask(plan, ledger, T0 + 200)
    assert (decision.slot, decision.ledger.attempt) == (T0 + 200, 1)
    assert whys(decision) == [(T0 + 100, Why.SUPERSEDED)]


def test_retry_of_the_future() -> None:
    """The end of a run in the far future does not put off its retry."""
    plan = grid(retries=1, retry_delay=10)
    ledger = ran(plan, T0 + 100, Ending.FAILED, took=9000)
    assert ask(plan, ledger, T0 + 150).reason is Reason.RETRY


def test_catch_up() -> None:
    """Of the slots that passed the latest is run, none, or all in order."""
    now = T0 + 490
    for catch_up, slot, given_up in [
            (CatchUp.LATEST, T0 + 400, [T0 + 200, T0 + 300]),
            (CatchUp.ALL, T0 + 200, []),
            (CatchUp.NONE, None, [T0 + 200, T0 + 300, T0 + 400])]:
        plan = grid(catch_up=catch_up)
        decision = ask(plan, ran(plan, T0 + 100, Ending.SUCCEEDED), now)
        assert [each.slot for each in decision.given_up] == given_up
        assert decision.run == (slot is not None)
        if slot is not None:
            assert decision.slot == slot
            assert decision.reason is Reason.CATCH_UP


def test_punctual() -> None:
    """Without catching up a slot is still run that a holder let go."""
    plan = grid(catch_up=CatchUp.NONE)
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED)
    assert ask(plan, ledger, T0 + 245).run
    assert not ask(plan, ledger, T0 + 265).run


def test_all_in_order() -> None:
    """All slots are caught up in order, with the retries of each."""
    plan = grid(catch_up=CatchUp.ALL, retries=1, retry_delay=10)
    ledger = ran(plan, T0 + 100, Ending.FAILED)
    assert ask(plan, ledger, T0 + 105).due == T0 + 111
    assert ask(plan, ledger, T0 + 350).slot == T0 + 100
    ledger = ask(plan, ledger, T0 + 350).ledger
    ledger, _ = ended(plan, ledger, Ending.SUCCEEDED, T0 + 355)
    assert ask(plan, ledger, T0 + 355).slot == T0 + 200


@pytest.mark.parametrize('catch_up', [CatchUp.LATEST, CatchUp.ALL])
def test_start_deadline(catch_up: CatchUp) -> None:
    """A slot that would begin too late is given up."""
    plan = grid(catch_up=catch_up, start_deadline=30)
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED)
    assert ask(plan, ledger, T0 + 330).slot == T0 + 300
    decision = ask(plan, ledger, T0 + 331)
    assert not decision.run
    assert decision.due == T0 + 400
    assert whys(decision) == [(T0 + 200, Why.LATE), (T0 + 300, Why.LATE)]


def test_deadline_is_for_first_runs() -> None:
    """A slot that was begun in time is recovered however late it is; one of
    which that is not known is not."""
    plan = Plan(Grid(10_000, T0), start_deadline=30)
    begun = ran(plan, T0 + 10_000, None)
    assert ask(plan, begun, T0 + 15_000, vanished=True).run
    ledger = ran(plan, T0, Ending.SUCCEEDED).changed(records=Records.ENDS)
    assert ask(plan, ledger, T0 + 10_030, vanished=True).run
    decision = ask(plan, ledger, T0 + 15_000, vanished=True)
    assert whys(decision) == [(T0 + 10_000, Why.LATE)]


def test_pause() -> None:
    """Slots that fall into a pause are skipped."""
    plan = grid()
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED)
    decision = ask(plan, ledger, T0 + 350,
                   pauses=[(T0 + 150, T0 + 200), (T0 + 300, T0 + 310)])
    assert decision.slot == T0 + 200
    decision = ask(plan, ledger, T0 + 350, pauses=[(T0 + 150, T0 + 310)])
    assert not decision.run
    assert whys(decision) == [(T0 + 200, Why.PAUSED), (T0 + 300, Why.PAUSED)]
    assert decision.due == T0 + 400


def test_begun_before_a_pause() -> None:
    """A run that was cut short by a pause is due again after it."""
    plan = grid()
    ledger = ran(plan, T0 + 100, Ending.CUT_SHORT)
    decision = ask(plan, ledger, T0 + 350, pauses=[(T0 + 101, T0 + 340)])
    assert (decision.slot, decision.reason) == (T0 + 100, Reason.RECOVERY)


def test_jitter() -> None:
    """With jitter a run is later than its slot, and so is all that depends
    on it."""
    plan = grid(jitter=7, start_deadline=30)
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED)
    assert ask(plan, ledger, T0 + 206.9).due == T0 + 207
    decision = ask(plan, ledger, T0 + 237)
    assert (decision.run, decision.slot) == (True, T0 + 200)
    assert ask(plan, ledger, T0 + 238).due == T0 + 307
    decision = ask(plan, ledger, T0 + 350, pauses=[(T0 + 205, T0 + 206)])
    assert (T0 + 200, Why.PAUSED) not in whys(decision)


def test_jitter_of_a_name() -> None:
    """The jitter is spread over the jobs, and the same for a job always."""
    found = {jitter(f'job-{number}', 60) for number in range(100)}
    assert len(found) > 90
    assert 0 <= min(found) < 10 < 50 < max(found) < 60
    assert jitter('nightly', 600) == 98.981
    assert jitter('nightly', 0) == 0


def test_vanished_holder_that_kept_the_lock() -> None:
    """A slot that came due while a holder vanished counts as begun by it."""
    plan = grid()
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED).changed(
        records=Records.ENDS)
    decision = ask(plan, ledger, T0 + 210, vanished=True)
    assert (decision.slot, decision.reason) == (T0 + 200, Reason.RECOVERY)
    assert decision.ledger.attempt == 2
    # One that let go of the lock had not.
    decision = ask(plan, ledger, T0 + 210)
    assert (decision.reason, decision.ledger.attempt) == (Reason.DUE, 1)
    # Neither had one that records what it begins.
    exact = ledger.changed(records=Records.BEGINS)
    assert ask(plan, exact, T0 + 210, vanished=True).ledger.attempt == 1


def test_vanished_holder_in_a_pause() -> None:
    """A holder that vanished has not begun a slot in a pause, and none after
    it."""
    plan = grid()
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED).changed(
        records=Records.ENDS)
    decision = ask(plan, ledger, T0 + 310, vanished=True,
                   pauses=[(T0 + 150, T0 + 250)])
    assert (decision.slot, decision.ledger.attempt) == (T0 + 300, 1)
    assert whys(decision) == [(T0 + 200, Why.PAUSED)]


def test_vanished_holder_without_recoveries() -> None:
    """A slot that may have been begun is not begun again where a slot is run
    at most once."""
    plan = grid(recoveries=0)
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED).changed(
        records=Records.ENDS)
    decision = ask(plan, ledger, T0 + 210, vanished=True)
    assert not decision.run
    assert whys(decision) == [(T0 + 200, Why.CUT_SHORT)]


def test_vanished_holder_before_a_retry() -> None:
    """A retry that came due while its holder vanished counts as begun."""
    plan = grid(retries=1, retry_delay=10, recoveries=1)
    ledger = ran(plan, T0 + 100, Ending.FAILED).changed(records=Records.ENDS)
    assert not ask(plan, ledger, T0 + 105, vanished=True).run
    decision = ask(plan, ledger, T0 + 120, vanished=True)
    assert (decision.reason, decision.ledger.attempt) == (Reason.RECOVERY, 3)


def test_vanished_holder_that_wrote_nothing() -> None:
    """Of a holder that wrote nothing while it had the lock only the newest
    slot is in doubt."""
    plan = grid()
    ledger = ran(plan, T0 + 100, None).changed(records=Records.NOTHING)
    decision = ask(plan, ledger, T0 + 990, vanished=True)
    assert (decision.slot, decision.reason) == (T0 + 900, Reason.RECOVERY)
    assert not decision.given_up
    decision = ask(plan, ledger, T0 + 190, vanished=True)
    assert (decision.slot, decision.reason) == (T0 + 100, Reason.RECOVERY)


def test_changed_schedule() -> None:
    """After a change of the schedule there is no catching up, and what was to
    be tried again is given up."""
    old = ran(Plan(Grid(70, T0)), T0 + 70, Ending.CUT_SHORT)
    plan = grid()
    decision = ask(plan, old, T0 + 350, since=T0 + 320)
    assert not decision.run
    assert decision.due == T0 + 400
    assert whys(decision) == [(T0 + 70, Why.CHANGED)]


def test_two_schedules() -> None:
    """A process with another schedule does not run slots from before the last
    run, whenever it was started."""
    new = ran(grid(), T0 + 300, Ending.SUCCEEDED)
    old = Plan(Grid(70, T0))
    decision = ask(old, new, T0 + 301, since=T0 - 1000)
    assert not decision.run
    assert decision.due == T0 + 350


def test_clocks_that_differ() -> None:
    """A slot that was run by a clock that is ahead is not run again."""
    for interval in (2, 100):
        plan = Plan(Grid(interval, T0))
        ledger = ran(plan, T0 + 100, Ending.SUCCEEDED)
        memory = Memory(T0 - 50)
        for now in (T0 + 97, T0 + 99, T0 + 100, T0 + 101):
            assert not decide(plan, ledger, Situation(now), memory).run


def test_ledger_from_the_future() -> None:
    """A ledger from the future is not believed for longer than a period, and
    nothing is run again because of it."""
    plan = grid()
    ledger = ran(plan, T0 + 86400, Ending.SUCCEEDED)
    memory = Memory(T0 - 5000)
    for now in (T0 + 20, T0 + 60, T0 + 99.5):
        decision = decide(plan, ledger, Situation(now), memory)
        assert not decision.run
        assert decision.due == T0 + 100
    decision = decide(plan, ledger, Situation(T0 + 100), memory)
    assert (decision.run, decision.slot) == (True, T0 + 100)
    assert decision.ledger.settled == T0 + 100
    assert not decision.given_up


def test_pause_after_a_run_of_the_future() -> None:
    """Where the next run depends on the last, an end in the future puts it
    off for one period."""
    plan = Plan(Pause(60))
    ledger = ran(plan, T0 + 86400, Ending.SUCCEEDED)
    memory = Memory(T0 - 5000)
    for now in (T0, T0 + 30, T0 + 59):
        assert decide(plan, ledger, Situation(now), memory).due == T0 + 60
    assert decide(plan, ledger, Situation(T0 + 60), memory).run


def test_clock_that_is_put_back() -> None:
    """A clock that is put back before there is a ledger delays nothing."""
    memory = Memory(T0 + 5000)
    plan = grid()
    assert not decide(plan, None, Situation(T0 + 50), memory).run
    assert decide(plan, None, Situation(T0 + 100), memory).run


def test_slot_whose_jitter_the_start_falls_into() -> None:
    """What comes due after the start of the job's first process is run, as is
    said at the start; nothing else from before is."""
    plan = grid(jitter=30)
    memory = Memory.of_a_loop(plan, T0 + 220.0)
    assert decide(plan, None, Situation(T0 + 220), memory).due == T0 + 230
    decision = decide(plan, None, Situation(T0 + 230), memory)
    assert (decision.run, decision.slot) == (True, T0 + 200)
    assert not decision.given_up


def test_one_run() -> None:
    """A process that is started for one run takes the slot that is due, if no
    ledger says that it is done."""
    plan = grid(jitter=3)
    memory = Memory.of_one_run(plan, T0 + 200.2)
    decision = decide(plan, None, Situation(T0 + 200.2), memory)
    assert decision.due == T0 + 203
    decision = decide(plan, None, Situation(T0 + 203), memory)
    assert (decision.run, decision.slot) == (True, T0 + 200)
    assert not decision.given_up
    done, _ = ended(plan, decision.ledger, Ending.SUCCEEDED, T0 + 204)
    assert not decide(plan, done, Situation(T0 + 205), memory).run


def test_sleep() -> None:
    """A pause begins with the end of the last run, wherever that was."""
    plan = Plan(Pause(60))
    decision = ask(plan, None, T0 + 3)
    assert (decision.run, decision.slot) == (True, T0 + 3)
    ledger, _ = ended(plan, decision.ledger, Ending.FAILED, T0 + 10)
    assert ask(plan, ledger, T0 + 60).due == T0 + 70
    decision = ask(plan, ledger, T0 + 75)
    assert (decision.run, decision.slot) == (True, T0 + 70)
    decision = ask(plan, decision.ledger, T0 + 80, vanished=True)
    assert (decision.reason, decision.slot) == (Reason.RECOVERY, T0 + 70)
    assert ask(plan, decision.ledger, T0 + 81, held=True).due is None


def test_sleep_after_a_slot_that_is_given_up() -> None:
    """When a run was cut short too often, the next is due after the pause."""
    plan = Plan(Pause(60), recoveries=0)
    decision = ask(plan, ran(plan, T0, None), T0 + 10, vanished=True)
    assert whys(decision) == [(T0, Why.CUT_SHORT)]
    assert decision.due == T0 + 60


def test_grid_without_origin() -> None:
    """A grid begins with the first run; its origin goes on with the ledger,
    also when the interval is changed."""
    plan = Plan(Every(100))
    decision = ask(plan, None, T0 + 3)
    assert (decision.run, decision.slot) == (True, T0 + 3)
    ledger, _ = ended(plan, decision.ledger, Ending.SUCCEEDED, T0 + 4)
    assert ask(plan, ledger, T0 + 50).due == T0 + 103
    assert upcoming(plan, ledger, T0 + 50, 2) == [T0 + 103, T0 + 203]
    other = Plan(Every(30))
    assert ask(other, ledger, T0 + 50, since=T0 + 50).due == T0 + 63
    assert upcoming(other, Ledger(other.fingerprint), T0, 2) == []


def test_endless() -> None:
    """Without a schedule runs follow one another; failures in a row make
    pauses."""
    plan = Plan(Endless())
    ledger, now = Ledger(plan.fingerprint), T0
    pauses = []
    for _ in range(9):
        decision = ask(plan, ledger, now)
        assert decision.run
        assert decision.slot is None
        ledger, given_up = ended(plan, decision.ledger, Ending.FAILED, now)
        assert not given_up
        due = ask(plan, ledger, now).due
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    ledger, _ = ended(plan, ask(plan, ledger, now).ledger,
                      Ending.SUCCEEDED, now)
    decision = ask(plan, ledger, now)
    assert decision.run
    decision = ask(plan, decision.ledger, now + 1, vanished=True)
    assert decision.run
    assert not decision.given_up


def test_many_slots() -> None:
    """After a long time the newest slot is found at once, and no more than a
    thousand that passed are told apart."""
    plan = Plan(Calendar.parse(['* * * * * *'], 'Europe/Prague'))
    ledger = ran(plan, T0, Ending.SUCCEEDED)
    decision = ask(plan, ledger, T0 + 10 * 86400)
    assert decision.slot == T0 + 10 * 86400
    assert len(decision.given_up) == 999
    assert decision.more


def test_all_with_a_deadline() -> None:
    """What is far too late is given up at once, however much it is."""
    plan = grid(catch_up=CatchUp.ALL, start_deadline=250)
    ledger = ran(plan, T0, Ending.SUCCEEDED)
    decision = ask(plan, ledger, T0 + 1_000_050)
    assert decision.slot == T0 + 999_800
    assert decision.more
    assert decision.given_up[-1].slot == T0 + 999_700


def test_ledger_in_json() -> None:
    """A ledger comes back from JSON as it was; anything else is none."""
    plan = grid()
    ledger = ran(plan, T0 + 100, Ending.FAILED).changed(
        origin=T0, records=Records.ENDS, presumed=True)
    assert Ledger.parse(ledger.export()) == ledger
    found: Any
    for found in (None, 7, 'x', [], {}, {'origin': 1.0, 'due': 2.0},
                  ledger.export() | {'settled': '7'},
                  ledger.export() | {'settled': 1e300},
                  ledger.export() | {'settled': float('nan')},
                  ledger.export() | {'schedule': 7},
                  ledger.export() | {'state': 'asleep'}):
        assert Ledger.parse(found) is None
    odd = Ledger.parse(ledger.export() | {
        'slot': [], 'failures': -1, 'cuts': True, 'ending': {}, 'by': 7,
        'records': None, 'began': True})
    assert odd is not None
    assert (odd.slot, odd.failures, odd.cuts, odd.ending, odd.by, odd.began
            ) == (None, 0, 0, None, None, None)
    assert odd.records is Records.BEGINS


@pytest.mark.parametrize('catch_up', list(CatchUp))
def test_skipped(catch_up: CatchUp) -> None:
    """A slot that an operator does not want is given up, by who decides."""
    plan = grid(catch_up=catch_up)
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED)
    decision = ask(plan, ledger, T0 + 201, skips=[T0 + 200])
    assert not decision.run and decision.due == T0 + 300
    assert whys(decision) == [(T0 + 200, Why.SKIPPED)]
    decision = ask(plan, ledger, T0 + 301, skips=[T0 + 200])
    assert decision.run and decision.slot == T0 + 300
    assert whys(decision) == [(T0 + 200, Why.SKIPPED)]


def test_skipped_slot_is_not_cut_short() -> None:
    """A holder that vanished had not begun what was to be skipped."""
    plan = grid()
    ledger = ran(plan, T0 + 100, Ending.SUCCEEDED).changed(
        records=Records.ENDS)
    assert ask(plan, ledger, T0 + 201, vanished=True).run
    assert not ask(plan, ledger, T0 + 201, vanished=True,
                   skips=[T0 + 200]).run


@pytest.mark.parametrize('interval', [1e-9, 0.0011, 7.0, 1e10])
def test_newest_slots_of_a_grid(interval: float) -> None:
    """The newest slots are found at once, however many there are."""
    grid = Grid(interval, T0 + 1e8)
    found, more = grid.last(T0 - 40 * max(interval, 0.001), T0, 5)
    assert found == sorted(set(found)) and len(found) == 5 and more
    assert found[-1] <= T0 < grid.after(found[-1])
    assert grid.last(found[0], T0, 5) == (found[1:], False)
    assert grid.last(T0, T0, 5) == ([], False)


@pytest.mark.parametrize('more', [0.0, 50.0])
def test_slots_of_a_long_pause(more: float) -> None:
    """Thousands of slots that fell into a pause are given up at once, and the
    first after it is run."""
    plan = grid(catch_up=CatchUp.ALL)
    until = T0 + 1e9 + more
    ledger = Ledger(plan.fingerprint, T0 + 100)
    situation = Situation(until + 199.0, pauses=[(T0 + 250, until)])
    decision = decide(plan, ledger, situation, Memory(T0))
    assert decision.run and decision.slot == T0 + 200
    decision = decide(plan, ledger.changed(settled=T0 + 200), situation, Memory(T0))
    assert decision.run and decision.slot == T0 + 1e9 + (100 if more else 0)
    assert decision.more and {each.why for each in decision.given_up} == {Why.PAUSED}
    assert len(decision.given_up) in (999, 1000)
    assert decision.given_up[-1].slot == decision.slot - 100
