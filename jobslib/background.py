"""Work that must not keep the loop waiting: a thread that does it."""

from __future__ import annotations

from jobslib.runs import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from typing import Any

__all__ = ['Background']

#: The first pause after a failure, doubled each time, and the longest.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0


class Background:
    """Calls something with the newest of the values that it is given.

    The call is made in a thread of its own, which does not keep the process
    alive.  A value that comes while a call is being made replaces the one
    that waits.  A call that raises is repeated, with the newest value, after
    a growing pause of at most 10 s; it is logged once when that begins, and
    once when it ends.

    :param call: what is to be done with a value.
    :param logger: where failures are reported.
    :param what: what the call does, for the log: the subject of "fails".
    :param pause: the least time between two calls, in seconds.
    :param every: call again with the same value after so many seconds.
    """

    def __init__(self, call: Callable[[Any], object], logger: logging.Logger,
                 what: str, *, pause: float = 0.0,
                 every: float | None = None) -> None:
        import threading
        self._call = call
        self._logger = logger
        self._what = what
        self._pause = pause
        self._every = every
        # All that follows belongs to who holds the condition.
        self._changed = threading.Condition()
        self._value: object = None
        self._waits = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failures = 0

    def submit(self, value: object) -> None:
        """Have the call made with *value*; returns at once.

        After :meth:`close` it does nothing.
        """
        import threading
        with self._changed:
            if self._closing:
                return
            self._value, self._waits = value, True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, daemon=True, name=f'jobslib {self._what}')
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Make the call that waits, once, and end; return whether it did.

        :param timeout: the longest to wait for that, in seconds.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not (self._thread.is_alive() or self._waits)

    def _run(self) -> None:
        while self._wait():
            with self._changed:
                value, self._waits = self._value, False
            try:
                self._call(value)
            except Exception as exc:
                self._failed(exc)
            else:
                self._succeeded()
            with self._changed:
                if self._closing and (self._failures or not self._waits):
                    return
                pause = self._pause_now()
                self._changed.wait_for(lambda: self._closing, pause)

    def _wait(self) -> bool:
        """Wait for a call that is due; False when there is none any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waits or self._closing, self._every)
            return self._waits or not self._closing

    def _pause_now(self) -> float:
        if self._failures:
            return min(FIRST_PAUSE * (1 << min(self._failures - 1, 10)),
                       LONGEST_PAUSE)
        return self._pause

    def _failed(self, exc: Exception) -> None:
        with self._changed:
            self._waits = True
            self._failures += 1
            if self._failures > 1:
                return
        self._logger.warning(
            '%s fails, and is tried again: %s', self._what, describe(exc))

    def _succeeded(self) -> None:
        if self._failures:
            self._failures = 0
            self._logger.info('%s works again', self._what)
