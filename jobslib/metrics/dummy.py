"""Metrics that go nowhere."""

from __future__ import annotations

from jobslib.metrics import BaseMetrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.metrics import Metrics

__all__ = ['DummyMetrics']


class DummyMetrics(BaseMetrics):
    """Forgets what is pushed; in use when no other backend is named."""

    def push(self, metrics: Metrics) -> None:
        """Do nothing."""
