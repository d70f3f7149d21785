"""What the parts of the contract of locks share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TypeVar

from jobslib.config import Config
from jobslib.context import Context
from jobslib.oneinstance import BaseLock
from jobslib.tasks import BaseTask

__all__ = ['ContractBase', 'make_lock', 'raises', 'until']

Lock = TypeVar('Lock', bound=BaseLock)

PAUSE = 0.02


def make_lock(lock_class: type[Lock], task_name: str, **options: object) -> Lock:
    """Return a new lock of *lock_class* for the task *task_name*.

    It has a context of its own, so it stands for a process of its own.

    :param options: as in ``ONE_INSTANCE['options']``.
    :raises ConfigError: an option is refused.
    """
    task_class = type('Task', (BaseTask,), {'name': task_name})
    context = Context.from_config(Config(SimpleNamespace(), None, task_class))
    return lock_class(context, lock_class.OptionsConfig(options, None))


class ContractBase:
    """What a lock's author provides, and what the tests use.

    The base of :class:`jobslib.testing.LockContract`.
    """

    #: One at a time can hold the lock.
    exclusive = True
    #: A holder has a number that grows with each acquisition.
    has_fencing_token = True
    #: Others can see who holds the lock, and the next holder gets the
    #: record of the one before, with its schedule.
    has_owner_info = True
    #: The history of runs, and how far a run is, are kept beside the lock.
    has_history = True
    #: Operators can ask the holder and contenders for something.
    can_be_asked = True
    #: The lock is free soon after its holder was killed.
    frees_on_death = True
    #: How soon, in seconds.
    death_timeout = 10.0
    #: How late, in seconds, an answer may be that is due at once.
    slack = 2.0

    def make_lock(self, name: str) -> BaseLock:
        """Return a new lock for the task *name*; to be provided.

        Each call stands for another process: the locks that it returns for
        one name contend with each other.
        """
        raise NotImplementedError

    def setup_method(self) -> None:
        """Choose a name for the task that no other test has."""
        self.name = f'contract-{uuid.uuid4().hex}'
        self._locks: list[BaseLock] = []

    def teardown_method(self) -> None:
        """Close the locks of the test."""
        for lock in self._locks:
            lock.close()

    def new_lock(self, name: str | None = None) -> BaseLock:
        """Return a lock of :meth:`make_lock` that is closed with the test."""
        lock = self.make_lock(name or self.name)
        self._locks.append(lock)
        return lock

    def held_lock(self) -> BaseLock:
        """Return a lock that was just acquired."""
        lock = self.new_lock()
        assert lock.acquire() is True
        return lock


@contextmanager
def raises(error: type[Exception]) -> Iterator[None]:
    """Fail unless the block raises *error*."""
    try:
        yield
    except error:
        return
    raise AssertionError(f'{error.__name__} was not raised')


def until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Wait until *condition* holds; fail after *timeout* seconds."""
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, f'not within {timeout:g} s: {what}'
        time.sleep(PAUSE)
