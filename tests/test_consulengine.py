"""How the keeper speaks with Consul: few connections, no answer believed
that is not Consul's."""

import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import STEADY, until

from jobslib.consul import engine as consulengine
from jobslib.consul.engine import Connections, ConsulEngine
from jobslib.consul.transport import Endpoint, Response, TransportError
from jobslib.keeper.engine import ENDED, GONE, RENEWED, UNKNOWN
from jobslib.oneinstance.consul import ConsulLock
from jobslib.testing import ConsulStandIn, make_lock


class Line:
    """A connection that counts; its answer is up to the test."""

    opened = 0
    closed = 0
    answers: list[Any] = []
    wait: threading.Event | None = None

    def __init__(self, endpoint: Endpoint) -> None:
        type(self).opened += 1

    def request(self, method: str, path: str, *args: Any,
                **kwargs: Any) -> Response:
        if self.wait is not None:
            assert self.wait.wait(10)
        answer = self.answers.pop(0) if self.answers else Response(200, {}, b'')
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Response)
        return answer

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> type[Line]:
    """The connections that are made."""
    class Lines(Line):
        opened = closed = 0
        answers: list[Any] = []

    monkeypatch.setattr(consulengine, 'Transport', Lines)
    return Lines


def test_one_connection_is_kept(lines: type[Line]) -> None:
    """While something is held, requests go over one connection."""
    connections = Connections(Endpoint())
    connections.rest(False)
    for _ in range(3):
        connections.request('PUT', '/')
    assert (lines.opened, lines.closed) == (1, 0)
    connections.rest(True)
    assert lines.closed == 1


def test_no_connection_is_kept(lines: type[Line]) -> None:
    """While nothing is held, each is closed when it is not needed."""
    connections = Connections(Endpoint())
    for _ in range(3):
        connections.request('PUT', '/')
    assert (lines.opened, lines.closed) == (3, 3)


def test_request_does_not_wait_for_another(lines: type[Line]) -> None:
    """Beside one that waits for its answer there is another connection."""
    connections = Connections(Endpoint())
    connections.rest(False)
    lines.wait = threading.Event()
    thread = threading.Thread(target=connections.request, args=('PUT', '/'))
    thread.start()
    until(lambda: lines.opened == 1, 'the first')
    slow, lines.wait = lines.wait, None
    connections.request('PUT', '/')
    assert (lines.opened, lines.closed) == (2, 0)
    slow.set()
    thread.join()
    # One of the two is kept.
    assert lines.closed == 1


def answer(status: int, document: object = None,
           **headers: str) -> Response:
    """Return an answer of Consul's."""
    return Response(status, headers, json.dumps(document).encode())


NOT_FOUND = Response(404, {}, b'Session id "mine" not found')
INDEX = {'X-Consul-Index': '5'}


@pytest.mark.parametrize(('answers', 'renewed'), [
    ([answer(200, [{'ID': 'mine'}])], RENEWED),
    ([answer(200, [{'ID': 'other'}])], UNKNOWN),
    ([answer(200, [])], UNKNOWN),
    ([answer(200, {})], UNKNOWN),
    ([Response(200, {}, b'<html>')], UNKNOWN),
    ([answer(500)], UNKNOWN),
    ([answer(403)], UNKNOWN),
    ([TransportError('refused', False)], UNKNOWN),
    ([Response(404, {}, b'no such memory')], UNKNOWN),
    ([NOT_FOUND, answer(200, [])], ENDED),
    ([NOT_FOUND, answer(200, [{'ID': 'mine'}])], UNKNOWN),
    ([NOT_FOUND, answer(500)], UNKNOWN),
    ([NOT_FOUND, TransportError('too late', True)], UNKNOWN),
])
def test_renewals(
    lines: type[Line], answers: list[Any], renewed: str,
) -> None:
    """A session has ended only when Consul's own leader says so."""
    lines.answers = answers
    engine = ConsulEngine(Endpoint(), 'mine', 'job/lock', 15.0)
    assert engine.renew() == renewed
    assert not lines.answers


@pytest.mark.parametrize(('answers', 'holder'), [
    ([answer(404, **INDEX), answer(404, **INDEX)], GONE),
    ([answer(404, **INDEX), answer(500)], UNKNOWN),
    ([answer(404, **INDEX), TransportError('too late', True)], UNKNOWN),
    ([answer(404)], UNKNOWN),
    ([answer(500)], UNKNOWN),
    ([Response(200, INDEX, b'<html>')], UNKNOWN),
])
def test_sights(
    lines: type[Line], answers: list[Any], holder: str,
) -> None:
    """A loss is believed only when it is seen twice."""
    lines.answers = answers
    engine = ConsulEngine(Endpoint(), 'mine', 'job/lock', 15.0)
    sight = engine.watch(0)
    assert (sight.holder, sight.control, sight.mark) == (holder, None, 0)
    assert not lines.answers


@pytest.fixture
def consul() -> Iterator[ConsulStandIn]:
    """A stand-in of Consul."""
    with ConsulStandIn() as stand_in:
        yield stand_in


def connections_of(pid: int) -> int:
    """Return how many TCP connections a process has."""
    found = 0
    with open(f'/proc/{pid}/net/tcp') as file:
        tcp = {line.split()[9] for line in file.readlines()[1:]}
    for fd in os.listdir(f'/proc/{pid}/fd'):
        try:
            target = os.readlink(f'/proc/{pid}/fd/{fd}')
        except FileNotFoundError:
            continue
        found += target.startswith('socket:') and target[8:-1] in tcp
    return found


def test_connections_of_a_keeper(consul: ConsulStandIn) -> None:
    """Two while the lock is held, none while it is not."""
    options = consul.options(**STEADY)
    lock = make_lock(ConsulLock, 'few', **options)
    try:
        assert lock.acquire()
        assert lock.lease is not None
        keeper = lock.lease.keeper_pid
        until(lambda: lock.lease and lock.lease.memory.version, 'a look')
        lock.history = {'runs': 5}
        lock.save_history()
        until(lambda: connections_of(keeper) == 2, 'two connections')
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            assert connections_of(keeper) <= 2
        assert lock.release()
        until(lambda: connections_of(keeper) == 0, 'no connection')
    finally:
        lock.close()
