"""``runjob status``: who has the job, how its runs went, when the next is due."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jobslib.commands.common import (
    WHEN_DUE,
    add_json,
    hasten,
    warn_of_default_lock,
)
from jobslib.commands.looking import Look, tables
from jobslib.commands.output import print_json, print_line, print_table
from jobslib.commands.watching import INTERVAL, watch
from jobslib.config import Config
from jobslib.exceptions import ConfigError
from jobslib.exitcodes import ExitCode

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Show who has a job and how its last runs went; without a '
               'task, all jobs.')

#: Its help lists these options, since they say which slots are the next.
OPTIONS = WHEN_DUE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)
    parser.add_argument(
        '--watch', action='store_true',
        help=f'show it anew every {INTERVAL:g} s, until Ctrl-C; with --json '
             f'one document per line')
    parser.add_argument(
        '--prefix', metavar='PREFIX',
        help='without a task: the jobs whose lock begins so (default: jobs/, '
             'the keys of Consul that locks have by default)')


def run(config: Config) -> ExitCode:
    """Show the job, or all jobs.

    :raises ConfigError: the lock does not know of other jobs.
    :raises LockUnavailableError: the lock's service did not answer.
    """
    warn_of_default_lock(config)
    if config.one_instance.backend_class.__name__ == 'DummyLock' and (
            sys.stderr is not None):
        print_line('runjob: warning: the job has no lock, so nothing is known '
                   'of who runs it', sys.stderr)
    hasten(config)
    try:
        if config.args.watch:
            watch(config)
        else:
            _show(config, Look(config))
    except NotImplementedError as exc:
        raise ConfigError(f'status: {exc}; name a task') from None
    return ExitCode.DONE


def _show(config: Config, look: Look) -> None:
    if config.args.json:
        print_json(look.jobs if config.task_cls is None else look.jobs[0])
        for note in [look.missing] if look.jobs else look.notes:
            if note:
                print_line(f'runjob: warning: {note}', sys.stderr)
        return
    for table in tables(config, look.jobs):
        print_table(*table)
    for note in look.notes:
        print_line(note)
