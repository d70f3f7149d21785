"""What a test can do with the stand-in for Consul.

That it answers as Consul does is tested in ``integration/stand_in``.
"""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from support import DEADLINE, STEADY, PlainTask, until

from jobslib import Config, OneInstanceWatchdogError
from jobslib.exceptions import LockUnavailableError
from jobslib.oneinstance.consul import ConsulLock
from jobslib.testing import ConsulStandIn, make_lock

KEY = 'jobs/plain/lock'


@pytest.fixture
def consul() -> Iterator[ConsulStandIn]:
    """A stand-in of the test's own."""
    with ConsulStandIn() as running:
        yield running


@pytest.fixture
def lock(consul: ConsulStandIn) -> Iterator[ConsulLock]:
    """A lock that uses it."""
    lock = make_lock(ConsulLock, 'plain', **consul.options(**STEADY))
    yield lock
    lock.close()


def ask(consul: ConsulStandIn, method: str, path: str, body: object = None,
        timeout: float = 5.0) -> tuple[int, Any]:
    """Return status and decoded body of the answer to a request."""
    connection = http.client.HTTPConnection(*consul.address, timeout=timeout)
    try:
        connection.request(method, f'/v1/{path}', json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b'null')
    finally:
        connection.close()


def create_session(consul: ConsulStandIn, **fields: object) -> str:
    """Create a session and return its id."""
    return str(ask(consul, 'PUT', 'session/create', fields)[1]['ID'])


# As a part of somebody's tests.

def test_settings(consul: ConsulStandIn) -> None:
    """The setting that it returns makes a lock that uses it."""
    settings = SimpleNamespace(ONE_INSTANCE=consul.one_instance(**STEADY))
    context = Config(settings, None, PlainTask).make_context()
    lock = context.one_instance_lock
    assert isinstance(lock, ConsulLock)
    assert (lock.options.port, lock.options.ttl) == (
        consul.address[1], STEADY['ttl'])
    try:
        assert lock.acquire()
        assert consul.holder(KEY) in consul.sessions
        assert json.loads(consul.value(KEY) or b'')['task'] == 'plain'
    finally:
        lock.close()


def test_requests_and_writes(consul: ConsulStandIn, lock: ConsulLock) -> None:
    """It tells what was asked, and how much of it was written to disk."""
    assert (consul.requests, consul.writes) == ([], 0)
    assert lock.acquire()
    # A session and an acquisition.
    assert consul.writes == 2
    read = consul.requests[0]
    assert (read.method, read.path) == ('GET', f'/v1/kv/{KEY}')
    assert 'consistent' in read.query
    lock.release()
    assert consul.writes == 3
    assert '/v1/txn' in [request.path for request in consul.requests]


def test_lose_lock(consul: ConsulStandIn, lock: ConsulLock) -> None:
    """The run of a lock that is lost is interrupted at once."""
    assert lock.acquire()
    began = time.monotonic()
    with pytest.raises(OneInstanceWatchdogError):
        consul.lose_lock()
        time.sleep(DEADLINE)
    assert time.monotonic() - began < DEADLINE / 2
    assert consul.holder(KEY) is None
    assert lock.release() is False


def test_lose_one_lock(consul: ConsulStandIn) -> None:
    """The session of one key is ended, and the others are left."""
    for key in 'ab':
        session = create_session(consul)
        assert ask(consul, 'PUT', f'kv/{key}?acquire={session}')[1] is True
    consul.lose_lock('a')
    assert consul.holder('a') is None
    assert [consul.holder('b')] == consul.sessions
    assert consul.holder('missing') is None
    assert consul.value('missing') is None


def test_advance(consul: ConsulStandIn) -> None:
    """Sessions and lock-delays end by its clock, each at its moment."""
    first = create_session(consul, TTL='10s', LockDelay='5s')
    second = create_session(consul)
    assert ask(consul, 'PUT', f'kv/a?acquire={first}')[1] is True
    consul.advance(19.5)
    assert consul.holder('a') == first
    consul.advance(1)
    assert consul.sessions == [second]
    consul.advance(4)
    assert ask(consul, 'PUT', f'kv/a?acquire={second}')[1] is False
    assert consul.time == 24.5
    consul.advance(0.5)
    assert ask(consul, 'PUT', f'kv/a?acquire={second}')[1] is True


def test_advance_over_everything(consul: ConsulStandIn) -> None:
    """A lock-delay that begins and ends within one step is over."""
    first = create_session(consul, TTL='10s', LockDelay='5s')
    second = create_session(consul)
    assert ask(consul, 'PUT', f'kv/a?acquire={first}')[1] is True
    consul.advance(25)
    assert ask(consul, 'PUT', f'kv/a?acquire={second}')[1] is True


def test_advance_loses_a_lock(consul: ConsulStandIn, lock: ConsulLock) -> None:
    """More than twice the TTL in one step ends a session that is renewed."""
    assert lock.acquire()
    with pytest.raises(OneInstanceWatchdogError):
        consul.advance(2 * STEADY['ttl'] + 1)
        time.sleep(10)


