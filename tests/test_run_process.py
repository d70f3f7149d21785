"""How a task is run: in a real process, as its supervisor has it run."""

import _thread
import asyncio
import contextlib
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import Forked, Job, run_job, until, write_module

from jobslib import (
    BaseTask,
    OneInstanceWatchdogError,
    TaskError,
    Terminate,
)
from jobslib.exitcodes import ExitCode
from jobslib.run.process import FENCING_TOKEN_VARIABLE
from jobslib.runs import Outcome, Run

SHORT = 0.01

#: When no run gives a sign of life.
BEGUN = -1.0


def wait() -> None:
    """Wait until something is raised."""
    until(lambda: False, 'for an interrupt')


class Ours(BaseTask):
    """A task whose run tells what it is asked for, by failing with it."""

    name = 'ours'

    def tell(self, *values: object) -> None:
        """End the run with *values* as its message."""
        raise TaskError(' '.join(map(str, values)))

    def begin(self) -> None:
        """Let the interrupt come, see :func:`interrupt_at_begin`."""
        self.context.config.link.memory.beat = BEGUN


class Scripted(Ours):
    """Calls a function in its run."""

    step: Any = None

    def task(self) -> Any:
        return type(self).step(self)


def run(step: Any, **settings: Any) -> tuple[str, str | None]:
    """Run *step* as a task; return its outcome, and the message of it."""
    task_cls = type('Task', (Scripted,), {'step': step})
    with Forked(task_cls, **settings) as forked:
        result = forked.run()
    return result.outcome.value, result.message or result.error


@pytest.mark.parametrize(('code', 'outcome', 'message'), [
    (None, 'succeeded', None), (0, 'succeeded', None),
    (3, 'failed', 'exit with 3'), ('a text', 'failed', 'exit with a text'),
    (True, 'failed', 'exit with True')])
def test_system_exit(code: Any, outcome: str, message: str | None) -> None:
    """A task that exits has ended its run, and failed with a code."""
    def step(task: Scripted) -> None:
        raise SystemExit(code)
    assert run(step) == (outcome, message)


def test_exit_does_not_end_the_process() -> None:
    """A task that exits ends its run, and the next has the same process."""
    class Task(Ours):
        def task(self) -> None:
            print(os.getpid())
            raise SystemExit(1)

    with Forked(Task) as forked:
        pid = forked.handle.pid
        for _ in range(3):
            assert forked.run().error == 'TaskError: exit with 1'
            assert forked.handle.pid == pid


@pytest.mark.parametrize('error', [
    KeyboardInterrupt('no luck'), GeneratorExit('no luck'),
    asyncio.CancelledError('no luck'), MemoryError('no luck'),
    ExceptionGroup('no luck', [ValueError()])],
    ids=lambda error: type(error).__name__)
def test_whatever_a_task_raises(error: BaseException) -> None:
    """It is a failed run, with a traceback that leads to it."""
    def step(task: Scripted) -> None:
        raise error
    with Forked(type('Task', (Scripted,), {'step': step})) as forked:
        for _ in range(2):
            result = forked.run()
            assert result.outcome is Outcome.FAILED
            assert result.error is not None and result.traceback is not None
            assert result.error.startswith(f'{type(error).__name__}: no luck')
            assert ', in step\n' in result.traceback


def test_task_error() -> None:
    """The message explains it, whole; there is no traceback."""
    def step(task: Scripted) -> None:
        raise TaskError('no disk\nnor tape')
    with Forked(type('Task', (Scripted,), {'step': step})) as forked:
        result = forked.run()
    assert (result.error, result.message, result.traceback) == (
        'TaskError: no disk', 'no disk\nnor tape', None)


class UnspeakableError(Exception):
    """An error that has no message."""

    def __str__(self) -> str:
        raise ValueError('no message')


@pytest.mark.parametrize('error', [
    UnspeakableError(), ValueError('\ud800'), ValueError('x' * 1_000_000),
    ValueError('\U0001f600' * 100_000), ValueError('\0' * 100_000),
    ValueError('\ud800' * 100_000)],
    ids=['no message', 'no text', 'long', 'wide', 'zeros', 'long no text'])
