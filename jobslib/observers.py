"""Observers are told what the loop does: metrics, liveness, process managers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from jobslib.history import History
    from jobslib.runs import Run

__all__ = ['Observer', 'Observers']


class Observer:
    """Is told what the loop does.  The methods do nothing, and can be overridden.

    The loop calls them in its own thread, so they have to return soon.  What they
    raise is logged, and changes nothing.
    """

    def started(self) -> None:
        """The loop begins: everything is configured."""

    def waiting(self, due: float) -> None:
        """The next run is due at the UNIX time *due*."""

    def standby(self, reason: str) -> None:
        """This process does not run the job, for *reason*: the lock is held
        elsewhere, the job is paused, or the lock's service does not answer."""

    def acquired(self, token: int | None) -> None:
        """The lock was acquired, with this fencing token."""

    def inherited(self, history: History) -> None:
        """The lock was acquired, with the *history* of earlier holders.

        ``history.unfinished`` is a run that ended because its process did.
        """

    def run_begins(self, run: Run) -> None:
        """A run begins; its outcome is ``PENDING``."""

    def run_ended(self, run: Run) -> None:
        """A run ended, and has its outcome."""

    def missed(self, slots: int) -> None:
        """So many *slots* are given up."""

    def released(self) -> None:
        """The lock was released."""

    def lost(self, reason: str) -> None:
        """The lock was lost, and the run has stopped."""

    def closed(self) -> None:
        """The loop has ended, and the lock is released."""


class Observers(Observer):
    """Tells several observers, each of them whatever the others raise.

    :param observers: these observers.
    :param logger: where it reports what an observer raised.
    """

    def __init__(self, observers: Sequence[Observer],
                 logger: logging.Logger) -> None:
        self._observers = observers
        self._logger = logger

    def started(self) -> None:
        self._tell(lambda each: each.started())

    def waiting(self, due: float) -> None:
        self._tell(lambda each: each.waiting(due))

    def standby(self, reason: str) -> None:
        self._tell(lambda each: each.standby(reason))

    def acquired(self, token: int | None) -> None:
        self._tell(lambda each: each.acquired(token))

    def inherited(self, history: History) -> None:
        self._tell(lambda each: each.inherited(history))

    def run_begins(self, run: Run) -> None:
        self._tell(lambda each: each.run_begins(run))

    def run_ended(self, run: Run) -> None:
        self._tell(lambda each: each.run_ended(run))

    def missed(self, slots: int) -> None:
        self._tell(lambda each: each.missed(slots))

    def released(self) -> None:
        self._tell(lambda each: each.released())

    def lost(self, reason: str) -> None:
        self._tell(lambda each: each.lost(reason))

    def closed(self) -> None:
        self._tell(lambda each: each.closed())

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for each in self._observers:
            try:
                call(each)
            except Exception:
                self._logger.exception(
                    '%s failed, and is of no consequence for the run',
                    type(each).__name__)
