"""What the log says of a service that does not answer."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from jobslib.clock import Clock

__all__ = ['Outage']

#: Pause between two lines about the same outage, in seconds.
EVERY = 60.0


class Outage:
    """Says that a service is away: at once, then every minute with since
    when, and at last that it answers again.

    :param logger: where it is said.
    :param clock: what time it is.
    """

    def __init__(self, logger: logging.Logger, clock: Clock) -> None:
        self._logger = logger
        self._clock = clock
        # When it began, by the clock that does not jump and by that of the
        # wall, and when it was last spoken of.
        self._began: tuple[float, float] | None = None
        self._said = 0.0

    @property
    def lasts(self) -> bool:
        """Whether the service did not answer when it was last asked."""
        return self._began is not None

    def failed(self, why: str) -> bool:
        """It did not answer, or refused; return whether that is news.

        :param why: one line.
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
        """It answered."""
        if self._began is not None:
            self._logger.info('the service of the lock answers again, after '
                              '%.0f s', self._clock.now() - self._began[0])
            self._began = None
