"""The exceptions of jobslib: one small tree, and the interrupts beside it.

Errors derive from :class:`JobsLibError`.  Interrupts (:class:`Terminate`,
:class:`OneInstanceWatchdogError`) derive from :class:`BaseException`, as
:class:`KeyboardInterrupt` does, so that a task's own ``except Exception``
cannot swallow the demand to stop.
"""

__all__ = [
    'ConfigError',
    'ImportNameError',
    'Interrupt',
    'JobsLibError',
    'LivenessError',
    'LockError',
    'LockNotHeldError',
    'LockAlreadyHeldError',
    'LockUnavailableError',
    'OneInstanceWatchdogError',
    'SupervisedLockError',
    'TaskError',
    'Terminate',
]


class JobsLibError(Exception):
    """Base of all errors of jobslib."""


class ConfigError(JobsLibError):
    """A value, from whatever source, is not what an option allows.

    The message is one line: the option, its value, where the value came
    from and what is allowed.
    """


class ImportNameError(JobsLibError):
    """A dotted path names no module, or nothing inside its module."""


class TaskError(JobsLibError):
    """Raised by a task to report that its run failed.

    Any other exception does so as well.  This one is logged without a traceback,
    for failures that the message explains.
    """


class LockError(JobsLibError):
    """Base of the errors that a lock raises."""


class LockNotHeldError(LockError):
    """A lock was released that this process does not hold."""


class LockAlreadyHeldError(LockError):
    """A lock was acquired a second time by the same object."""


class LockUnavailableError(LockError):
    """The service that keeps the lock did not answer, or refused."""


class SupervisedLockError(LockError):
    """A task tried to acquire or release the lock that it runs under.

    The lock belongs to the supervisor, which releases it when the run is over.
    """


class LivenessError(JobsLibError):
    """The service that keeps the liveness did not answer, or refused."""


class Interrupt(BaseException):
    """Base of the interrupts that are raised inside a running task."""


class Terminate(Interrupt):
    """The process was asked to end (SIGTERM, SIGINT).

    Raised in the main thread of a running task, which then has the lock's
    grace time to clean up.
    """


class OneInstanceWatchdogError(Interrupt):
    """The run must stop now: the lock is lost, the run took too long, or an
    operator asked for it.

    Raised in the main thread of a running task, which has the lock's grace
    time to stop before its process is killed.

    :param overdue: the run took too long, or was silent for too long.
    """

    def __init__(self, *args: object, overdue: bool = False) -> None:
        super().__init__(*args)
        self.overdue = overdue
