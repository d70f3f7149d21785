"""What several tests share: a clock that a test moves, locks and processes."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import IO, Any, Self

from jobslib import BaseTask, Config, Context
from jobslib.clock import Clock
from jobslib.oneinstance.file import FileLock

DEADLINE = 15.0

#: Options of a lock that this process holds: a lease that no pause of the machine
#: ends, for its keeper would end the tests with it; but no longer, since a keeper
#: whose Consul is gone goes on for twice that time.
STEADY: dict[str, Any] = {'ttl': 15.0, 'lock_delay': 15.0, 'grace': 6.0}


class FakeClock(Clock):
    """A clock that stands still but in :meth:`sleep`.

    The process is sent SIGTERM when it reaches *ends*.
    """

    def __init__(self, now: float = 1000.0, wall: float = 1.7e9) -> None:
        self.time = now
        self.ahead = wall - now
        self.ends = float('inf')
        self.slept: list[float] = []
        self.reads = 0

    def now(self) -> float:
        self.reads += 1
        assert self.reads < 100_000, 'the loop does not end'
        return self.time

    def wall(self) -> float:
        return self.time + self.ahead

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.time += seconds
        if self.time >= self.ends:
            os.kill(os.getpid(), signal.SIGTERM)


class PlainTask(BaseTask):
    """A task that does nothing."""

    name = 'plain'

    def task(self) -> None:
        pass


def make_context(
    settings: Mapping[str, Any] | None = None,
    task_cls: type[BaseTask] = PlainTask,
) -> Context:
    """Return a context for *task_cls*, with these settings."""
    config = Config(SimpleNamespace(**(settings or {})), None, task_cls)
    context: Context = config.make_context()
    return context


def make_file_lock(folder: pathlib.Path, name: str = 'plain',
                   **options: Any) -> FileLock:
    """Return the lock of the task *name* in *folder*."""
    task_cls = type('Task', (PlainTask,), {'name': name})
    context = make_context({'ONE_INSTANCE': {
        'backend': 'jobslib.oneinstance.file.FileLock',
        'options': {'folder': str(folder)} | options}}, task_cls)
    lock = context.one_instance_lock
    assert isinstance(lock, FileLock)
    return lock


def lock_folder(folder: pathlib.Path) -> pathlib.Path:
    """Return where jobs that run in *folder* have their lock files."""
    # Not in the folder itself, where a folder "jobslib" could be imported.
    return folder / 'run' / 'jobslib'


def is_free(folder: pathlib.Path, name: str) -> bool:
    """Return whether a job in *folder* can have the lock *name*."""
    lock = make_file_lock(lock_folder(folder), name)
    return lock.acquire() and lock.release()


def until(condition: Callable[[], object], what: str = '') -> None:
    """Wait until *condition* holds; fail when it does not in time."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends, f'waited in vain {what}'
        time.sleep(0.005)


def write_module(folder: pathlib.Path, name: str, text: str) -> None:
    """Write the module *name* into *folder*."""
    (folder / f'{name}.py').write_text(textwrap.dedent(text))


def environment(folder: pathlib.Path, **extra: str) -> dict[str, str]:
    """Return an environment with nothing set for jobslib but *extra*.

    Lock files go into the folder ``jobslib`` in *folder*.
    """
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(('JOBSLIB_', 'CONSUL_'))}
    return kept | {'XDG_RUNTIME_DIR': str(folder)} | extra


def run_job(folder: pathlib.Path, *args: str,
            **extra: str) -> subprocess.CompletedProcess[str]:
    """Run ``runjob`` with *args* in *folder* to its end."""
    return subprocess.run(
        [sys.executable, '-m', 'jobslib', *args], cwd=folder,
        env=environment(folder / 'run', **extra), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=DEADLINE)


class Process:
    """A Python process in the background, killed at the end of its block."""

    def __init__(self, folder: pathlib.Path, *args: str, **extra: str) -> None:
        self.folder = folder
        self.args = args
        self.extra = extra

    def __enter__(self) -> Self:
        self.log = self.folder / f'log.{time.monotonic_ns()}'
        with self.log.open('wb') as log:
            self.popen = subprocess.Popen(
                [sys.executable, *self.args], cwd=self.folder,
                env=environment(self.folder / 'run', **self.extra),
                stdin=subprocess.PIPE, stdout=log, stderr=log)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.popen.kill()
        self.popen.wait()
        self.stdin.close()

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe to the process."""
        assert self.popen.stdin is not None
        return self.popen.stdin

    @property
    def output(self) -> str:
        """What the process has written until now, errors included."""
        return self.log.read_text(errors='replace')

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until the process has written *text* so many times."""
        def written() -> bool:
            output = self.output
            ended = self.popen.poll() is not None
            assert not ended or output.count(text) >= times, output
            return output.count(text) >= times
        until(written, f'for {text!r}')

    def send(self, signum: signal.Signals) -> None:
        """Send *signum* to the process."""
        self.popen.send_signal(signum)

    def wait(self) -> int:
        """Return the exit code; fail when the process does not end."""
        return self.popen.wait(DEADLINE)


class Job(Process):
    """A ``runjob`` in the background."""

    def __init__(self, folder: pathlib.Path, *args: str, **extra: str) -> None:
        super().__init__(folder, '-m', 'jobslib', *args, **extra)
