"""The base class of the tasks that users write."""

from __future__ import annotations

import sys
from functools import cached_property

from jobslib.exceptions import OneInstanceWatchdogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime
    import logging
    from typing import Any

    from jobslib.config import Config
    from jobslib.documents import Document
    from jobslib.progress import Progress
    from jobslib.runs import Run

__all__ = ['BaseTask']


class BaseTask:
    """A job.  Override :meth:`task`, and :meth:`initialize` if needed.

    :param config: the configuration of the job.
    """

    #: Names the task in logs, and its lock: tasks of one name exclude each
    #: other.  By default the dotted path of the class.
    name: str = ''

    #: One or more sentences for ``runjob TASK --help``.
    description: str = ''

    #: The task's own arguments, a tuple of :func:`jobslib.argument`.  Their
    #: values are the attributes of :attr:`args`.
    arguments: tuple[Any, ...] = ()

    def __init__(self, config: Config) -> None:
        if not self.name:
            self.name = config.task_name
        #: Resources that the runs share, the lock among them.
        self.context: Any = config.make_context()
        self.stdout = sys.stdout
        self.stderr = sys.stderr
        try:
            self.initialize()
        except BaseException:
            self.context.close()
            raise

    @cached_property
    def logger(self) -> logging.Logger:
        """The task's logger, named for the task."""
        import logging
        return logging.getLogger(self.name)

    @property
    def args(self) -> Any:
        """The parsed command line, an attribute for each argument."""
        return self.context.config.args

    @property
    def fencing_token(self) -> int | None:
        """A number that grows with each acquisition of the lock.

        Send it along with what the task writes, so that a write with an older
        number can be refused.  ``None`` when the lock has no such number.
        """
        token: int | None = self.context.one_instance_lock.fencing_token
        return token

    @property
    def stop_requested(self) -> bool:
        """Whether the run is asked to end soon: by SIGTERM to the process, or by
        ``runjob pause``, ``release``, ``handover`` or ``stop`` for the job.

        A task that runs for ever looks at it now and then, and returns when
        it is true.  It costs nothing to look often.
        """
        link = self.context.config.link
        return link is not None and link.memory.stop_reason is not None

    @property
    def slot(self) -> datetime.datetime | None:
        """The instant at which the run was due, in the schedule's time zone.

        It is the same for all runs of a slot, however late they are.  So what the
        run works on, such as the day before, is best derived from it.  ``None``
        when there is no schedule.
        """
        slot = self._run.get('slot')
        if slot is None:
            return None
        at: datetime.datetime = self.context.config.local_time(slot)
        return at

    @property
    def attempt(self) -> int:
        """The number of this run among those of its slot, from 1.

        When it is more than 1, an earlier run may have done a part of the work.
        """
        attempt: int = self._run.get('attempt', 1)
        return attempt

    @property
    def _run(self) -> Document:
        link = self.context.config.link
        return {} if link is None else link.run

    def initialize(self) -> None:
        """Prepare the task, once for the process; to be overridden."""

    def task(self) -> object:
        """Do one run; to be overridden.

        May be a coroutine function.  A run fails by raising an exception;
        see :class:`jobslib.TaskError`.
        """
        raise NotImplementedError(f'{type(self).__name__}.task')

    def on_acquired(self) -> None:
        """The lock was acquired; a hook, to be overridden.

        Called once for each acquisition, before the first run under it.
        """

    def on_success(self, run: Run) -> None:
        """A run succeeded; a hook, to be overridden.

        Called with the lock still held.
        """

    def on_failure(self, run: Run) -> None:
        """A run failed, or was interrupted; a hook, to be overridden.

        ``run.outcome`` and ``run.error`` say which, and why.  Called with
        the lock still held, unless its loss is what ended the run.
        """

    def on_released(self) -> None:
        """The lock was released, and is not held; a hook, to be overridden.
        """

    def on_lost(self, reason: str) -> None:
        """The lock was lost, and the run has stopped; a hook, to be
        overridden.

        Called in place of :meth:`on_released`.
        """

    def progress(self, done: float, total: float | None = None,
                 message: str = '') -> None:
        """Report how far the run is; this is also the task's heartbeat.

        It is shown as a bar on a terminal, otherwise in the log.  Call it as often
        as you like, from any thread of the process.

        :param done: how much is done, in any unit.
        :param total: how much there is to do, in the same unit; ``None`` when
            that is not known.
        :param message: what is being done.
        :raises OneInstanceWatchdogError: the lock is not this process's any
            more, and the run must stop.
        """
        reporter = self.__dict__.get('_progress') or self._begin_progress()
        reporter.report(done, total, message)

    def end_progress(self) -> None:
        """Close the progress bar; called at the end of each run."""
        reporter: Progress | None = self.__dict__.pop('_progress', None)
        if reporter is not None:
            reporter.close()

    def _begin_progress(self) -> Progress:
        from jobslib.progress import Progress
        # All threads use the one that was made first.
        reporter: Progress = self.__dict__.setdefault(
            '_progress', Progress(self))
        return reporter

    def extend_lock(self) -> None:
        """Report that the run makes progress; this is the task's heartbeat.

        :raises OneInstanceWatchdogError: the lock is not this process's any
            more, and the run must stop.
        """
        if not self.context.one_instance_lock.refresh():
            raise OneInstanceWatchdogError('the lock is lost')
