"""``runjob pause``: no new run begins anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobslib.commands.asking import Answer, answer, ask, holder, stamp
from jobslib.commands.common import add_json
from jobslib.config import Config
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Let no new run of a job begin anywhere, until "runjob '
               'resume"; one that is under way goes on to its end.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)
    parser.add_argument('--reason', metavar='TEXT', default='',
                        help='why, for who looks at "runjob status"')


def run(config: Config) -> ExitCode:
    """Pause the job; the holder releases the lock between two runs."""
    def call(lock: BaseLock) -> Answer:
        def change(state: LockState) -> Control | None:
            if state.control.paused is not None:
                return None
            return Control({**stamp(lock), 'reason': config.args.reason},
                           state.control.request)

        state = ask(lock, change)
        if state.control.paused is not None:
            by = state.control.paused.get('by', 'somebody')
            return ExitCode.DONE, f'is paused already, by {by}'
        if state.held:
            return ExitCode.DONE, (
                f'paused; {holder(state)} releases the lock within a second, '
                f'or when its run has ended')
        return ExitCode.DONE, 'paused'

    return answer(config, call)
