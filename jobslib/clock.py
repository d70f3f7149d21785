"""Time, as the loop sees it; tests pass in a clock of their own."""

import time

__all__ = ['Clock', 'now']


def now() -> float:
    """Return the time since boot in seconds, suspended time included.

    It never jumps, and all processes of the machine share it.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """The machine's clocks, all in seconds."""

    def now(self) -> float:
        """Return the time since boot: durations are measured with it."""
        return now()

    def wall(self) -> float:
        """Return the UNIX time: for people, and to compare machines."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*; an exception of a signal handler ends it."""
        time.sleep(seconds)
