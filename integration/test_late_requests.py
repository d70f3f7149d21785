"""Requests that are carried out late: when their client gave up long ago, or twice.

TCP sends lost packets again for as long as a connection is there, and a server
without a leader holds what it is asked. So each kind of request is held back
here for longer than its client waits, while everything after it gets through.
"""

import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from integration.agents import Agent, wait_until
from integration.locks import holder_of, lock_on, session_ids
from integration.proxy import Late, Proxy
from integration.runjobs import job, moments
from integration.together import together
from jobslib.exceptions import LockUnavailableError
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import Pause

#: How long a request is held back, and how long its client waits for an answer.
HELD_BACK = 4.0
TIMEOUT = 1.0

#: Much less than a lock-delay or a TTL: nobody had to wait for one.
SOON = 9.0


@contextmanager
def behind(proxy: Proxy, key: str, **options: Any) -> Iterator[ConsulLock]:
    """A lock whose requests go through the proxy, and are each tried once."""
    given = {'timeout': TIMEOUT, 'retry_max_attempts': 1, **options}
    with lock_on(proxy.addr, key, **given) as lock:
        yield lock


def carried_out(late: Late) -> int:
    """Wait until the late request was answered; return the status."""
    status: int = wait_until(lambda: late.status, 15, 'the late request')
    return status


def acquired(lock: ConsulLock) -> bool:
    """Try once more to acquire a lock."""
    with suppress(LockUnavailableError):
        return lock.acquire()
    return False


def take(lock: ConsulLock) -> None:
    """Acquire a lock, trying again like the loop does."""
    wait_until(lambda: acquired(lock), SOON, 'the lock', pause=0.05)


def hand_over(agent: Agent, lock: ConsulLock) -> None:
    """Release a lock; another client gets it at once, and it is as it should be."""
    assert lock.held and lock.refresh()
    session = lock.lease.session if lock.lease else None
    assert holder_of(agent.api, lock.key) == session
    entry = agent.api.kv(lock.key)
    assert entry is not None and entry['ModifyIndex'] == lock.fencing_token
    assert lock.release()
    with lock_on(agent.http_addr, lock.key) as other:
        assert other.acquire() and other.release()
    assert holder_of(agent.api, lock.key) is None


def leave(agent: Agent, lock: ConsulLock, runs: int) -> None:
    """Release a lock with a history, like the loop does."""
    lock.history = {'runs': runs}
    with suppress(LockUnavailableError):
        assert lock.release()


def noted(agent: Agent, key: str) -> int | None:
    """How many runs the history has."""
    entry = agent.api.kv(f'late/history/{key}')
    return None if entry is None else json.loads(entry['Value'])['runs']


@together
def test_session(agent: Agent) -> None:
    """A session that is created late is used by nobody, and is in nobody's way."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/create') as lock:
        late = proxy.late('create', HELD_BACK)
        with pytest.raises(LockUnavailableError):
            lock.acquire()
        take(lock)
        assert carried_out(late) == 200
        hand_over(agent, lock)


@together
def test_lock(agent: Agent) -> None:
    """A late `lock` does not give the key to a session that nobody knows."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/lock') as lock:
        late = proxy.late('lock', HELD_BACK)
        with pytest.raises(LockUnavailableError):
            lock.acquire()
        take(lock)
        token = lock.fencing_token
        assert carried_out(late) != 200
        assert lock.fencing_token == token
        hand_over(agent, lock)


@together
def test_lock_of_a_key_that_became_free(agent: Agent) -> None:
    """A late `lock` does nothing after another's hold: the key is not as it was."""
    with (Proxy(agent.http_addr) as proxy,
          behind(proxy, 'late/lock-2', retry_max_attempts=3) as lock,
          lock_on(agent.http_addr, 'late/lock-2') as other):
        # Its session and keeper are there, so that it is the first to lock.
        other.wait(0)
        late = proxy.late('lock', 2 * HELD_BACK)
        find_index = lock.client._find_index

        def be_faster(*args: Any) -> Any:
            assert other.held or other.acquire()
            return find_index(*args)

        lock.client._find_index = be_faster  # type: ignore
        assert lock.acquire() is False
        assert other.release()
        assert carried_out(late) != 200
        assert holder_of(agent.api, lock.key) is None
        take(lock)
        hand_over(agent, lock)


