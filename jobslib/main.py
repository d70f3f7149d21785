"""``runjob``: wires the command line to a run."""

from __future__ import annotations

import io
import os
import sys

from jobslib.cmdlineparser import (
    build_command_parser,
    build_parser,
    find_command_task,
    find_settings,
    find_task,
    join_numbers,
)
from jobslib.commands import COMMANDS, describe_commands, load_command
from jobslib.config import Config
from jobslib.exceptions import (
    ConfigError,
    ImportNameError,
    LockError,
    LockUnavailableError,
    Terminate,
)
from jobslib.exitcodes import ExitCode
from jobslib.imports import import_module, import_object
from jobslib.tasks import BaseTask

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, NoReturn

    from jobslib.interrupts import Interrupts
    from jobslib.observers import Observer

__all__ = ['main']

SETTINGS_VARIABLE = 'JOBSLIB_SETTINGS_MODULE'
# What is answered whatever the settings are.
HELP = (['-h'], ['--help'], ['--version'])


class UsageError(Exception):
    """What was asked for cannot be done; the message is for the user."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line *argv*, by default that of the process.

    :returns: an :class:`jobslib.exitcodes.ExitCode`.
    """
    _settle()
    # What lies in the current folder is importable, as for "python -m".
    try:
        sys.path.insert(0, os.getcwd())
    except FileNotFoundError:
        # It was removed, and nothing can be in it.
        pass
    try:
        config = _configure(sys.argv[1:] if argv is None else argv)
        command = getattr(config.args, 'runjob_command', None)
        return _run(config) if command is None else _command(command, config)
    except (UsageError, ConfigError, LockError) as exc:
        if isinstance(exc, ConfigError) and exc.__cause__ is not None:
            # Code of the user that broke while it was imported.
            import traceback
            traceback.print_exception(exc.__cause__)
        print(f'runjob: error: {exc}', file=sys.stderr)
        return ExitCode.USAGE


def _settle() -> None:
    """Load what every run needs, and spare the garbage collector the look.

    None of it is ever garbage, and looking through it, above all once more
    when the process ends, is a good part of a short run.  What the user's
    code makes comes later, and is collected as always.
    """
    import argparse  # noqa: F401
    import gc
    import logging  # noqa: F401
    gc.freeze()


def _configure(argv: list[str]) -> Config:
    """Find settings, configuration class and task; read the options."""
    import argparse
    try:
        settings = _load_settings(find_settings(argv))
    except UsageError:
        if argv not in HELP:
            raise
        settings = None
    config_class = _load_config_class(settings)
    argv = join_numbers(argv, config_class)
    word, unknown = find_task(argv, config_class)
    if word in COMMANDS:
        return _configure_command(argv, word, settings, config_class)
    task_cls = _find_class(word, unknown)
    try:
        parser = build_parser(
            task_cls, config_class,
            describe_commands() if task_cls is None else None)
    except argparse.ArgumentError as exc:
        raise UsageError(f'task {word}: {exc}') from exc
    args = parser.parse_args(argv)
    assert task_cls is not None, 'the parser demands a task'
    return config_class(settings, args, task_cls)


def _configure_command(argv: list[str], name: str, settings: Any,
                       config_class: type[Config]) -> Config:
    """Read the options of a command, and find the task, if one is named."""
    import argparse
    command = load_command(name)
    try:
        path, unknown = find_command_task(argv, command, config_class)
        task_cls = _find_class(path, unknown)
        parser = build_command_parser(
            name, command, task_cls, config_class, demanding=bool(unknown))
    except argparse.ArgumentError as exc:
        raise UsageError(f'{name}: {exc}') from exc
    return config_class(settings, parser.parse_args(argv), task_cls)


def _find_class(path: str | None, unknown: list[str]) -> type[BaseTask] | None:
    try:
        return None if path is None else _load_task(path)
    except UsageError as exc:
        if unknown:
            raise UsageError(f'{exc}; unknown: {" ".join(unknown)}') from exc
        raise


