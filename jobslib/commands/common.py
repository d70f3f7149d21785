"""What several commands need."""

from __future__ import annotations

from jobslib.config import Config
from jobslib.context import Context
from jobslib.exceptions import ConfigError
from jobslib.oneinstance import BaseLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

__all__ = ['add_json', 'make_lock', 'require_task']


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
                          f'package.module.Task')


def make_lock(config: Config) -> BaseLock:
    """Return a lock of the task, in a plain context; to be closed.

    Nothing of the user is run for it: not the task, not the context that the
    settings name.

    :raises ConfigError: an option of the lock is refused, or no task is
        named and the lock needs one.
    """
    return Context(config).one_instance_lock