@together
def test_lock_of_a_key_that_is_still_free(agent: Agent) -> None:
    """A late `lock` whose process does nothing more is given back."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/lock-3') as lock:
        late = proxy.late('lock', HELD_BACK)
        with pytest.raises(LockUnavailableError):
            lock.acquire()
        carried_out(late)
        with lock_on(agent.http_addr, lock.key) as other:
            # Given back as soon as its keeper gets to it.
            take(other)


@together
def test_lock_that_is_tried_again(agent: Agent) -> None:
    """A late `lock` does not take the key once more from under its own session."""
    with Proxy(agent.http_addr) as proxy, behind(
            proxy, 'late/again', retry_max_attempts=3) as lock:
        late = proxy.late('lock', HELD_BACK)
        take(lock)
        session = lock.lease.session if lock.lease else None
        assert carried_out(late) != 200
        hand_over(agent, lock)
        # Neither is a session used again that a request was in doubt of.
        assert lock.lease is None or lock.lease.session != session
        wait_until(lambda: session not in session_ids(agent.api), SOON, 'its end')


@together
def test_lock_that_arrives_twice(agent: Agent) -> None:
    """The second `lock` changes neither the key nor its token, nor takes it later."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/twice') as lock:
        during = proxy.double('lock', 1.0)
        take(lock)
        token = lock.fencing_token
        assert carried_out(during) != 200
        assert lock.fencing_token == token
        hand_over(agent, lock)
        after = proxy.double('lock', 1.0)
        take(lock)
        assert lock.release()
        assert carried_out(after) != 200
        assert holder_of(agent.api, lock.key) is None


@together
def test_unlock(agent: Agent) -> None:
    """A late `unlock` neither ends a later hold nor puts back an older history."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/unlock') as lock:
        take(lock)
        late = proxy.late('unlock', HELD_BACK)
        leave(agent, lock, 1)
        take(lock)
        leave(agent, lock, 2)
        take(lock)
        token = lock.fencing_token
        assert carried_out(late) != 200
        assert lock.held and lock.fencing_token == token
        assert noted(agent, 'unlock') == 2
        hand_over(agent, lock)


@together
def test_unlock_of_the_same_session(agent: Agent) -> None:
    """An `unlock` that arrives twice does not end a later hold of its session."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/unlock-2') as lock:
        take(lock)
        session = lock.lease.session if lock.lease else None
        late = proxy.double('unlock', 1.5)
        leave(agent, lock, 1)
        take(lock)
        leave(agent, lock, 2)
        take(lock)
        assert lock.lease is not None and lock.lease.session == session
        assert carried_out(late) != 200
        assert noted(agent, 'unlock-2') == 2
        hand_over(agent, lock)


@together
def test_unlock_that_is_tried_again(agent: Agent) -> None:
    """A release whose answer was lost is known to be one."""
    with Proxy(agent.http_addr) as proxy, behind(
            proxy, 'late/unheard', retry_max_attempts=3) as lock:
        take(lock)
        # Carried out at once, and not heard of; tried again meanwhile.
        proxy.mute(only=lambda method, path: path.startswith('/v1/txn'))
        proxy_off = proxy.pass_through
        read = lock.client._read

        def read_on(*args: Any, **kwargs: Any) -> Any:
            proxy_off()
            return read(*args, **kwargs)

        lock.client._sleep = lambda _: proxy_off()
        lock.client._read = read_on  # type: ignore[method-assign]
        assert lock.release()
        assert holder_of(agent.api, lock.key) is None
        take(lock)
        hand_over(agent, lock)


@together
def test_note(agent: Agent) -> None:
    """A late note does not overwrite a newer one, of this hold or the next."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/note') as lock:
        take(lock)
        for runs in 1, 2:
            late = proxy.late('note', HELD_BACK)
            lock.history = {'runs': runs}
            lock.save_history()
            wait_until(lambda: late.sent, SOON, 'the note')
            lock.history = {'runs': runs + 10}
            lock.save_history()
            wait_until(lambda: noted(agent, 'note') == runs + 10, SOON, 'the newer')
            if runs == 2:
                leave(agent, lock, 20)
                take(lock)
            assert carried_out(late) != 200
        assert noted(agent, 'note') == 20
        hand_over(agent, lock)


@together
def test_note_that_arrives_twice(agent: Agent) -> None:
    """A note that arrives again does not overwrite a newer one."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/note-2') as lock:
        take(lock)
        late = proxy.double('note', 1.5)
        for runs in 1, 2:
            lock.history = {'runs': runs}
            lock.save_history()
            wait_until(lambda: noted(agent, 'note-2') == runs, SOON, 'the note')
        assert carried_out(late) != 200
        assert noted(agent, 'note-2') == 2
        hand_over(agent, lock)


