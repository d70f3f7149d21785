"""The command line, made from the declarations of the options."""

from __future__ import annotations

import os

from jobslib.config import Config, ConfigGroup, option

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Container, Iterable
    from types import ModuleType
    from typing import Any

    from jobslib.parsing import Parser
    from jobslib.tasks import BaseTask

__all__ = ['Argument', 'CommandLine', 'argument', 'build_command_parser',
           'build_parser', 'flags']

DESCRIPTION = (
    'Run a task, once or for ever, on exactly one of several machines.')
TASK_HELP = 'dotted path of the task, a subclass of jobslib.BaseTask'
NAME_HELP = 'in place of a task: the name of a job of "runjob exec"'
EPILOG = (
    'Options stand before the task or after it; the task has arguments of '
    'its own, shown by "runjob TASK --help".')
USAGE = """runjob [options] package.module.Task [arguments of the task]
       runjob COMMAND [options] [package.module.Task]
       runjob exec --name NAME [options] -- PROGRAM [arguments of it]"""
# The narrowest terminal to which the help is fitted, in characters.
NARROWEST = 10


class Argument(tuple):  # type: ignore[type-arg]
    """What ``argparse.ArgumentParser.add_argument`` is called with.

    It equals ``(args, kwargs)``, which is what it was in jobslib 3.
    """

    __slots__ = ()

    def __new__(cls, args: tuple[object, ...],
                kwargs: dict[str, object]) -> Argument:
        return super().__new__(cls, (args, kwargs))

    @property
    def args(self) -> tuple[object, ...]:
        """The names, or the one name."""
        return self[0]  # type: ignore[no-any-return]

    @property
    def kwargs(self) -> dict[str, object]:
        """All the rest."""
        return self[1]  # type: ignore[no-any-return]


def argument(*args: object, **kwargs: object) -> Argument:
    """Declare an argument of a task, for ``BaseTask.arguments``.

    Takes what :meth:`argparse.ArgumentParser.add_argument` takes.
    """
    return Argument(args, kwargs)


def build_parser(
    task_cls: type[BaseTask] | None = None,
    config_class: type[Config] = Config,
    commands: dict[str, str] | None = None, words: Iterable[str] = (),
) -> Parser:
    """Return the parser of ``runjob``.

    :param task_cls: adds the description and arguments of this task.
    :param config_class: the configuration whose flags are offered.
    :param commands: what the help says of each command.
    :param words: the names of all commands, for messages.
    :raises argparse.ArgumentError: an argument of the task has the name of
        one of jobslib's own.
    """
    parser = _parser(description=DESCRIPTION, epilog=EPILOG,
                     commands=commands or words)
    if commands:
        _list_commands(parser, commands)
        parser.usage = USAGE
    parser.add_argument('--version', action='version', version=_version())
    _add_runner_arguments(parser, config_class, without_v=_has(task_cls, '-v'))
    parser.add_argument('task_cls', metavar='task_cls', help=TASK_HELP)
    if task_cls is not None:
        parser.description = _describe(task_cls)
        group = parser.add_argument_group(
            f'arguments of {task_cls.__qualname__}')
        for args, kwargs in task_cls.arguments:
            group.add_argument(*args, **kwargs)
        _put_first(parser)
    return parser


def build_command_parser(
    name: str, command: ModuleType, task_cls: type[BaseTask] | None = None,
    config_class: type[Config] = Config, *, demanding: bool = False,
) -> Parser:
    """Return the parser of ``runjob`` for a command.

    :param name: the command.
    :param command: its module, see :mod:`jobslib.commands`.
    :param task_cls: the task that is named after the command, if one is.
    :param config_class: the configuration whose flags are offered.
    :param demanding: whether the task's own arguments are required, as they
        are in a run.
    :raises argparse.ArgumentError: an argument of the command has the name
        of a flag of the configuration.
    """
    parser = _parser(prog=f'runjob {name}', description=command.DESCRIPTION,
                     usage=getattr(command, 'USAGE', None))
    _add_command(parser, command, without_name=_has(task_cls, '--name'))
    if getattr(command, 'TAKES_TASK', True):
        parser.add_argument(
            'task_cls', metavar='task_cls', help=TASK_HELP,
            nargs=None if task_cls else '?')
    _add_runner_arguments(
        parser.add_argument_group('options as for a run'), config_class,
        getattr(command, 'OPTIONS', ()),
        _has(task_cls, '-v'))
    if task_cls is not None:
        _add_optional_arguments(parser, task_cls, demanding)
    return parser