def test_check(consul: ConsulStandIn) -> None:
    """A lock with a check of the agent works, and is lost with the check."""
    lock = make_lock(ConsulLock, 'plain', **consul.options(check_ttl=5.0, **STEADY))
    try:
        assert lock.acquire()
        with pytest.raises(OneInstanceWatchdogError):
            consul.advance(6)
            time.sleep(10)
    finally:
        lock.close()


# Faults of the line.

def test_partition(consul: ConsulStandIn) -> None:
    """A run whose lease cannot be renewed is stopped, and can be resumed."""
    # A lease that ends soon, and time to stop in spite of a pause of the machine.
    lock = make_lock(ConsulLock, 'plain', **consul.options(lock_delay=10.0, grace=5.0))
    try:
        assert lock.acquire()
        with consul.partition():
            with pytest.raises(OneInstanceWatchdogError):
                time.sleep(DEADLINE)
            # A renewal that was under way may have been answered after all; then
            # there is a lock to release, and nobody to release it with.
            with contextlib.suppress(LockUnavailableError):
                assert lock.release() is False
        assert not lock.held
        # The keeper gives up the key when it reaches Consul again.
        until(lambda: consul.holder(KEY) is None)
        assert lock.acquire()
    finally:
        lock.close()


@pytest.mark.parametrize('refuse', [False, True])
def test_request_in_partition(consul: ConsulStandIn, refuse: bool) -> None:
    """What is sent into a partition is not carried out, then or later."""
    with consul.partition(refuse):
        began = time.monotonic()
        with pytest.raises(ConnectionError if refuse else TimeoutError):
            ask(consul, 'PUT', 'kv/a', 'v', timeout=0.3)
        assert refuse or time.monotonic() - began > 0.29
        with pytest.raises(LockUnavailableError):
            make_lock(ConsulLock, 'plain', **consul.options(
                timeout=0.2, retry_max_attempts=1)).acquire()
    assert ask(consul, 'GET', 'kv/a')[0] == 404
    assert [request.method for request in consul.requests] == ['GET']


def test_heal(consul: ConsulStandIn) -> None:
    """A partition lasts until it is healed, with or without a block."""
    consul.partition(refuse=True)
    with pytest.raises(ConnectionError):
        ask(consul, 'GET', 'status/leader')
    consul.heal()
    consul.heal()
    assert ask(consul, 'GET', 'status/leader')[0] == 200


def test_blocking_query_over_a_partition(consul: ConsulStandIn) -> None:
    """A blocking query that a partition hits fails when it is healed."""
    ask(consul, 'PUT', 'kv/a', 'v')
    index = consul.writes + 1
    with ThreadPoolExecutor(1) as threads:
        query = threads.submit(
            ask, consul, 'GET', f'kv/a?index={index}&wait=60s', timeout=20)
        until(lambda: len(consul.requests) == 2)
        with consul.partition():
            consul.advance(1)
            assert not query.done()
        with pytest.raises(ConnectionError):
            query.result(5)


# Beginning and end.

def test_close(consul: ConsulStandIn) -> None:
    """Closing ends its threads, and the queries that wait; twice is once."""
    ask(consul, 'PUT', 'kv/a', 'v')
    index = consul.writes + 1
    with ThreadPoolExecutor(1) as threads:
        query = threads.submit(
            ask, consul, 'GET', f'kv/a?index={index}&wait=60s', timeout=20)
        until(lambda: len(consul.requests) == 2)
        consul.close()
        consul.close()
        with pytest.raises(ConnectionError):
            query.result(5)
    until(lambda: not [thread for thread in threading.enumerate()
                       if 'process_request' in thread.name
                       or 'stand-in' in thread.name])
    with pytest.raises(ConnectionError):
        ask(consul, 'GET', 'status/leader')


@pytest.mark.parametrize(('method', 'path', 'body', 'what'), [
    ('PUT', 'kv/a?near', 'v', "parameter 'near' here"),
    ('DELETE', 'kv/a?recurse', '', "parameter 'recurse' here"),
    ('PUT', 'txn', '[{"KV": {"Verb": "delete-tree", "Key": "a"}}]',
     "verb 'delete-tree'"),
])
def test_what_it_does_not_know(consul: ConsulStandIn, method: str, path: str,
                               body: str, what: str) -> None:
    """What it cannot heed is refused instead of ignored."""
    connection = http.client.HTTPConnection(*consul.address, timeout=5)
    for each in (('PUT', '/v1/kv/a', 'as before'),
                 (method, f'/v1/{path}', body)):
        connection.request(*each)
        answer = connection.getresponse()
        text = answer.read().decode()
    connection.close()
    assert answer.status == 501
    assert text == f'the stand-in does not know the {what}'
    assert consul.value('a') == b'as before'
