"""The metrics as a task sees them."""

from __future__ import annotations

from jobslib.metrics import BaseMetrics, batches_of, samples_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.metrics import Metrics

__all__ = ['SupervisedMetrics']


class SupervisedMetrics(BaseMetrics):
    """Metrics of a task: the supervisor sends them, with its own.

    :param tell: tells the supervisor to call a method, see
        :meth:`jobslib.run.link.Link.tell`.
    """

    def __init__(self, tell: Callable[..., None], context: BackendContext,
                 options: Any) -> None:
        super().__init__(context, options)
        self._tell = tell

    def push(self, metrics: Metrics) -> None:
        """Let the supervisor send *metrics* soon.

        :raises ValueError: they do not look like metrics.
        """
        # Checked here, so that the error is raised in the task.
        for batch in batches_of(list(samples_of(metrics))):
            self._tell('push', batch)
