"""Locks that keep a task to one instance.

:class:`BaseLock` is what a lock has to offer; subclass it to add a kind of
your own, and name the class in ``ONE_INSTANCE['backend']``.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from functools import cached_property

from jobslib.clock import shown
from jobslib.config import ConfigGroup, option
from jobslib.exceptions import (  # noqa: F401
    LockAlreadyHeldError,
    LockNotHeldError,
    OneInstanceWatchdogError,
)
from jobslib.oneinstance.control import Control, Restraint
from jobslib.oneinstance.record import with_asked_run
from jobslib.oneinstance.watchdog import LimitsWatchdog, Watchdog
from jobslib.owner import OwnerRecord
from jobslib.runs import ProgressReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import (
        Callable,
        Collection,
        Iterator,
        Mapping,
        Sequence,
    )
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.history import HandIn
    from jobslib.oneinstance.diagnosis import Finding

__all__ = ['BaseLock', 'FoundLocks', 'LockState']

GRACE = 3.0


class LockState:
    """What is known of a lock, and of the job that it is for.

    :param held: whether somebody holds the lock.
    :param record: the owner record of the holder or, when nobody holds the
        lock, the one that the last holder left.
    :param history: see :meth:`jobslib.history.History.export`.
    :param control: what operators ask of the job.
    :param progress: how far the run is, as :meth:`BaseLock.report_progress`
        was told; it is read as a :class:`~jobslib.runs.ProgressReport`.
    :param others: the processes that are ready to take the lock after the
        holder, each a dict of ``fqdn`` and ``pid``; ``None`` if that is not
        known.
    :param token: the fencing token of the holder, if it has one.
    :param handed_in: what was handed in for the history and is not merged into
        it yet, by name.
    """

    def __init__(self, held: bool, record: dict[str, object] | None,
                 history: dict[str, Any] | None = None,
                 control: Control | None = None,
                 progress: Mapping[str, object] | None = None,
                 others: list[Mapping[str, object]] | None = None,
                 token: int | None = None,
                 handed_in: dict[str, HandIn] | None = None) -> None:
        self.held = held
        self.history = history
        self.control = control or Control()
        self.record = record if held else with_asked_run(
            record, self.control.extra)
        self.progress = ProgressReport.parse(progress)
        self.others = others
        self.token = token
        self.handed_in = handed_in or {}
        #: What has a value that is not jobslib's, and so counts as if it were not
        #: there, in words.
        self.unreadable: list[str] = []

    @property
    def owner(self) -> OwnerRecord:
        """The owner record, as it is read; an empty one if there is none."""
        return OwnerRecord(self.record or {})


class FoundLocks(dict[str, LockState]):
    """The states of locks, by the place of each: its key or its path.

    :param address: the service, or the folder, that was asked for them.
    :param prefix: what the places of these locks begin with.
    """

    def __init__(self, address: str, prefix: str) -> None:
        super().__init__()
        self.address = address
        self.prefix = prefix
        #: Why some locks may be missing, and what to grant; empty when all
        #: could be read.
        self.missing = ''


class BaseLock:
    """A lock that one process at a time can hold.

    A lock is used by one thread of one process.  Everything that can fail
    raises :class:`jobslib.exceptions.LockError` or a subclass.

    :param context: the context of the task.
    :param options: the lock's options, an ``OptionsConfig``.
    """

    class OptionsConfig(ConfigGroup):
        """Options that every lock has; subclass it to add more."""

        grace = option(
            attrtype=float, unit='seconds', above=0,
            env='JOBSLIB_ONE_INSTANCE_GRACE',
            help='Seconds from the interrupt of a run to its kill '
                 '(default 3).')
        heartbeat = option(
            attrtype=float, unit='seconds', above=0,
            env='JOBSLIB_ONE_INSTANCE_HEARTBEAT',
            help='A run that does not call extend_lock() for longer, in '
                 'seconds, is treated as hung.')

    #: Whether the process of the lock is a supervisor, which runs no code of
    #: users: its runs are processes below it.  The loop sets it.
    supervised = False

    #: Whether :meth:`save_history` costs next to nothing, so that it can be
    #: called before each run as well.
    saves_for_nothing = False

    #: The processes of runs that end by themselves.  They are not to be killed
    #: with what else an interrupted run has left.  The loop sets it.
    spared: Collection[int] = ()

    def __init__(self, context: BackendContext, options: Any) -> None:
        self.context = context
        self.options = options
        #: What the loop leaves to the next holder: the ledger of the job,
        #: with ``due``, a UNIX time.  Stored with the owner record, where
        #: there is one.
        self.schedule: dict[str, object] = {}
        #: Called by :meth:`consider` with :attr:`previous_record`; returns
        #: :attr:`schedule`, or ``None`` if there is nothing to take the lock
        #: for.  The loop sets it.
        self.inherit_schedule: Callable[
            [dict[str, object] | None], dict[str, object] | None] | None = None
        #: Whether there was something to take the lock for.
        self.wanted = True
        #: The owner record of the previous holder, or ``None``; set by
        #: :meth:`consider`.
        self.previous_record: dict[str, object] | None = None
        #: The history that the previous holder left, or ``None``; a lock that
        #: keeps one sets it when it acquires.
        self.previous_history: Mapping[str, object] | None = None
        #: What the loop leaves beside the lock when it releases it, as
        #: :meth:`jobslib.history.History.export` returns it.
        self.history: dict[str, Any] | None = None
        #: What others have handed in of runs that are missing in the history,
        #: by name; set with :attr:`previous_history`.
        self.handed_in: dict[str, HandIn] = {}
        #: The owner record of an acquisition that may have been carried out
        #: although :meth:`acquire` did not return true, or ``None``.
        self.unheard: dict[str, Any] | None = None
        #: Why :meth:`acquire` did not take a lock that was free, or ``None``.
        self.barred: str | None = None

    @cached_property
    def logger(self) -> logging.Logger:
        """The logger of the lock."""
        import logging
        return logging.getLogger(type(self).__module__)

    @cached_property
    def watchdog(self) -> Watchdog:
        """What limits a run that hangs or takes too long."""
        return LimitsWatchdog(
            getattr(self.options, 'grace', None) or GRACE,
            getattr(self.options, 'heartbeat', None))

    def consider(self, record: dict[str, object] | None) -> bool:
        """Decide whether a lock that is free is to be taken.

        A lock that has owner records calls it in :meth:`acquire`, before it writes
        its own record, and does not take the lock if it returns false.

        :param record: the owner record of the previous holder, or ``None``.  It
            becomes :attr:`previous_record`, with the run that an operator had
            asked for, if the holder vanished in that.
        :returns: :attr:`wanted`; if it is true, :attr:`schedule` is what the new
            record has to have.
        """
        self.previous_record = with_asked_run(record, self.control.extra)
        if self.inherit_schedule is not None:
            schedule = self.inherit_schedule(self.previous_record)
            self.wanted = schedule is not None
            if schedule is not None:
                self.schedule = schedule
        return self.wanted

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, as far as it knows."""
        raise NotImplementedError

    @property
    def control(self) -> Control:
        """What operators ask of the job, as far as this process knows.

        The loop looks at it twice a second, so it must neither wait nor send a
        request.
        """
        return Control()

    @property
    def place(self) -> dict[str, str | None]:
        """Where the lock is.

        A dict of ``backend``, the dotted path of its class; ``address``, of the
        service or machine that it is on; and ``key``, its name there.  To be
        extended by subclasses.
        """
        return {'backend': f'{type(self).__module__}.{type(self).__qualname__}',
                'address': None, 'key': None}

    @property
    def own_record(self) -> dict[str, object]:
        """The owner record of this process, while it holds the lock."""
        return {}

    @property
    def fencing_token(self) -> int | None:
        """A number that is greater with each acquisition.

        ``None`` when the lock is not held, or has no such number.
        """
        return None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it was.

        :raises LockAlreadyHeldError: this object holds it.
        :raises LockUnavailableError: the lock's service did not answer.
        """
        raise NotImplementedError

    def release(self) -> bool:
        """Free the lock; return whether it was still this process's.

        :raises LockNotHeldError: this object does not hold it.
        :raises LockUnavailableError: the lock's service did not answer.
        """
        raise NotImplementedError

    def refresh(self) -> bool:
        """Return whether the lock is this process's at this moment.

        Also the heartbeat of the run, see the option ``heartbeat``.
        """
        raise NotImplementedError

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        """Return who holds the lock: ``fqdn``, ``pid``, ``task``,
        ``timestamp`` (UNIX), ``time_utc``, ``time_local`` and more.

        ``None`` when nobody does, or the record cannot be read.
        """
        raise NotImplementedError

    def wait(self, timeout: float) -> None:
        """Return when the lock may be free, or after *timeout* seconds.

        It must not start a process and wait for its end, because the loop
        reaps all children that end meanwhile.
        """
        raise NotImplementedError

    def peek(self) -> None:
        """Bring :attr:`~.BaseLock.control` up to date while the lock is not held,
        if that takes a request to the lock's service.

        :raises LockUnavailableError: the lock's service did not answer.
        """

    def secure_outcome(self, kept: bool) -> None:
        """A run has ended, and its outcome is in
        :attr:`jobslib.oneinstance.BaseLock.history` and
        :attr:`jobslib.oneinstance.BaseLock.schedule`: it is to be known even if this
        process dies before it releases the lock.

        It returns at once, and asks nobody who is not on this machine.

        :param kept: whether the lock is kept after the run, so that the
            history is to be saved in any case.
        """
        if kept:
            self.save_history()

    def save_history(self) -> None:
        """Keep the history beside the lock, which is held and is kept.

        It is that of :attr:`jobslib.oneinstance.BaseLock.history`.

        It returns at once; what cannot be written now comes with the next.
        """

    def find_handed_in(self) -> dict[str, HandIn]:
        """Return what others have handed in while the lock is held, by name.

        :raises LockUnavailableError: the lock's service did not answer.
        """
        return {}

    def hand_in(self, handed_in: HandIn) -> bool:
        """Hand in what is missing in the history, for the holder to merge.

        Called while this process does not hold the lock.

        :returns: whether it is handed in; otherwise it is tried again later.
        :raises NotImplementedError: the lock keeps no history for others.
        :raises LockUnavailableError: the lock's service did not answer.
        """
        raise NotImplementedError(
            f'{type(self).__name__} keeps no history for others')

    def report_progress(self, progress: dict[str, object]) -> None:
        """Show others how far the run is: ``done, total, message, time``.

        Called at most once in a few seconds; it returns at once.
        """

    def lease_left(self) -> float | None:
        """Return for how many seconds the lock is certainly still held.

        ``None`` when it is not held, or held for as long as the process
        lives.
        """
        return None

    def close(self) -> None:
        """Free whatever the lock has, whatever state it is in."""

    # What follows is for the run's process, see jobslib.run.  The lock itself is
    # in the supervisor.

    @property
    def marker(self) -> str | None:
        """The mark by which the processes that runs start are found: 32
        hexadecimal digits, or ``None`` if any will do."""
        return None

    def sign_of_life(self, seconds: float = 0.0) -> None:
        """Take note that the supervisor is at work.

        Called several times a second while the lock is held.

        :param seconds: for how long the supervisor may be silent from now on.
        """

    @contextmanager
    def silence(self, seconds: float) -> Iterator[None]:
        """Let the supervisor be silent in here without being taken to stand still.

        :param seconds: for how long at most.
        """
        self.sign_of_life(seconds)
        try:
            yield
        finally:
            self.sign_of_life()

    def handles(self) -> Sequence[int]:
        """Return the descriptors that the run's process must have as well while
        the lock is held."""
        return ()

    def adopt_handles(self, descriptors: Sequence[int]) -> None:
        """Take over the descriptors of :meth:`handles`; called in the run's
        process."""

    def refresh_in_run(self) -> bool | None:
        """Return what :meth:`refresh` would; called in the run's process.

        ``None`` means that this process cannot know it; then the supervisor is
        asked.
        """
        return None

    # What follows is for operators, see the commands of runjob.

    def look(self) -> LockState:
        """Return what is known of the lock and its job, whoever has it.

        :raises LockUnavailableError: the lock's service did not answer.
        """
        owner = self.get_lock_owner_info()
        return LockState(owner is not None, owner)

    def ask(self, control: Control, expected: Control) -> bool:
        """Replace what is asked of the job by *control*.

        :param expected: what *control* was made from.
        :returns: false if something else than *expected* is asked by now; then
            nothing is changed.
        :raises NotImplementedError: the lock cannot be told anything.
        :raises LockUnavailableError: the lock's service did not answer.
        """
        raise NotImplementedError(
            f'{type(self).__name__} cannot be told anything')

    def force_release(self) -> None:
        """Take the lock from a holder that does not answer.

        :raises NotImplementedError: the lock cannot be taken away.
        :raises LockUnavailableError: the lock's service did not answer.
        """
        raise NotImplementedError(
            f'{type(self).__name__} cannot be taken from its holder')

    @classmethod
    def find_all(cls, context: BackendContext, options: Any,
                 prefix: str | None = None) -> FoundLocks:
        """Return the locks of all jobs, by their places.

        Of the history of each the newest run is enough.

        :param prefix: what the places of the locks begin with, such as their
            keys; by default those that are not configured otherwise.
        :raises NotImplementedError: locks of this kind do not know of others.
        :raises LockUnavailableError: the lock's service did not answer.
        """
        raise NotImplementedError(
            f'{cls.__name__} does not know the jobs that there are')

    @classmethod
    def diagnose(cls, context: BackendContext, options: Any) -> list[Finding]:
        """Find out whether such a lock could be used; for ``runjob check``.

        To be overridden.  It must neither disturb a holder of the lock nor leave
        anything behind.  ``context.config.task_cls`` is ``None`` when no task is
        named.

        :raises ConfigError: an option is refused.
        """
        return []

    @classmethod
    def compare_clocks(cls, context: BackendContext,
                       options: Any) -> tuple[float, float] | None:
        """Compare the clock of this machine with that of the lock's service; for
        ``runjob check``.

        To be overridden.

        :returns: by how many seconds this machine is ahead, at least and at
            most, negative where it is behind; ``None`` if there is no service,
            or it does not tell its time.
        :raises LockUnavailableError: the lock's service did not answer.
        """
        return None

    def make_record(self) -> dict[str, Any]:
        """Return the owner record of this process.

        To be extended by subclasses; JSON must be able to hold the values.
        """
        return {
            'fqdn': self.machine(),
            'pid': os.getpid(),
            'task': self.context.config.task_name,
            **shown(time.time()),
            'schedule': dict(self.schedule),
            **self._unsettled(),
        }

    def _unsettled(self) -> dict[str, object]:
        """Return what the record says of holders that vanished.

        Their runs get into the history when this holder writes it.  Until then,
        and when this holder vanishes as well, others find them here.
        """
        record = OwnerRecord.parse(self.previous_record)
        keeps = self.supervised and bool(
            getattr(self.context.config, 'history', 0))
        before = record.unsettled if record is not None and keeps else []
        return {'before': before} if before else {}

    def machine(self) -> str:
        """Return the name of this machine for the owner record."""
        return self.context.fqdn

    @cached_property
    def _restraint(self) -> Restraint:
        return Restraint(self.machine())

    def _find_restraint(self, control: Control,
                        record: dict[str, object] | None) -> str | None:
        """Return why this process may not take a free lock, if it may not."""
        return self._restraint.find(
            control, OwnerRecord.parse(record), time.monotonic())

    def refuse_if_held(self) -> None:
        """Refuse to acquire a lock that is held; for :meth:`acquire`.

        :raises LockAlreadyHeldError: this object holds it.
        """
        if self.held:
            raise LockAlreadyHeldError(
                f'the lock of {self.context.config.task_name} is held by '
                f'this process already')

    def refuse_unless_held(self) -> None:
        """Refuse to release a lock that is not held; for :meth:`release`.

        :raises LockNotHeldError: this object does not hold it.
        """
        if not self.held:
            raise LockNotHeldError(
                f'the lock of {self.context.config.task_name} is not held '
                f'by this process')

    # What locks that were written for version 1.0 call.
    _refuse_if_held = refuse_if_held
    _refuse_unless_held = refuse_unless_held
