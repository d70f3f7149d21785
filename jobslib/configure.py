"""From a command line to a configuration: the settings, its class, the task."""

from __future__ import annotations

import os

from jobslib.cmdlineparser import (
    CommandLine,
    build_command_parser,
    build_parser,
)
from jobslib.commands import COMMANDS, describe_commands, load_command
from jobslib.config import Config
from jobslib.exceptions import ConfigError, ImportNameError
from jobslib.imports import import_module, import_object
from jobslib.legacy import translate
from jobslib.strictness import refuse_class
from jobslib.tasks import BaseTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, NoReturn

    from jobslib.parsing import Parser

__all__ = ['EXEC', 'HELP', 'UsageError', 'configure']

SETTINGS_VARIABLE = 'JOBSLIB_SETTINGS_MODULE'
#: The command that is carried out as a run.
EXEC = 'exec'
# Flags that are not declared as options, for messages.
OPTIONS = ('--settings', '--help', '--version')
#: Command lines that are answered whatever the settings are.
HELP = (['-h'], ['--help'], ['--version'])


class UsageError(Exception):
    """What was asked for cannot be done; the message is for the user."""


def configure(line: CommandLine) -> Config:
    """Find settings, configuration class and task; read the options.

    :raises UsageError: something that *line* names cannot be had.
    :raises ConfigError: a value is refused.
    """
    import argparse
    try:
        settings = _load_settings(line.settings)
    except UsageError:
        if line.argv not in HELP:
            raise
        settings = None
    config_class = _load_config_class(settings)
    try:
        line = line.under(config_class)
    except (argparse.ArgumentError, TypeError, ValueError) as exc:
        raise UsageError(f'config_class: {_name_of(config_class)} has a flag that '
                         f'argparse refuses: {exc}') from exc
    argv = translate(line.argv, line.word)
    if argv != line.argv:
        line = CommandLine(argv, line.config_class)
    if line.word == EXEC:
        return _configure_program(line, settings)
    if line.word in COMMANDS:
        return _configure_command(line, line.word, settings)
    task_cls = _find_class(
        line.word, line.unknown, lambda: build_parser(None, config_class))
    try:
        parser = build_parser(
            task_cls, config_class,
            describe_commands() if task_cls is None else None, COMMANDS)
    except argparse.ArgumentError as exc:
        raise UsageError(f'task {line.word}: {exc}') from exc
    args = parser.parse_args(line.words)
    assert task_cls is not None, 'the parser demands a task'
    return _make_config(config_class, settings, args, task_cls)


def _make_config(config_class: type[Config], *args: Any) -> Config:
    try:
        return config_class(*args)
    except ConfigError:
        raise
    except Exception as exc:
        # An __init__() of the user may do, or want, anything.
        raise ConfigError(f'{_name_of(config_class)} cannot be made of the settings, '
                          f'see above') from exc


def _name_of(cls: type[Any]) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


def _configure_command(line: CommandLine, name: str,
                       settings: object) -> Config:
    """Read the options of a command, and find the task, if one is named."""
    import argparse
    command, config_class = load_command(name), line.config_class
    try:
        path, unknown = line.find_task(command)
        task_cls = _find_class(path, unknown, lambda: build_command_parser(
            name, command, None, config_class))
        parser = build_command_parser(
            name, command, task_cls, config_class, demanding=bool(unknown))
    except argparse.ArgumentError as exc:
        raise UsageError(f'{name}: {exc}') from exc
    args = parser.parse_args(line.words)
    job = getattr(args, 'runjob_name', None)
    if job is not None:
        from jobslib.run.program import make_program, refuse_name
        if task_cls is not None:
            raise UsageError(f'{name}: --name {job} is for a job of "runjob '
                             f'exec", and the task {path} is named as well; '
                             f'allowed: one of them')
        refuse_name(job)
        task_cls = make_program(job)
    return _make_config(config_class, settings, args, task_cls)


def _configure_program(line: CommandLine, settings: object) -> Config:
    """Read the options of ``exec``, and what is to be executed."""
    command, program = load_command(EXEC), line.program
    parser = build_command_parser(EXEC, command, None, line.config_class)
    # Without a "--", words that are unknown may be the program.
    args = (parser.parse_args(line.own_words) if program
            else parser.parse_known_args(line.own_words)[0])
    for what, given in (('a command after "--"', program),
                        ('--name', args.runjob_name is not None)):
        if not given:
            raise UsageError(
                f'exec: {what} is missing; allowed: {command.USAGE}')
    from jobslib.run.program import make_program, refuse_name, refuse_program
    refuse_name(args.runjob_name)
    refuse_program(program[0])
    # It is carried out as a run, and not as a command.
    del args.runjob_command
    return _make_config(
        line.config_class, settings, args, make_program(args.runjob_name, program))


