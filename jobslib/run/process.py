"""The run's process: the only place that runs code of users.

It is forked from the supervisor, and does what it is told, one request after
the other: make the task, run it, call a hook, end.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Awaitable

from jobslib.exceptions import ConfigError, Interrupt, LockError, TaskError
from jobslib.exitcodes import ExitCode, protect_exit_code
from jobslib.interrupts import Interrupts
from jobslib.run.link import Link
from jobslib.run.signals import RunSignals
from jobslib.run.threads import wait_for
from jobslib.runs import Outcome, Run, describe
from jobslib.tasks import BaseTask

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from jobslib.documents import Document
    from jobslib.run.channel import Channel
    from jobslib.run.memory import Memory

__all__ = ['FENCING_TOKEN_VARIABLE', 'JOB_VARIABLE', 'RunProcess',
           'SLOT_VARIABLE']

# The environment variables that processes started by a task inherit.
#: The name of the job.
JOB_VARIABLE = 'JOBSLIB_JOB'
#: The slot of the run: ISO 8601, in the schedule's time zone.
SLOT_VARIABLE = 'JOBSLIB_SLOT'
#: The fencing token of the lock.
FENCING_TOKEN_VARIABLE = 'JOBSLIB_FENCING_TOKEN'

HOOKS = ('on_acquired', 'on_success', 'on_failure', 'on_released', 'on_lost')

# How much of a message and of a traceback is handed to the supervisor, in
# characters.  Both together fit into the memory, whatever characters these are.
MAX_MESSAGE = 10_000
MAX_TRACEBACK = 20_000


class RunProcess:
    """Carries out the supervisor's requests.

    :param channel: brings the requests.
    :param questions: carries what a task asks of its lock.
    :param memory: shared with the supervisor.
    """

    def __init__(self, channel: Channel, questions: Channel,
                 memory: Memory) -> None:
        self._channel = channel
        self._memory = memory
        self.link = Link(questions, memory)
        self._pid = os.getpid()
        #: Whether there is a job: nothing that was asked for has been refused.
        self.serves = False
        self._interrupts = Interrupts()
        self._signals = RunSignals(
            self._interrupts, memory, self._pass_on)
        self._made_task: BaseTask | None = None
        # How many functions of atexit there were when the task was made.
        self._exit_functions = 0
        os.register_at_fork(
            before=self._signals.hold, after_in_child=self._forget,
            after_in_parent=self._signals.let_through)
        self._signals.install()

    @property
    def _task(self) -> BaseTask:
        """The task, when it is made."""
        assert self._made_task is not None
        return self._made_task

    def tell(self, message: Mapping[str, object]) -> None:
        """Tell the supervisor something, if it is still there."""
        try:
            self._channel.send(message)
        except ConnectionError:
            pass

    @property
    def is_connected(self) -> bool:
        """Whether the supervisor can be told something."""
        return self._channel.is_intact

    def leave(self) -> None:
        """Tell the supervisor that this process ends before there is a job, and
        that the reason is shown already."""
        if os.getpid() == self._pid:
            self.tell({'leaves': True})

    def expect_no_fork(self) -> None:
        """End this process, as Python would, if it is a child that was forked
        by an import."""
        self._expect_ours(None)

    def serve(self, make_task: Callable[[], BaseTask],
              logger: logging.Logger) -> None:
        """Carry out requests until the last one.

        :raises ConfigError: to make the task has cut the connection.
        """
        self.serves = True
        while received := self._channel.receive():
            message, descriptors = received
            do = message.pop('do')
            if do == 'end':
                return
            if do == 'make':
                self.tell(self._make(make_task, logger))
                if not self._channel.is_intact:
                    raise ConfigError(
                        'the task closes descriptors that it has not opened while '
                        'it is made; allowed: to do so in task()')
                continue
            self._serve(do, message, descriptors)
            if not self._channel.is_intact:
                # The task has closed the channel, so no request can come.
                return

    def close(self, logger: logging.Logger) -> None:
        """Close the context, if there is one."""
        # The attribute is cleared, so that the task is collected before the
        # process ends.
        task, self._made_task = self._made_task, None
        if task is None:
            return
        try:
            task.context.close()
        except Exception:
            # It does not change the exit code, which is about the runs.
            logger.exception('the context was not closed')
        finally:
            self._expect_ours(None)

    def _make(self, make_task: Callable[[], BaseTask],
              logger: logging.Logger) -> dict[str, object]:
        """Make the task; return the message that says whether that succeeded."""
        error: BaseException | None = None
        try:
            with self._interrupts.interruptible():
                self._made_task = make_task()
        except BaseException as exc:
            error = exc
        self._expect_ours(error)
        if error is None and not hasattr(self._task, 'context'):
            found, self._made_task = type(self._task), None
            return {'made': False, 'refused': (
                f"task '{found.__module__}.{found.__qualname__}' has an "
                f"__init__() that does not call super().__init__(config); "
                f"call it first, or override initialize() instead")}
        if error is None:
            self._exit_functions = atexit._ncallbacks()
            return {'made': True, 'hooks': self._find_hooks()}
        if isinstance(error, ConfigError | LockError):
            if error.__cause__ is not None:
                # Code of the user has raised it while it was imported.
                sys.excepthook(type(error.__cause__), error.__cause__,
                               error.__cause__.__traceback__)
            return {'made': False, 'refused': str(error)}
        if isinstance(error, Interrupt):
            return {'made': False}
        logger.error('the task cannot be made', exc_info=error)
        return {'made': False, 'error': describe(error)}

    def _find_hooks(self) -> list[str]:
        """Return the hooks that the task overrides."""
        return [name for name in HOOKS if getattr(
            getattr(self._task, name), '__func__', None)
            is not getattr(BaseTask, name)]

    def _serve(self, do: str, message: Document,
               descriptors: list[int]) -> None:
        number = message.pop('number')
        self._interrupts.clear_all()
        self._signals.install()
        self._signals.catch_up()
        before = set(threading.enumerate())
        error: BaseException | None = None
        result: Mapping[str, object] = {}
        try:
            with self._interrupts.interruptible():
                if do == 'run':
                    self._run(descriptors=descriptors, before=before,
                              **message)
                else:
                    self._call_hook(**message)
        except BaseException as exc:
            error = exc
        self._expect_ours(error)
        if do == 'run':
            self._task.end_progress()
        self._signals.install()
        result = self._describe(error)
        # Of a TaskError and an interrupt the message says everything, and to
        # make a traceback takes time in which another machine may be waiting.
        if do != 'run' or not isinstance(error, TaskError | Interrupt):
            result['traceback'] = _traceback(error)
        result['closed'] = not self._channel.is_intact
        result['exits'] = atexit._ncallbacks() > self._exit_functions
        _flush()
        self._memory.finish(number, result)
        self.tell({'finished': number})

    def _run(self, run: dict[str, object], marker: str | None,
             descriptors: list[int], before: set[threading.Thread]) -> None:
        """Call the task, and wait until what it started in here is over."""
        self.link.adopt(descriptors)
        self._begin(run, marker)
        try:
            self._call_task()
        finally:
            # A child that the task has forked, and that has returned to here,
            # is not the run, and waits for no threads.
            if os.getpid() == self._pid and not (
                    self._interrupts.pending
                    or isinstance(sys.exception(), Interrupt)):
                wait_for(before)

    def _begin(self, run: Document, marker: str | None) -> None:
        from jobslib import logs
        from jobslib.keeper import marks
        token = run['token']
        if token is None:
            os.environ.pop(FENCING_TOKEN_VARIABLE, None)
        else:
            os.environ[FENCING_TOKEN_VARIABLE] = str(token)
        os.environ[JOB_VARIABLE] = self._task.name
        self.link.run = run
        self._export_slot(run.get('slot'))
        if marker is not None:
            # The processes that the task starts from here on inherit the mark.
            marks.mark(marker)
        logs.set_run(token, run['run'])

    def _export_slot(self, slot: float | None) -> None:
        if slot is None:
            os.environ.pop(SLOT_VARIABLE, None)
        else:
            config = self._task.context.config
            os.environ[SLOT_VARIABLE] = config.local_time(slot).isoformat()

    def _call_task(self) -> None:
        try:
            result = self._task.task()
            if isinstance(result, Awaitable):
                self._run_coroutine(result)
        except SystemExit as exc:
            if os.getpid() != self._pid:
                raise
            if exc.code not in (None, 0):
                raise TaskError(f'exit with {exc.code}') from exc

    def _call_hook(self, name: str, args: list[object], token: int | None) -> None:
        from jobslib import logs
        values = [Run.load(each) if isinstance(each, dict) else each
                  for each in args]
        run = next((each for each in values if isinstance(each, Run)), None)
        logs.set_run(token, None if run is None else run.number)
        result = getattr(self._task, name)(*values)
        if isinstance(result, Awaitable):
            self._run_coroutine(result)

    def _run_coroutine(self, coroutine: Awaitable[object]) -> None:
        """Run *coroutine*; an interrupt cancels it."""
        import asyncio

        async def run() -> None:
            loop = asyncio.get_running_loop()
            current = asyncio.current_task()
            assert current is not None

            def cancel(interrupt: Interrupt) -> None:
                loop.call_soon_threadsafe(current.cancel, str(interrupt))

            with self._interrupts.interruptible(cancel):
                await coroutine

        asyncio.run(run())

    def _describe(self, error: BaseException | None) -> dict[str, object]:
        """Return how a request ended, as JSON takes it."""
        if error is None:
            return {'outcome': Outcome.SUCCEEDED.value}
        return {
            'outcome': (Outcome.INTERRUPTED if isinstance(error, Interrupt)
                        else Outcome.FAILED).value,
            'error': describe(error), 'message': _message(error)}

    def _expect_ours(self, error: BaseException | None) -> None:
        """End this process, as Python would, if it is a child that the task has
        forked and that has returned to here."""
        if os.getpid() != self._pid:
            exit_like_python(error)

    def _pass_on(self, signum: int) -> None:
        self.tell({'signal': signum})

    def _forget(self) -> None:
        """Cut the ties to the supervisor; called in each forked child."""
        self._signals.forget()
        self._interrupts.clear_all()
        # The child may copy or close descriptors that it does not know.  What it
        # then reads or writes must not get into the channels.
        self._channel.close()
        self.link.channel.close()
        # The child may outlive this process and the supervisor, and must not
        # keep the lock then: whoever takes the lock next ends all processes that
        # have the mark of this job.
        self.link.close_handles()
        self._signals.let_through()


def exit_like_python(error: BaseException | None, code: int = 0) -> NoReturn:
    """End this process as the interpreter does at the end of a program.

    Threads that are not daemons are waited for, functions registered with
    :mod:`atexit` are called, the streams are flushed.

    :param error: the exception that was not caught, shown as Python shows it.
    """
    if isinstance(error, SystemExit):
        code = _exit_code(error)
    elif error is not None:
        code = ExitCode.TASK_FAILED
        _show(error)
    protect_exit_code()
    # This is what the interpreter itself calls.  SystemExit cannot be raised
    # instead: it would pass the frames of the supervisor, which the forked
    # process has inherited, and run what is written there.
    import _ctypes

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI

    Function(_ctypes.dlsym(_ctypes.dlopen('', 0), 'Py_Exit'))(code)
    os._exit(code)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xff
    print(error.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """Show *error* by the task's own hook for that, or else as Python does."""
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException:
        sys.__excepthook__(type(error), error, error.__traceback__)


def _message(error: BaseException) -> str:
    try:
        text = str(error)[:MAX_MESSAGE]
        return text.encode('utf-8', 'backslashreplace').decode()[:MAX_MESSAGE]
    except BaseException:
        return '(the message cannot be shown)'


def _traceback(error: BaseException | None) -> str | None:
    if error is None:
        return None
    import traceback
    try:
        lines = traceback.format_exception(error)
    except BaseException:
        lines = [describe(error)]
    return ''.join(lines).rstrip('\n').encode(
        'utf-8', 'backslashreplace').decode()[-MAX_TRACEBACK:]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            # The stream was closed, or is an object of the task's own that
            # cannot be flushed.
            pass
