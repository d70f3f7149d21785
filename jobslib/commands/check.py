"""``runjob check``: is everything as it should be?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobslib.commands.common import add_json
from jobslib.commands.listing import list_options
from jobslib.commands.output import print_json, print_table
from jobslib.config import Config
from jobslib.exitcodes import ExitCode

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Show the options and check the lock, '
               'without disturbing a running job.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)


def run(config: Config) -> ExitCode:
    """Show what is configured."""
    options = list(list_options(config))
    if config.args.json:
        print_json({'options': [each._asdict() for each in options]})
    else:
        print_table(('option', 'value', 'from', 'allowed'), options)
    return ExitCode.DONE
