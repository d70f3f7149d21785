"""The clocks of the machine; tests use a clock of their own instead."""

import time

__all__ = ['Clock', 'now', 'shown']


def now() -> float:
    """Return the time since boot in seconds, including suspended time.

    It never jumps, and all processes of the machine share it.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def shown(at: float) -> dict[str, float | str]:
    """Return the UNIX time *at* as records in JSON show it: ``timestamp``,
    ``time_utc``, ``time_local``."""
    return {
        'timestamp': at,
        'time_utc': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(at)),
        'time_local': time.strftime('%Y-%m-%dT%H:%M:%S%z', time.localtime(at)),
    }


class Clock:
    """The machine's clocks, all in seconds."""

    def now(self) -> float:
        """Return the time since boot, by which durations are measured."""
        return now()

    def wall(self) -> float:
        """Return the UNIX time: for people, and to compare machines."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*; an exception of a signal handler ends it."""
        time.sleep(seconds)
