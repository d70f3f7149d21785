"""What the run's process asks its supervisor, and the lock as a task sees it."""

from __future__ import annotations

import itertools
import os
import select
import threading

from jobslib.clock import now
from jobslib.exceptions import LockUnavailableError, SupervisedLockError
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.watchdog import Watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn

    from jobslib.backends import BackendContext
    from jobslib.documents import Document
    from jobslib.history import HandIn
    from jobslib.metrics import BaseMetrics
    from jobslib.run.channel import Channel
    from jobslib.run.memory import Memory

__all__ = ['Link', 'SupervisedLock']

#: How long an answer of the supervisor may take, in seconds.
ANSWER_TIMEOUT = 5.0

SUPERVISED = ('the lock is the supervisor\'s: runjob acquires and releases '
              'it, a task cannot {}')


class Link:
    """What leads from the lock and the metrics of a task to the supervisor.

    :param channel: carries questions and answers.
    :param memory: shared with the supervisor.
    """

    def __init__(self, channel: Channel, memory: Memory) -> None:
        self.channel = channel
        self.memory = memory
        self.pid = os.getpid()
        #: The lock as the task sees it, once it has asked for it.
        self.lock: BaseLock | None = None
        #: The run that is under way, or the last one, as
        #: :meth:`jobslib.runs.Run.export` describes it.
        self.run: Mapping[str, object] = {}
        # Copies of the descriptors of the lock, each with its inode, by which it
        # is known again: the task may close it, and open a file that gets its
        # number.
        self._handles: list[tuple[int, int]] = []
        self._numbers = itertools.count(1)
        self._one_at_a_time = threading.Lock()

    @property
    def is_ours(self) -> bool:
        """Whether this is the run's process, and not a forked child of it."""
        return os.getpid() == self.pid

    def make_lock(self, lock_class: type[BaseLock], context: object,
                  options: object) -> BaseLock:
        """Return the lock of class *lock_class* as a task sees it."""
        view = type(lock_class.__name__, (SupervisedLock, lock_class), {
            '__module__': lock_class.__module__,
            '__doc__': lock_class.__doc__, '_link': self,
            '_knows': _knows_refresh(lock_class)})
        make: Callable[[object, object], BaseLock] = view
        self.lock = make(context, options)
        self._show_handles()
        return self.lock

    def make_metrics(self, context: BackendContext,
                     options: object) -> BaseMetrics:
        """Return the metrics as a task sees them."""
        from jobslib.run.metrics import SupervisedMetrics
        return SupervisedMetrics(self.tell, context, options)

    def adopt(self, descriptors: Sequence[int]) -> None:
        """Keep copies of the descriptors of the lock during this run."""
        self.close_handles()
        self._handles = [(fd, _inode(fd)) for fd in descriptors]
        self._show_handles()

    def close_handles(self) -> None:
        """Close the copies of the descriptors that this process still has."""
        for fd, inode in self._handles:
            if _inode(fd) == inode:
                os.close(fd)
        self._handles = []

    def _show_handles(self) -> None:
        if self.lock is None or not self._handles:
            return
        if all(_inode(fd) == inode for fd, inode in self._handles):
            self.lock.adopt_handles([fd for fd, _ in self._handles])
        else:
            # The task has closed them before it asked for its lock.  The lock
            # cannot look for itself then, and has to ask the supervisor.
            self.lock.__dict__['_knows'] = False

    def ask(self, method: str, *args: object) -> Any:
        """Let the supervisor call *method*; return what that returns.

        :raises LockUnavailableError: the supervisor or the lock service does
            not answer.
        """
        if not self.is_ours:
            raise LockUnavailableError('a forked child has no lock')
        number = next(self._numbers)
        ends = now() + ANSWER_TIMEOUT
        if not self._one_at_a_time.acquire(timeout=ANSWER_TIMEOUT):
            raise LockUnavailableError('the supervisor does not answer')
        try:
            self.channel.send({'id': number, 'method': method, 'args': args})
            return self._answer(number, ends)
        except ConnectionError as exc:
            raise LockUnavailableError(
                f'the supervisor cannot be asked: {exc}') from exc
        finally:
            self._one_at_a_time.release()

    def tell(self, method: str, *args: object) -> None:
        """Let the supervisor call *method*, and do not wait for it."""
        if not self.is_ours:
            return
        try:
            self.channel.send({'id': 0, 'method': method, 'args': args})
        except ConnectionError:
            # The task has closed the descriptor.  Nothing depends on what is
            # told and not asked, so it is lost.
            pass

    def _answer(self, number: int, ends: float) -> Any:
        while True:
            left = max(ends - now(), 0)
            if not select.select([self.channel], [], [], left)[0]:
                raise LockUnavailableError('the supervisor does not answer')
            received = self.channel.receive()
            if received is None:
                raise LockUnavailableError('the supervisor is gone')
            answer = received[0]
            # The answer to an earlier question may come first, if an interrupt
            # was raised while that one was waited for.
            if answer['id'] == number:
                if 'error' in answer:
                    raise LockUnavailableError(answer['error'])
                return answer['value']