def _command(name: str, config: Config) -> int:
    import signal
    config.hide_secrets()
    if sys.stdout is None:
        # Closed by who started this; the exit code says enough.
        sys.stdout = open(os.devnull, 'w')
    elif isinstance(sys.stdout, io.TextIOWrapper):
        # What others wrote may have what this terminal does not.
        sys.stdout.reconfigure(errors='backslashreplace')
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = load_command(name).run(config)
        sys.stdout.flush()
        return code
    except LockUnavailableError as exc:
        print(f'runjob: error: {exc}', file=sys.stderr)
        return ExitCode.LOCK_SERVICE_UNAVAILABLE
    except KeyboardInterrupt:
        return ExitCode.TERMINATED
    except BrokenPipeError:
        # Who read it has seen enough; the interpreter would complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(config: Config) -> int:
    from jobslib.clock import Clock
    from jobslib.interrupts import Interrupts
    from jobslib.runner import Runner
    from jobslib.schedule import Schedule
    logger = _configure_logging(config)
    config.hide_secrets()
    clock = Clock()
    schedule = Schedule(clock, config.sleep_interval, config.run_interval)
    with Interrupts() as interrupts:
        try:
            with interrupts.guard():
                task = _make_task(config)
        except Terminate as exc:
            logger.info('ended by %s', exc)
            return ExitCode.TERMINATED
        except (ConfigError, LockError):
            raise
        except Exception:
            logger.exception('the task cannot be made')
            return ExitCode.TASK_FAILED
        try:
            runner = Runner(
                task, config, schedule, clock, interrupts, logger,
                _make_observers(task, config, interrupts, logger))
        except BaseException:
            task.context.close()
            raise
        return runner.run()


def _make_task(config: Config) -> BaseTask:
    assert config.task_cls is not None
    task: BaseTask = config.task_cls(config)
    return task


def _make_observers(task: BaseTask, config: Config, interrupts: Interrupts,
                    logger: logging.Logger) -> list[Observer]:
    """Return who is told what the loop does, as far as configured."""
    from jobslib.hooks import TaskHooks
    from jobslib.logs import RunFields
    # The fields first, so that what the others log has them.
    observers: list[Observer] = [RunFields(config.task_name)]
    if 'NOTIFY_SOCKET' in os.environ:
        # Next, so that the end is told before slow last pushes.
        from jobslib.notify import NotifyObserver
        notify = NotifyObserver.from_environment(
            task.context.one_instance_lock, logger)
        if notify is not None:
            observers.append(notify)
    if config.liveness.backend is not None:
        observers.append(task.context.liveness.make_observer())
    if config.metrics.backend is not None:
        from jobslib.metrics.observer import MetricsObserver
        observers.append(MetricsObserver(task.context))
    # The hooks last, so that nobody waits for them.
    observers.append(
        TaskHooks(task, interrupts, logger, config.max_hook_time))
    return observers


def _load_settings(name: str | None) -> Any:
    source = '--settings'
    if name is None:
        name = os.environ.get(SETTINGS_VARIABLE) or None
        source = SETTINGS_VARIABLE
    if name is None:
        return None
    try:
        return import_module(name)
    except ImportNameError as exc:
        raise UsageError(f'settings module {name!r} from {source}: {exc}; '
                         f'allowed: the dotted path of a module') from exc
    except (Exception, SystemExit):
        _fail_broken(f'settings module {name!r} from {source}')


def _load_config_class(settings: Any) -> type[Config]:
    declared = Config.config_class
    source = declared.env
    path = os.environ.get(declared.env)
    if path is None:
        source = 'settings, CONFIG_CLASS'
        path = getattr(settings, 'CONFIG_CLASS', None)
    if path is None:
        return Config
    if not isinstance(path, str):
        raise UsageError(f'config_class: {path!r} from {source} is not '
                         f'allowed; allowed: {declared.allowed()}')
    found = _load(path, f'config_class: {path!r} from {source}')
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise UsageError(f'config_class: {path!r} from {source} is no '
                         f'subclass of jobslib.Config')
    return found


def _load_task(path: str) -> type[BaseTask]:
    try:
        found = _load(path, f'task {path!r}')
    except UsageError as exc:
        if '.' in path:
            raise
        raise UsageError(f'{exc}; nor is it a command '
                         f'({", ".join(COMMANDS)})') from exc
    if not (isinstance(found, type) and issubclass(found, BaseTask)):
        raise UsageError(f'task {path!r} is no subclass of jobslib.BaseTask')
    return found


def _load(path: str, what: str) -> Any:
    try:
        return import_object(path)
    except ImportNameError as exc:
        raise UsageError(f'{what}: {exc}') from exc
    except (Exception, SystemExit):
        _fail_broken(what)


def _fail_broken(what: str) -> NoReturn:
    """Show where the code of the user broke while it was imported."""
    import traceback
    traceback.print_exc()
    raise UsageError(f'{what} cannot be imported, see above') from None


def _configure_logging(config: Config) -> logging.Logger:
    import logging

    from jobslib.logs import install, make_handler
    if config.logging is None:
        logging.basicConfig(level=logging.INFO,
                            handlers=[make_handler(config.log_format)])
    else:
        import logging.config
        try:
            logging.config.dictConfig(config.logging)
        except (ValueError, TypeError, AttributeError, ImportError) as exc:
            causes = [str(each) for each in (exc, exc.__cause__) if each]
            raise config.error('logging', ': '.join(causes)) from None
    install(config.task_name)
    return logging.getLogger('jobslib')
