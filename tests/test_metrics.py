"""Metrics: what is pushed when, and that nothing waits for it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support import DEADLINE, make_context, until

from jobslib.context import Context
from jobslib.exceptions import ConfigError
from jobslib.metrics import BaseMetrics, background, batches_of, samples_of
from jobslib.metrics.background import BackgroundMetrics
from jobslib.metrics.dummy import DummyMetrics
from jobslib.metrics.names import LAST_SUCCESS, LOCK_HELD, RUNS
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
    {'value': 1, 'tag': {}}, {'value': 10 ** 400},
    {'value': 1, 'tags': ['a']}])
def test_other_forms_are_refused(context: Context, entry: Any) -> None:
    """A push of something else fails at once, and says which metric it is."""
    with pytest.raises(ValueError, match="metric 'n'"):
        context.metrics.push({'n': entry})


def test_texts_that_cannot_be_encoded() -> None:
    """A tag that no encoding has does not keep others from being sent."""
    [((name, tags), value)] = samples_of(
        {'no \udcff': {'value': 1, 'tags': {'file': 'a\udcff'}}})
    assert (name, tags, value) == (r'no \udcff', (('file', r'a\udcff'),), 1.0)
    f'{name}{tags}'.encode()


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
    monkeypatch.setattr(background, 'PAUSE', 2.0)
    fake = fake_of(context)
    began = time.monotonic()
    context.metrics.push(number(0))
    until(lambda: fake.pushed)
    for value in range(1, 100):
        context.metrics.push(number(value))
    until(lambda: len(fake.pushed) == 2)
    assert time.monotonic() - began >= 2
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


class Racing(dict[Any, float]):
    """Gets a newer value in the moment in which one is taken out."""

    newer: float | None = 2.0

    def popitem(self) -> tuple[Any, float]:
        series, value = super().popitem()
        if self.newer is not None:
            self[series], self.newer = self.newer, None
        return series, value


def test_value_that_comes_in_between_is_not_lost(context: Context) -> None:
    """A value that is pushed while others are taken to be sent is sent."""
    fake = fake_of(context)
    assert isinstance(context.metrics, BackgroundMetrics)
    context.metrics._waiting = Racing()
    context.metrics.push(number(1))
    until(lambda: fake.pushed)
    context.metrics.push({'m': {'value': 5}})
    until(lambda: fake.values('n')[-1] == 2 and fake.values('m') == [5])


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


def test_interval_beyond_all_timers() -> None:
    """An interval may be as long as it likes; events are pushed."""
    context = make_context({'METRICS': {
        **SETTINGS['METRICS'], 'options': {'interval': 1e12}}})
    assert isinstance(context.metrics, BackgroundMetrics)
    context.metrics.watch(lambda: [{'loop': {'value': 1}}])
    fake = fake_of(context)
    until(lambda: len(fake.pushed) == 1)
    context.metrics.push(number(2))
    until(lambda: 2 in fake.values('n'))
    context.metrics.close()


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
    assert fake.values(LAST_SUCCESS)[-1] == 1.7e9 + 2
    assert {each[RUNS]['tags']['outcome'] for each in fake.pushed
            if RUNS in each} == {'succeeded', 'failed', 'interrupted', 'killed'}
    assert fake.pushed[0][LOCK_HELD]['tags'] == {
        'task': 'plain', 'fqdn': context.fqdn}


def test_unknown_backend_is_refused() -> None:
    """A backend that is not there is a mistake of the configuration."""
    with pytest.raises(ConfigError, match='backend.*is not a BaseMetrics|no mod'):
        make_context({'METRICS': {'backend': 'nowhere.Metrics'}})
