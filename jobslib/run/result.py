"""How a request to the run's process ended, and how that process ended."""

from __future__ import annotations

import os
import signal

from jobslib.runs import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.exceptions import Interrupt

__all__ = ['Result', 'describe_end']


class Result:
    """How a request to the run's process ended.

    :param outcome: the outcome of the run, or of the hook.
    :param error: type and first line of what was raised, or how the process
        ended.
    :param message: the whole message of what was raised.
    :param traceback: ``None`` where the message explains the failure.
    :param closed: whether the process cannot be sent another request.
    :param exits: whether runs or hooks have registered functions that the process
        will call when it ends.
    """

    def __init__(self, outcome: str, error: str | None = None,
                 message: str = '', traceback: str | None = None,
                 closed: bool = False, exits: bool = False) -> None:
        self.outcome = Outcome(outcome)
        self.error = error
        self.message = message
        self.traceback = traceback
        self.closed = closed
        self.exits = exits

    @classmethod
    def killed(cls, status: int, interrupt: Interrupt | None) -> Result:
        """Return the result of a request that the process did not survive.

        :param status: the exit status of the process.
        :param interrupt: what had interrupted the request before, if anything.
        """
        how = describe_end(os.waitstatus_to_exitcode(status))
        return cls(Outcome.KILLED.value,
                   how if interrupt is None else f'{interrupt}; {how}')


def describe_end(code: int) -> str:
    """Return how a process ended, in words.

    :param code: its exit code; a signal is a negative number.
    """
    if code >= 0:
        return f'its process ended with exit code {code}'
    try:
        return f'killed by {signal.Signals(-code).name}'
    except ValueError:
        return f'killed by signal {-code}'
