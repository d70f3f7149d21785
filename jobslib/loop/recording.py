"""What is kept with the lock: where the schedule stands, and the history.

The holder of the lock writes it when it releases the lock, and after each run while
it keeps the lock.  What could not be written is handed in later, see
:mod:`~jobslib.loop.unrecorded`.
"""

from __future__ import annotations

from jobslib.exceptions import LockError
from jobslib.history import History
from jobslib.loop.unrecorded import Unrecorded
from jobslib.owner import OwnerRecord
from jobslib.runs import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from jobslib.clock import Clock
    from jobslib.config import Config
    from jobslib.oneinstance import BaseLock
    from jobslib.schedule.agenda import Agenda

__all__ = ['LONGEST_NOTE', 'Recording']

#: How long the lock service may take for a request between two runs until the
#: supervisor is taken to stand still, in seconds.
LONGEST_NOTE = 10.0


class Recording:
    """Takes over the history, continues it, and keeps it with the lock.

    :param lock: the lock.
    :param config: the options of the loop.
    :param agenda: knows where the schedule stands.
    :param clock: the clock of the loop.
    :param logger: where the loop reports.
    """

    def __init__(self, lock: BaseLock, config: Config, agenda: Agenda,
                 clock: Clock, logger: logging.Logger) -> None:
        self.lock = lock
        self.config = config
        self.agenda = agenda
        self.clock = clock
        self.logger = logger
        self.history = History(config.history)
        # Whether the history was taken over from the last holder, in this hold.
        self._inherited = False
        # The runs of this process that may be missing in the history.
        self._unrecorded = Unrecorded()
        # Why these could not be handed in.
        self._lack = ''
        # How many runs this process had, which are counted where there is no history.
        self._runs = 0

    @property
    def _owner(self) -> OwnerRecord:
        """The owner record of this process, from when it took the lock."""
        return OwnerRecord(self.lock.own_record)

    @property
    def has_unrecorded(self) -> bool:
        """Whether runs of this process may be missing in the history."""
        return bool(self._unrecorded)

    # The lock is held, or about to be.

    def acquire(self) -> bool:
        """Acquire the lock; return whether it is held.

        :raises LockUnavailableError: its service does not answer.
        """
        self._inherited = False
        try:
            acquired: object = self.lock.acquire()
            if acquired is None and not self.lock.held:
                return False
            if not isinstance(acquired, int):
                # A coroutine, for instance, would count as true, and the run would
                # have no lock.  None would count as false where a "return" is
                # missing, and nobody would run again.
                raise TypeError(f'{type(self.lock).__qualname__}.acquire() has '
                                f'returned {acquired!r}; allowed: True or False')
            return bool(acquired)
        finally:
            if self.lock.unheard is not None:
                # The lock may have been taken with this record.  Whoever finds it
                # there would presume that this process has begun a run.
                self._unrecorded.begin(
                    OwnerRecord(self.lock.unheard).timestamp)

    def inherit(self) -> None:
        """Take over the history of the last holder; called with the lock held."""
        record = OwnerRecord.parse(self.lock.previous_record)
        self.history = History.read(
            self.lock.previous_history, record, self.clock.wall(),
            self.config.history, handed_in=self.lock.handed_in)
        for each in self._unrecorded.missing(self.history, record):
            self.history.merge(each)
        self.history.hold = self._owner.timestamp
        self._unrecorded.begin(self.history.hold)
        self._inherited = True

    def report_unfinished(self) -> None:
        """Log which run the last holder did not bring to its end."""
        unfinished = self.history.unfinished
        if unfinished is not None:
            self.logger.warning(
                'run %s of %s (pid %s) was not finished: %s',
                unfinished.number, unfinished.fqdn, unfinished.pid,
                unfinished.error)

    def new_run(self) -> Run:
        """Return a run of this process, with the next number."""
        self._runs += 1
        run = Run(max(self._runs, self.history.number + 1),
                  self.lock.fencing_token, self.clock.wall())
        run.fqdn, run.pid = self._owner.fqdn, self._owner.pid
        return run

    def add(self, run: Run) -> None:
        """Add a run that has ended, so that it is kept even if this process dies
        the moment after."""
        self.history.add(run, self._owner.timestamp)
        self._unrecorded.add(self._owner.timestamp, run)
        self.update()
        # Done before anybody is told, because hooks and metrics take their time,
        # and this process or its machine may not live that long.
        self.lock.secure_outcome(self.config.keep_lock)

    def update(self) -> None:
        """Tell the lock what to write when it writes next."""
        if not self._inherited:
            # The loop was interrupted in the instant after it acquired the lock.
            self.inherit()
        self.lock.schedule = self.agenda.export()
        history = self.history.export(
            self.lock.fencing_token, self.agenda.due)
        if history is None and self.config.recoveries == 0:
            # With no recoveries a slot is run at most once.  So the ledger has to be
            # written even where no history is kept.
            history = {'token': self.lock.fencing_token,
                       'hold': self._owner.timestamp, 'newest': []}
        if history is not None and self.config.keep_lock:
            # For the next holder: this ledger is newer than that of the owner record.
            history['ledger'] = self.agenda.ledger.export()
        self.lock.history = history

    def save(self) -> None:
        """Write what is known now beside the lock, which is kept."""
        self.update()
        self.lock.save_history()

    def merge_handed_in(self) -> bool:
        """Merge what was handed in while the lock is held; return whether that is
        done."""
        try:
            with self.lock.silence(LONGEST_NOTE):
                handed_in = self.lock.find_handed_in()
        except LockError as exc:
            self.logger.debug('not merged: %s', exc)
            return False
        if self.history.merge_all(handed_in) and self.config.keep_lock:
            self.save()
        return True

    # The lock is not held any more.

    def is_written(self) -> None:
        """The lock was released, and everything is written."""
        self._unrecorded.forget_all()

    def is_lacking(self, why: str) -> None:
        """Something may not have been written.

        :param why: one line.
        """
        self._lack = why

    def hand_in(self) -> None:
        """Hand in what is missing in the history; the lock is not held."""
        if not self._unrecorded or not self.config.history:
            return
        try:
            state = self.lock.look()
            record = OwnerRecord.parse(state.record)
            history = History.read(
                state.history, record, self.clock.wall(), held=state.held,
                handed_in=state.handed_in)
            for each in self._unrecorded.missing(history, record):
                if self.lock.hand_in(each):
                    self._unrecorded.forget(each.hold)
                    for run in each.runs:
                        self.logger.info(
                            'run %s was not in the history and is handed in',
                            run.number)
        except NotImplementedError:
            self._unrecorded.forget_all()
        except LockError as exc:
            # It is tried again later.
            self.is_lacking(str(exc))

    def report_unrecorded(self) -> None:
        """Log which runs may be missing in the history; called at the end of the
        process."""
        runs = self._unrecorded.runs if self.config.history else []
        if runs:
            self.logger.warning(
                'may be missing in the history: %s; %s',
                ', '.join(f'run {run.number} ({run.outcome.value})'
                          for run in runs), self._lack)