def test_error_that_is_hard_to_tell(error: Exception) -> None:
    """Whatever an error says, the run has failed, and the process goes on."""
    def step(task: Scripted) -> None:
        raise error
    with Forked(type('Task', (Scripted,), {'step': step})) as forked:
        pid = forked.handle.pid
        for _ in range(2):
            result = forked.run()
            assert result.outcome is Outcome.FAILED
            assert result.traceback is not None
            assert forked.handle.pid == pid


def test_deep_recursion() -> None:
    """The traceback of one is not too large to be handed over."""
    def recurse(depth: int) -> None:
        recurse(depth + 1)
    outcome, message = run(lambda task: recurse(0))
    assert outcome == 'failed'
    assert message is not None and 'maximum recursion depth' in message


class Token(Ours):
    """Tells what it and its children see of its fencing token."""

    def task(self) -> None:
        child = subprocess.run(
            [sys.executable, '-c',
             f'import os; print(os.environ.get({FENCING_TOKEN_VARIABLE!r}))'],
            capture_output=True, text=True, check=True)
        self.tell(self.fencing_token,
                  os.environ.get(FENCING_TOKEN_VARIABLE), child.stdout.strip())


def test_fencing_token(tmp_path: pathlib.Path,
                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run finds its own token, as do those that it starts."""
    monkeypatch.setenv(FENCING_TOKEN_VARIABLE, 'of another job')
    with Forked(Token, ONE_INSTANCE={
            'backend': 'jobslib.oneinstance.file.FileLock',
            'options': {'folder': str(tmp_path / 'locks')}}) as forked:
        for _ in range(2):
            token = forked.lock.fencing_token
            assert forked.run().message == f'{token} {token} {token}'
            forked.lock.release()
            forked.lock.acquire()
            assert forked.lock.fencing_token != token


def test_no_fencing_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token the environment has none of another lock."""
    monkeypatch.setenv(FENCING_TOKEN_VARIABLE, 'of another job')
    with Forked(Token) as forked:
        assert forked.run().message == 'None None None'


# Coroutines

def test_coroutine() -> None:
    """A coroutine is run to its end."""
    async def step(task: Scripted) -> None:
        await asyncio.sleep(0)
        task.tell('done')
    assert run(step) == ('failed', 'done')

    async def good(task: Scripted) -> None:
        await asyncio.sleep(0)
    assert run(good) == ('succeeded', None)


def test_failing_coroutine() -> None:
    """What a coroutine raises is a failed run."""
    async def step(task: Scripted) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError('nothing to divide by')
    assert run(step) == ('failed', 'nothing to divide by')


def test_coroutine_that_exits() -> None:
    """A coroutine that exits ends its run as any task does."""
    async def step(task: Scripted) -> None:
        raise SystemExit(3)
    assert run(step) == ('failed', 'exit with 3')


def test_coroutine_that_cancels_itself() -> None:
    """A coroutine that ends by a cancellation of its own has failed."""
    async def step(task: Scripted) -> None:
        raise asyncio.CancelledError
    assert run(step)[0] == 'failed'


@pytest.mark.parametrize('kind', [Terminate, OneInstanceWatchdogError])
def test_interrupted_coroutine(kind: Any) -> None:
    """It is cancelled with the reason, and can clean up with await."""
    async def step(task: Any) -> None:
        asyncio.get_running_loop().call_later(SHORT, task.begin)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            await asyncio.sleep(SHORT)
            task.tell('cleaned up', task.lock.held, *exc.args)

    class Task(Scripted):
        @property
        def lock(self) -> Any:
            return self.context.one_instance_lock
    Task.step = step
    with Forked(Task) as forked:
        interrupt_at_begin(forked, kind('enough'))
        result = forked.run()
    assert result.message == 'cleaned up True enough'


def interrupt_at_begin(forked: Forked, interrupt: Any) -> None:
    """Interrupt a run with *interrupt* after it has called ``begin()``."""
    handle = forked.handle
    told: list[bool] = []

    def tick() -> float:
        if handle.beat == BEGUN and not told:
            told.append(True)
            forked.interrupts.interrupt(interrupt)
        return SHORT
    handle.tick = tick


class Beating(Ours):
    """Waits for an interrupt, and tells it."""

    def task(self) -> None:
        try:
            self.begin()
            wait()
        except BaseException as exc:
            self.tell(type(exc).__name__, exc, self.lock.held)

    @property
    def lock(self) -> Any:
        """The lock as the task sees it."""
        return self.context.one_instance_lock


# Interrupts

@pytest.mark.parametrize('kind', [Terminate, OneInstanceWatchdogError])
def test_interrupt(kind: Any) -> None:
    """What interrupts a run is raised in it, with its reason."""
    with Forked(Beating) as forked:
        interrupt_at_begin(forked, kind('enough'))
        assert forked.run().message == f'{kind.__name__} enough True'


def test_interrupt_before_the_run_has_begun() -> None:
    """It is not lost that it comes before the request is read."""
    class Task(Beating):
        def begin(self) -> None:
            pass

    with Forked(Task) as forked:
        assert forked.handle.pid is not None
        os.kill(forked.handle.pid, signal.SIGSTOP)
        continued: list[bool] = []

        def tick() -> float:
            # It finds the signal first, and then the request.
            if not continued and forked.handle.pid is not None:
                os.kill(forked.handle.pid, signal.SIGCONT)
                continued.append(True)
            return SHORT
        forked.handle.tick = tick
        forked.interrupts.pending = Terminate('enough')
        assert forked.run().message in ('enough', 'Terminate enough True')


def test_interrupt_that_passes_through() -> None:
    """A run that lets it pass was interrupted."""
    class Task(Beating):
        def task(self) -> None:
            self.begin()
            wait()
    with Forked(Task) as forked:
        interrupt_at_begin(forked, Terminate('enough'))
        result = forked.run()
        assert result.outcome is Outcome.INTERRUPTED
        assert result.error == 'Terminate: enough'
        # Nothing goes on that would have to end before the lock goes.
        assert forked.handle.deadline is None


def test_interrupt_in_a_finalizer() -> None:
    """One that Python drops, in a finalizer, is raised again."""
    class Dropping:
        def __init__(self, task: Beating) -> None:
            self.task = task

        def __del__(self) -> None:
            self.task.begin()
            wait()

    class Task(Beating):
        def begin(self) -> None:
            super().begin()
            if not self.__dict__.setdefault('dropped', False):
                self.__dict__['dropped'] = True
                Dropping(self)

    with Forked(Task) as forked:
        interrupt_at_begin(forked, Terminate('enough'))
        assert forked.run().message == 'Terminate enough True'


def test_handler_of_the_run() -> None:
    """A run with a handler of its own gets the signal; it counts for one run."""
    class Task(Beating):
        def task(self) -> None:
            if self.__dict__.setdefault('first', True):
                self.__dict__['first'] = False
                got: list[int] = []
                signal.signal(signal.SIGTERM, lambda *_: got.append(1))
                self.begin()
                until(lambda: got)
                self.tell('handled')
            super().task()

    with Forked(Task) as forked:
        interrupt_at_begin(forked, Terminate('enough'))
        assert forked.run().message == 'handled'
        forked.interrupts.pending = None
        interrupt_at_begin(forked, Terminate('enough'))
        assert forked.run().message == 'Terminate enough True'


def test_signal_to_the_run_alone() -> None:
    """It is passed on, and counts as one to the supervisor."""
    class Task(Beating):
        def begin(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with Forked(Task) as forked:
        assert forked.run().message == 'Terminate signal SIGTERM True'
        assert forked.interrupts.signum == signal.SIGTERM


def test_signal_between_runs() -> None:
    """A signal that no run asked for does not disturb the next one's handlers."""
    class Task(Ours):
        def task(self) -> None:
            self.tell(signal.getsignal(signal.SIGTERM) not in (
                signal.SIG_DFL, signal.SIG_IGN)
                and signal.SIGTERM not in signal.pthread_sigmask(
                    signal.SIG_BLOCK, []))

    class Removing(Task):
        def task(self) -> None:
            try:
                super().task()
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    with Forked(Removing) as forked:
        for _ in range(2):
            assert forked.run().message == 'True'


# Threads and children

def test_thread_of_a_run() -> None:
    """A run is over when its threads are, as any program of Python."""
    heard: list[str] = []

    class Task(Ours):
        def task(self) -> None:
            def work() -> None:
                time.sleep(0.3)
                self.context.config.link.tell('note', 'done')
            threading.Thread(target=work).start()
    with Forked(Task) as forked:
        forked.handle.questions.answers['note'] = heard.append
        assert forked.run().outcome is Outcome.SUCCEEDED
        assert heard == ['done']


def start_plain() -> None:
    """Start a thread."""
    threading.Thread(target=time.sleep, args=(3600,)).start()


def start_unknown() -> None:
    """Start a thread that :mod:`threading` knows nothing of."""
    _thread.start_new_thread(time.sleep, (3600,))


@pytest.mark.parametrize('start', [start_plain, start_unknown])
def test_thread_that_goes_on_after_an_interrupt(
        start: Callable[[], None]) -> None:
    """A thread is not waited for then; it is seen that it goes on."""
    class Task(Beating):
        def task(self) -> None:
            start()
            self.begin()
            wait()

    with Forked(Task, grace=60.0) as forked:
        interrupt_at_begin(forked, Terminate('enough'))
        result = forked.run()
        assert result.outcome is Outcome.INTERRUPTED
        deadline = forked.handle.deadline
        assert deadline is not None
        assert 0 < deadline - time.clock_gettime(time.CLOCK_BOOTTIME) <= 60


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_standard_streams_that_cannot_be_flushed(
        error: type[BaseException]) -> None:
    """What a task has put in their place does not change the outcome."""
    class Task(Ours):
        def task(self) -> None:
            class Stream:
                def flush(self) -> None:
                    raise error('no stream')
            sys.stdout = sys.stderr = Stream()

    with Forked(Task) as forked:
        assert forked.run().outcome is Outcome.SUCCEEDED


def test_error_whose_text_exits() -> None:
    """The run has failed, whatever an error does to be shown."""
    class Exiting(Exception):
        def __str__(self) -> str:
            sys.exit(3)

    class Task(Ours):
        def task(self) -> None:
            raise Exiting

    with Forked(Task) as forked:
        result = forked.run()
    assert result.outcome is Outcome.FAILED
    assert result.error == 'Exiting: (the message cannot be shown)'


def write_garbage() -> None:
    """Write to all sockets that this process has."""
    for fd in map(int, os.listdir('/proc/self/fd')):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b'.garbage')


def test_channels_are_not_those_of_children() -> None:
    """What a child writes to all descriptors does not reach the supervisor."""
    class Task(Ours):
        def task(self) -> None:
            pid = os.fork()
            if pid == 0:
                write_garbage()
                os._exit(0)
            os.waitpid(pid, 0)

    with Forked(Task) as forked:
        for _ in range(2):
            assert forked.run().outcome is Outcome.SUCCEEDED
            assert forked.handle.is_ready


def test_task_that_writes_to_all_descriptors() -> None:
    """Its outcome is known, and the next run takes place."""
    class Task(Ours):
        def task(self) -> None:
            write_garbage()

    with Forked(Task) as forked:
        for _ in range(3):
            assert forked.run().outcome is Outcome.SUCCEEDED
            assert forked.handle.prepare() is None


def test_forked_child_is_no_second_run() -> None:
    """A child that returns from the task ends, as it would in plain Python."""
    class Task(Ours):
        def task(self) -> None:
            pid = os.fork()
            if pid == 0:
                return
            _, status = os.waitpid(pid, 0)
            self.tell('child', os.waitstatus_to_exitcode(status))

    with Forked(Task) as forked:
        for _ in range(2):
            assert forked.run().message == 'child 0'


def test_forked_child_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    """A child that raises shows its traceback, and ends with 1."""
    class Task(Ours):
        def task(self) -> None:
            pid = os.fork()
            if pid == 0:
                raise ZeroDivisionError('of the child')
            _, status = os.waitpid(pid, 0)
            self.tell('child', os.waitstatus_to_exitcode(status))

    with Forked(Task) as forked:
        assert forked.run().message == 'child 1'
    assert 'ZeroDivisionError: of the child' in capfd.readouterr().err


def test_forked_child_that_fails_to_show_it(
        capfd: pytest.CaptureFixture[str]) -> None:
    """A hook of the interpreter that raises changes nothing."""
    class Task(Ours):
        def task(self) -> None:
            def hook(*error: object) -> None:
                raise OSError('no network')
            sys.excepthook = hook
            pid = os.fork()
            if pid == 0:
                raise ZeroDivisionError('of the child')
            _, status = os.waitpid(pid, 0)
            self.tell('child', os.waitstatus_to_exitcode(status))

    with Forked(Task) as forked:
        assert forked.run().message == 'child 1'
    assert 'ZeroDivisionError: of the child' in capfd.readouterr().err


def test_forked_child_exits_with_its_code() -> None:
    """sys.exit() in a child is the exit code of the child."""
    class Task(Ours):
        def task(self) -> None:
            pid = os.fork()
            if pid == 0:
                sys.exit(7)
            _, status = os.waitpid(pid, 0)
            self.tell('child', os.waitstatus_to_exitcode(status))

    with Forked(Task) as forked:
        assert forked.run().message == 'child 7'


def test_forked_child_has_no_lock() -> None:
    """A child neither holds the lock, nor speaks for the run."""
    class Task(Beating):
        def task(self) -> None:
            read_fd, write_fd = os.pipe()
            if os.fork() == 0:
                os.write(write_fd, str(self.lock.held).encode() + b' '
                         + str(self.lock.refresh()).encode() + b' ' + str(
                    signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
                ).encode())
                return
            os.wait()
            self.tell(os.read(read_fd, 100).decode(), self.lock.held)

    with Forked(Task) as forked:
        assert forked.run().message == 'False False True True'


# Hooks

class Hooked(Ours):
    """Has hooks of several kinds."""

    def task(self) -> None:
        pass

    def on_acquired(self) -> None:
        raise TaskError('of a hook')

    async def on_success(self, run: Run) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.tell(run.number, run.outcome.value, run.token, run.error)

    def on_lost(self, reason: str) -> None:
        raise SystemExit(reason)


def test_hooks_that_there_are() -> None:
    """Only those that the task overrides are called."""
    with Forked(Hooked) as forked:
        assert forked.handle.hooks == ['on_acquired', 'on_success', 'on_lost']


def test_hook_set_by_hand() -> None:
    """A hook may be an attribute of the instance."""
    class Task(Ours):
        def initialize(self) -> None:
            self.on_released = lambda: None  # type: ignore[method-assign]
    with Forked(Task) as forked:
        assert forked.handle.hooks == ['on_released']


def test_coroutine_hook() -> None:
    """A hook may be a coroutine function; it is given the run."""
    done = Run(5, 7, 100.0)
    done.end(Outcome.SUCCEEDED, 1.0)
    with Forked(Hooked) as forked:
        result = forked.call_hook('on_success', done.export())
    assert result.message == '5 succeeded 7 None'


def test_hook_that_raises() -> None:
    """What a hook raises is told with its traceback, whatever it is."""
    with Forked(Hooked) as forked:
        for name, args, error in (
                ('on_acquired', [], 'TaskError: of a hook'),
                ('on_lost', ['gone'], 'SystemExit: gone')):
            result = forked.call_hook(name, *args)
            assert result.outcome is Outcome.FAILED
            assert result.error == error
            assert result.traceback is not None
            assert f', in {name}\n' in result.traceback


def test_hook_without_the_lock() -> None:
    """A loss that is pending does not stop the hook that is told of it."""
    class Task(Beating):
        def on_lost(self, reason: str) -> None:
            if reason == 'wait':
                wait()
            self.tell('heard', reason)

    with Forked(Task) as forked:
        forked.interrupts.pending = OneInstanceWatchdogError('lost')
        call = forked.handle.call_hook
        result = call('on_lost', ['gone'], forked.lock, with_lock=False)
        assert result.message == 'heard gone'
        result = call('on_lost', ['wait'], forked.lock)
        assert result.outcome is Outcome.INTERRUPTED


# Making the task, and ending its process

@pytest.mark.parametrize(('error', 'reason'), [
    (ValueError('no disk'), 'the task cannot be made: ValueError: no disk'),
    (SystemExit(3), 'the task cannot be made: SystemExit: 3')])
def test_task_that_cannot_be_made(error: BaseException, reason: str) -> None:
    """There is no process then, and it is said why."""
    class Task(Ours):
        def initialize(self) -> None:
            raise error

    forked = Forked(Task)
    assert forked.handle.prepare() == reason
    assert not forked.handle.lives


def test_task_that_has_its_process_killed() -> None:
    """A process that ends while the task is made is named."""
    class Task(Ours):
        def initialize(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    forked = Forked(Task)
    assert forked.handle.prepare() == (
        'the task cannot be made: killed by SIGKILL')
    assert not forked.handle.lives


JOBS = '''
import atexit, fcntl, sys, time
from jobslib import BaseTask, Context

class Closing(BaseTask):
    def initialize(self):
        atexit.register(print, 'at exit', flush=True)
    def task(self):
        print('ran', flush=True)

class Closed(Context):
    def close(self):
        print('closed', flush=True)
        raise ZeroDivisionError

class Exits(BaseTask):
    def task(self):
        sys.exit(3)

def look():
    with open('locks/registers.lock', 'r+') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print('at exit: free', flush=True)
        except BlockingIOError:
            print('at exit: held', flush=True)

class Registers(BaseTask):
    name = 'registers'
    def task(self):
        atexit.register(look)

class RegistersForEver(Registers):
    def task(self):
        super().task()
        print('registered', flush=True)
        time.sleep(99)

class RegistersAndHears(RegistersForEver):
    def on_released(self):
        print('heard', flush=True)
'''


@pytest.mark.parametrize('once', [True, False])
def test_context_that_cannot_be_closed(
        tmp_path: pathlib.Path, once: bool) -> None:
    """The exit code is that of the run, whatever comes after it."""
    write_module(tmp_path, 'jobs', JOBS)
    args = ['--run-once'] if once else ['--sleep-interval', '3600']
    with Job(tmp_path, *args, 'jobs.Closing',
             JOBSLIB_CONTEXT_CLASS='jobs.Closed') as job:
        if not once:
            job.wait_for('run succeeded')
            job.send(signal.SIGTERM)
        assert job.wait() == (
            ExitCode.DONE if once else ExitCode.TERMINATED)
        assert 'ERROR jobslib: the context was not closed' in job.output
        # The process ends as Python ends.
        assert job.output.index('closed') < job.output.index('at exit')


def test_task_that_exits(tmp_path: pathlib.Path) -> None:
    """A job whose task exits with a code has failed."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '--run-once', 'jobs.Exits')
    assert done.returncode == ExitCode.TASK_FAILED
    assert 'exit with 3' in done.stderr and 'Traceback' not in done.stderr


# What a run registers for the end of its process

LOCKS = 'JOBSLIB_ONE_INSTANCE_FILE_FOLDER'


def test_one_run_that_registers_for_the_exit(tmp_path: pathlib.Path) -> None:
    """What the one run has registered is called before the lock goes."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '--run-once', 'jobs.Registers', **{LOCKS: 'locks'})
    assert done.returncode == ExitCode.DONE, done.stderr
    assert 'at exit: held' in done.stdout, done.stdout


@pytest.mark.parametrize(('task', 'begun', 'words'), [
    ('RegistersForEver', 'registered', ['at exit: held']),
    # A hook is still to be called in its process.
    ('RegistersAndHears', 'registered', ['heard', 'at exit: free']),
    # It has ended long before the job is told to end.
    ('Registers', 'run succeeded', ['at exit: held'])])
def test_run_that_registers_for_the_exit(
        tmp_path: pathlib.Path, task: str, begun: str, words: list[str]) -> None:
    """What a run has registered is called before the lock goes, when the job ends."""
    write_module(tmp_path, 'jobs', JOBS)
    with Job(tmp_path, '--keep-lock', '--sleep-interval', '3600', f'jobs.{task}',
             **{LOCKS: 'locks'}) as job:
        job.wait_for(begun)
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED
        found = [line for line in job.output.splitlines()
                 if line == 'heard' or line.startswith('at exit')]
        assert found == words, job.output
