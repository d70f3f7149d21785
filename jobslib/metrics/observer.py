"""The loop's own metrics."""

from __future__ import annotations

import time

from jobslib.metrics.names import (
    LAST_SUCCESS,
    LEASE_SLACK,
    LOCK_HELD,
    MISSED_SLOTS,
    RUN_SECONDS,
    RUNS,
)
from jobslib.observers import Observer
from jobslib.runs import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from jobslib.backends import BackendContext
    from jobslib.history import History
    from jobslib.metrics import BaseMetrics, Metrics
    from jobslib.runs import Run

    class ReportingContext(BackendContext, Protocol):
        """What is used of a :class:`jobslib.Context`."""

        @property
        def metrics(self) -> BaseMetrics: ...

        @property
        def one_instance_lock(self) -> object: ...

__all__ = ['MetricsObserver']


class MetricsObserver(Observer):
    """Turns what the loop does into metrics.

    It keeps the newest state, which ``context.metrics`` reads in another thread
    whenever metrics are pushed or asked for.

    :param context: the context of the task.
    :param now: a clock that durations are taken from, in seconds.
    """

    def __init__(self, context: ReportingContext,
                 now: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._metrics = context.metrics
        self._now = now
        self._lease_left: Callable[[], float | None] = getattr(
            context.one_instance_lock, 'lease_left', lambda: None)
        self._has_lease = False
        self._held = False
        self._begun: float | None = None
        self._last_success: float | None = None
        self._missed = 0
        self._runs = {outcome: 0 for outcome in Outcome
                      if outcome is not Outcome.PENDING}
        self._durations: dict[Outcome, float] = {}

    def read(self) -> list[Metrics]:
        """Return the metrics as they are now."""
        tags = {'task': self._context.config.task_name,
                'fqdn': self._context.fqdn}
        values = {LOCK_HELD: int(self._held), MISSED_SLOTS: self._missed,
                  LAST_SUCCESS: self._last_success,
                  LEASE_SLACK: self._read_lease()}
        begun = self._begun
        by_outcome: dict[Outcome, dict[str, float | None]] = {
            Outcome.PENDING: {
                RUN_SECONDS: 0 if begun is None else self._now() - begun}}
        for outcome, runs in self._runs.items():
            by_outcome[outcome] = {
                RUNS: runs, RUN_SECONDS: self._durations.get(outcome)}
        return [_metrics(values, tags)] + [
            _metrics(each, tags | {'outcome': outcome.value})
            for outcome, each in by_outcome.items()]

    def _read_lease(self) -> float | None:
        try:
            left = self._lease_left() if self._held else None
        except Exception:
            # This thread is not the one that uses the lock, which may be giving
            # up its lease at this moment.
            left = None
        if left is None:
            return 0.0 if self._has_lease else None
        self._has_lease = True
        return max(0.0, left)

    def started(self) -> None:
        self._metrics.watch(self.read)

    def acquired(self, token: int | None) -> None:
        self._held = True
        self._metrics.wake()

    def inherited(self, history: History) -> None:
        if history.unfinished is not None:
            self._runs[Outcome.KILLED] += 1
            duration = history.unfinished.duration
            if duration is not None:
                self._durations[Outcome.KILLED] = duration
        if history.succeeded is not None:
            self._last_success = history.succeeded
        self._metrics.wake()

    def run_begins(self, run: Run) -> None:
        self._begun = self._now()
        self._metrics.wake()

    def run_ended(self, run: Run) -> None:
        self._begun = None
        if run.duration is not None:
            self._durations[run.outcome] = run.duration
            if run.outcome is Outcome.SUCCEEDED:
                self._last_success = run.started + run.duration
        if run.outcome in self._runs:
            self._runs[run.outcome] += 1
        self._metrics.wake()

    def missed(self, slots: int) -> None:
        self._missed += slots
        self._metrics.wake()

    def released(self) -> None:
        self._held = False
        self._metrics.wake()

    def lost(self, reason: str) -> None:
        self._held = False
        self._metrics.wake()

    def closed(self) -> None:
        self._metrics.close()


def _metrics(values: Mapping[str, object], tags: dict[str, str]) -> Metrics:
    return {name: {'value': value, 'tags': tags}
            for name, value in values.items() if value is not None}
