"""The lock that locks nothing."""

import pytest
from support import make_context

from jobslib.exceptions import LockAlreadyHeldError, LockNotHeldError
from jobslib.oneinstance.dummy import DummyLock


def make_lock() -> DummyLock:
    """Return a lock."""
    lock = make_context({'ONE_INSTANCE': {
        'backend': 'jobslib.oneinstance.dummy.DummyLock'}}).one_instance_lock
    assert isinstance(lock, DummyLock)
    return lock


def test_always_says_yes() -> None:
    """Any number of locks are acquired at once, again and again."""
    locks = [make_lock(), make_lock()]
    for _ in range(2):
        for lock in locks:
            assert not lock.held
            assert lock.refresh() is False
            assert lock.acquire() is True
            assert lock.held
            assert lock.refresh() is True
        for lock in locks:
            assert lock.release() is True


def test_misuse() -> None:
    """Acquiring twice and releasing what is not held are errors."""
    lock = make_lock()
    with pytest.raises(LockNotHeldError, match='plain is not held'):
        lock.release()
    lock.acquire()
    with pytest.raises(LockAlreadyHeldError, match='plain is held'):
        lock.acquire()


def test_close() -> None:
    """Closing gives the lock up, held or not."""
    lock = make_lock()
    lock.close()
    lock.acquire()
    lock.close()
    assert not lock.held


def test_knows_nothing() -> None:
    """There is no owner, no token, and nothing to wait for."""
    lock = make_lock()
    lock.acquire()
    assert lock.get_lock_owner_info() is None
    assert lock.fencing_token is None
    assert lock.previous_record is None
    lock.wait(60)


def test_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh is the heartbeat of the run."""
    lock = make_lock()
    beats = []
    monkeypatch.setattr(lock.watchdog, 'beat', lambda: beats.append(True))
    lock.refresh()
    assert beats == [True]


def test_refusals_by_their_old_names() -> None:
    """A lock that was written for version 1.0 refuses as before."""
    lock = make_lock()
    with pytest.raises(LockNotHeldError):
        lock._refuse_unless_held()
    lock.acquire()
    with pytest.raises(LockAlreadyHeldError):
        lock._refuse_if_held()
