"""Keeps the check of a job up to date without holding up the loop."""

from __future__ import annotations

import time

from jobslib.background import Background
from jobslib.clock import shown
from jobslib.liveness.observer import CLOSE_TIMEOUT, PAUSE, LivenessObserver
from jobslib.runs import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from jobslib.liveness.observer import SuccessWriter
    from jobslib.runs import Run

__all__ = ['CheckObserver']


class CheckObserver(LivenessObserver):
    """Tells the agent at once what happens, and regularly that all goes on.

    The check is passing when the process has started, is a standby, or its last run
    succeeded, and warning when its last run did not succeed.

    :param update: called with status and note, and with ``None`` at the end.
    :param succeeded: called with the UNIX time of each success.
    :param every: how often the agent is told that all goes on, in seconds.
    """

    def __init__(
        self, liveness: SuccessWriter,
        update: Callable[[tuple[str, str] | None], object],
        succeeded: Callable[[float], object], every: float,
    ) -> None:
        super().__init__(liveness)
        self._succeeded = succeeded
        self._updates = Background(
            update, liveness.logger, 'updating the check',
            pause=PAUSE, every=every)
        # Whether the agent was told last how a run ended.
        self._has_outcome = False

    def started(self) -> None:
        self._say('passing', f'started at {_show(time.time())}, no run yet')

    def standby(self, reason: str) -> None:
        self._say('passing', f'standby: {reason}')

    def run_begins(self, run: Run) -> None:
        if not self._has_outcome:
            self._say('passing',
                      f'run {run.number} began at {_show(run.started)}')

    def run_ended(self, run: Run) -> None:
        super().run_ended(run)
        succeeded = run.outcome is Outcome.SUCCEEDED
        duration = run.duration or 0.0
        ended = run.started + duration
        if succeeded:
            self._succeeded(ended)
        error = '' if run.error is None else f': {run.error}'
        self._say('passing' if succeeded else 'warning',
                  f'run {run.number} {run.outcome.value} after '
                  f'{duration:.3f} s at {_show(ended)}{error}')
        self._has_outcome = True

    def closed(self) -> None:
        ends = time.monotonic() + CLOSE_TIMEOUT
        self._updates.submit(None)
        # Both are told to end before either is waited for, so that the time for
        # both together is limited.
        self._updates.close(0.0)
        noted = self._writes.close(CLOSE_TIMEOUT)
        removed = self._updates.close(max(0.0, ends - time.monotonic()))
        if noted and removed:
            self.liveness.close()

    def _say(self, status: str, note: str) -> None:
        self._has_outcome = False
        self._updates.submit((status, note))


def _show(at: float) -> object:
    return shown(at)['time_local']
