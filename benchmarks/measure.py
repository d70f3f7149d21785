"""How the figures are taken."""

import ctypes
import os
import pathlib
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ['cpu_time', 'environment', 'first_line', 'memory', 'started']

PR_SET_CHILD_SUBREAPER = 36
RUNJOB = os.path.join(sysconfig.get_path('scripts'), 'runjob')
FILE_LOCK = 'jobslib.oneinstance.file.FileLock'
CONSUL_LOCK = 'jobslib.oneinstance.consul.ConsulLock'


def environment(backend: str, address: tuple[str, int] | None = None,
                **variables: str) -> dict[str, str]:
    """Return the environment for ``runjob`` with the lock *backend*."""
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(('JOBSLIB_', 'CONSUL_'))}
    # Users run compiled modules.
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    env['JOBSLIB_ONE_INSTANCE_BACKEND'] = backend
    if backend == FILE_LOCK:
        env['JOBSLIB_ONE_INSTANCE_FILE_FOLDER'] = os.path.join(
            tempfile.gettempdir(), f'jobslib-benchmark-{os.getpid()}')
    if address is not None:
        env['CONSUL_HTTP_ADDR'] = f'{address[0]}:{address[1]}'
    return env | variables


def cpu_time(command: list[str], env: dict[str, str]) -> float:
    """Run *command*; return the CPU time, in seconds, that it took.

    The processes that it leaves behind count as well.
    """
    output = subprocess.run(
        [sys.executable, '-m', 'benchmarks.measure', *command], env=env,
        check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.split()[-1])


def _run_and_wait_for_all(command: list[str]) -> float:
    # What the command leaves behind becomes a child of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if process.wait():
        raise RuntimeError(f'{command} failed with {process.returncode}')
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def started(arguments: list[str], env: dict[str, str],
            ) -> Iterator[subprocess.Popen[str]]:
    """Start ``runjob`` with *arguments*; end it on leaving."""
    process = subprocess.Popen(
        [RUNJOB, *arguments], env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that *process* prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def memory(pid: int) -> float:
    """Return the proportional set size of *pid*, in MiB."""
    for line in pathlib.Path(f'/proc/{pid}/smaps_rollup').open():
        if line.startswith('Pss:'):
            return int(line.split()[1]) / 1024
    raise LookupError(f'no Pss of {pid}')


def children(pid: int) -> list[int]:
    """Return the child processes of *pid*."""
    text = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return [int(child) for child in text.split()]


def ticks(pid: int) -> float:
    """Return the CPU time that *pid* has taken, in seconds."""
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')


def pause(seconds: float) -> None:
    """Let *seconds* pass while something is counted."""
    time.sleep(seconds)


if __name__ == '__main__':
    print(_run_and_wait_for_all(sys.argv[1:]))
