"""The outcome of a run, and the line of the log about it."""

from __future__ import annotations

from jobslib.logs import with_traceback
from jobslib.runs import Outcome, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from jobslib.exceptions import Interrupt
    from jobslib.run.result import Result
    from jobslib.runs import Run

__all__ = ['find_outcome', 'log_end']


def find_outcome(result: Result,
                 interrupt: Interrupt | None) -> tuple[Outcome, str | None]:
    """Return the outcome of a run, and its error if it has one.

    :param result: how it ended in the run's process.
    :param interrupt: the interrupt that came meanwhile, if one did.
    """
    if result.outcome is Outcome.KILLED:
        return Outcome.KILLED, result.error
    if interrupt is not None:
        return Outcome.INTERRUPTED, describe(interrupt)
    if result.outcome is Outcome.INTERRUPTED:
        return Outcome.INTERRUPTED, result.error or ''
    if result.outcome is Outcome.SUCCEEDED:
        return Outcome.SUCCEEDED, None
    return Outcome.FAILED, result.error


def log_end(logger: logging.Logger, run: Run, result: Result,
            interrupt: Interrupt | None, task_name: str) -> None:
    """Log how *run* has ended; see :func:`find_outcome`."""
    fields = run.log_fields(task_name)
    if run.outcome is Outcome.KILLED:
        logger.error('run killed after %.3f s: %s', run.duration,
                     result.error, extra=fields)
    elif run.outcome is Outcome.INTERRUPTED:
        logger.warning('run interrupted after %.3f s: %s', run.duration,
                       result.message if interrupt is None else interrupt,
                       extra=fields)
    elif run.outcome is Outcome.SUCCEEDED:
        logger.info('run succeeded after %.3f s', run.duration, extra=fields)
    elif result.traceback is None:
        logger.error('run failed after %.3f s: %s', run.duration,
                     result.message or result.error, extra=fields)
    else:
        with_traceback(logger, result.traceback, 'run failed after %.3f s',
                       run.duration, **fields)
