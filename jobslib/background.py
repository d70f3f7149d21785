"""Work that must not hold anybody up: a thread that does it."""

from __future__ import annotations

import collections
import signal
import time

from jobslib.runs import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    import threading
    from collections.abc import Callable
    from queue import SimpleQueue
    from typing import Any

__all__ = ['Background']

#: The pause after the first failure, which doubles, and the longest, in seconds.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0


class Background:
    """Calls something with the newest of the values that it is given.

    The call is made in a thread of its own, which does not keep the process
    alive.  A value that comes while a call is being made replaces the one that
    waits.  A call that fails is repeated, with the newest value, after a pause
    that grows.  The log says once that calls fail, and once that they succeed
    again.

    :param call: called with a value.
    :param logger: where failures are reported.
    :param what: what the call does, for the log: the subject of "fails".
    :param pause: the least time between two calls, in seconds.
    :param longest_pause: the longest pause after failures, in seconds; by
        default 10.
    :param every: after how many seconds to call again with the same value.
    :param finish: called in the same thread after the last call.
    """

    # Neither submit() nor close() takes a lock of the threading module.  A task
    # calls them, and can be interrupted in the middle of that, so that the lock
    # would never be released; or it forks while the thread holds the lock, which
    # then stays locked in the child.  The operations on deque and SimpleQueue that
    # are used here are atomic.

    def __init__(
        self, call: Callable[[Any], object], logger: logging.Logger,
        what: str, *, pause: float = 0.0, longest_pause: float | None = None,
        every: float | None = None,
        finish: Callable[[], object] | None = None,
    ) -> None:
        import queue
        self._call = call
        self.logger = logger
        self._what = what
        self._pause = pause
        self._longest_pause = longest_pause
        #: May be changed; that has an effect from the next value on.
        self.every = every
        self._finish = finish
        self._newest: collections.deque[object] = collections.deque(maxlen=1)
        # Wakes the thread; true ends it.
        self._wakes: SimpleQueue[bool] = queue.SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}
        self._closing = False
        # Written by the thread alone.
        self._failures = 0

    @property
    def is_at_work(self) -> bool:
        """Whether there is a thread that makes calls, or waits for one."""
        thread = self._threads.get('it')
        return thread is not None and thread.is_alive()

    def calls_fail(self, error: str) -> None:
        """Report that calls begin to fail; may be overridden."""
        self.logger.warning(
            '%s fails, and is tried again: %s', self._what, error)

    def calls_succeed(self) -> None:
        """Report that calls succeed again; may be overridden."""
        self.logger.info('%s works again', self._what)

    def submit(self, value: object) -> None:
        """Let the call be made with *value*; return at once.

        After :meth:`close` it does nothing.
        """
        if self._closing:
            return
        self._newest.append(value)
        if self._wakes.empty():
            self._wakes.put(False)
        if 'it' not in self._threads:
            self._start()

    def close(self, timeout: float) -> bool:
        """End the thread, after a last call with the value that waits.

        :param timeout: how long to wait for that, in seconds.
        :returns: whether it has ended, with a last call that succeeded.
        """
        if not self._closing:
            self._closing = True
            self._wakes.put(True)
        thread = self._threads.get('it')
        if thread is None:
            return True
        thread.join(timeout)
        return not (thread.is_alive() or self._failures)

    def _start(self) -> None:
        import threading
        thread = threading.Thread(
            target=self._run, daemon=True, name=f'jobslib {self._what}')
        # When several threads come here at the same time, one of them starts it.
        if self._threads.setdefault('it', thread) is thread:
            thread.start()

    def _run(self) -> None:
        # Signals are left to the main thread, whose waits they have to end.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        value: object = None
        earliest = 0.0
        closing = False
        while not closing:
            closing = self._wait(earliest)
            is_new = bool(self._newest)
            if is_new:
                value = self._newest.pop()
            if is_new or self._failures or not closing:
                self._make_call(value)
            earliest = time.monotonic() + self._pause_now()
        if self._finish is not None:
            self._finish()

    def _wait(self, earliest: float) -> bool:
        """Wait until a call is due; return whether it is the last one.

        :param earliest: no call but the last one is due before.
        """
        import queue
        due = bool(self._failures)
        while True:
            until: float | None = earliest
            if not due:
                until = (None if self.every is None else
                         max(earliest, time.monotonic() + self.every))
            try:
                timeout = (None if until is None
                           else max(0.0, until - time.monotonic()))
                if self._wakes.get(timeout=timeout):
                    return True
            except queue.Empty:
                return False
            # Without a value it was woken for one that was used meanwhile.
            due = due or bool(self._newest)

    def _pause_now(self) -> float:
        if not self._failures:
            return self._pause
        longest = (LONGEST_PAUSE if self._longest_pause is None
                   else self._longest_pause)
        pause = max(self._pause, FIRST_PAUSE) * (
            1 << min(self._failures - 1, 10))
        return max(self._pause, min(pause, longest))

    def _make_call(self, value: object) -> None:
        try:
            self._call(value)
        except Exception as exc:
            self._failures += 1
            if self._failures == 1:
                self.calls_fail(describe(exc))
        else:
            if self._failures:
                self._failures = 0
                self.calls_succeed()
