"""`ConsulLock` as a library: what its methods do with a real Consul."""

import logging
import os
import threading
from typing import Any

import pytest

from integration.agents import HOST, Agent, free_ports, wait_until
from integration.locks import holder_of, lock_on, make_lock, session_ids
from integration.proxy import Proxy
from integration.report import allowed
from integration.stamps import now
from jobslib.exceptions import (
    LockAlreadyHeldError,
    LockNotHeldError,
    LockUnavailableError,
)
from jobslib.oneinstance.consul import ConsulLock

# With the noise, longer than anything here takes on a busy machine, and too
# short for a lock-delay or a poll.
AT_ONCE = 0.25


def test_acquire_and_release(agent: Agent) -> None:
    """A free key is acquired with the session, and is free after the release."""
    with lock_on(agent.http_addr, 'basic/lock') as lock:
        assert not lock.held
        assert lock.acquire() is True
        assert lock.held and lock.refresh() is True
        assert lock.lease is not None
        assert holder_of(agent.api, 'basic/lock') == lock.lease.session
        assert lock.release() is True
        assert not lock.held and lock.refresh() is False
        assert holder_of(agent.api, 'basic/lock') is None


def test_default_key(agent: Agent) -> None:
    """The key is named for the task."""
    lock = ConsulLock(
        make_lock(agent.http_addr, 'any').context,
        ConsulLock.OptionsConfig({}, None))
    assert lock.key == 'jobs/lock-test/lock'


def test_session_is_as_configured(agent: Agent) -> None:
    """The session has TTL and lock-delay, releases, and depends on no check."""
    with lock_on(agent.http_addr, 'session/lock', ttl=12, lock_delay=7) as lock:
        assert lock.acquire() and lock.lease is not None
        [session] = [each for each in agent.api.sessions()
                     if each['ID'] == lock.lease.session]
        assert float(session['TTL'].removesuffix('s')) == 12
        assert session['LockDelay'] == 7 * 10**9
        assert session['Behavior'] == 'release'
        assert not session.get('Checks') and not session.get('NodeChecks')
        # Who waits for the lock is seen by it.
        assert session['Name'] == (
            f'jobslib session/lock {lock.context.fqdn} {os.getpid()}')


def test_one_of_two(agent: Agent) -> None:
    """A second lock on the key is refused until the first is released."""
    with (lock_on(agent.http_addr, 'two/lock') as first,
          lock_on(agent.http_addr, 'two/lock') as second):
        assert first.acquire() and not second.acquire()
        assert not second.held and second.fencing_token is None
        assert first.release()
        started = now()
        assert second.acquire()
        assert now() - started < allowed(AT_ONCE, since=started)


def test_two_keys(agent: Agent) -> None:
    """Locks on different keys do not concern each other."""
    with (lock_on(agent.http_addr, 'keys/1') as first,
          lock_on(agent.http_addr, 'keys/2') as second):
        assert first.acquire() and second.acquire()


def test_fencing_token_is_the_modify_index(agent: Agent) -> None:
    """While held, the token is the index at which the key was acquired."""
    with lock_on(agent.http_addr, 'token/index') as lock:
        assert lock.fencing_token is None
        assert lock.acquire()
        entry = agent.api.kv('token/index')
        assert entry is not None
        assert lock.fencing_token == entry['ModifyIndex']
        lock.release()
        assert lock.fencing_token is None


def test_fencing_token_grows(agent: Agent) -> None:
    """It grows from holder to holder, also when the key was deleted between."""
    tokens = []
    with (lock_on(agent.http_addr, 'token/grows') as first,
          lock_on(agent.http_addr, 'token/grows') as second):
        for lock in (first, first, second, first):
            assert lock.acquire() and lock.fencing_token is not None
            tokens.append(lock.fencing_token)
            lock.release()
            if len(tokens) > 1:
                assert agent.api.delete('kv/token/grows').ok
    assert tokens == sorted(set(tokens))


def test_misuse_is_named(agent: Agent) -> None:
    """Releasing what is not held and acquiring twice are errors of their own."""
    with lock_on(agent.http_addr, 'misuse/lock') as lock:
        with pytest.raises(LockNotHeldError):
            lock.release()
        assert lock.acquire()
        with pytest.raises(LockAlreadyHeldError):
            lock.acquire()
        assert lock.held and lock.refresh()
        lock.release()
        with pytest.raises(LockNotHeldError):
            lock.release()


def test_wait_for_a_free_lock(agent: Agent) -> None:
    """Waiting for a lock that is free ends at once."""
    with lock_on(agent.http_addr, 'wait/free') as lock:
        started = now()
        lock.wait(10)
        assert now() - started < allowed(AT_ONCE, since=started)


def test_wait_times_out(agent: Agent) -> None:
    """Waiting ends after its timeout, up to a sixteenth late."""
    with (lock_on(agent.http_addr, 'wait/held') as holder,
          lock_on(agent.http_addr, 'wait/held') as lock):
        assert holder.acquire()
        started = now()
        lock.wait(1.0)
        assert 1.0 <= now() - started < allowed(
            1.0 * 17 / 16 + AT_ONCE, since=started)


