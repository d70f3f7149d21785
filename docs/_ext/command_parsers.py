"""The parsers of the commands, as ``sphinx-argparse`` wants them.

It calls a function of a module without arguments; here each command is one.
The options of a run, which every command has, stand once in the page, so they
are left out here.
"""

import argparse
from collections.abc import Callable
from functools import partial

from jobslib.cmdlineparser import build_command_parser
from jobslib.commands import COMMANDS, load_command


def build(name: str) -> argparse.ArgumentParser:
    """Return the parser of the command *name*, with what is its own."""
    parser = build_command_parser(name, load_command(name))
    for group in parser._action_groups:
        if group.title == 'options as for a run':
            for action in list(group._group_actions):
                parser._remove_action(action)
            group._group_actions.clear()
    return parser


def __getattr__(name: str) -> Callable[[], argparse.ArgumentParser]:
    if name not in COMMANDS:
        raise AttributeError(name)
    return partial(build, name)
