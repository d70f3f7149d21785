"""The parsers of the commands, as ``sphinx-argparse`` wants them.

It calls a function of a module without arguments; here each command is one.
"""

import argparse
from collections.abc import Callable
from functools import partial

from jobslib.cmdlineparser import build_command_parser
from jobslib.commands import COMMANDS, load_command


def __getattr__(name: str) -> Callable[[], argparse.ArgumentParser]:
    if name not in COMMANDS:
        raise AttributeError(name)
    return partial(build_command_parser, name, load_command(name))
