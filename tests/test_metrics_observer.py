"""The loop's own metrics."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from jobslib.exceptions import LockError
from jobslib.history import History
from jobslib.metrics.names import HELP
from jobslib.metrics.observer import MetricsObserver
from jobslib.runs import Outcome, Run

if TYPE_CHECKING:
    from jobslib.metrics import Metrics


class Loop:
    """The observer of a loop, with a fake lock and clock."""

    def __init__(self, **lock: Any) -> None:
        self.time = 100.0
        self.context = SimpleNamespace(
            config=SimpleNamespace(task_name='job'), fqdn='here.example',
            one_instance_lock=SimpleNamespace(**lock),
            metrics=SimpleNamespace(wake=self._wake, watch=self._watch,
                                    close=self._close))
        self.calls: list[str] = []
        self.observer = MetricsObserver(self.context, now=lambda: self.time)

    def _wake(self) -> None:
        self.calls.append('wake')

    def _watch(self, read: Callable[[], list[Metrics]]) -> None:
        self.calls.append('watch')

    def _close(self) -> None:
        self.calls.append('close')

    def end_run(self, outcome: Outcome, duration: float = 2.0) -> None:
        """Let a run end."""
        run = Run(1, None, 1.7e9)
        self.observer.run_begins(run)
        run.end(outcome, duration)
        self.observer.run_ended(run)

    def read(self, name: str, **tags: str) -> float | None:
        """Return the value of one series now."""
        wanted = {'task': 'job', 'fqdn': 'here.example', **tags}
        found = [each[name]['value'] for each in self.observer.read()
                 if name in each and each[name]['tags'] == wanted]
        assert len(found) < 2
        return found[0] if found else None


RUNS, SECONDS = 'jobslib_runs_total', 'jobslib_run_seconds'
LAST, SLACK = ('jobslib_last_success_timestamp_seconds',
               'jobslib_lease_slack_seconds')
HELD, MISSED = 'jobslib_lock_held', 'jobslib_missed_slots_total'


def test_every_metric_is_documented() -> None:
    """The loop has no metric but those with a meaning."""
    loop = Loop(lease_left=lambda: 4.0)
    loop.observer.acquired(1)
    loop.end_run(Outcome.SUCCEEDED)
    found = {name for each in loop.observer.read() for name in each}
    assert found == set(HELP)
    page = pathlib.Path(__file__).parents[1] / 'docs/guide/metrics.rst'
    assert set(re.findall(
        r'^``(jobslib_\w+)``', page.read_text(), re.MULTILINE)) == found


def test_runs_are_counted_from_zero() -> None:
    """Every outcome has a count from the start, but not one of pending."""
    loop = Loop()
    for outcome in ('succeeded', 'failed', 'interrupted', 'killed'):
        assert loop.read(RUNS, outcome=outcome) == 0
        assert loop.read(SECONDS, outcome=outcome) is None
    assert loop.read(RUNS, outcome='pending') is None
    assert loop.read(LAST) is None


@pytest.mark.parametrize('outcome', [
    each for each in Outcome if each is not Outcome.PENDING])
def test_run_has_its_outcome(outcome: Outcome) -> None:
    """A run is counted under its outcome, with its duration."""
    loop = Loop()
    loop.end_run(outcome, 2.5)
    loop.end_run(outcome, 3.5)
    assert loop.read(RUNS, outcome=outcome.value) == 2
    assert loop.read(SECONDS, outcome=outcome.value) == 3.5
    succeeded = outcome is Outcome.SUCCEEDED
    assert loop.read(LAST) == (1.7e9 + 3.5 if succeeded else None)


def test_last_success_stays() -> None:
    """A failure does not change the time of the last success."""
    loop = Loop()
    loop.end_run(Outcome.SUCCEEDED, 2.0)
    loop.end_run(Outcome.FAILED, 7.0)
    assert loop.read(LAST) == 1.7e9 + 2.0


def test_pending_run_grows() -> None:
    """The run under way is as long as it has taken until now."""
    loop = Loop()
    assert loop.read(SECONDS, outcome='pending') == 0
    loop.observer.run_begins(Run(1, None, 1.7e9))
    loop.time += 5
    assert loop.read(SECONDS, outcome='pending') == 5
    run = Run(1, None, 1.7e9)
    run.end(Outcome.FAILED, 6.0)
    loop.observer.run_ended(run)
    assert loop.read(SECONDS, outcome='pending') == 0


@pytest.mark.parametrize('ends', ['released', 'lost'])
def test_lock_and_lease(ends: str) -> None:
    """What is left of the lease is that of the moment, 0 without the lock."""
    left = [3.0]
    loop = Loop(lease_left=lambda: left[0])
    assert loop.read(HELD) == 0 and loop.read(SLACK) is None
    loop.observer.acquired(1)
    assert loop.read(HELD) == 1 and loop.read(SLACK) == 3.0
    left[0] = 1.5
    assert loop.read(SLACK) == 1.5
    left[0] = -1.0
    assert loop.read(SLACK) == 0
    getattr(loop.observer, ends)(*(['gone'] if ends == 'lost' else []))
    assert loop.read(HELD) == 0 and loop.read(SLACK) == 0


def fail() -> float:
    """Be a lock that does not answer."""
    raise LockError('no answer')


@pytest.mark.parametrize('lock', [
    {}, {'lease_left': lambda: None}, {'lease_left': fail}])
def test_lock_without_lease(lock: dict[str, Any]) -> None:
    """A lock that has no lease, or does not tell, has no slack."""
    loop = Loop(**lock)
    loop.observer.acquired(1)
    assert loop.read(HELD) == 1 and loop.read(SLACK) is None


def test_missed_slots_are_added() -> None:
    """Missed slots are counted."""
    loop = Loop()
    loop.observer.missed(2)
    loop.observer.missed(3)
    assert loop.read(MISSED) == 5


def test_events_are_pushed() -> None:
    """Each event that changes something wakes the metrics, the end closes."""
    loop = Loop()
    loop.observer.started()
    loop.observer.acquired(1)
    loop.end_run(Outcome.FAILED)
    loop.observer.missed(1)
    loop.observer.released()
    loop.observer.lost('gone')
    loop.observer.closed()
    assert loop.calls == ['watch', *['wake'] * 6, 'close']


def test_what_the_holder_before_left() -> None:
    """A run that was killed counts with the next holder, as does the last
    success of all of them."""
    loop = Loop()
    history = History(10)
    history.succeeded = 1.6e9
    history.unfinished = Run(1, 7, 1.6e9)
    history.unfinished.end(Outcome.KILLED, 3.0)
    loop.observer.inherited(history)
    assert loop.read(RUNS, outcome='killed') == 1
    assert loop.read(SECONDS, outcome='killed') == 3.0
    assert loop.read('jobslib_last_success_timestamp_seconds') == 1.6e9
    loop.observer.inherited(History(10))
    assert loop.read(RUNS, outcome='killed') == 1
    assert loop.read('jobslib_last_success_timestamp_seconds') == 1.6e9
