"""A lock that locks nothing."""

from __future__ import annotations

import os

from jobslib.oneinstance import BaseLock

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['DummyLock']


class DummyLock(BaseLock):
    """Always says yes: every process runs the task.

    It has no fencing token and no owner record.
    """

    # The process that holds it: a forked child does not.
    _holder: int | None = None

    @property
    def held(self) -> bool:
        return self._holder == os.getpid()

    def acquire(self) -> bool:
        self._refuse_if_held()
        self._holder = os.getpid()
        return True

    def release(self) -> bool:
        self._refuse_unless_held()
        self._holder = None
        return True

    def refresh(self) -> bool:
        self.watchdog.beat()
        return self.held

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        return None

    def wait(self, timeout: float) -> None:
        """Return at once: the lock is always free."""

    def close(self) -> None:
        self._holder = None
