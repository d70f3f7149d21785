"""Random histories of a job: each slot is run, tried again or given up as an
independent, slow and simple reference says.

The number of histories is that of ``JOBSLIB_MODEL_HISTORIES``.
"""

import itertools
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedule_model import BEGIN, ByLedger, Event, Reference, Story, World

from jobslib.schedule.belief import TOLERANCE, Memory, Situation
from jobslib.schedule.calendars import Calendar
from jobslib.schedule.decisions import decide, ended
from jobslib.schedule.ledger import Ending
from jobslib.schedule.plans import CatchUp, Plan
from jobslib.schedule.rhythms import Grid

HISTORIES = int(os.environ.get('JOBSLIB_MODEL_HISTORIES', '1000'))
LENGTH = 120

seconds = st.integers(0, LENGTH)
spans = st.lists(
    st.tuples(seconds, st.integers(1, 90)).map(lambda at: (at[0], sum(at))),
    max_size=2)


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """Return the options of a plan."""
    return {
        'catch_up': draw(st.sampled_from(CatchUp)),
        'start_deadline': draw(st.none() | st.integers(0, 30)),
        'retries': draw(st.integers(0, 2)),
        'retry_delay': draw(st.integers(0, 8)),
        'recoveries': draw(st.integers(0, 2)),
        'jitter': draw(st.just(0) | st.integers(0, 5)),
    }


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Return a story."""
    if draw(st.booleans()):
        interval = draw(st.sampled_from([2, 3, 5, 10, 20, 30]))
        due = set(range(0, 60, interval))
        rhythm: Any = Grid(interval, BEGIN - 600 * interval)
    else:
        due = draw(st.sets(st.integers(0, 59), min_size=1, max_size=6))
        rhythm = Calendar.parse(
            [f'{",".join(map(str, sorted(due)))} * * * * *'])
    clocks = draw(st.lists(st.integers(-3, 3), min_size=1, max_size=3))
    number = st.integers(-1, len(clocks) - 1)
    events = [(draw(st.integers(0, 30)), each, 'start')
              for each in range(len(clocks))]
    what = st.sampled_from(['kill', 'kill', 'term', 'hand over'])
    for _ in range(draw(st.integers(0, 8))):
        second, each = draw(seconds), draw(number)
        events.append((second, each, draw(what)))
        events.append((second + draw(st.integers(1, 30)), max(each, 0),
                       'start'))
    return Story(
        due, rhythm, draw(st.booleans()), clocks, sorted(events),
        draw(spans), draw(spans),
        draw(st.lists(st.tuples(st.integers(0, 25), st.booleans()),
                      min_size=1, max_size=6)),
        draw(options()), LENGTH)


@settings(max_examples=HISTORIES, deadline=None,
          suppress_health_check=list(HealthCheck))
@given(stories())
def test_as_the_reference_says(story: Story) -> None:
    """Runs begin and slots are given up when the reference says so, for the
    same reasons and with the same attempts."""
    expected = World(story, Reference(story)).run()
    assert World(story, ByLedger(story)).run() == expected
    check_budget(story, expected)


def check_budget(story: Story, log: list[Event]) -> None:
    """No slot is run more often than the options say, or after it is over."""
    most = 1 + story.options['retries'] + story.options['recoveries']
    runs: dict[float, int] = {}
    over = set()
    for _, _, what, slot, *_ in log:
        assert slot not in over
        if what == 'run':
            runs[slot] = runs.get(slot, 0) + 1
            assert runs[slot] <= most
        else:
            over.add(slot)


@settings(max_examples=max(20, HISTORIES // 50), deadline=None,
          suppress_health_check=list(HealthCheck))
@given(interval=st.sampled_from([5, 20, 60, 100]),
       steps=st.lists(st.tuples(st.integers(1, 300),
                                st.integers(-2000, 2000)), max_size=5),
       catch_up=st.sampled_from(CatchUp), success=st.booleans())
def test_clock_steps(interval: int, steps: list[tuple[int, int]],
                     catch_up: CatchUp, success: bool) -> None:
    """However the clock jumps, a job is not stuck for longer than a period
    after that, and no slot is run twice before the clock jumps again."""
    plan = Plan(Grid(interval, BEGIN), catch_up=catch_up)
    ledger, now = None, BEGIN
    milliseconds = itertools.count()
    memory = Memory(now)
    for length, step in [*steps, (500, 0)]:
        last, slots = now, []
        for now in range(last, last + length):
            decision = decide(plan, ledger, Situation(now), memory)
            if decision.run:
                slots.append(decision.slot)
                last = now
                # No two runs end at the same time, to the millisecond.
                ledger, _ = ended(
                    plan, decision.ledger,
                    Ending.SUCCEEDED if success else Ending.FAILED,
                    now + next(milliseconds) / 1000)
            assert now - last <= 2 * interval + TOLERANCE
        assert len(slots) == len(set(slots))
        now += step
