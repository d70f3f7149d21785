"""``runjob handover``: give the lock to another process."""

from __future__ import annotations

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
from jobslib.commands.jobs import who
from jobslib.config import Config
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import PATIENCE, Request

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Have the holder of a job release its lock between two runs, '
               'and see that another process takes it.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_timeout(parser, 'another one has the lock')
    add_interrupt(parser)
    parser.add_argument(
        '--to', metavar='MACHINE',
        help='the machine that is to have it, by the name that "runjob '
             'status" shows (default: any but the holder)')


def run(config: Config) -> ExitCode:
    """Ask the holder to hand the lock over, and wait until that is done.

    :returns: ``LOCK_NOT_AVAILABLE`` when nobody is there to take the lock, or
        nobody has taken it in time.
    """
    return answer(config, lambda lock: _hand_over(
        lock, config.args.to, config.args.timeout, config.args.interrupt))


def _hand_over(lock: BaseLock, to: str | None, timeout: float,
               interrupt: bool) -> Answer:
    def change(state: LockState) -> Control | None:
        if _refusal(state, to) is not None:
            return None
        return state.control.changed(request=Request(
            'handover', state.token, *stamp(lock), to, interrupt))

    state = ask(lock, change)
    if refusal := _refusal(state, to):
        return ExitCode.LOCK_NOT_AVAILABLE, refusal
    found = until(lock, timeout,
                  lambda now: now.held and now.token != state.token)
    if found is None:
        waits = ('that is done when its run has ended'
                 if lock.look().token == state.token else
                 f'it has released the lock, and takes part again after '
                 f'{PATIENCE["handover"]:g} s')
        return ExitCode.LOCK_NOT_AVAILABLE, (
            f'nobody has taken over from {holder(state)} within {timeout:g} s; '
            f'{waits}')
    return ExitCode.DONE, f'{holder(found)} has taken over from {holder(state)}'


def _refusal(state: LockState, to: str | None) -> str | None:
    """Return why there is nothing to hand over, or nobody to hand it to."""
    if not state.held:
        return 'nobody holds the lock'
    if state.control.paused is not None:
        return 'is paused, so nobody could take over; resume it first'
    ready = state.others
    if ready is None:
        return None
    if to is not None and state.owner.fqdn == to:
        return f'{to} has the lock already'
    if not [each for each in ready if _fits(each, to)]:
        return (f'nobody is ready to take over{f" on {to}" if to else ""}; '
                f'ready: {", ".join(map(who, ready)) or "nobody"}')
    return None


def _fits(process: Mapping[str, object], to: str | None) -> bool:
    return to is None or process.get('fqdn') == to
