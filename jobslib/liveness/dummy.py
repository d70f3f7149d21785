"""A liveness that notes nothing."""

from __future__ import annotations

from jobslib.liveness import BaseLiveness

__all__ = ['DummyLiveness']


class DummyLiveness(BaseLiveness):
    """Notes nothing, and takes each job to be alive; for development."""

    def write(self) -> None:
        pass

    def read(self) -> dict[str, object] | None:
        return None

    def judge(self, record: dict[str, object] | None, max_age: float) -> bool:
        return True