class SupervisedLock(BaseLock):
    """The lock in the run's process, where it can be read and not be changed.

    The class of an instance has the class of the lock as a base as well, so that
    the methods of a lock of your own are there.  The lock itself is in the
    supervisor.
    """

    _link: Link
    #: Whether refresh_in_run() says what the refresh() of the class would.
    _knows: bool

    @property
    def held(self) -> bool:
        return self._link.is_ours and self._link.memory.held

    @property
    def fencing_token(self) -> int | None:
        return self._link.memory.token

    @property
    def own_record(self) -> Document:
        record: Document = self._link.ask('own_record')
        return record

    @property
    def control(self) -> Control:
        return Control.load(self._link.ask('control'))

    @property
    def watchdog(self) -> Watchdog:
        found = self.__dict__.get('_supervised_watchdog')
        if found is None:
            found = self.__dict__['_supervised_watchdog'] = _RunWatchdog(
                self._link, getattr(self.options, 'heartbeat', None))
        watchdog: Watchdog = found
        return watchdog

    def refresh(self) -> bool:
        """Return whether the lock is this job's at this moment."""
        link = self._link
        if not self.held:
            return False
        link.memory.beat = now()
        ours = self.refresh_in_run() if self._knows else None
        if ours is None:
            ours = bool(link.ask('refresh'))
        return ours

    def lease_left(self) -> float | None:
        left: float | None = self._link.ask('lease_left')
        return left

    def get_lock_owner_info(self) -> Document | None:
        owner: Document | None = self._link.ask('get_lock_owner_info')
        return owner

    def report_progress(self, progress: Mapping[str, object]) -> None:
        self._link.tell('report_progress', progress)

    def acquire(self) -> bool:
        self._refuse('acquire it')

    def release(self) -> bool:
        self._refuse('release it')

    def wait(self, timeout: float) -> None:
        self._refuse('wait for it')

    def secure_outcome(self, kept: bool) -> None:
        self._refuse('write its history')

    def save_history(self) -> None:
        self._refuse('write its history')

    def find_handed_in(self) -> dict[str, HandIn]:
        self._refuse('write its history')

    def hand_in(self, handed_in: HandIn) -> bool:
        self._refuse('write its history')

    def close(self) -> None:
        """Do nothing: the lock is closed by the supervisor."""

    def _refuse(self, what: str) -> NoReturn:
        raise SupervisedLockError(SUPERVISED.format(what))


class _RunWatchdog(Watchdog):
    """Gives the signs of life of the run, for which the supervisor watches."""

    def __init__(self, link: Link, heartbeat: float | None) -> None:
        super().__init__(0, heartbeat)
        self._link = link

    def start(self, max_run_time: float | None = None,
              run: Mapping[str, object] | None = None) -> None:
        raise SupervisedLockError(SUPERVISED.format('limit its runs'))

    def beat(self) -> None:
        self._link.memory.beat = now()

    def stopping(self) -> None:
        raise SupervisedLockError(SUPERVISED.format('limit its runs'))

    def stop(self) -> None:
        raise SupervisedLockError(SUPERVISED.format('limit its runs'))


def _knows_refresh(lock_class: type[BaseLock]) -> bool:
    """Return whether the class that defines ``refresh()`` for *lock_class*, or a
    subclass of it, defines ``refresh_in_run()``.

    A class that overrides only ``refresh()`` knows more of its lock than the
    inherited ``refresh_in_run()``, and the supervisor has to be asked.
    """
    for each in lock_class.__mro__:
        if 'refresh_in_run' in vars(each):
            return True
        if 'refresh' in vars(each):
            return False
    return False


def _inode(fd: int) -> int:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return -1
