"""``runjob``: wires the command line to a run."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys

from jobslib.cmdlineparser import (
    CommandLine,
    build_command_parser,
    build_parser,
)
from jobslib.commands import COMMANDS, describe_commands, load_command
from jobslib.config import Config, OneInstanceConfig
from jobslib.environment import NOTIFY_SOCKET, WATCHDOG
from jobslib.exceptions import (
    ConfigError,
    ImportNameError,
    LockError,
    LockUnavailableError,
)
from jobslib.exitcodes import ExitCode, protect_exit_code
from jobslib.imports import import_module, import_object
from jobslib.legacy import describe, translate
from jobslib.strictness import refuse_class, refuse_slips, remarks
from jobslib.tasks import BaseTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import Any, NoReturn

    from jobslib.parsing import Parser
    from jobslib.run.channel import Channel
    from jobslib.run.memory import Memory
    from jobslib.run.process import RunProcess

__all__ = ['main']

SETTINGS_VARIABLE = 'JOBSLIB_SETTINGS_MODULE'
# The command that is carried out as a run.
EXEC = 'exec'
# Flags that are not declared as options, for messages.
OPTIONS = ('--settings', '--help', '--version')
OWN_LOCKS = ('jobslib.oneinstance.file.FileLock',
             'jobslib.oneinstance.consul.ConsulLock')
# Command lines that are answered whatever the settings are.
HELP = (['-h'], ['--help'], ['--version'])


class UsageError(Exception):
    """What was asked for cannot be done; the message is for the user."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line *argv*, by default that of the process.

    :returns: an :class:`jobslib.exitcodes.ExitCode`.
    """
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    finally:
        protect_exit_code()


def _main(argv: list[str]) -> int:
    _settle()
    # Modules in the current folder can be imported, as with "python -m".
    try:
        sys.path.insert(0, os.getcwd())
    except FileNotFoundError:
        # The folder was removed, so nothing can be in it.
        pass
    line = CommandLine(argv)
    if _names_job(line):
        return _run_job(line)
    return _reported(lambda: _answer(line))


def _names_job(line: CommandLine) -> bool:
    """Return whether *line* seems to name a job to be run.

    It is not certain before the settings are loaded, which is left to the run's
    process.  If it turns out to be a command, that process carries it out.
    """
    if not line.argv or line.argv in HELP:
        return False
    return line.word not in COMMANDS or line.word == EXEC


def _answer(line: CommandLine) -> int:
    """Carry out a command, or show the help."""
    import threading
    pid, before = os.getpid(), set(threading.enumerate())
    config = _configure(line)
    if os.getpid() != pid:
        # A child that an import has forked.  The command is carried out once.
        from jobslib.run.process import exit_like_python
        exit_like_python(None)
    refuse_slips(config)
    command = getattr(config.args, 'runjob_command', None)
    if command is None:
        return _run_job(line)
    code = _command(command, config)
    if any(not thread.daemon and thread not in before
           for thread in threading.enumerate()):
        _end_at_once(code)
    return code


def _end_at_once(code: int) -> NoReturn:
    """End this process without waiting for threads.

    One that the import of a task has started may go on for ever, and nobody waits
    for its work here.
    """
    import atexit
    protect_exit_code()
    atexit._run_exitfuncs()
    os._exit(code)


def _reported(call: Callable[[], int]) -> int:
    """Return what *call* returns, and report errors that the user has to correct."""
    try:
        return call()
    except (UsageError, ConfigError, LockError) as exc:
        if isinstance(exc, ConfigError) and exc.__cause__ is not None:
            # Code of the user has raised it while it was imported.
            import traceback
            traceback.print_exception(exc.__cause__)
        _complain(str(exc))
        return ExitCode.USAGE


def _complain(what: str) -> None:
    from jobslib.folding import folded
    # On a full disk the exit code has to say it.
    with contextlib.suppress(OSError):
        print(folded(f'runjob: error: {what}', sys.stderr), file=sys.stderr)


def _settle() -> None:
    """Load what each run needs, out of sight of the garbage collector.

    None of it is ever garbage.  To look through it, and once more when the process
    ends, would take a good part of a short run.  What the user's code makes comes
    later, and is collected as always.
    """
    with _never_garbage():
        import argparse  # noqa: F401
        # Loaded before modules of the current folder can be, where one may be called
        # json as well.
        import json  # noqa: F401
        import logging  # noqa: F401


@contextlib.contextmanager
def _never_garbage() -> Iterator[None]:
    """Let the garbage collector pass over the objects that are made in here."""
    import gc
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _configure(line: CommandLine) -> Config:
    """Find settings, configuration class and task; read the options."""
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


def _command(name: str, config: Config) -> int:
    import signal
    config.hide_secrets()
    if sys.stdout is None:
        # Standard output was closed when this was started; the exit code is
        # enough then.
        sys.stdout = open(os.devnull, 'w')
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # Texts of others may have characters that this terminal cannot show.
        sys.stdout.reconfigure(errors='backslashreplace')
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = load_command(name).run(config)
        sys.stdout.flush()
        return code
    except LockUnavailableError as exc:
        from jobslib.commands.common import next_step
        _complain(f'{exc}{next_step(config, exc)}')
        return ExitCode.LOCK_SERVICE_UNAVAILABLE
    except KeyboardInterrupt:
        return ExitCode.TERMINATED
    except BrokenPipeError:
        # The reader has closed the pipe, which is not an error.  Muted, because the
        # interpreter would complain about it when it ends.
        _mute()
        return ExitCode.DONE
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        # Errors of other files on a full disk are handled before this.  Only
        # standard output is left.
        _mute()
        _complain(f'{name}: standard output cannot be written: {exc.strerror}')
        return ExitCode.TASK_FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _mute() -> None:
    """Let nothing more be written to standard output, not even at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_job(line: CommandLine) -> int:
    """Run a job, with its supervisor in this process and the task in another."""
    # Modules that both processes need are loaded once, before the fork.
    with _never_garbage():
        import jobslib.logs
        import jobslib.run.process  # noqa: F401
        from jobslib.loop.supervisor import supervise
        _load_likely_lock()
    environment = dict(os.environ)

    def body(channel: Channel, questions: Channel, memory: Memory) -> None:
        if os.environ != environment:
            # Secrets are taken out of it, and a later process needs them anew.
            os.environ.clear()
            os.environ.update(environment)
        for name in (NOTIFY_SOCKET, *WATCHDOG):
            # These are the supervisor's.  Programs that a task starts must not
            # speak to the process manager in its name.
            os.environ.pop(name, None)
        from jobslib.run.process import RunProcess, exit_like_python
        process = RunProcess(channel, questions, memory)
        try:
            code = _reported(lambda: _be_run_process(process, line))
        except BaseException as exc:
            process.leave()
            exit_like_python(exc)
        process.leave()
        exit_like_python(None, code)

    return supervise(body)


