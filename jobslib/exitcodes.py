"""The exit codes of ``runjob``."""

import enum
import sys

__all__ = ['ExitCode']


class ExitCode(enum.IntEnum):
    """What ``runjob`` returns to its caller."""

    #: The run (``--run-once``) or the command did what it should.
    DONE = 0
    #: The run failed, or took too long (``--run-once``); the task could not
    #: be made; FAIL (``check-liveness``).
    TASK_FAILED = 1
    #: The command line, the environment or the settings are wrong.
    USAGE = 2
    #: Another process holds the lock, or the job is paused (``--run-once``);
    #: the lock is not given up, or nobody takes it over, in time
    #: (``release``, ``handover``).
    LOCK_NOT_AVAILABLE = 3
    #: The lock was lost in the run (``--run-once``).
    LOCK_LOST = 4
    #: The service of the lock or liveness does not answer, or refuses
    #: (``--run-once``, and commands).
    LOCK_SERVICE_UNAVAILABLE = 5
    #: The process was ended by SIGTERM or SIGINT: 128 + SIGTERM, what a
    #: shell shows for it.
    TERMINATED = 143


def protect_exit_code() -> None:
    """See to it that the process ends with its own exit code, even if standard error
    is on a full disk.

    Python would try once more to write what is left, and end with 120.
    """
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None
