"""Notes the successful runs of the loop without holding it up."""

from __future__ import annotations

from jobslib.background import Background
from jobslib.observers import Observer
from jobslib.runs import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Protocol

    from jobslib.runs import Run

    class SuccessWriter(Protocol):
        """What is used of a :class:`jobslib.liveness.BaseLiveness`."""

        @property
        def logger(self) -> logging.Logger: ...

        def write_at(self, at: float) -> None: ...

        def close(self) -> None: ...

__all__ = ['LivenessObserver']

#: The least time between two writes, in seconds: each is an entry in
#: Consul's log.
PAUSE = 0.5
#: How long the last write may delay the end of the process, in seconds.
CLOSE_TIMEOUT = 2.0


class LivenessObserver(Observer):
    """Lets *liveness* note each success, in a thread of its own.

    Of several successes within half a second only the newest is noted.  A success
    that could not be noted is tried again until it is, or a newer one is there.
    """

    def __init__(self, liveness: SuccessWriter) -> None:
        self.liveness = liveness
        self._writes = Background(
            liveness.write_at, liveness.logger, 'noting the success',
            pause=PAUSE)

    def run_ended(self, run: Run) -> None:
        if run.outcome is Outcome.SUCCEEDED:
            self._writes.submit(run.started + (run.duration or 0.0))

    def closed(self) -> None:
        if self._writes.close(CLOSE_TIMEOUT):
            self.liveness.close()
