"""What operators ask of the job, and how this process does it.

The requests are kept beside the lock, see
:class:`~jobslib.oneinstance.control.Control`.  The loop looks at them again and
again, and the holder of the lock removes those that are done.
"""

from __future__ import annotations

from jobslib.exceptions import LockError, OneInstanceWatchdogError
from jobslib.loop.recording import LONGEST_NOTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from jobslib.clock import Clock
    from jobslib.config import Config
    from jobslib.interrupts import Interrupts
    from jobslib.loop.recording import Recording
    from jobslib.oneinstance import BaseLock
    from jobslib.oneinstance.control import Control
    from jobslib.oneinstance.requests import Extra, Stop
    from jobslib.run.handle import RunHandle

__all__ = ['Demands']

#: For how long after a run has begun a request for the run before it may still be
#: seen, in seconds.
BELATED = 2.0


class Demands:
    """Looks what is asked, lets the run obey, and notes what is done.

    :param process: the run's process.
    :param lock: knows what is asked.
    :param config: the options of the loop.
    :param recording: knows which runs there were.
    :param clock: the clock of the loop.
    :param interrupts: interrupts a run.
    :param logger: where the loop reports.
    """

    def __init__(self, process: RunHandle, lock: BaseLock, config: Config,
                 recording: Recording, clock: Clock, interrupts: Interrupts,
                 logger: logging.Logger) -> None:
        self.process = process
        self.lock = lock
        self.config = config
        self.recording = recording
        self.clock = clock
        self.interrupts = interrupts
        self.logger = logger
        #: Whether the last run was stopped by an operator.
        self.stopped = False
        # The last request to stop a run, and when the run that is under way began,
        # as UNIX time and by the clock that does not jump.
        self._stop: Stop | None = None
        self._began = 0.0, 0.0
        # What was logged last of what is asked of the run that is under way.
        self._asked: str | None = None
        # What was asked when a part of it was last removed.
        self._cleared: Mapping[str, object] | None = None
        # The last run beside the schedule that is done with, by its id.
        self._done: str | None = None

    # Between two runs.

    @property
    def release(self) -> str | None:
        """Why the lock has to be released, ``None`` if it need not be."""
        return self.lock.control.demand(self.lock.fencing_token)

    @property
    def extra(self) -> Extra | None:
        """The request for a run beside the schedule, if there is one that this
        process may begin."""
        extra: Extra | None = self.lock.control.extra
        if extra is None or self.config.run_once or extra.id == self._done:
            return None
        return extra

    def clear(self) -> None:
        """Remove the requests that are done; called while no run is under way."""
        control: Control = self.lock.control
        changes: dict[str, object] = {}
        if control.handed_in and control.export() != self._cleared and (
                self.recording.merge_handed_in()):
            changes['handed_in'] = False
        if control.stop_for(self.lock.fencing_token):
            changes['stop'] = None
        if control.extra is not None and control.extra.id == self._done:
            changes['extra'] = None
        # What was removed may be seen for a moment longer, and is not removed twice.
        if changes and control.export() != self._cleared and (
                self._note(control.changed(**changes), control)):
            self._cleared = control.export()

    def take_extra(self, tries: int) -> Extra | None:
        """Note that this process begins the run that is asked for, if one is.

        Called while the lock is held.

        :param tries: how often it may be begun again after it was cut short.
        :returns: the request for it.
        """
        control, extra = self.lock.control, self.extra
        if extra is None:
            return None
        if self.recording.history.has_ended(extra.id):
            # The process that ran it died before it could note that it is done.
            self.end_extra(extra)
            self.clear()
            return None
        if extra.tries > tries:
            self.logger.warning(
                'given up: the run that %s asked for; its runs were cut short',
                extra.who)
            self.end_extra(extra)
            self.clear()
            return None
        extra = extra.begun(self.lock.fencing_token,
                            round(self.clock.wall(), 3))
        if not self._note(control.changed(extra=extra), control):
            return None
        self.logger.info('a run was asked for by %s', extra.who)
        return extra

    def end_extra(self, extra: Extra) -> None:
        """The run that was asked for is done, or given up."""
        self._done = extra.id

    def _note(self, control: Control, expected: Control) -> bool:
        """Write *control* beside the lock in place of *expected*; return whether
        that is done."""
        try:
            with self.lock.silence(LONGEST_NOTE):
                return self.lock.ask(control, expected)
        except LockError as exc:
            # It is tried again when the loop looks next.
            self.logger.debug('not noted: %s', exc)
            return False

    # While a run is under way.

    def begin(self, started: float) -> None:
        """A run begins.

        :param started: when, as UNIX time.
        """
        self._asked = None
        # A request to stop that is there already is not about this run.
        self._stop, self.stopped = self.lock.control.stop, False
        self._began = started, self.clock.now()

    def pass_on(self) -> None:
        """Let the run obey what is asked of it."""
        self._pass_on_release()
        self._pass_on_stop()

    def _pass_on_release(self) -> None:
        """Tell the run that the lock is wanted, and interrupt it if the lock is
        wanted at once."""
        control, token = self.lock.control, self.lock.fencing_token
        demand = control.demand(token)
        if demand is None:
            return
        if demand != self._asked:
            self._asked = demand
            self.logger.info('the run is asked to end: %s', demand)
            self.process.ask_to_stop(demand)
        if control.interrupts(token):
            self.interrupts.interrupt(OneInstanceWatchdogError(demand))

    def _pass_on_stop(self) -> None:
        """Interrupt the run, if an operator asks to end it and to keep the lock."""
        stop = self.lock.control.stop_for(self.lock.fencing_token)
        if stop is None or stop == self._stop:
            return
        self._stop = stop
        started, since = self._began
        if stop.timestamp is not None and stop.timestamp < started and (
                self.clock.now() - since < BELATED):
            # The request was for the run before this one.
            return
        reason = f'stop asked for by {stop.who}'
        self.logger.info('the run is stopped: %s', reason)
        self.stopped = True
        self.process.ask_to_stop(reason)
        self.interrupts.interrupt(OneInstanceWatchdogError(reason))
