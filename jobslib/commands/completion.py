"""``runjob completion``: the script by which a shell completes ``runjob``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jobslib.cmdlineparser import build_command_parser, build_parser
from jobslib.config import Config
from jobslib.exceptions import ConfigError
from jobslib.exitcodes import ExitCode

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'TAKES_TASK', 'add_arguments', 'run']

DESCRIPTION = ('Print a script for the shell, so that the Tab key '
               'completes commands and options.')
SHELLS = ('bash', 'zsh')
#: It is about runjob itself, and not about a job.
TAKES_TASK = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    import argparse
    parser.add_argument(
        '--shell', choices=SHELLS, default=_own_shell(),
        help='the shell that it is for (default: yours, as $SHELL has it)')
    # "runjob completion bash" works as well, as with other programs.
    parser.add_argument('plain_shell', nargs='?', choices=SHELLS,
                        metavar='SHELL', help=argparse.SUPPRESS)


def run(config: Config) -> ExitCode:
    """Print the script, made from the parser.

    :raises ConfigError: the library that makes it is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ConfigError(
            "completion: the library shtab is needed, which is installed by: "
            "pip install 'jobslib[completion]'") from None
    shell = config.args.plain_shell or config.args.shell
    print(shtab.complete(_make_parser(type(config)), shell))
    return ExitCode.DONE


def _own_shell() -> str:
    name = os.path.basename(os.environ.get('SHELL', ''))
    return name if name in SHELLS else SHELLS[0]


def _make_parser(config_class: type[Config]) -> argparse.ArgumentParser:
    """Return a parser that knows all commands at once."""
    import argparse

    from jobslib.commands import COMMANDS, load_command
    parser = build_parser(config_class=config_class)
    _without(parser, 'task_cls')
    commands = parser.add_subparsers(
        metavar='COMMAND', parser_class=argparse.ArgumentParser)
    for name in COMMANDS:
        command = load_command(name)
        made = build_command_parser(name, command, config_class=config_class)
        _without(made, 'task_cls')
        _without(made, 'runjob_command')
        _without(made, 'plain_shell')
        commands.add_parser(name, help=command.DESCRIPTION, parents=[made],
                            add_help=False)
    return parser


def _without(parser: argparse.ArgumentParser, dest: str) -> None:
    """Take the argument *dest* out of *parser*."""
    found = [each for each in parser._actions if each.dest == dest]
    for action in found:
        parser._remove_action(action)
        for group in parser._action_groups:
            if action in group._group_actions:
                group._group_actions.remove(action)