class CommandLine:
    """What the words of a command line say before the task is known.

    Which words are values depends on the flags that there are.  These depend on
    the class of the configuration, and that on the settings, which the words
    name.  So the words are read with the flags of jobslib's own class, which is
    the right one for most, and read again only for another class; see
    :meth:`under`.

    :param argv: the words, without the name of the program.
    :param config_class: the configuration whose flags are known.
    """

    def __init__(self, argv: list[str],
                 config_class: type[Config] = Config) -> None:
        self.argv = argv
        self.config_class = config_class
        end = argv.index('--') if '--' in argv else len(argv)
        #: The words before a "--", in a form that argparse understands.
        self.own_words = _join_numbers(argv[:end], config_class)
        self.words = self.own_words + argv[end:]
        #: The words after the "--".
        self.program = argv[end + 1:]
        parser = _parser(add_help=False)
        _add_runner_arguments(parser, config_class)
        parser.add_argument('task_cls', nargs='?')
        found, unknown = parser.parse_known_args(self.words)
        #: The value of ``--settings``.
        self.settings: str | None = found.settings
        #: The word in the place of a task or a command.
        self.word: str | None = found.task_cls
        #: The words that are not jobslib's own.
        self.unknown: list[str] = unknown

    def under(self, config_class: type[Config]) -> CommandLine:
        """Return what the words say with the flags of *config_class*."""
        return (self if config_class is self.config_class
                else CommandLine(self.argv, config_class))

    def find_task(self, command: ModuleType) -> tuple[str | None, list[str]]:
        """Return the task that is named beside a command, and the words that are
        the task's own.

        :param command: the module of the command.
        """
        name = command.__name__.rpartition('.')[2].replace('_', '-')
        parser = _parser(add_help=False, prog=f'runjob {name}')
        _add_command(parser, command)
        for action in parser._actions:
            # That something is missing is reported later, by the full parser.
            action.required = False
        _add_runner_arguments(parser, self.config_class)
        unknown = parser.parse_known_args(self.words)[1]
        for position, word in enumerate(unknown):
            if not word.startswith('-'):
                return word, unknown[:position] + unknown[position + 1:]
        return None, unknown


def _join_numbers(words: list[str], config_class: type[Config]) -> list[str]:
    """Return *words* with ``--flag -inf`` as ``--flag=-inf``.

    argparse takes some negative numbers for options.
    """
    names = {declared.flag for declared in flags(config_class)
             if declared.attrtype in (int, float)}
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in names and _is_negative(word):
            joined[-1] += f'={word}'
        else:
            joined.append(word)
    return joined


