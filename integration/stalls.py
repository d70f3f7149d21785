"""When the machine stood still, as a thread of the tests notices it.

What nobody could do in time, because nothing ran, breaks no promise.
"""

import threading
import time

from integration.stamps import now

PAUSE = 0.02
#: What is shorter is no stall, in seconds.
LEAST = 0.1

#: When each stall was over, and how long it was, in seconds.
STALLS: list[tuple[float, float]] = []


def since(at: float) -> float:
    """For how many seconds the machine stood still after a time."""
    return sum(length for over, length in list(STALLS) if over > at)


def start() -> None:
    """Watch from now on."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    last = now()
    while True:
        time.sleep(PAUSE)
        at = now()
        if at - last - PAUSE > LEAST:
            STALLS.append((at, at - last - PAUSE))
        last = at
