"""What those commands have in common that ask something of a job."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobslib.commands.common import (
    add_json,
    hasten,
    make_lock,
    require_task,
    warn_of_default_lock,
)
from jobslib.commands.jobs import who
from jobslib.commands.output import print_json, print_line
from jobslib.config import Config
from jobslib.exceptions import ConfigError
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock, LockState
from jobslib.oneinstance.control import Control

if TYPE_CHECKING:
    import argparse


__all__ = ['Answer', 'add_interrupt', 'add_timeout', 'answer', 'ask', 'stamp',
           'until']

# How long a command waits by default, and between two looks, in seconds.
TIMEOUT = 30.0
PAUSE = 0.2

#: The exit code of a command, and the words to print.
Answer = tuple[ExitCode, str]


def add_timeout(parser: argparse.ArgumentParser, until: str) -> None:
    """Add the arguments of a command that waits for the holder."""
    add_json(parser)
    parser.add_argument(
        '--timeout', type=seconds, default=TIMEOUT, metavar='SECONDS',
        help=f'how long to wait until {until} (default {TIMEOUT:g}); what '
             f'was asked stands after that as well')


def seconds(text: str) -> float:
    """Return how long to wait."""
    import argparse
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not allowed; allowed: a number of seconds of at '
            f'least 0')
    return found


def answer(config: Config, call: Callable[[BaseLock], Answer]) -> ExitCode:
    """Call *call* with the lock of the task, and print its answer.

    :raises ConfigError: no task is named, or its lock cannot be told anything.
    """
    require_task(config)
    warn_of_default_lock(config)
    hasten(config)
    lock = make_lock(config)
    place = lock.place
    try:
        code, text = call(lock)
    except NotImplementedError as exc:
        raise ConfigError(f'{config.args.runjob_command}: {exc}') from None
    finally:
        lock.close()
    if config.args.json:
        print_json({'task': config.task_name, 'lock': place,
                    'done': code == ExitCode.DONE,
                    'exit_code': int(code), 'message': text})
    else:
        print_line(f'{config.task_name}: {text}')
    return code


def ask(lock: BaseLock,
        change: Callable[[LockState], Control | None]) -> LockState:
    """Ask what *change* makes of the state of the job; return that state.

    :param change: returns what is to be asked instead of what is asked by now;
        ``None`` when there is nothing to change.
    """
    while True:
        state = lock.look()
        control = change(state)
        # It is refused if another operator was faster; then look again.
        if control is None or lock.ask(control, state.control):
            return state


def add_interrupt(parser: argparse.ArgumentParser) -> None:
    """Add the argument of a command that may end a run."""
    parser.add_argument(
        '--interrupt', action='store_true',
        help='interrupt the run that is under way, rather than wait for its '
             'end; it has the grace time of the lock to stop')


def stamp(lock: BaseLock) -> tuple[str, float]:
    """Return who asks, and when."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = 'somebody'
    return f'{user}@{lock.machine()}', time.time()


def until(lock: BaseLock, timeout: float,
          condition: Callable[[LockState], bool]) -> LockState | None:
    """Return the state in which *condition* holds; ``None`` if it does not
    within *timeout* seconds."""
    ends = time.monotonic() + timeout
    while not condition(state := lock.look()):
        if time.monotonic() >= ends:
            return None
        time.sleep(PAUSE)
    return state


def holder(state: LockState) -> str:
    """Return who holds the lock, for people."""
    return who(state.record)
