"""ConsulLock on a stand-in of Consul: what cannot be made to happen on demand."""

import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import until

from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.lease import Lease
from jobslib.oneinstance.page import Page
from jobslib.testing import ConsulStandIn, make_lock


@pytest.fixture
def consul() -> Iterator[ConsulStandIn]:
    """A stand-in of Consul."""
    with ConsulStandIn() as stand_in:
        yield stand_in


def lease_threads() -> set[threading.Thread]:
    """Return the threads that wait for the end of a keeper."""
    return {thread for thread in threading.enumerate()
            if thread.name == 'jobslib-lease'}


def test_lost_in_the_instant_of_acquiring(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock that is lost before acquire() returns was not acquired."""
    hold = Lease.hold

    def lose(lease: Lease, *args: Any) -> None:
        hold(lease, *args)
        lease.page.set_state(Page.LOST, 'lost at once')

    lock = make_lock(ConsulLock, 'instant', **consul.options())
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Lease, 'hold', lose)
            assert lock.acquire() is False
        assert not lock.held
        assert lock.fencing_token is None
    finally:
        lock.close()


def test_closed_by_another_thread(consul: ConsulStandIn) -> None:
    """A lock can be closed by a thread that may handle no signals."""
    lock = make_lock(ConsulLock, 'thread', **consul.options())
    assert lock.acquire()
    errors: list[BaseException] = []

    def close() -> None:
        try:
            lock.close()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert errors == []
    lock.close()


def test_control_of_a_new_hold(tmp_path: pathlib.Path) -> None:
    """What was asked in an earlier hold is not taken for what is asked now."""
    with (tmp_path / 'page').open('w+b') as file:
        file.truncate(Page.SIZE)
        page = Page(file.fileno())
        assert page.version == 0
        page.write_control(b'first')
        assert page.read_control() == (1, b'first')
        page.forget_control()
        assert page.version == 0
        page.forget_control()
        page.write_control(b'second')
        # Never the version that something else had.
        assert page.read_control() == (2, b'second')
        page.write_control(b'second')
        assert page.version == 2
        page.write_control(b'x' * 2 * Page.SIZE)
        assert page.version == 3
        page.set_state(Page.STOPPING, 'r' * 2 * Page.SIZE)
        assert page.read_control()[1] == b'x' * (Page.SIZE - 512 - 1)


def test_keeper_without_tls(consul: ConsulStandIn) -> None:
    """A keeper that needs no TLS does not load it."""
    lock = make_lock(ConsulLock, 'plain', **consul.options())
    try:
        assert lock.acquire()
        assert lock.lease is not None
        keeper = pathlib.Path(f'/proc/{lock.lease.keeper_pid}')
        assert 'libssl' not in (keeper / 'maps').read_text()
    finally:
        lock.close()


def test_keeper_that_ends_at_once(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock is closed without an error, however fast its keeper ends."""
    exchange = Lease._exchange
    before = lease_threads()

    def exchange_slowly(
        lease: Lease, message: dict[str, Any], *args: Any, **kwargs: Any,
    ) -> bool:
        told = exchange(lease, message, *args, **kwargs)
        if message['do'] == 'quit':
            until(lambda: lease_threads() <= before)
        return told

    monkeypatch.setattr(Lease, '_exchange', exchange_slowly)
    lock = make_lock(ConsulLock, 'fast', **consul.options())
    assert lock.acquire()
    lock.close()
