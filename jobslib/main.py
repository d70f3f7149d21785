"""``runjob``: wires the command line to a run."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys

from jobslib.cmdlineparser import CommandLine
from jobslib.commands import COMMANDS, load_command
from jobslib.config import Config, OneInstanceConfig
from jobslib.configure import EXEC, HELP, UsageError, configure
from jobslib.environment import NOTIFY_SOCKET, WATCHDOG
from jobslib.exceptions import ConfigError, LockError, LockUnavailableError
from jobslib.exitcodes import ExitCode, protect_exit_code
from jobslib.imports import import_object
from jobslib.legacy import describe
from jobslib.strictness import refuse_slips, remarks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from jobslib.run.channel import Channel
    from jobslib.run.memory import Memory
    from jobslib.run.process import RunProcess

__all__ = ['main']

OWN_LOCKS = ('jobslib.oneinstance.file.FileLock',
             'jobslib.oneinstance.consul.ConsulLock')


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
    before = _threads()
    try:
        code = _reported(lambda: _answer(line))
    except SystemExit as exc:
        _leave_threads(before, exc.code)
        raise
    _leave_threads(before, code)
    return code


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
    pid = os.getpid()
    config = configure(line)
    if os.getpid() != pid:
        # A child that an import has forked.  The command is carried out once.
        from jobslib.run.process import exit_like_python
        exit_like_python(None)
    refuse_slips(config)
    command = getattr(config.args, 'runjob_command', None)
    return (_run_job(line) if command is None
            else _command(command, config))


def _threads() -> set[threading.Thread]:
    """Return the threads for which the interpreter would wait at its end."""
    import threading
    return {each for each in threading.enumerate() if not each.daemon}


def _leave_threads(before: set[threading.Thread], code: object) -> None:
    """End this process with *code* if it has other threads than *before*.

    One that the import of a task has started may go on for ever, and nobody waits
    for its work where a command was carried out, or something was refused.
    """
    if not isinstance(code, int) or _threads() <= before:
        return
    import atexit
    protect_exit_code()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # They may be closed, or what they lead to.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
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
        before = _threads()
        try:
            code = _reported(lambda: _be_run_process(process, line))
        except BaseException as exc:
            process.leave()
            if isinstance(exc, SystemExit) and not process.serves:
                _leave_threads(before, exc.code)
            exit_like_python(exc)
        process.leave()
        if not process.serves:
            _leave_threads(before, code)
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
    config = configure(line)
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
