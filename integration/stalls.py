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

_lock = threading.Lock()
_looked = float('inf')  # when the thread looked last


def since(at: float) -> float:
    """For how many seconds the machine stood still after a time."""
    with _lock:
        # One may be over that the thread has not noticed yet.
        unnoticed = now() - _looked - PAUSE
        noticed = sum(length for over, length in STALLS if over > at)
        return noticed + (unnoticed if unnoticed > LEAST else 0.0)


def start() -> None:
    """Watch from now on."""
    global _looked
    _looked = now()
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    global _looked
    while True:
        time.sleep(PAUSE)
        with _lock:
            at = now()
            if at - _looked - PAUSE > LEAST:
                STALLS.append((at, at - _looked - PAUSE))
            _looked = at
