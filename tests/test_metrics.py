"""Metrics: what is pushed when, and that nothing waits for it."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support import DEADLINE, make_context, until

from jobslib.context import Context
from jobslib.exceptions import ConfigError, LockError
from jobslib.metrics import BaseMetrics, background, batches_of, samples_of
from jobslib.metrics.background import BackgroundMetrics
from jobslib.metrics.dummy import DummyMetrics
from jobslib.metrics.names import HELP
from jobslib.metrics.observer import MetricsObserver
from jobslib.runs import Outcome, Run

if TYPE_CHECKING:
    from jobslib.metrics import Metrics


class FakeMetrics(BaseMetrics):
    """Keeps what is pushed; fails or hangs when told to."""

    def __init__(self, context: Any, options: Any) -> None:
        super().__init__(context, options)
        self.pushed: list[Metrics] = []
        self.tries = 0
        self.problem: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.closed = False

    def push(self, metrics: Metrics) -> None:
        self.tries += 1
        self.free.wait(DEADLINE)
        if self.problem is not None:
            raise self.problem
        self.pushed.append(metrics)

    def close(self) -> None:
        self.closed = True

    def values(self, name: str) -> list[float]:
        """Return the values of a metric, in the order of their arrival."""
        return [metrics[name]['value'] for metrics in list(self.pushed)
                if name in metrics]


SETTINGS = {'METRICS': {'backend': f'{__name__}.FakeMetrics'}}


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Push more often than once in a second."""
    monkeypatch.setattr(background, 'PAUSE', 0.01)
    monkeypatch.setattr(background, 'LONGEST_PAUSE', 0.02)


@pytest.fixture
def context() -> Iterator[Context]:
    """A context with metrics that go to a fake."""
    context = make_context(SETTINGS)
    yield context
    fake_of(context).free.set()
    context.metrics.close()


def fake_of(context: Context) -> FakeMetrics:
    """Return where the metrics of *context* go."""
    assert isinstance(context.metrics, BackgroundMetrics)
    assert isinstance(context.metrics.backend, FakeMetrics)
    return context.metrics.backend


def number(value: float) -> Metrics:
    """Return one metric with this value."""
    return {'n': {'value': value}}


# What metrics look like

@pytest.mark.parametrize('entry', [
    1, {}, {'value': '1'}, {'value': None}, {'tags': {}},
    {'value': 1, 'tag': {}}])
def test_other_forms_are_refused(context: Context, entry: Any) -> None:
    """A push of something else fails at once, and says which metric it is."""
    with pytest.raises(ValueError, match="metric 'n'"):
        context.metrics.push({'n': entry})


def test_series_are_packed_into_few_batches() -> None:
    """Series of one name go into different dicts, others share one."""
    metrics: list[Metrics] = [
        {'a': {'value': 1, 'tags': {'x': '1'}}, 'b': {'value': 2.5, 'tags': {}}},
        {'a': {'value': 3, 'tags': {'x': '2'}}}]
    samples = [sample for each in metrics for sample in samples_of(each)]
    assert batches_of(samples) == metrics


# The background

def test_without_a_backend_nothing_happens() -> None:
    """With no backend, metrics are forgotten and no thread is started."""
    context = make_context()
    before = set(threading.enumerate())
    context.metrics.push(number(1))
    assert isinstance(context.metrics, DummyMetrics)
    assert not set(threading.enumerate()) - before


def test_thread_starts_when_needed(context: Context) -> None:
    """No thread is there before the first push."""
    before = set(threading.enumerate())
    fake = fake_of(context)
    assert not set(threading.enumerate()) - before
    context.metrics.push(number(1))
    until(lambda: fake.pushed)
    assert len(set(threading.enumerate()) - before) == 1


def test_push_does_not_wait(context: Context) -> None:
    """While the server hangs, pushes return, and the newest value wins."""
    fake = fake_of(context)
    fake.free.clear()
    context.metrics.push(number(0))
    until(lambda: fake.tries == 1)
    for value in range(1, 1001):
        context.metrics.push(number(value))
    assert fake.tries == 1
    fake.free.set()
    until(lambda: fake.values('n') == [0, 1000])


def test_waiting_series_are_bounded(
        context: Context, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Series beyond the bound are dropped, which is logged once."""
    monkeypatch.setattr(background, 'MOST_WAITING', 3)
    fake = fake_of(context)
    fake.free.clear()
    context.metrics.push(number(0))
    until(lambda: fake.tries == 1)
    for value in range(10):
        context.metrics.push({f'n{value}': {'value': value}})
    context.metrics.push({'n1': {'value': 7}})
    fake.free.set()
    until(lambda: len(fake.pushed) == 2)
    assert {name: each['value'] for name, each in fake.pushed[1].items()} == {
        'n0': 0, 'n1': 7, 'n2': 2}
    assert caplog.messages == ['metrics are dropped: 3 are waiting']


def test_pushes_have_a_pause(
        context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes soon after a push is collected, however much it is."""
    monkeypatch.setattr(background, 'PAUSE', 0.5)
    fake = fake_of(context)
    context.metrics.push(number(0))
    until(lambda: fake.pushed)
    began = time.monotonic()
    for value in range(1, 100):
        context.metrics.push(number(value))
    until(lambda: len(fake.pushed) == 2)
    assert time.monotonic() - began > 0.3
    assert fake.values('n') == [0, 99]


def test_failure_is_logged_when_it_begins_and_ends(
        context: Context, caplog: pytest.LogCaptureFixture) -> None:
    """Failing pushes are one warning, and their end is one line."""
    caplog.set_level(logging.INFO)
    fake = fake_of(context)
    fake.problem = OSError('refused\nmore')
    context.metrics.push(number(1))
    until(lambda: fake.tries >= 4)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ('WARNING', 'metrics are not pushed: OSError: refused')]
    fake.problem = None
    until(lambda: fake.values('n') == [1])
    context.metrics.push(number(2))
    until(lambda: fake.values('n') == [1, 2])
    assert caplog.messages[1:] == ['metrics are pushed again']