def _load_likely_lock() -> None:
    """Load the lock that will probably be used, before the settings are known.

    Only jobslib's own locks are loaded here, since only the run's process may run
    code of users.
    """
    backend = OneInstanceConfig.backend
    path = os.environ.get(backend.env, backend.default)
    if path in OWN_LOCKS:
        import_object(path)


def _be_run_process(process: RunProcess, line: CommandLine) -> int:
    config = _configure(line)
    process.expect_no_fork()
    refuse_slips(config)
    command = getattr(config.args, 'runjob_command', None)
    if command is not None:
        return _command(command, config)
    if not process.is_connected:
        raise UsageError(
            f'task {config.task_name!r}: its import, or that of the settings, '
            f'closes descriptors that it has not opened; allowed: to do so in '
            f'task()')
    from jobslib.loop.supervisor import configure_logging, export_config
    logger = configure_logging(config)
    exported = export_config(config)
    # The supervisor logs these, so that they are logged once, and not again by each
    # later process.
    exported['remarks'] = [f'deprecated since jobslib 4: {note}'
                           for note in describe(config)] + remarks(config)
    config.hide_secrets()
    config.link = process.link
    process.tell({'config': exported})
    task_cls = config.task_cls
    assert task_cls is not None
    process.serve(lambda: task_cls(config), logger)
    process.close(logger)
    return ExitCode.DONE


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
