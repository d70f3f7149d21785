"""What several commands need."""

from __future__ import annotations

import sys

from jobslib.commands.output import print_line
from jobslib.config import Config
from jobslib.context import Context
from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.oneinstance import BaseLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

__all__ = ['PATIENCE', 'WHEN_DUE', 'add_json', 'hasten', 'is_default_lock',
           'make_lock', 'next_step', 'require_task', 'warn_of_default_lock']

#: How long a command waits for an answer of the lock's service, in seconds.
PATIENCE = 2.0
#: The flags of the options that say when the job is due.
WHEN_DUE = ('--schedule', '--time-zone', '--sleep-interval', '--run-interval',
            '--run-interval-epoch', '--jitter')


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``--json``, for commands that show something."""
    parser.add_argument(
        '--json', action='store_true',
        help='print JSON, for programs, in place of tables')


def require_task(config: Config) -> None:
    """Refuse a command without a task.

    :raises ConfigError: no task is named.
    """
    if config.task_cls is None:
        name = config.args.runjob_command
        raise ConfigError(f'{name}: name a task: runjob {name} '
                          f'package.module.Task, or a job of "runjob exec": '
                          f'--name NAME')


def is_default_lock(config: Config) -> bool:
    """Return whether the lock is that of this machine for no other reason than
    that nothing else is configured."""
    one_instance = config.one_instance
    if one_instance.source('backend') != 'default' or one_instance.disabled:
        return False
    # If a folder is given, a lock in a file is meant.
    return bool(one_instance.options.source('folder') == 'default')


def warn_of_default_lock(config: Config) -> None:
    """Warn if the lock is the default one, because the settings of the job may
    be elsewhere."""
    if is_default_lock(config) and sys.stderr is not None:
        print_line(
            'runjob: warning: no lock is configured here, so this is about the '
            'default one, a file of this machine; give a command the settings '
            'of the job (--settings, JOBSLIB_...)', sys.stderr)


def hasten(config: Config) -> None:
    """Shorten the requests to the services of lock and liveness, because somebody
    waits."""
    for group in (config.one_instance, config.liveness):
        shorten = getattr(group.options, 'hasten', None)
        if shorten is not None:
            shorten(PATIENCE)


def next_step(config: Config, error: LockUnavailableError) -> str:
    """Return what to try after *error*, for the end of its message."""
    name = config.args.runjob_command
    if name == 'check' or 'grant' in str(error):
        # The command or the message has said already what there is to know.
        return ''
    task = getattr(config.args, 'task_cls', None)
    job = getattr(config.args, 'runjob_name', None)
    if job is not None:
        import shlex
        task = f'--name {shlex.quote(job)}'
    return f'; to see why: runjob check{f" {task}" if task else ""}'


def make_lock(config: Config) -> BaseLock:
    """Return the lock of the task, in a plain context; the caller closes it.

    No code of the user is run for it, neither the task nor the context that the
    settings name.

    :raises ConfigError: an option of the lock is refused, or no task is
        named and the lock needs one.
    """
    return Context(config).one_instance_lock
