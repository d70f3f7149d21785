"""``runjob skip``: leave out the next slot of a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobslib.commands.asking import Answer, answer, ask, stamp
from jobslib.commands.common import WHEN_DUE, require_task
from jobslib.commands.common import add_json as add_arguments
from jobslib.commands.jobs import find_ledger
from jobslib.config import Config
from jobslib.exceptions import ConfigError
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import MAX_SKIPS, Control
from jobslib.oneinstance.requests import Skip
from jobslib.schedule.decisions import upcoming
from jobslib.schedule.rhythms import Every, Slots

if TYPE_CHECKING:
    from jobslib.schedule.plans import Plan

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = 'Do not run the next slot of a job, whoever would run it.'

#: Its help lists these options, since they say which slot is the next.
OPTIONS = WHEN_DUE


def run(config: Config) -> ExitCode:
    """Ask that the next slot is skipped.

    :returns: ``LOCK_NOT_AVAILABLE`` when it is not known which slot is next.
    :raises ConfigError: the job has no slots, or another schedule than here.
    """
    require_task(config)
    plan = config.make_plan(config.task_name)
    if not isinstance(plan.rhythm, Slots | Every):
        raise ConfigError(
            f'skip: the job has no slots: {plan.rhythm.words()}; give '
            f'--schedule or --run-interval, as the job has it, or use '
            f'"runjob pause"')

    def shown(slot: float) -> str:
        return config.local_time(slot).isoformat()

    return answer(config, lambda lock: _skip(lock, plan, shown))


def _skip(lock: BaseLock, plan: Plan, shown: Callable[[float], str]) -> Answer:
    slot = None

    def change(state: LockState) -> Control | None:
        nonlocal slot
        ledger = find_ledger(state, plan)
        if ledger is None:
            raise ConfigError(
                'skip: the holder of the job has another schedule than this '
                'command; give it the settings of the job')
        slot = next(iter(upcoming(plan, ledger, time.time() - plan.jitter, 1)),
                    None)
        if slot is None or slot in state.control.skipped:
            return None
        # Slots that are settled need not be skipped any more.
        skips = [each for each in state.control.skips
                 if each.slot > ledger.settled]
        return state.control.changed(
            skips=[*skips, Skip(slot, *stamp(lock))][-MAX_SKIPS:])

    state = ask(lock, change)
    if slot is None:
        return ExitCode.LOCK_NOT_AVAILABLE, (
            'which slot is the next is not known before the first run')
    if slot in state.control.skipped:
        return ExitCode.DONE, f'the slot of {shown(slot)} is skipped already'
    return ExitCode.DONE, f'the slot of {shown(slot)} is skipped'
