"""What jobslib 2 and 3 called differently, and how it is still understood.

Settings and variables that were written for these versions work.  What is
deprecated is reported at the start, one line each, with what to write instead.
"""

from __future__ import annotations

import os

from jobslib.options import ConfigGroup, Given, option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ['aliased', 'describe', 'superseded', 'translate']

#: The tasks of jobslib 3 that are commands today.
COMMANDS = {'jobslib.liveness.CheckLiveness': 'check-liveness'}


class superseded(option['object']):
    """An option of jobslib 3 that is still read.

    :param instead: what to write instead, or why nothing has to be written.
    :param only: the value that is deprecated; by default every one is.
    """

    def __init__(self, *, instead: str, only: object = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.instead = instead
        self.only = only

    def note(self, value: object, source: str) -> str | None:
        """Return what to say of *value* from *source*, if anything."""
        if source == 'default' or self.only not in (None, value):
            return None
        shown = '' if self.only is None else f' {value!r}'
        return f'{self.name}{shown} from {source}: {self.instead}'


class aliased(option['Any']):
    """An option with environment variables that had other names once.

    :param old: those names; they count where the present one is not set.
    """

    def __init__(self, *, old: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.old = old

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that are read for it, the old ones too."""
        return (*super().variables, *self.old)

    def _from_environment(self) -> Given | None:
        found = super()._from_environment()
        for name in self.old:
            if found is None and os.environ.get(name):
                found = Given(os.environ[name], f'environment, {name}')
        return found

    def note(self, value: Any, source: str) -> str | None:
        """Return what to say of *value* from *source*, if anything."""
        name = source.removeprefix('environment, ')
        if name not in self.old:
            return None
        return f'the environment variable {name}: set {self.env}'


def describe(group: ConfigGroup) -> Iterator[str]:
    """Return a line for each deprecated thing, with what to write instead."""
    for name, declared in group.declared().items():
        value = group.raw_value(name)
        if isinstance(value, ConfigGroup):
            yield from describe(value)
        elif isinstance(declared, aliased | superseded):
            note = declared.note(value, group.source(name))
            if note is not None:
                yield note


def translate(argv: list[str], word: str | None) -> list[str]:
    """Return the command line *argv*, with the name of a command in place of
    *word* if that names a task of jobslib 3 that is a command now.

    It is reported on standard error, since there is no log yet.
    """
    if word not in COMMANDS:
        return argv
    import sys
    command = COMMANDS[word]
    print(f'runjob: warning: deprecated since jobslib 4: the task {word}: '
          f'write {command}', file=sys.stderr)
    at = argv.index(word)
    return [*argv[:at], command, *argv[at + 1:]]
