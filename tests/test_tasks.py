"""What users write, and what it is given."""

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jobslib import (
    BaseTask,
    Config,
    Context,
    JobsLibError,
    OneInstanceWatchdogError,
    TaskError,
    Terminate,
    argument,
    exceptions,
)
from jobslib.clock import Clock
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.dummy import DummyLock

SETTINGS = SimpleNamespace(
    ONE_INSTANCE={'backend': 'jobslib.oneinstance.dummy.DummyLock'},
    CONTEXT_CLASS=f'{__name__}.OwnContext')


class OwnContext(Context):
    """A context that counts."""

    made: list['OwnContext'] = []
    closed = 0

    def initialize(self) -> None:
        self.made.append(self)

    def close(self) -> None:
        self.closed += 1


class Task(BaseTask):
    """A task with all that can be set."""

    name = 'the task'
    arguments = (argument('--number'),)

    def initialize(self) -> None:
        self.seen = [self.context, self.logger, self.stdout, self.stderr,
                     self.name, self.args]


def make(task_cls: type[BaseTask] = Task) -> BaseTask:
    """Return a task."""
    args = SimpleNamespace(number='5')
    return task_cls(Config(SETTINGS, args, task_cls))


def test_attributes() -> None:
    """A task has its attributes when it initializes itself."""
    task = make()
    assert isinstance(task, Task)
    context, logger, stdout, stderr, name, args = task.seen
    assert context is OwnContext.made[-1] is task.context
    assert isinstance(context, OwnContext)
    assert logger is logging.getLogger('the task')
    assert (stdout, stderr) == (sys.stdout, sys.stderr)
    assert name == 'the task'
    assert args.number == '5'


def test_name() -> None:
    """A task without a name has its dotted path for one."""
    class Nameless(BaseTask):
        pass

    assert make(Nameless).name == (
        f'{__name__}.test_name.<locals>.Nameless')


def test_nothing_to_do() -> None:
    """A task that does not say what to do fails with its name."""
    class Idle(BaseTask):
        pass

    task = make(Idle)
    with pytest.raises(NotImplementedError, match='Idle.task'):
        task.task()


def test_context_is_closed_when_initialize_fails() -> None:
    """The context is closed when the task cannot be made."""
    class Broken(BaseTask):
        def initialize(self) -> None:
            raise SystemExit(5)

    with pytest.raises(SystemExit):
        make(Broken)
    assert OwnContext.made[-1].closed == 1


def test_context() -> None:
    """A context has its configuration, one lock, and the machine's name."""
    context = make().context
    assert isinstance(context.config, Config)
    assert isinstance(context.one_instance_lock, DummyLock)
    assert context.one_instance_lock is context.one_instance_lock
    assert context.one_instance_lock.options is (
        context.config.one_instance.options)
    assert context.one_instance_lock.context is context
    assert isinstance(context.fqdn, str)
    assert context.fqdn


def test_record_names_the_machine() -> None:
    """The owner record of a lock has the full name of its machine."""
    context = make().context
    context.fqdn = 'machine.example'
    record = context.one_instance_lock.make_record()
    assert (record['fqdn'], record['task']) == ('machine.example', 'the task')


def test_base_lock() -> None:
    """A lock that leaves out a method is found out when it is needed."""
    context = make().context
    lock = BaseLock(context, context.config.one_instance.options)
    calls: list[Callable[[], object]] = [
        lambda: lock.held, lock.acquire, lock.release, lock.refresh,
        lock.get_lock_owner_info, lambda: lock.wait(1)]
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()
    assert lock.fencing_token is None
    assert lock.previous_record is None
    lock.close()


def test_plain_context() -> None:
    """A context that nobody extended has nothing to open or close."""
    context = Context.from_config(Config(None, None, Task))
    context.initialize()
    context.close()


def test_extend_lock() -> None:
    """A task that makes progress without its lock has to stop."""
    task = make()
    lock: Any = task.context.one_instance_lock
    with pytest.raises(OneInstanceWatchdogError, match='the lock is lost'):
        task.extend_lock()
    lock.acquire()
    task.extend_lock()


def test_fencing_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task has the fencing token of its lock."""
    task = make()
    assert task.fencing_token is None
    monkeypatch.setattr(DummyLock, 'fencing_token', 7)
    assert task.fencing_token == 7


def test_errors_and_interrupts() -> None:
    """No "except Exception" swallows an interrupt; errors are one tree."""
    for name in exceptions.__all__:
        error = getattr(exceptions, name)
        is_interrupt = issubclass(error, exceptions.Interrupt)
        assert issubclass(error, JobsLibError) is not is_interrupt
        assert issubclass(error, Exception) is not is_interrupt
    for interrupt in Terminate, OneInstanceWatchdogError:
        assert issubclass(interrupt, exceptions.Interrupt)
    assert issubclass(TaskError, JobsLibError)


def test_clock() -> None:
    """The clocks of the machine go on, and sleeping takes its time."""
    import time
    clock = Clock()
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    before = clock.now()
    assert boot <= before < boot + 60
    assert abs(clock.wall() - time.time()) < 60
    clock.sleep(0.01)
    assert clock.now() - before >= 0.01
