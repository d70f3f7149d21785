"""How far the clock of this machine is from that of a service.

A service that answers by HTTP tells its time in the header ``Date``, in whole
seconds; its clock is then up to a second further.  It looked at its clock between
the moment at which the request was sent and the moment at which the answer came.
So each answer gives two bounds of the difference, which are a second and the time
of the request apart, and of several answers the narrowest bounds count.

When these leave open whether the difference is more than :data:`LIMIT`, one more
request decides it, if it is sent at the right moment.  The limit is a whole second.
So at the instant in which a second of this machine ends, the service shows one
second if the difference is below the limit, and the next one if it is above.
"""

from __future__ import annotations

import email.utils
import math
from collections.abc import Callable

from jobslib.clock import Clock

__all__ = ['LIMIT', 'compare']

#: The difference that is worth a warning, in whole seconds.
LIMIT = 1.0

# How far from the instant at which a second ends the request is sent that decides,
# in seconds: before it when the answer must come in time, after it otherwise.
MARGIN = 0.05

Bounds = tuple[float, float]


def compare(ask: Callable[[], str | None],
            clock: Clock | None = None) -> Bounds | None:
    """Return by how many seconds this machine is ahead, at least and at most.

    Both are negative where it is behind.  It is ``None`` when the service does
    not tell its time.

    :param ask: sends a request and returns the ``Date`` of the answer.
    :param clock: the clocks of this machine.
    """
    clock = clock or Clock()
    # Two requests, because the first one may have to connect, which makes its
    # bounds wide.
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
    # When the bounds contradict each other, one of the clocks was set between
    # the two requests.
    return (low, high) if low <= high else second


def _until_second(at: float) -> float:
    """Return the seconds from the UNIX time *at* to the next whole one."""
    return math.floor(at) + 1.0 - at
