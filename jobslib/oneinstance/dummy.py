"""A lock that locks nothing."""

from __future__ import annotations

import os
import time

from jobslib.oneinstance import BaseLock

__all__ = ['DummyLock']


class DummyLock(BaseLock):
    """A lock that is always free: each process runs the task.

    It has no fencing token and no owner record.
    """

    # The id of the process that holds it, so that a forked child does not.
    _holder: int | None = None
    # The record that this process left when it released the lock last.
    _left: dict[str, object] | None = None

    @property
    def held(self) -> bool:
        return self._holder == os.getpid()

    def acquire(self) -> bool:
        self.refuse_if_held()
        if not self.consider(self._left):
            return False
        self._holder = os.getpid()
        return True

    def release(self) -> bool:
        self.refuse_unless_held()
        self._left = {
            'schedule': dict(self.schedule), 'released': time.time()}
        self._holder = None
        return True

    def refresh(self) -> bool:
        self.watchdog.beat()
        return self.held

    def refresh_in_run(self) -> bool | None:
        return True

    def get_lock_owner_info(self) -> dict[str, object] | None:
        return None

    def wait(self, timeout: float) -> None:
        """Return at once: the lock is always free."""

    def close(self) -> None:
        self._holder = None
