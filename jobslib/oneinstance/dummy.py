"""A lock that locks nothing."""

from __future__ import annotations


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

    _held = False

    @property
    def held(self) -> bool:
        return self._held

    def acquire(self) -> bool:
        self._refuse_if_held()
        self._held = True
        return True

    def release(self) -> bool:
        self._refuse_unless_held()
        self._held = False
        return True

    def refresh(self) -> bool:
        self.watchdog.beat()
        return self._held

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        return None

    def wait(self, timeout: float) -> None:
        """Return at once: the lock is always free."""

    def close(self) -> None:
        self._held = False
