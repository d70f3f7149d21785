"""What is kept beside the lock: where the schedule stands, and the history.

It is put there by who has the lock, with the release, or after each run while
the lock is kept.  What could not be written is handed in later, see
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

#: How long the service of the lock may take for one request between two runs,
#: in seconds, before the supervisor is taken to stand still.
LONGEST_NOTE = 10.0


class Recording:
    """Has the history inherited, continued and kept beside the lock.

    :param lock: the lock.
    :param config: the options of the loop.
    :param agenda: knows where the schedule stands.
    :param clock: what time it is.
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
        # Whether the history is that of the lock that is held.
        self._inherited = False
        # What this process knows, and the history perhaps does not.
        self._unrecorded = Unrecorded()
        # Why that could not be handed in.
        self._lack = ''
        # Runs are counted from here where there is no history.
        self._runs = 0

    @property
    def _owner(self) -> OwnerRecord:
        """What this process has written of itself when it took the lock."""
        return OwnerRecord(self.lock.own_record)

    @property
    def has_unrecorded(self) -> bool:
        """Whether the history perhaps lacks what this process knows."""
        return bool(self._unrecorded)

    # The lock is held, or about to be.

    def acquire(self) -> bool:
        """Acquire the lock; return whether it is held.

        :raises LockUnavailableError: its service does not answer.
        """
        self._inherited = False
        try:
            return self.lock.acquire()
        finally:
            if self.lock.unheard is not None:
                # Who finds it in the lock would think that it has had a run.
                self._unrecorded.begin(
                    OwnerRecord(self.lock.unheard).timestamp)

    def inherit(self) -> None:
        """The lock is acquired: go on with the history that its last holder
        has left."""
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
        """Say which run the last holder did not end."""
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
        """A run has ended: keep it, also if this process gets no further."""
        self.history.add(run, self._owner.timestamp)
        self._unrecorded.add(self._owner.timestamp, run)
        self.update()
        self.lock.secure_outcome()
        if self.config.keep_lock:
            # Before anybody is told, since hooks and metrics take their time,
            # and the machine may not live that long.
            self.lock.save_history()

    def update(self) -> None:
        """Have the lock write what is known now, when it writes next."""
        if not self._inherited:
            # Interrupted in the instant after the lock was acquired.
            self.inherit()
        self.lock.schedule = self.agenda.export()
        history = self.history.export(
            self.lock.fencing_token, self.agenda.due)
        if history is None and self.config.recoveries == 0:
            # At most once is promised, whatever is kept of the runs.
            history = {'token': self.lock.fencing_token, 'newest': []}
        if history is not None and self.config.keep_lock:
            # It is newer than that of the owner record, for a successor.
            history['ledger'] = self.agenda.ledger.export()
        self.lock.history = history

    def save(self) -> None:
        """Write what is known now, beside the lock, which is kept."""
        self.update()
        self.lock.save_history()

    def merge_handed_in(self) -> bool:
        """Merge what others have handed in while the lock is held; return
        whether that is done."""
        self.lock.sign_of_life(LONGEST_NOTE)
        try:
            handed_in = self.lock.find_handed_in()
        except LockError as exc:
            self.logger.debug('not merged: %s', exc)
            return False
        finally:
            self.lock.sign_of_life()
        if self.history.merge_all(handed_in) and self.config.keep_lock:
            self.save()
        return True

    # The lock is not held any more.

    def is_written(self) -> None:
        """The lock was released, and all that was known is written."""
        self._unrecorded.forget_all()

    def is_lacking(self, why: str) -> None:
        """What is known is perhaps not written.

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
            # It is tried again.
            self.is_lacking(str(exc))

    def report_unrecorded(self) -> None:
        """Say what could not be handed in: the process ends."""
        runs = self._unrecorded.runs if self.config.history else []
        if runs:
            self.logger.warning(
                'may be missing in the history: %s; %s',
                ', '.join(f'run {run.number} ({run.outcome.value})'
                          for run in runs), self._lack)
