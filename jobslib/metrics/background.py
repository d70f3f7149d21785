"""Metrics that are pushed in the background."""

from __future__ import annotations

import os
import weakref

from jobslib.background import Background
from jobslib.metrics import BaseMetrics, batches_of, samples_of
from jobslib.runs import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from jobslib.metrics import Metrics, Series

__all__ = ['BackgroundMetrics']

#: The least pause between two pushes, and the longest after failures, in seconds.
PAUSE = 1.0
LONGEST_PAUSE = 15.0
#: How many series can wait to be pushed; further ones are dropped.
MOST_WAITING = 1000
#: The longest interval, in seconds; a queue cannot wait for longer.
TOO_LONG = 1e9
#: How long the last push may delay the end of the process, in seconds.
CLOSE_TIMEOUT = 2.0


class _Pushes(Background):
    """Pushes of metrics, with words of their own for the log."""

    def calls_fail(self, error: str) -> None:
        self.logger.warning('metrics are not pushed: %s', error)

    def calls_succeed(self) -> None:
        self.logger.info('metrics are pushed again')


class BackgroundMetrics(BaseMetrics):
    """Pushes to another backend, in a thread that starts when it is needed.

    No method blocks, whatever the backend does.  Of each series (a name with
    its tags) the newest value is pushed, at most once a second; a push that
    fails is tried again.  A forked process begins with nothing to push.

    :param backend: where they are pushed to.
    """

    def __init__(self, backend: BaseMetrics) -> None:
        super().__init__(backend.context, backend.options)
        self.backend = backend
        self.interval: float = min(
            getattr(backend.options, 'interval', 10.0), TOO_LONG)
        self._reset()
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(
            after_in_child=lambda: (method := reset()) and method())

    # No method that a task calls takes a lock of the threading module; Background
    # says why.  The operations on dicts that are used here are atomic.

    def _reset(self) -> None:
        self._waiting: dict[Series, float] = {}
        self._read: Callable[[], list[Metrics]] | None = None
        self._is_read_by_backend = False
        self._dropping = False
        self._pushes = _Pushes(
            self._push_waiting, self.logger, 'metrics', pause=PAUSE,
            longest_pause=LONGEST_PAUSE, finish=self._close_backend)

    def push(self, metrics: Metrics) -> None:
        """Send *metrics* soon.

        :raises ValueError: they do not have the form of metrics.
        """
        for series, value in list(samples_of(metrics)):
            if (series in self._waiting
                    or len(self._waiting) < MOST_WAITING):
                self._waiting[series] = value
            elif not self._dropping:
                self._dropping = True
                self.logger.warning(
                    'metrics are dropped: %d are waiting', MOST_WAITING)
        self.wake()

    def watch(self, read: Callable[[], list[Metrics]]) -> bool:
        """Send what *read* returns, now and at each :meth:`wake`."""
        self._is_read_by_backend = self.backend.watch(read)
        self._read = read
        if not self._is_read_by_backend:
            self._pushes.every = self.interval
        self.wake()
        return True

    def wake(self) -> None:
        """Let the thread push what is new."""
        self._pushes.submit(None)

    def close(self) -> None:
        """Push what is left; give up after 2 s."""
        if not self._pushes.is_at_work:
            return
        self.wake()
        self._pushes.close(CLOSE_TIMEOUT)
        if self._pushes.is_at_work:
            self.logger.warning(
                'the last metrics are given up after %g s', CLOSE_TIMEOUT)

    def _close_backend(self) -> None:
        try:
            self.backend.close()
        except Exception as exc:
            self.logger.warning('metrics are not closed: %s', describe(exc))

    def _push_waiting(self, _: object) -> None:
        """Push what is new."""
        samples: dict[Series, float] = {}
        for _count in range(len(self._waiting)):
            series, value = self._waiting.popitem()
            samples[series] = value
        self._dropping = False
        try:
            batches = batches_of(samples.items())
            if self._read is not None and not self._is_read_by_backend:
                batches += self._read()
            self.backend.push_many(batches)
        except Exception:
            # They are pushed the next time, unless a newer value has come.
            for series, value in samples.items():
                self._waiting.setdefault(series, value)
            raise
