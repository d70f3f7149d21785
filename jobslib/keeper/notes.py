"""What a holder keeps beside its lock, written by a thread of the keeper.

A *note* is a value with a key of its own, such as how far the run is.  Only the
newest value of each key matters, so a note that could not be written is
replaced by the next one, and nobody waits for it.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ['RETRY', 'Notes']

#: Pause after a request that failed, in seconds.
RETRY = 0.3
# The longest pause between attempts to write a note, in seconds.
LONGEST_RETRY = 30.0


class Notes:
    """Writes the newest value of each key, and tries again what failed.

    :param write: :meth:`jobslib.keeper.engine.Engine.write`.
    """

    def __init__(self, write: Callable[[str, str, int], bool]) -> None:
        self._write = write
        # The newest value of each key, and the fencing token of the holder.
        # The keeper's main thread adds and clears, the thread of the notes
        # removes what it has written; both of them under the lock below.
        self._values: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()
        # Set by the main thread, cleared by the thread of the notes.
        self._added = threading.Event()
        # Written by the main thread alone.
        self._thread: threading.Thread | None = None

    def add(self, key: str, value: str, token: int) -> None:
        """Write *value* to *key* soon, for the holder with *token*."""
        with self._lock:
            self._values[key] = value, token
        if self._thread is None:
            thread = threading.Thread(target=self._run, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system has no room for a thread just now.  The note stays
                # here, and the next one tries to start the thread again.
                return
            self._thread = thread
        self._added.set()

    def clear(self) -> None:
        """Forget what is not written yet."""
        with self._lock:
            self._values.clear()

    def pending(self) -> dict[str, str]:
        """Return what is not written yet, by keys."""
        with self._lock:
            return {key: value for key, (value, _) in self._values.items()}

    def _run(self) -> None:
        pause: float | None = None
        while True:
            self._added.wait(pause)
            self._added.clear()
            if self._write_all():
                pause = None
            else:
                # The pauses grow, because the cause may last: an ACL token
                # that may not write the key is refused each time.
                pause = min(2 * pause, LONGEST_RETRY) if pause else RETRY

    def _write_all(self) -> bool:
        written = True
        for key in list(self._values):
            # It may have been cleared since the list was made.
            note = self._values.get(key)
            if note is None:
                continue
            if not self._write(key, *note):
                written = False
                continue
            with self._lock:
                # A newer value that came meanwhile is still to be written.
                if self._values.get(key) is note:
                    del self._values[key]
        return written
