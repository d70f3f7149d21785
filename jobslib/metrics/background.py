"""Metrics that are pushed in the background."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import weakref

from jobslib.metrics import BaseMetrics, batches_of, samples_of
from jobslib.runs import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from jobslib.metrics import Metrics, Series

__all__ = ['BackgroundMetrics']

#: The least pause between two pushes, and the longest after failures.
PAUSE = 1.0
LONGEST_PAUSE = 15.0
#: How many series can wait; further ones are dropped.
MOST_WAITING = 1000
#: More, in seconds, than a queue can wait.
TOO_LONG = 1e9
#: How long the end waits for the last push.
CLOSE_TIMEOUT = 2.0


class BackgroundMetrics(BaseMetrics):
    """Pushes to another backend, in a thread that starts when it is needed.

    No method blocks, whatever the backend does.  Of each series (a name with
    its tags) the newest value is pushed, at most once in a second; a push
    that fails is tried again.  A forked process starts anew, with nothing
    to push.

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

    # No method that a task calls takes a lock of Python's: a run can be
    # interrupted at any point of it, and can fork while the thread holds it.
    # What is used of dicts and of SimpleQueue is atomic.

    def _reset(self) -> None:
        self._waiting: dict[Series, float] = {}
        self._read: Callable[[], list[Metrics]] | None = None
        self._is_read_by_backend = False
        self._failing = False
        self._dropping = False
        # True is the last of it.
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}

    def push(self, metrics: Metrics) -> None:
        """Have *metrics* sent soon.

        :raises ValueError: it is not what metrics look like.
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
        """Have what *read* returns sent, now and at each :meth:`wake`."""
        self._is_read_by_backend = self.backend.watch(read)
        self._read = read
        self.wake()
        return True

    def wake(self) -> None:
        """Say that there is something new."""
        if self._wakes.empty():
            self._wakes.put(False)
        if 'it' not in self._threads:
            thread = threading.Thread(
                target=self._work, args=(self._wakes,), daemon=True,
                name='jobslib metrics')
            # Of several threads that come here at once, one starts it.
            if self._threads.setdefault('it', thread) is thread:
                thread.start()

    def close(self) -> None:
        """Push what is left; give up after 2 s."""
        thread = self._threads.get('it')
        if thread is None or not thread.is_alive():
            return
        self._wakes.put(True)
        thread.join(CLOSE_TIMEOUT)
        if thread.is_alive():
            self.logger.warning(
                'the last metrics are given up after %g s', CLOSE_TIMEOUT)

    def _work(self, wakes: queue.SimpleQueue[bool]) -> None:
        # Signals are for the main thread, whose sleep they end.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pause = 0.0
        while True:
            closing = self._wait(wakes, time.monotonic() + pause)
            pushed = self._push_waiting()
            if closing:
                self._close_backend()
                return
            pause = PAUSE if pushed else min(
                max(PAUSE, 2 * pause), LONGEST_PAUSE)

    def _close_backend(self) -> None:
        try:
            self.backend.close()
        except Exception as exc:
            self.logger.warning('metrics are not closed: %s', describe(exc))

    def _wait(self, wakes: queue.SimpleQueue[bool], earliest: float) -> bool:
        """Return when a push is due, and whether it is the last one."""
        asked = self._failing
        while True:
            until: float | None = earliest
            if not asked:
                is_pushed = self._read and not self._is_read_by_backend
                until = (max(earliest, time.monotonic() + self.interval)
                         if is_pushed else None)
            try:
                timeout = (None if until is None
                           else max(0.0, until - time.monotonic()))
                if wakes.get(timeout=timeout):
                    return True
            except queue.Empty:
                return False
            asked = True

    def _push_waiting(self) -> bool:
        """Push what is new; return whether that succeeded."""
        samples: dict[Series, float] = {}
        for _ in range(len(self._waiting)):
            series, value = self._waiting.popitem()
            samples[series] = value
        self._dropping = False
        try:
            batches = batches_of(samples.items())
            if self._read is not None and not self._is_read_by_backend:
                batches += self._read()
            self.backend.push_many(batches)
        except Exception as exc:
            # What has come in the meantime is newer.
            for series, value in samples.items():
                self._waiting.setdefault(series, value)
            if not self._failing:
                self._failing = True
                self.logger.warning(
                    'metrics are not pushed: %s', describe(exc))
            return False
        if self._failing:
            self._failing = False
            self.logger.info('metrics are pushed again')
        return True