def test_newer_value_wins_over_one_that_failed(context: Context) -> None:
    """A value that did not arrive does not come after a newer one."""
    fake = fake_of(context)
    fake.free.clear()
    fake.problem = OSError('refused')
    context.metrics.push(number(1) | {'m': {'value': 5}})
    until(lambda: fake.tries == 1)
    context.metrics.push(number(2))
    fake.free.set()
    until(lambda: fake.tries >= 3)
    fake.problem = None
    until(lambda: fake.pushed)
    assert fake.values('n') == [2] and fake.values('m') == [5]


def test_close_pushes_the_rest(
        context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end does not wait for the pause, but for the last push."""
    monkeypatch.setattr(background, 'PAUSE', 60.0)
    fake = fake_of(context)
    context.metrics.push(number(1))
    until(lambda: fake.pushed)
    context.metrics.push(number(2))
    context.metrics.close()
    assert fake.values('n') == [1, 2]
    assert fake.closed


def test_close_gives_up(
        context: Context, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is not waited for."""
    monkeypatch.setattr(background, 'CLOSE_TIMEOUT', 0.1)
    fake = fake_of(context)
    fake.free.clear()
    context.metrics.push(number(1))
    context.metrics.close()
    assert not fake.pushed and not fake.closed
    assert caplog.messages == ['the last metrics are given up after 0.1 s']


def test_backend_that_cannot_close_is_logged(
        context: Context, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """What close() raises is one line."""
    monkeypatch.setattr(FakeMetrics, 'close', lambda self: 1 / 0)
    context.metrics.push(number(1))
    context.metrics.close()
    assert caplog.messages == [
        'metrics are not closed: ZeroDivisionError: division by zero']


def forked(function: Callable[[], object]) -> bool:
    """Return whether *function*, called in a forked process, returns."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    _pid, status = os.waitpid(pid, 0)
    return status == 0


@pytest.mark.filterwarnings('ignore:.*fork:DeprecationWarning')
def test_forked_process_starts_anew(context: Context) -> None:
    """A fork, in the midst of a push, has nothing to push, and can push."""
    fake = fake_of(context)
    context.metrics.watch(lambda: [{'loop': {'value': 1}}])
    until(lambda: fake.pushed)
    fake.free.clear()
    tries = fake.tries
    context.metrics.push(number(1))
    until(lambda: fake.tries > tries)
    context.metrics.push(number(2))

    def child() -> None:
        context.metrics.close()
        fake.pushed.clear()
        fake.free = threading.Event()
        fake.free.set()
        context.metrics.push({'child': {'value': 3}})
        context.metrics.close()
        assert fake.pushed == [{'child': {'value': 3.0, 'tags': {}}}]
    assert forked(child)
    fake.free.set()
    until(lambda: fake.values('n') == [1, 2])


def test_interval_pushes_what_changes_by_itself(context: Context) -> None:
    """Without any event the loop's metrics are pushed after each interval."""
    fake = fake_of(context)
    assert isinstance(context.metrics, BackgroundMetrics)
    context.metrics.interval = 0.01
    context.metrics.watch(lambda: [{'loop': {'value': 1}}])
    until(lambda: len(fake.pushed) > 3)


# The observer

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


def test_observer_pushes_to_the_backend(context: Context) -> None:
    """From the loop's events to a backend that only has push()."""
    fake = fake_of(context)
    observer = MetricsObserver(context)
    observer.started()
    observer.acquired(1)
    run = Run(1, 1, 1.7e9)
    run.end(Outcome.SUCCEEDED, 2.0)
    observer.run_ended(run)
    observer.closed()
    assert fake.values(LAST)[-1] == 1.7e9 + 2
    assert {each[RUNS]['tags']['outcome'] for each in fake.pushed
            if RUNS in each} == {'succeeded', 'failed', 'interrupted', 'killed'}
    assert fake.pushed[0][HELD]['tags'] == {
        'task': 'plain', 'fqdn': context.fqdn}


def test_unknown_backend_is_refused() -> None:
    """A backend that is not there is a mistake of the configuration."""
    with pytest.raises(ConfigError, match='backend.*is not a BaseMetrics|no mod'):
        make_context({'METRICS': {'backend': 'nowhere.Metrics'}})
