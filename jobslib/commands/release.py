"""``runjob release``: take the lock from its holder, between two runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jobslib.commands.asking import (
    Answer,
    add_interrupt,
    add_timeout,
    answer,
    ask,
    holder,
    stamp,
    until,
)
from jobslib.commands.output import print_line
from jobslib.config import Config
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import PATIENCE, Request

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = (
    'Have the holder of a job release its lock between two runs, and stand '
    f'back for {PATIENCE["release"]:g} s so that others can take it.')

RISK = (
    'runjob: warning: the run is interrupted, and killed after its grace '
    'time; what it has begun is left half done. Nobody else gets the lock '
    'before the lock-delay of the holder is over. A holder that is frozen '
    'with its lease keeper cannot be stopped from here: when it wakes it '
    'may write once more, unless the fencing token is checked.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_timeout(parser, 'the lock is released')
    add_interrupt(parser)
    parser.add_argument(
        '--force', action='store_true',
        help='for a holder that does not answer: end its session, and with it '
             'its run')


def run(config: Config) -> ExitCode:
    """Ask the holder to release the lock, and wait until it has.

    :returns: ``LOCK_NOT_AVAILABLE`` when it has not done so in time.
    """
    if config.args.force:
        return answer(config, _force)
    return answer(config, lambda lock: _release(
        lock, config.args.timeout, config.args.interrupt))


def _release(lock: BaseLock, timeout: float, interrupt: bool) -> Answer:
    def change(state: LockState) -> Control | None:
        if not state.held:
            return None
        return state.control.changed(request=Request(
            'release', state.token, *stamp(lock), interrupt=interrupt))

    state = ask(lock, change)
    if not state.held:
        return ExitCode.DONE, 'nobody holds the lock'
    return _wait(lock, state, timeout)


def _force(lock: BaseLock) -> Answer:
    state = lock.look()
    if not state.held:
        return ExitCode.DONE, 'nobody holds the lock'
    lock.force_release()
    print_line(RISK, sys.stderr)
    return ExitCode.DONE, f'the session of {holder(state)} is ended'


def _wait(lock: BaseLock, state: LockState, timeout: float) -> Answer:
    if until(lock, timeout, lambda now: now.token != state.token) is None:
        return ExitCode.LOCK_NOT_AVAILABLE, (
            f'{holder(state)} has not released the lock within {timeout:g} s; '
            f'it does so when its run has ended')
    return ExitCode.DONE, f'{holder(state)} has released the lock'