def test_wait_ends_with_the_release(agent: Agent) -> None:
    """Waiting ends the moment the lock is released."""
    with (lock_on(agent.http_addr, 'wait/release') as holder,
          lock_on(agent.http_addr, 'wait/release') as lock):
        assert holder.acquire()
        released: list[float] = []

        def release() -> None:
            released.append(now())
            holder.release()
        timer = threading.Timer(0.5, release)
        timer.start()
        lock.wait(20)
        assert lock.acquire()
        assert now() - released[0] < allowed(AT_ONCE, since=released[0])
        timer.join()


def test_blocking_queries_that_are_cut(
    agent: Agent, proxy: Proxy, caplog: pytest.LogCaptureFixture,
) -> None:
    """Behind what cuts long answers a lock is waited for, and held, all the same."""
    with (lock_on(agent.http_addr, 'wait/cut') as holder,
          lock_on(proxy.addr, 'wait/cut') as lock):
        assert holder.acquire()
        proxy.cut(0, only=lambda method, path: 'index=' in path)
        lock.wait(2.5)
        # It does not ask in haste.
        assert 2 <= proxy.faulted <= 5
        assert not lock.acquire()
        holder.release()
        lock.wait(10)
        assert lock.acquire() and lock.lease is not None
        memory = lock.lease.memory
        wait_until(lambda: memory.version, 10, 'a look at the key')
        assert lock.refresh()
    assert [each for each in caplog.records if each.name.startswith('jobslib')] == []


def test_session_lost_while_idle(
    agent: Agent, caplog: pytest.LogCaptureFixture,
) -> None:
    """A session lost between runs is made anew, not worth a word above debug."""
    caplog.set_level(logging.DEBUG)
    with lock_on(agent.http_addr, 'idle/lock') as lock:
        lock.acquire()
        lock.release()
        assert lock.lease is not None
        lost = lock.lease.session
        agent.api.destroy_session(lost)
        assert lock.acquire() and lock.refresh()
        assert lock.lease.session != lost
    assert [each for each in caplog.records if each.levelno > logging.DEBUG
            and each.name.startswith('jobslib')] == []


def test_close_gives_everything_up(agent: Agent) -> None:
    """A closed lock is free at once, and its session and keeper are gone."""
    lock = make_lock(agent.http_addr, 'close/lock')
    assert lock.acquire() and lock.lease is not None
    session, keeper = lock.lease.session, lock.lease.keeper_pid
    lock.close()
    with lock_on(agent.http_addr, 'close/lock') as other:
        other.wait(10)
        assert other.acquire()
    wait_until(lambda: session not in session_ids(agent.api), 20, 'session destroyed')
    wait_until(lambda: not os.path.exists(f'/proc/{keeper}'), 20, 'keeper gone')


def test_usable_after_close(agent: Agent) -> None:
    """A closed lock can be used again."""
    with lock_on(agent.http_addr, 'close/again') as lock:
        assert lock.acquire()
        lock.close()
        lock.wait(10)
        assert lock.acquire() and lock.release()


def test_unreachable_consul() -> None:
    """With nobody there, every call is a named error within its timeout."""
    with lock_on((HOST, free_ports(1)[0]), 'unreachable', timeout=1) as lock:
        calls: list[Any] = [
            lock.acquire, lock.get_lock_owner_info, lambda: lock.wait(1)]
        for call in calls:
            with pytest.raises(LockUnavailableError, match='refused'):
                call()
        assert not lock.held


def test_acquired_and_the_answer_lost(agent: Agent, proxy: Proxy) -> None:
    """A lock whose acquisition was carried out unheard does not stay acquired."""
    with lock_on(proxy.addr, 'lost/answer', timeout=1) as lock:
        proxy.mute(only=lambda method, path: '/txn' in path)
        with pytest.raises(LockUnavailableError, match='no answer'):
            lock.acquire()
        assert not lock.held
        # Given up, perhaps, before it was carried out.
        wait_until(lambda: proxy.faulted, 5, 'the lost answer')
        entry = wait_until(lambda: agent.api.kv('lost/answer'), 5, 'the key')
        assert entry['LockIndex'] == 1
        proxy.pass_through()
        wait_until(lambda: not holder_of(agent.api, 'lost/answer'), 20, 'key free')
        assert lock.acquire() and lock.release()


def test_hooks(agent: Agent) -> None:
    """A subclass says what is in the record, and hears of what happens."""
    happened = []

    class Lock(ConsulLock):
        def make_record(self) -> dict[str, Any]:
            return super().make_record() | {'room': 7}

        def on_acquired(self) -> None:
            happened.append(('acquired', self.fencing_token))

        def on_released(self) -> None:
            happened.append(('released', self.held))

    with (lock_on(agent.http_addr, 'hooks/lock', Lock) as lock,
          lock_on(agent.http_addr, 'hooks/lock', Lock) as other):
        assert lock.acquire() and not other.acquire()
        token = lock.fencing_token
        assert (other.get_lock_owner_info() or {})['room'] == 7
        lock.release()
    assert happened == [('acquired', token), ('released', False)]


def test_used_from_a_thread(agent: Agent) -> None:
    """A thread can use a lock of its own."""
    results: list[bool] = []

    def use() -> None:
        with lock_on(agent.http_addr, 'thread/lock') as lock:
            results.extend((lock.acquire(), lock.refresh(), lock.release()))
    thread = threading.Thread(target=use)
    thread.start()
    thread.join(20)
    assert results == [True, True, True]
