"""What several tests share: a clock that a test moves, locks and processes."""

import logging
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import IO, Any, Self

from jobslib import BaseTask, Config, Context, TaskError
from jobslib.clock import Clock
from jobslib.clock import now as clock_now
from jobslib.exceptions import Interrupt
from jobslib.interrupts import Interrupts
from jobslib.loop.supervisor import answers_of
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.file import FileLock
from jobslib.run.channel import Channel
from jobslib.run.handle import RunHandle, concerns
from jobslib.run.memory import Memory
from jobslib.run.process import HOOKS, RunProcess
from jobslib.run.result import Result
from jobslib.runs import Outcome, Run, describe

DEADLINE = 15.0

#: How often the supervisor looks at a run that goes on in its own process.
TICK = 0.05

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


class InProcess(RunHandle):
    """Stands in for the run's process: the task runs in this one.

    So the loop can be tested by a clock that a test moves.  What reaches the run
    is raised in it by the handler of the signal that brought it.  A timer stands
    for the supervisor, which is at work while a run goes on.

    :param task: that of each process which the loop asks for.
    """

    def __init__(self, task: BaseTask, interrupts: Interrupts) -> None:
        super().__init__(_never, interrupts)
        self.task = task
        self.hooks = [name for name in HOOKS
                      if getattr(type(task), name) is not getattr(BaseTask, name)]
        #: Why no process can be had, if none can.
        self.refusal: str | None = None
        #: How many processes there were, and with which limits they were ended.
        self.processes = 1
        self.limits: list[float | None] = []
        #: What the task goes on with when its run is over.
        self.left = False
        #: How often all that there was has been killed.
        self.kills = 0
        #: What an end of what runs have left finds.
        self.leftovers: list[str] = []
        #: Whether runs have left threads.
        self.threads = False
        self.stop_reasons: list[str] = []
        #: What the task could see of its lock.
        self.shown: list[tuple[bool, int | None]] = []
        #: How often the loop has seen to children and to questions.
        self.looks = 0
        self._alive = True
        self._beat = 0.0

    def start(self) -> None:
        raise AssertionError('the loop has processes prepared')

    @property
    def lives(self) -> bool:
        return self._alive

    @property
    def is_ready(self) -> bool:
        return self._alive

    def prepare(self) -> str | None:
        if self._alive or self.refusal is not None:
            return self.refusal
        self._alive = True
        self.processes += 1
        return None

    def begin_making(self) -> None:
        raise AssertionError('the loop has processes prepared')

    def end_making(self) -> dict[str, Any]:
        raise AssertionError('the loop has processes prepared')

    def first_word(self) -> dict[str, Any]:
        raise AssertionError('the loop has processes prepared')

    def finish(self, limit: float | None = None) -> int:
        if self._alive:
            self._alive = False
            self.limits.append(limit)
            self.task.context.close()
        self.deadline = None
        return 0

    def kill(self) -> None:
        self.kills += 1
        self._alive = False
        self.deadline = None

    def limit(self, seconds: float) -> None:
        pass

    def leaves_processes(self) -> bool:
        return bool(self.leftovers)

    def leaves_code(self) -> bool:
        return self.threads

    def end_leftovers(self) -> None:
        ended, self.leftovers = self.leftovers, []
        self._report_ended(ended)

    def reap_orphans(self) -> None:
        self.looks += 1

    def reap_while(self, wait: Callable[[], None]) -> None:
        self.reap_orphans()
        wait()

    def run(self, run: Run, lock: BaseLock) -> Result:
        result = self._call('run', lock, self.task.task)
        if self.left and result.outcome is Outcome.INTERRUPTED:
            self.deadline = time.monotonic() + self.grace
        return result

    def call_hook(self, name: str, args: Sequence[Any], lock: BaseLock,
                  with_lock: bool = True) -> Result:
        values = [Run.load(each) if isinstance(each, dict) else each
                  for each in args]
        return self._call('hook' if with_lock else 'free hook', lock,
                          getattr(self.task, name), *values)

    def interrupt(self, interrupt: Interrupt) -> None:
        if self._busy:
            raise interrupt

    def ask_to_stop(self, reason: str) -> None:
        self.stop_reasons.append(reason)

    @property
    def beat(self) -> float:
        return self._beat

    def show_lock(self, lock: BaseLock) -> None:
        self.shown.append((lock.held, lock.fencing_token))

    def die(self, error: str) -> None:
        """Called by a task: its process ends, which is seen as *error*."""
        raise _Died(error)

    def _call(self, do: str, lock: BaseLock, call: Callable[..., object],
              *args: Any) -> Result:
        self.show_lock(lock)
        self._beat = clock_now()
        previous = signal.signal(signal.SIGALRM, lambda *_: self.tick())
        try:
            self._busy = True
            pending = self._interrupts.pending
            if pending is not None and concerns(pending, do):
                self.interrupt(pending)
            signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
            call(*args)
        except _Died as exc:
            self._alive = False
            return Result(Outcome.KILLED.value, str(exc))
        except BaseException as exc:
            return _result_of(exc, do)
        finally:
            self._busy = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        return Result(Outcome.SUCCEEDED.value)


class _Died(BaseException):
    pass


def _never(*args: object) -> None:
    raise AssertionError('nothing is forked')


def _result_of(error: BaseException, do: str) -> Result:
    try:
        message = str(error)
    except Exception:
        message = ''
    outcome = (Outcome.INTERRUPTED if isinstance(error, Interrupt)
               else Outcome.FAILED)
    lines = (None if do == 'run' and isinstance(error, TaskError)
             else ''.join(traceback.format_exception(error)))
    return Result(outcome.value, describe(error), message, lines)


class Forked:
    """A real process of a run, and what its supervisor has.

    To be entered; the process is gone at the end.

    :param task_cls: is made in the process.
    :param grace: from an interrupt to the kill, in seconds.
    """

    def __init__(self, task_cls: type[BaseTask], grace: float = DEADLINE,
                 **settings: Any) -> None:
        settings.setdefault('ONE_INSTANCE', {
            'backend': 'jobslib.oneinstance.dummy.DummyLock'})
        self.task_cls = task_cls
        self.config = Config(SimpleNamespace(**settings), None, task_cls)
        self.context: Context = self.config.make_context()
        self.lock = self.context.one_instance_lock
        self.interrupts = Interrupts()
        self.handle = RunHandle(self._body, self.interrupts)
        self.handle.questions.answers = answers_of(self.lock, self.context)
        self.handle.grace = grace
        self._runs = 0

    def __enter__(self) -> Self:
        self.interrupts.__enter__()
        assert self.handle.prepare() is None
        assert self.lock.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.handle.kill()
        finally:
            self.lock.close()
            self.interrupts.__exit__()

    def run(self) -> Result:
        """Have the task run once."""
        self._runs += 1
        with self.interrupts.interruptible(self.handle.interrupt):
            return self.handle.run(
                Run(self._runs, self.lock.fencing_token, 0.0), self.lock)

    def call_hook(self, name: str, *args: Any) -> Result:
        """Have a hook called."""
        with self.interrupts.interruptible(self.handle.interrupt):
            return self.handle.call_hook(name, args, self.lock)

    def _body(self, channel: Channel, questions: Channel,
              memory: Memory) -> None:
        try:
            process = RunProcess(channel, questions, memory)
            self.config.link = process.link
            process.tell({'config': None})
            logger = logging.getLogger('jobslib')
            process.serve(lambda: self.task_cls(self.config), logger)
            process.close(logger)
        finally:
            # What the tests have registered to be called is not of this process.
            os._exit(0)
