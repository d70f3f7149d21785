"""``runjob stop``: end the run that is under way, and keep the lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobslib.commands.asking import (
    Answer,
    add_timeout,
    answer,
    ask,
    holder,
    stamp,
    until,
)
from jobslib.config import Config
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import Stop

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('End the run of a job that is under way; its slot is given up, '
               'and the holder keeps the lock.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_timeout(parser, 'the run has ended')


def run(config: Config) -> ExitCode:
    """Ask the holder to end its run, and wait until it has.

    :returns: ``LOCK_NOT_AVAILABLE`` when it has not ended in time.
    """
    return answer(config, lambda lock: _stop(lock, config.args.timeout))


def _stop(lock: BaseLock, timeout: float) -> Answer:
    def change(state: LockState) -> Control | None:
        if not state.held:
            return None
        return state.control.changed(
            stop=Stop(state.token, *stamp(lock)))

    state = ask(lock, change)
    if not state.held:
        return ExitCode.DONE, 'no run is under way: nobody holds the lock'
    found = until(lock, timeout, lambda now: now.token != state.token
                  or now.control.stop_for(state.token) is None)
    if found is None:
        return ExitCode.LOCK_NOT_AVAILABLE, (
            f'the run of {holder(state)} has not ended within {timeout:g} s')
    return ExitCode.DONE, f'no run of {holder(state)} is under way any more'
