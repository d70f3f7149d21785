"""The contract of locks: waiting, closing, forked and killed processes."""

from __future__ import annotations

import os
import signal
import threading
import time
import unittest
from collections.abc import Callable

from jobslib.exceptions import LockError, LockNotHeldError
from jobslib.oneinstance import BaseLock
from jobslib.testing.contract_base import ContractBase, raises, until
from jobslib.testing.fork import Child

__all__ = ['EndContract']

Report = Callable[[object], None]
CONTENDERS = 4


class EndContract(ContractBase):
    """How a lock becomes free, and who notices, over several processes."""

    # Waiting.

    def test_wait_for_free_lock(self) -> None:
        """Waiting for a lock that is free takes no time."""
        # What is imported with the first use takes time, too.
        self.held_lock().release()
        lock = self.new_lock()
        began = time.monotonic()
        lock.wait(10 * self.slack)
        assert time.monotonic() - began < self.slack

    def test_wait_for_held_lock(self) -> None:
        """Waiting for a lock that stays held takes the given time."""
        self._needs(self.exclusive, 'the lock is always free')
        self.held_lock()
        contender = self.new_lock()
        assert contender.acquire() is False
        began = time.monotonic()
        contender.wait(0.5)
        assert 0.45 < time.monotonic() - began < 0.5 + self.slack

    def test_wait_for_release(self) -> None:
        """Waiting ends soon after the lock was released."""
        self._needs(self.exclusive, 'the lock is always free')
        lock, contender = self.held_lock(), self.new_lock()
        refused = threading.Event()
        acquired: list[float] = []

        def take_over() -> None:
            if not contender.acquire():
                refused.set()
                contender.wait(20 * self.slack)
                if contender.acquire():
                    acquired.append(time.monotonic())

        thread = threading.Thread(target=take_over)
        thread.start()
        assert refused.wait(20 * self.slack)
        lock.release()
        released = time.monotonic()
        thread.join()
        assert acquired and acquired[0] - released < self.slack

    # Closing.

    def test_close(self) -> None:
        """Closing frees a lock that is held, if not at once then soon."""
        lock, contender = self.held_lock(), self.new_lock()
        lock.close()
        assert lock.held is False
        assert lock.fencing_token is None
        assert lock.refresh() is False
        with raises(LockNotHeldError):
            lock.release()
        until(contender.acquire, self.death_timeout, 'free after close()')

    def test_close_in_any_state(self) -> None:
        """Closing is allowed in every state, and more than once."""
        new, lock, contender = self.new_lock(), self.held_lock(), self.new_lock()
        contender.acquire()
        contender.close()
        new.close()
        assert lock.refresh() is True
        lock.release()
        for each in (lock, lock, new):
            each.close()
        assert self.new_lock().acquire() is True

    def test_close_of_contender(self) -> None:
        """Closing a lock that was refused leaves the holder alone."""
        self._needs(self.exclusive, 'the lock refuses nobody')
        lock, contender = self.held_lock(), self.new_lock()
        assert contender.acquire() is False
        contender.close()
        assert self.new_lock().acquire() is False
        assert lock.release() is True

    # Other processes.

    def test_one_of_many(self) -> None:
        """Of processes that acquire at the same time, one succeeds."""
        acquired = self._race(lambda: self.make_lock(self.name))
        assert acquired.count(True) == (
            1 if self.exclusive else CONTENDERS), acquired

    def test_forked_child_does_not_hold(self) -> None:
        """A forked child of the holder does not hold the lock."""
        lock = self.held_lock()

        def look(report: Report) -> None:
            report(lock.held)
            # A lock that fails here would be released under the parent's feet.
            if not lock.held:
                with raises(LockNotHeldError):
                    lock.release()
                report('refused')

        with Child(look) as child:
            assert child.report() is False
            assert child.report() == 'refused'
        self._check_held(lock)

    def test_one_of_many_forks(self) -> None:
        """Of forks that acquire one lock object, no two succeed.

        They may refuse to use it, with a LockError.
        """
        self._needs(self.exclusive, 'the lock refuses nobody')
        lock = self.held_lock()
        lock.release()
        acquired = self._race(lambda: lock)
        assert acquired.count(True) <= 1, acquired

    def test_close_in_forked_child(self) -> None:
        """Closing the lock in a forked child does not free it."""
        lock = self.held_lock()

        def close(report: Report) -> None:
            lock.close()
            report('closed')

        with Child(close) as child:
            child.report()
        self._check_held(lock)

    def test_death(self) -> None:
        """A lock is free soon after SIGKILL of the process that held it."""
        self._needs(self.frees_on_death, 'it stays held, and says so')
        contender = self.new_lock()

        def hold(report: Report) -> None:
            lock = self.make_lock(self.name)
            lock.acquire()
            report(lock.fencing_token)
            signal.pause()

        with Child(hold) as child:
            token = child.report()
            assert contender.acquire() is not self.exclusive
            if contender.held:
                contender.release()
            child.kill()
            until(contender.acquire, self.death_timeout, 'free after SIGKILL')
        if self.has_fencing_token:
            assert contender.fencing_token is not None
            assert contender.fencing_token > token
        if self.has_owner_info:
            assert contender.previous_record is not None
            assert contender.previous_record['pid'] == child.pid

    def _race(self, get_lock: Callable[[], BaseLock]) -> list[bool]:
        """Return what acquire() says in processes that begin together."""
        reader, writer = os.pipe()

        def contend(report: Report) -> None:
            os.close(writer)
            lock = get_lock()
            report('ready')
            os.read(reader, 1)
            try:
                report(lock.acquire())
            except LockError:
                report(False)
            signal.pause()

        children = [Child(contend) for _ in range(CONTENDERS)]
        try:
            for child in children:
                child.report()
            # The end of the file reaches all of them at once.
            os.close(writer)
            return [child.report() for child in children]
        finally:
            os.close(reader)
            for child in children:
                child.close()

    def _check_held(self, lock: BaseLock) -> None:
        assert lock.held is True
        assert lock.refresh() is True
        assert self.new_lock().acquire() is not self.exclusive
        assert lock.release() is True

    def _needs(self, capability: bool, otherwise: str) -> None:
        if not capability:
            raise unittest.SkipTest(otherwise)
