"""Reporting in the log that a service does not answer."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from jobslib.clock import Clock

__all__ = ['Outage']

#: How often the log has a line about the same outage, in seconds.
EVERY = 60.0


class Outage:
    """Reports that a service does not answer: at once, then each minute, with the
    time since when, and at the end that it answers again.

    :param logger: where it is reported.
    :param clock: the clock of the loop.
    """

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        # When it began, by the clock that does not jump and by the wall clock, and
        # when the log had the last line about it.
        self._began: tuple[float, float] | None = None
        self._said = 0.0

    @property
    def lasts(self) -> bool:
        """Whether the service did not answer when it was last asked."""
        return self._began is not None

    def failed(self, why: str) -> bool:
        """The service did not answer, or refused.

        :param why: one line.
        :returns: whether it is the first time.
        """
        now = self._clock.now()
        if self._began is None:
            self._began = now, self._clock.wall()
            self._said = now
            self._logger.warning('waiting for the lock: %s', why)
            return True
        if now >= self._said + EVERY:
            self._said = now
            began, wall = self._began
            self._logger.warning(
                'the lock is still waited for, since %s (%.0f s): %s; to see '
                'why: runjob check',
                time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(wall)),
                now - began, why)
        return False

    def over(self) -> None:
        """The service has answered."""
        if self._began is not None:
            self._logger.info('the service of the lock answers again, after '
                              '%.0f s', self._clock.now() - self._began[0])
            self._began = None