def _is_negative(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return word.startswith('-')


def _parser(**kwargs: Any) -> Parser:
    # Imported here, because code that only defines tasks needs no parser.
    import argparse

    from jobslib.parsing import Parser

    width = _terminal_width() - 2

    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.HelpFormatter(prog, width=width)

    given: dict[str, Any] = {
        'prog': 'runjob', 'formatter_class': formatter, **kwargs}
    return Parser(**given)


def _has(task_cls: type[BaseTask] | None, flag: str) -> bool:
    """Return whether the task has an argument *flag* of its own."""
    return task_cls is not None and any(
        flag in args for args, _ in task_cls.arguments)


def _describe(task_cls: type[BaseTask]) -> str:
    """Return what a task does: its description, or else its docstring."""
    text = task_cls.description or vars(task_cls).get('__doc__') or ''
    return ' '.join(str(text).split()) or DESCRIPTION


def _put_first(parser: argparse.ArgumentParser) -> None:
    """Let the help show the group that was added last before all others."""
    groups = parser._action_groups
    groups.insert(0, groups.pop())


def _list_commands(parser: argparse.ArgumentParser,
                   commands: dict[str, str]) -> None:
    import argparse
    import textwrap

    def formatter(prog: str) -> argparse.HelpFormatter:
        # This formatter does not join the lines of the list.
        return argparse.RawDescriptionHelpFormatter(prog, width=width)

    width = _terminal_width() - 2
    column = max(map(len, commands)) + 4
    listed = [
        textwrap.fill(f'  {name}'.ljust(column) + text, width,
                      subsequent_indent=' ' * column)
        for name, text in commands.items()]
    parser.formatter_class = formatter
    parser.epilog = '\n'.join([
        'commands, in place of task_cls and before it:', *listed, '',
        textwrap.fill(EPILOG, width)])


def _add_command(parser: argparse.ArgumentParser, command: ModuleType,
                 without_name: bool = False) -> None:
    """Add the arguments of a command.

    :param without_name: whether ``--name`` is an argument of the task.
    """
    import argparse
    if not without_name:
        parser.add_argument(
            '--name', dest='runjob_name', metavar='NAME',
            help=getattr(command, 'NAME_HELP', NAME_HELP))
    # The name is one that an argument of a task is not likely to have.
    parser.add_argument('runjob_command', help=argparse.SUPPRESS)
    command.add_arguments(parser)


def _add_optional_arguments(
    parser: argparse.ArgumentParser, task_cls: type[BaseTask],
    demanding: bool,
) -> None:
    """Add the task's own arguments, which a command can do without."""
    import argparse
    group = parser.add_argument_group(f'arguments of {task_cls.__qualname__}')
    for args, kwargs in task_cls.arguments:
        try:
            action = group.add_argument(*args, **kwargs)
        except argparse.ArgumentError:
            # The command has an argument of that name, and that one counts.
            continue
        if not demanding:
            action.required = False
            if not action.option_strings and action.nargs not in (
                    '?', '*', '...'):
                action.nargs = '?'


def _terminal_width() -> int:
    # Each argument that is added makes a formatter, which imports shutil, and with
    # that all compression libraries, unless it is told the width.
    try:
        width = (int(os.environ.get('COLUMNS', 0))
                 or os.get_terminal_size().columns or 80)
    except (OSError, ValueError):
        return 80
    return max(width, NARROWEST)


def _add_settings(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        '-s', '--settings', metavar='SETTINGS',
        help='settings module, a dotted path (default: '
             '$JOBSLIB_SETTINGS_MODULE, or none)')


def _add_runner_arguments(parser: argparse._ActionsContainer,
                          config_class: type[Config],
                          shown: Container[str] | None = None,
                          without_v: bool = False) -> None:
    """Add the options of a run.

    :param shown: those that the help shows, by default all of them.
    :param without_v: whether ``-v`` is for something else.
    """
    import argparse
    _add_settings(parser)
    for declared in flags(config_class):
        kind: dict[str, Any] = (
            {'action': 'store_const', 'const': True}
            if declared.attrtype is bool else {'metavar': declared.metavar})
        if declared.repeatable:
            kind['action'] = 'append'
        parser.add_argument(
            str(declared.flag), dest=declared.dest, default=None,
            help=(_help(declared) if shown is None or declared.flag in shown
                  else argparse.SUPPRESS), **kind)
        if declared.flag == '--log-level' and not without_v:
            parser.add_argument('-v', dest=declared.dest, action='store_const',
                                const='debug', help=argparse.SUPPRESS)
        if declared.attrtype is bool:
            parser.add_argument(
                declared.negative, dest=declared.dest, action='store_const',
                const=False, help=argparse.SUPPRESS)


def flags(group: type[ConfigGroup]) -> list[option[object]]:
    """Return the options of *group*, nested groups included, with a flag."""
    found: list[option[object]] = []
    for declared in group.declared().values():
        nested = declared.attrtype
        if isinstance(nested, type) and issubclass(nested, ConfigGroup):
            found += flags(nested)
        elif declared.flag is not None:
            found.append(declared)
    return found


def _help(declared: option[object]) -> str:
    text = declared.help.replace('%', '%%').rstrip('.')
    text = text[:1].lower() + text[1:]
    return f'{text} ({declared.env})' if declared.env else text


def _version() -> str:
    from jobslib import __version__
    return f'jobslib {__version__}'