@together
def test_renewal(agent: Agent) -> None:
    """A renewal may be late, or come twice, also when its session is gone."""
    with Proxy(agent.http_addr) as proxy, behind(
            proxy, 'late/renew', ttl=10, lock_delay=10) as lock:
        take(lock)
        delayed = proxy.late('renew', HELD_BACK)
        assert carried_out(delayed) == 200
        assert lock.refresh()
        doubled = proxy.double('renew', 3.0)
        wait_until(lambda: doubled.sent, SOON, 'a renewal')
        session = lock.lease.session if lock.lease else ''
        hand_over(agent, lock)
        lock.close()
        assert carried_out(doubled) in (200, 404)
        wait_until(lambda: session not in session_ids(agent.api), SOON, 'its end')


@together
def test_destruction(agent: Agent) -> None:
    """A late end of a session ends that one only, and frees no other's key."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/destroy') as lock:
        take(lock)
        session = lock.lease.session if lock.lease else ''
        late = proxy.late('destroy', HELD_BACK)
        lock.close()
        take(lock)
        assert carried_out(late) == 200
        wait_until(lambda: session not in session_ids(agent.api), SOON, 'its end')
        hand_over(agent, lock)


Lateness = Callable[[Proxy], Late]


@pytest.mark.parametrize('make_late', [
    lambda proxy: proxy.late('ask', HELD_BACK), lambda proxy: proxy.double('ask', 1.5),
], ids=['late', 'twice'])
def test_question(agent: Agent, proxy: Proxy, make_late: Lateness) -> None:
    """What was asked late does not undo what was asked since."""
    key = f'late/ask-{time.monotonic_ns()}'
    with (behind(proxy, key) as lock, lock_on(agent.http_addr, key) as other):
        nothing, paused = Control(), Control(Pause('ann'))
        late = make_late(proxy)
        with suppress(LockUnavailableError):
            assert lock.ask(paused, nothing)
        if not late.twice:
            assert other.ask(paused, nothing)
        assert other.ask(nothing, paused)
        assert carried_out(late) != 200
        assert other.look().control.paused is None
        assert other.acquire()


@together
def test_release_by_the_keeper(agent: Agent) -> None:
    """What a keeper frees late is not what another holds by then."""
    with Proxy(agent.http_addr) as proxy, behind(proxy, 'late/keeper') as lock:
        take(lock)
        late = proxy.late('unlock', HELD_BACK)
        # The keeper does it.
        lock.close()
        with lock_on(agent.http_addr, lock.key) as other:
            take(other)
            token = other.fencing_token
            assert carried_out(late) != 200
            entry = agent.api.kv(lock.key)
            assert entry is not None and entry['ModifyIndex'] == token
            hand_over(agent, other)


def runs_under(agent: Agent, name: str, kinds: tuple[str, ...], *args: str) -> None:
    """Run a job while one request after the other, of these kinds, is late and
    doubled: no run is lost from the history, and none is counted twice."""
    with (Proxy(agent.http_addr) as proxy,
          tempfile.TemporaryDirectory(prefix='jobslib-') as folder,
          job(pathlib.Path(folder), proxy.addr, f'late/{name}', *args,
              '--run-interval', '0.2', 'tasks.Task', '--seconds', '0.05',
              timeout=TIMEOUT) as program):
        program.wait_for('END', 3)
        for kind in kinds:
            carried_out(proxy.late(kind, 2.0))
            carried_out(proxy.double(kind, 1.0))
        program.wait_for('END', program.output.count('END') + 5)
        program.popen.terminate()
        program.wait()
        begins, ends = moments(program, 'BEGIN'), moments(program, 'END')
    assert len(begins) == len(ends) == noted(agent, name)
    order = [token for pair in zip(begins, ends, strict=True) for token in (
        pair[0].token, pair[1].token)]
    assert order == sorted(order)


@together
def test_job(agent: Agent) -> None:
    """A job goes on whatever is late or doubled."""
    runs_under(agent, 'job', ('read', 'lock', 'unlock'))


@together
def test_job_that_keeps_the_lock(agent: Agent) -> None:
    """So does one that keeps its lock."""
    runs_under(agent, 'kept', ('note', 'renew'), '--keep-lock')
