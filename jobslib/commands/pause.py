"""``runjob pause``: no new run begins anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobslib.commands.asking import (
    Answer,
    add_interrupt,
    answer,
    ask,
    holder,
    stamp,
)
from jobslib.commands.common import add_json
from jobslib.config import Config
from jobslib.exceptions import ConfigError
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import Pause

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'pause', 'run']

# The longest reason, in characters.  The memory in which a lease keeper shows a
# pause to the holder is small, and what does not fit there is not obeyed.
MAX_REASON = 200

DESCRIPTION = ('Let no new run of a job begin anywhere, until "runjob '
               'resume"; one that is under way goes on to its end, unless '
               '--interrupt is given.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)
    add_interrupt(parser)
    parser.add_argument('--reason', metavar='TEXT', default='',
                        help='why, for who looks at "runjob status"; at most '
                             f'{MAX_REASON} characters')


def run(config: Config) -> ExitCode:
    """Pause the job; the holder releases the lock between two runs.

    :raises ConfigError: the reason is too long.
    """
    reason = config.args.reason
    if len(reason) > MAX_REASON:
        raise ConfigError(
            f'pause: --reason is {len(reason)} characters long; allowed: at '
            f'most {MAX_REASON}')
    return answer(config, lambda lock: pause(
        lock, reason, config.args.interrupt))


def pause(lock: BaseLock, reason: str, interrupt: bool = False) -> Answer:
    """Pause the job of *lock*, because of *reason*.

    :param interrupt: whether a run that is under way is to be interrupted.
    """
    def change(state: LockState) -> Control | None:
        paused = state.control.paused
        if paused is not None and reason in ('', paused.reason):
            return None
        return state.control.changed(
            paused=Pause(*stamp(lock), reason, interrupt))

    state = ask(lock, change)
    before = state.control.demand(None)
    if before is not None:
        return ExitCode.DONE, (
            f'is already {before}' if change(state) is None else
            f'was already {before}; the reason is now: {reason}')
    # Looked at again, because somebody may have taken the lock just before the
    # pause was written.
    state = lock.look()
    if state.held:
        return ExitCode.DONE, (
            f'paused; {holder(state)} releases the lock within a second, '
            f'or when its run has ended')
    return ExitCode.DONE, 'paused'
