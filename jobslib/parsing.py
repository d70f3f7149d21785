"""The parser of ``runjob``: that of argparse, with messages that help."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ['Parser']

# Hyphen, en dash, em dash.
DASHES = '-\N{EN DASH}\N{EM DASH}'
# What argparse says of "--run-once=yes".
VALUE_OF_A_SWITCH = r'^argument (\S+): ignored explicit argument (.*)$'


class Parser(argparse.ArgumentParser):
    """A parser that says what was probably meant.

    :param commands: the words that can stand in place of a task.
    """

    def __init__(self, *, commands: Iterable[str] = (),
                 **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self._commands = list(commands)
        self._words: list[str] = []

    def parse_args(self, args: Sequence[str] | None = None,  # type: ignore[override]
                   namespace: Any = None) -> argparse.Namespace:
        """Return what *args* say; refuse words that are unknown."""
        self._words = list(args or ())
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}'
                       f'{self.guess(unknown, found)}')
        return found  # type: ignore[no-any-return]

    def guess(self, unknown: Sequence[str], found: object = None) -> str:
        """Return what was meant by words that are *unknown*, for a message.

        :param found: what is known of the rest.
        """
        task = getattr(found, 'task_cls', None)
        for word in unknown:
            if word in self._commands and task:
                return f' (did you mean "runjob {word} {task}"?)'
        from jobslib.slips import nearest
        # Dashes are lost, or made one long one, where a text is copied from.
        words = [f'--{word.lstrip(DASHES)}' for word in unknown
                 if word.startswith(tuple(DASHES))]
        flags = [flag for flag in self._option_string_actions
                 if flag.startswith('--')]
        meant = [nearest(word.partition('=')[0], flags) for word in words]
        # A word that is a known flag is only in the wrong place, after "--".
        names = ', '.join(name for name in meant
                          if name and name not in unknown)
        return f' (did you mean {names}?)' if names else ''

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with the exit code 2."""
        if message.endswith('required: task_cls') and self._commands:
            message = (f'name a task, package.module.Task, or a command: '
                       f'{", ".join(self._commands)}; "runjob --help" tells '
                       f'more')
            unknown = [
                word for word in self._words if word.startswith('--')
                and word.partition('=')[0] not in self._option_string_actions]
            if unknown and unknown != ['--']:
                message += (f'; unknown: {" ".join(unknown)}'
                            f'{self.guess(unknown)}')
        # Compiled here, since most command lines have no error.
        message = re.sub(
            VALUE_OF_A_SWITCH,
            r'argument \1: it takes no value, and \2 is given; allowed: \1 alone',
            message)
        self.print_usage(sys.stderr)
        from jobslib.folding import folded
        text = f'{self.prog}: error: {message}'
        self.exit(2, f'{folded(text, sys.stderr)}\n')
