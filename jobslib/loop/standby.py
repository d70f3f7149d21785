"""Reporting why this process does not run its job."""

from __future__ import annotations

from jobslib.exceptions import LockError
from jobslib.exitcodes import ExitCode
from jobslib.loop.outages import Outage
from jobslib.owner import OwnerRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from jobslib.clock import Clock
    from jobslib.observers import Observers
    from jobslib.oneinstance import BaseLock
    from jobslib.schedule.agenda import Agenda

__all__ = ['Standby']

# The pause after a request that failed, in seconds: the first, which doubles, and
# the longest.
FIRST_RETRY = 0.5
LAST_RETRY = 2.0


class Standby:
    """Reports why this process does not run, once and not each time that it looks.

    :param lock: the lock, which others may hold.
    :param agenda: knows whether a run is due.
    :param clock: the clock of the loop.
    :param logger: where it is reported.
    :param observers: are told as well.
    """

    def __init__(self, lock: BaseLock, agenda: Agenda, clock: Clock,
                 logger: logging.Logger, observers: Observers) -> None:
        self.lock = lock
        self.agenda = agenda
        self.logger = logger
        self.observers = observers
        self._outage = Outage(logger, clock)
        self._retry_pause = 0.0
        # Whether it was reported who holds the lock, or that nobody may take it.
        self._said = False

    @property
    def is_cut_off(self) -> bool:
        """Whether the lock service did not answer when it was last asked."""
        return self._outage.lasts

    def service_failed(self, why: str) -> float:
        """The service of the lock does not answer.

        :param why: one line.
        :returns: after how many seconds it is to be asked again.
        """
        if self._outage.failed(why):
            self.observers.standby(why)
        self._retry_pause = min(
            max(FIRST_RETRY, 2 * self._retry_pause), LAST_RETRY)
        return self._retry_pause

    def service_answered(self) -> None:
        """The service of the lock has answered."""
        if self._outage.lasts:
            self._retry_pause = 0.0
            self._said = False
            self._outage.over()

    def explain_wait(self) -> None:
        """Report that another process holds the lock, or that nobody may take it."""
        if not self._said:
            reason = self._describe_holder()
            self.logger.info('not run: %s', reason)
            self.observers.standby(reason)
        self._said = True

    def reset(self) -> None:
        """The lock is held by this process, or free; when another process gets it,
        that is reported again."""
        self._said = False

    def explain_no_run(self) -> ExitCode:
        """Report why a process that is there for one run does not run."""
        if self.lock.wanted:
            reason = self._describe_holder()
            done = not self.lock.barred and self.agenda.is_in_hand(
                OwnerRecord.parse(self._find_holder()))
            return self._report_no_run(reason, done)
        return self.explain_done()

    def explain_done(self) -> ExitCode:
        """Report that nothing is due by the schedule."""
        return self._report_no_run(self.agenda.describe(), True)

    def _report_no_run(self, reason: str, done: bool) -> ExitCode:
        if done:
            self.logger.info('not run: %s', reason)
        else:
            self.logger.warning('not run: %s', reason)
        self.observers.standby(reason)
        return ExitCode.DONE if done else ExitCode.LOCK_NOT_AVAILABLE

    def _describe_holder(self) -> str:
        if self.lock.barred:
            barred: str = self.lock.barred
            return barred
        holder = self._find_holder() or {}
        return (f'the lock is held by {holder.get("fqdn", "somebody")} '
                f'(pid {holder.get("pid", "?")}) '
                f'since {holder.get("time_local", "?")}')

    def _find_holder(self) -> dict[str, object] | None:
        try:
            return self.lock.get_lock_owner_info()
        except LockError:
            return None
