"""``runjob run``: a run of a job beside its schedule, now."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from jobslib.commands.asking import PAUSE, Answer, answer, ask, holder, stamp
from jobslib.commands.common import add_json
from jobslib.commands.jobs import describe
from jobslib.commands.jobtables import shown_progress
from jobslib.commands.output import print_line
from jobslib.config import Config
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import Extra
from jobslib.runs import Outcome

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Have a job run now, beside its schedule, by the process that '
               'has the lock or gets it.')

# The years of a slot that can be asked for: those whose times can be shown in any
# time zone, and are believed when they are read again.
FIRST_YEAR, LAST_YEAR = 2, 5000

# How long a run that has ended may take to reach the history, in seconds.
LATEST_NOTE = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)
    parser.add_argument(
        '--after', action='store_true',
        help='when a run is under way, have this one begin after it')
    parser.add_argument(
        '--wait', action='store_true',
        help='wait until the run has ended, show its progress, and end with '
             'its outcome: 0, or 1 if it did not succeed')
    parser.add_argument(
        '--slot', type=_slot, metavar='TIME',
        help='the slot that it is for, in ISO 8601 with the offset from '
             'UTC: 2026-11-24T02:30:00+01:00')


def _slot(text: str) -> float:
    import argparse
    import datetime
    try:
        slot = datetime.datetime.fromisoformat(text)
    except ValueError:
        slot = None
    if slot is None or slot.tzinfo is None or (
            not FIRST_YEAR <= slot.year <= LAST_YEAR):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not allowed; allowed: a time in ISO 8601 with its '
            f'offset from UTC (2026-11-24T02:30:00+01:00), in the years '
            f'{FIRST_YEAR} to {LAST_YEAR}')
    return slot.timestamp()


def run(config: Config) -> ExitCode:
    """Ask for a run.

    :returns: ``LOCK_NOT_AVAILABLE`` when none can be asked for now; with
        ``--wait`` the exit code for how the run ended.
    """
    return answer(config, lambda lock: _run(
        lock, config.task_name, config.args))


def _run(lock: BaseLock, name: str, args: argparse.Namespace) -> Answer:
    extra = Extra(os.urandom(8).hex(), *stamp(lock), args.slot)

    def change(state: LockState) -> Control | None:
        if _refusal(state, name, args.after) is not None:
            return None
        return state.control.changed(extra=extra)

    state = ask(lock, change)
    if refusal := _refusal(state, name, args.after):
        return ExitCode.LOCK_NOT_AVAILABLE, refusal
    if args.wait:
        return _wait(lock, name, extra)
    return ExitCode.DONE, (
        f'a run is asked for; {holder(state)} begins it within a second, or '
        f'when its run has ended' if state.held else
        'a run is asked for; who gets the lock begins it')


def _refusal(state: LockState, name: str, after: bool) -> str | None:
    """Return why no run can be asked for, ``None`` if one can."""
    control = state.control
    if control.paused is not None:
        return f'is {control.demand(None)}; resume it first'
    if control.extra is not None:
        return f'a run is asked for already, by {control.extra.who}'
    if not after and describe(name, state)['state'] == 'running':
        return (f'a run of {holder(state)} is under way; with --after this one '
                f'begins when it has ended')
    return None


def _wait(lock: BaseLock, name: str, extra: Extra) -> Answer:
    """Follow the run to its end."""
    progress = gone = None
    while True:
        state = lock.look()
        job = describe(name, state)
        for each in reversed(job['history']):
            if each.get('asked') == extra.id and (
                    not _is_wanted(state, extra)):
                return _tell(each)
        if job['progress'] not in (None, progress):
            progress = job['progress']
            print_line(f'{name}: {shown_progress(progress)}', sys.stderr)
        if not _is_wanted(state, extra):
            gone = gone or time.monotonic()
            if time.monotonic() - gone > LATEST_NOTE:
                return ExitCode.TASK_FAILED, (
                    'the run is over, and how it ended is not in the history')
        time.sleep(PAUSE)


def _is_wanted(state: LockState, extra: Extra) -> bool:
    found = state.control.extra
    return found is not None and found.id == extra.id


def _tell(run: Mapping[str, object]) -> Answer:
    outcome, error = run.get('outcome'), run.get('error')
    done = outcome == Outcome.SUCCEEDED.value
    return (ExitCode.DONE if done else ExitCode.TASK_FAILED), (
        f'run {run.get("run")} {outcome}{f": {error}" if error else ""}')
