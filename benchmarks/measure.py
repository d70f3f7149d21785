"""How the figures are taken."""

import ctypes
import os
import pathlib
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

__all__ = ['Job', 'cpu_time', 'memory', 'pause', 'started', 'ticks']

PR_SET_CHILD_SUBREAPER = 36
#: After so many seconds something has gone wrong.
LIMIT = 60.0


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
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    if process.wait():
        raise RuntimeError(f'{command} failed with {process.returncode}')
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Job:
    """A ``runjob`` that goes on, what its tasks print, and what it logs."""

    def __init__(self, command: list[str], env: dict[str, str],
                 log: pathlib.Path) -> None:
        self._log = log
        with log.open('wb') as file:
            self.process = subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=file, bufsize=0)
        self.pid = self.process.pid
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def line(self) -> list[str]:
        """The words of the next line that the task prints."""
        return first_line([self])

    def wait_for(self, text: str) -> None:
        """Wait until *text* is in the log."""
        wait_until(lambda: text in self._log.read_text(), text)

    def close(self) -> None:
        """End it, if it still runs."""
        self.process.terminate()
        self.process.wait(LIMIT)
        self.output.close()


def first_line(jobs: Iterable[Job]) -> list[str]:
    """The words of the next line that a task of any of *jobs* prints."""
    outputs = [each.output for each in jobs]
    while outputs and (ready := select.select(outputs, [], [], LIMIT)[0]):
        if line := ready[0].readline():
            words: list[str] = line.decode().split()
            return words
        # It has ended.
        outputs.remove(ready[0])
    raise TimeoutError('no task has begun')


@contextmanager
def started(command: list[str], env: dict[str, str]) -> Iterator[Job]:
    """Start ``runjob``; end it on leaving."""
    job = Job(command, env, pathlib.Path(f'log-{time.monotonic_ns()}'))
    try:
        yield job
    finally:
        job.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until *condition* is true."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f'not within {LIMIT:g} s: {what}')
        time.sleep(0.02)


def memory(pids: Iterable[int]) -> float:
    """Return the proportional set size of some processes, in MiB."""
    found = 0
    for pid in pids:
        for line in pathlib.Path(f'/proc/{pid}/smaps_rollup').open():
            if line.startswith('Pss:'):
                found += int(line.split()[1])
    return found / 1024


def ticks(pids: Iterable[int]) -> float:
    """Return the CPU time that some processes have taken, in seconds."""
    found = 0
    for pid in pids:
        fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
        found += sum(map(int, fields.split()[11:13]))
    return found / os.sysconf('SC_CLK_TCK')


def pause(seconds: float) -> None:
    """Let *seconds* pass while something is counted."""
    time.sleep(seconds)


if __name__ == '__main__':
    print(_run_and_wait_for_all(sys.argv[1:]))
