"""How far the clock of this machine is from that of a service.

A service that answers by HTTP tells its time in the header ``Date``, in whole
seconds: its clock is then up to a second further.  It read it between the
moments at which the request was sent and the answer came.  So each answer says
of the difference that it is between two bounds, a second and a request apart,
and of several answers the narrowest bounds count.

Where these leave open whether the difference is more than :data:`LIMIT`, one
more request tells, if it is sent at the right moment: the limit is a whole
second, so in the instant in which a second of this machine begins or ends, the
service's clock shows one second or the next, on one side of the limit or the
other.
"""

from __future__ import annotations

import email.utils
import math
from collections.abc import Callable

from jobslib.clock import Clock

__all__ = ['LIMIT', 'compare']

#: From so many seconds on, a whole number, a difference is worth a warning.
LIMIT = 1.0

# How long before a second ends, and after one has begun, a request is sent that
# has to be answered in, or sent after, that instant; in seconds.
MARGIN = 0.05

Bounds = tuple[float, float]


def compare(ask: Callable[[], str | None],
            clock: Clock | None = None) -> Bounds | None:
    """Return by how many seconds this machine is ahead: at least, and at most.

    Both are negative where it is behind.  ``None``: the service does not say.

    :param ask: sends a request and returns the ``Date`` of the answer.
    :param clock: the clocks of this machine.
    """
    clock = clock or Clock()
    # The first request may have to connect, which takes its time.
    bounds = _narrowed(_measure(ask, clock), _measure(ask, clock))
    if bounds is None:
        return None
    low, high = bounds
    if low <= LIMIT < high:
        clock.sleep(_until_second(clock.wall() - MARGIN))
        bounds = _narrowed(bounds, _measure(ask, clock))
    elif low < -LIMIT <= high:
        clock.sleep(_until_second(clock.wall() + MARGIN))
        bounds = _narrowed(bounds, _measure(ask, clock))
    return bounds


def _measure(ask: Callable[[], str | None], clock: Clock) -> Bounds | None:
    sent = clock.wall()
    date = ask()
    came = clock.wall()
    try:
        told = email.utils.parsedate_to_datetime(date or '').timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return sent - told - 1.0, came - told


def _narrowed(first: Bounds | None, second: Bounds | None) -> Bounds | None:
    if first is None or second is None:
        return second
    low, high = max(first[0], second[0]), min(first[1], second[1])
    # A clock was set between the two.
    return (low, high) if low <= high else second


def _until_second(at: float) -> float:
    """Return the seconds from the UNIX time *at* to the next whole one."""
    return math.floor(at) + 1.0 - at