def _find_class(path: str | None, unknown: list[str],
                make_parser: Callable[[], Parser]) -> type[BaseTask] | None:
    """Return the class at *path*, if one is named.

    :param unknown: the words that are not jobslib's own.
    :param make_parser: makes the parser that knows those.
    :raises UsageError: there is no such class.
    """
    try:
        return None if path is None else _load_task(path)
    except UsageError as exc:
        flags = [word for word in unknown if word.startswith('--')]
        if flags and (meant := make_parser().guess(flags)):
            # The value of such a flag stands in the place of the task.
            raise UsageError(
                f'unrecognized arguments: {" ".join(flags)}{meant}; '
                f'{path!r} was taken for the task') from exc
        if unknown:
            raise UsageError(f'{exc}; unknown: {" ".join(unknown)}') from exc
        raise


def _load_settings(name: str | None) -> object:
    source = '--settings'
    if name is None:
        name = os.environ.get(SETTINGS_VARIABLE) or None
        source = SETTINGS_VARIABLE
    if name is None:
        return None
    try:
        found = import_module(name)
    except ImportNameError as exc:
        raise UsageError(f'settings module {name!r} from {source}: {exc}; '
                         f'allowed: the dotted path of a module') from exc
    except (Exception, SystemExit):
        _fail_broken(f'settings module {name!r} from {source}')
    if getattr(found, '__file__', None) is None and hasattr(found, '__path__'):
        # Python imports any folder as an empty package.
        raise UsageError(
            f'settings module {name!r} from {source}: it is the folder '
            f'{next(iter(found.__path__))}, without settings; allowed: the '
            f'dotted path of a module{_modules_in(found)}')
    return found


def _modules_in(package: ModuleType) -> str:
    """Return `` (did you mean 'x.y'?)`` of the modules in *package*."""
    import pkgutil
    names = [f'{package.__name__}.{each.name}'
             for each in pkgutil.iter_modules(package.__path__)]
    return f' (did you mean {" or ".join(map(repr, names))}?)' if names else ''


def _load_config_class(settings: object) -> type[Config]:
    declared = Config.config_class
    source = declared.env
    assert source is not None
    path = os.environ.get(source)
    if path is None:
        source = 'settings, CONFIG_CLASS'
        try:
            path = getattr(settings, 'CONFIG_CLASS', None)
        except Exception:
            # The settings have a __getattr__() of their own.
            _fail_broken('CONFIG_CLASS of the settings', 'read')
    if path is None:
        return Config
    if not isinstance(path, str):
        raise UsageError(f'config_class: {path!r} from {source} is not '
                         f'allowed; allowed: {declared.allowed()}')
    found = _load(path, f'config_class: {path!r} from {source}')
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise UsageError(f'config_class: {path!r} from {source} is not '
                         f'a subclass of jobslib.Config')
    return found


def _load_task(path: str) -> type[BaseTask]:
    try:
        found = _load(path, f'task {path!r}')
    except UsageError as exc:
        if '.' in path:
            raise
        if path in COMMANDS:
            raise UsageError(f'{path}: it is a command, and stands where a '
                             f'task is expected; allowed: runjob COMMAND '
                             f'package.module.Task') from exc
        from jobslib.slips import guess
        meant = (f' ({path}.py is a module; name a class in it: {path}.Name)'
                 if os.path.isfile(f'{path}.py')
                 else guess(path, (*COMMANDS, *OPTIONS)))
        raise UsageError(f'{exc}; nor is it a command '
                         f'({", ".join(COMMANDS)}){meant}') from exc
    refuse_class(path, found)
    return found  # type: ignore[no-any-return]


def _load(path: str, what: str) -> Any:
    try:
        return import_object(path)
    except ImportNameError as exc:
        raise UsageError(f'{what}: {exc}') from exc
    except (Exception, SystemExit):
        _fail_broken(what)


def _fail_broken(what: str, done: str = 'imported') -> NoReturn:
    """Show the exception that code of the user has raised while it was imported.

    :param done: what was done with it, if something else.
    """
    import traceback
    traceback.print_exc()
    raise UsageError(f'{what} cannot be {done}, see above') from None
