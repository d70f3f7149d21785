"""The task of ``runjob exec``: a run is a program, of any language."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

from jobslib.exceptions import ConfigError, Interrupt, TaskError
from jobslib.keeper import processes
from jobslib.run.prctl import die_with_parent
from jobslib.tasks import BaseTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ['Program', 'make_program', 'refuse_name', 'refuse_program']

#: When a signal was sent to a whole process group, how much later than the
#: program this process may get it, in seconds.
PATIENCE = 0.2


class Program(BaseTask):
    """A job whose run is a program; a subclass has its name and command."""

    #: The program and its arguments.
    command: Sequence[str] = ()

    def task(self) -> None:
        """Run the program; the run ends with it."""
        parent = os.getpid()
        _flush()
        try:
            # The kernel kills the program when this process is gone.  A lock
            # without a keeper would be free then, with the program running on.
            code = subprocess.Popen(
                self.command,
                preexec_fn=lambda: die_with_parent(parent)).wait()
            if code < 0:
                time.sleep(PATIENCE)
        except Interrupt:
            _end_all()
            raise
        except OSError as exc:
            raise TaskError(f'{self.command[0]!r} cannot be executed: '
                            f'{exc.strerror}{_hint(exc)}') from None
        if code < 0:
            _die_of(-code)
        if code:
            raise TaskError(f'exit code {code}')


def make_program(name: str, command: Sequence[str] = ()) -> type[Program]:
    """Return the task class of the job *name*.

    :param command: the program and its arguments; not needed by a command that
        only looks at the job.
    """
    return type('Program', (Program,), {
        'name': name, 'command': tuple(command), '__module__': __name__})


def refuse_name(name: str) -> None:
    """Refuse a name that a job cannot have.

    :raises ConfigError: it says what is allowed.
    """
    if not name or name != name.strip() or not name.isprintable():
        raise ConfigError(f'--name: {name!r} is not allowed; allowed: '
                          f'characters that can be printed, at least one, and no '
                          f'spaces at the beginning or end')


def refuse_program(program: str) -> None:
    """Refuse a program that cannot be executed.

    :param program: a path, or a name that is looked for in ``$PATH``.
    :raises ConfigError: it says why not.
    """
    if shutil.which(program) is not None:
        return
    if os.path.dirname(program):
        why = ('there is no such file' if not os.path.exists(program) else
               'it is a folder' if os.path.isdir(program) else
               'it is not executable (chmod +x)')
    else:
        why = f'it is in no folder of PATH ({os.environ.get("PATH", "")})'
    raise ConfigError(f'exec: the command {program!r} cannot be executed: {why}')


def _hint(exc: OSError) -> str:
    """Return what is to be looked at in a program that was found at first."""
    if exc.errno == errno.ENOEXEC:
        return ' (a script has to name its interpreter first: #!/bin/sh)'
    if exc.errno == errno.ENOENT:
        return ' (it, or the interpreter that its first line names)'
    return ''


def _end_all() -> None:
    """End the program and all that it has started, and wait for that.

    It sends SIGTERM only.  The supervisor kills what is left when the grace time
    is over.
    """
    spared = frozenset({os.getppid(), os.getpid()})
    # No process has this mark.  A process that is not below this one any more is
    # found, and ended, by the supervisor.
    processes.end_gently(os.getppid(), os.urandom(16).hex(), set(), spared,
                         float('inf'))


def _die_of(signum: int) -> None:
    """End this process by the signal that has ended the program.

    The supervisor then ends what the program has started, and reports it.
    """
    import resource
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if signum != signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _flush() -> None:
    """Write out what the settings have printed before the program prints."""
    for stream in (sys.stdout, sys.stderr):
        # None where it was closed by who started the job.
        if stream is not None:
            stream.flush()
