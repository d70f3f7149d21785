"""The contract of locks: acquiring, releasing, and what can be seen."""

import json
import os
import time
import unittest

from jobslib.config import ConfigGroup
from jobslib.exceptions import LockAlreadyHeldError, LockNotHeldError
from jobslib.oneinstance import BaseLock
from jobslib.testing.contract_base import ContractBase, raises

__all__ = ['UseContract']

OWNER_FIELDS = {'fqdn': str, 'pid': int, 'task': str, 'timestamp': float,
                'time_utc': str, 'time_local': str}


class UseContract(ContractBase):
    """Acquiring and releasing in one process, and what others see."""

    # Options.

    def test_options(self) -> None:
        """The options of a lock are a ConfigGroup, made from its own class."""
        lock = self.new_lock()
        assert issubclass(type(lock).OptionsConfig, ConfigGroup)
        assert isinstance(lock.options, type(lock).OptionsConfig)
        assert set(BaseLock.OptionsConfig.declared()) <= set(
            lock.options.as_kwargs)

    # Acquiring and releasing.

    def test_new_lock_is_not_held(self) -> None:
        """A lock that was not acquired is not held and has no token."""
        lock = self.new_lock()
        assert lock.held is False
        assert lock.fencing_token is None
        assert lock.previous_record is None

    def test_acquire(self) -> None:
        """A free lock is acquired, and held from then on."""
        lock = self.held_lock()
        assert lock.held is True

    def test_contender(self) -> None:
        """A lock that is held is not acquired by another, unless shared."""
        self.held_lock()
        contender = self.new_lock()
        assert contender.acquire() is not self.exclusive
        assert contender.held is not self.exclusive

    def test_release(self) -> None:
        """A release says that it freed the lock, and another can have it."""
        lock, contender = self.held_lock(), self.new_lock()
        assert lock.release() is True
        assert lock.held is False
        assert lock.fencing_token is None
        assert contender.acquire() is True

    def test_acquire_again(self) -> None:
        """A released lock is acquired again by the same object."""
        lock = self.held_lock()
        for _ in range(3):
            assert lock.release() is True
            assert lock.acquire() is True
        assert lock.refresh() is True

    def test_release_of_contender(self) -> None:
        """A refused contender cannot release what another holds."""
        if not self.exclusive:
            raise unittest.SkipTest('the lock refuses nobody')
        lock, contender = self.held_lock(), self.new_lock()
        contender.acquire()
        with raises(LockNotHeldError):
            contender.release()
        assert lock.refresh() is True

    def test_names(self) -> None:
        """Locks of different tasks have nothing to do with each other."""
        self.held_lock()
        assert self.new_lock(f'{self.name}-other').acquire() is True

    # Misuse.

    def test_release_of_new_lock(self) -> None:
        """Releasing a lock that was never acquired is an error."""
        with raises(LockNotHeldError):
            self.new_lock().release()

    def test_release_twice(self) -> None:
        """Releasing a lock a second time is an error."""
        lock = self.held_lock()
        lock.release()
        with raises(LockNotHeldError):
            lock.release()

    def test_acquire_twice(self) -> None:
        """Acquiring a lock a second time is an error, and it stays held."""
        lock = self.held_lock()
        token = lock.fencing_token
        with raises(LockAlreadyHeldError):
            lock.acquire()
        assert lock.held is True
        assert lock.fencing_token == token
        assert lock.release() is True

    # What a holder and others see.

    def test_refresh(self) -> None:
        """A refresh says whether the lock is held by this object."""
        lock = self.new_lock()
        assert lock.refresh() is False
        lock.acquire()
        assert lock.refresh() is True
        lock.release()
        assert lock.refresh() is False

    def test_fencing_token(self) -> None:
        """The fencing token is an integer that grows with each holder."""
        last = 0
        for lock in [self.new_lock(), self.new_lock()] * 2:
            lock.acquire()
            token = lock.fencing_token
            lock.release()
            if self.has_fencing_token:
                assert type(token) is int
                assert token > last
                last = token
            else:
                assert token is None

    def test_token_is_constant(self) -> None:
        """The fencing token stays the same while the lock is held."""
        lock = self.held_lock()
        token = lock.fencing_token
        lock.refresh()
        assert lock.fencing_token == token
        assert (token is not None) is self.has_fencing_token

    def test_owner_info(self) -> None:
        """Others and the holder see who holds the lock, if there is a record.
        """
        lock, other = self.held_lock(), self.new_lock()
        if not self.has_owner_info:
            assert other.get_lock_owner_info() is None
            return
        for info in (lock.get_lock_owner_info(), other.get_lock_owner_info()):
            assert isinstance(info, dict)
            for name, kind in OWNER_FIELDS.items():
                assert isinstance(info.get(name), kind), (name, info)
            assert info['pid'] == os.getpid()
            assert info['task'] == self.name
            assert abs(info['timestamp'] - time.time()) < 60

    def test_owner_info_of_free_lock(self) -> None:
        """Nobody is shown as the owner of a lock that is free."""
        lock, other = self.new_lock(), self.new_lock()
        assert other.get_lock_owner_info() is None
        lock.acquire()
        lock.release()
        assert other.get_lock_owner_info() is None
        assert lock.get_lock_owner_info() is None

    def test_record_fits_into_json(self) -> None:
        """The owner record is the same after a way through JSON."""
        lock = self.held_lock()
        for record in (lock.make_record(), lock.get_lock_owner_info()):
            assert json.loads(json.dumps(record)) == record

    def test_previous_record(self) -> None:
        """The schedule is handed over to the next holder, in the record."""
        lock, other = self.held_lock(), self.new_lock()
        assert lock.previous_record is None
        lock.schedule = {'origin': 1700000000.25, 'due': 1700000060.25}
        lock.release()
        assert other.acquire() is True
        if not self.has_owner_info:
            assert other.previous_record is None
            return
        assert other.previous_record is not None
        assert other.previous_record['schedule'] == lock.schedule
        assert other.previous_record['pid'] == os.getpid()
