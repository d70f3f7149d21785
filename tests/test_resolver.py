"""Names of machines, with a name service that is dead or wrong."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jobslib import resolver
from jobslib.consul.transport import Endpoint, Transport, TransportError

ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 6, '', ('10.1.2.3', 80))


class NameService:
    """Stands in for the system's; it can be dead."""

    def __init__(self) -> None:
        self.alive = threading.Event()
        self.alive.set()
        self.asked = 0
        self.error: Exception | None = None
        self.name = 'machine.example'

    def getaddrinfo(self, *_: object, **__: object) -> list[Any]:
        """Answer where a host is, when alive."""
        self.answer()
        return [ADDRESS]

    def gethostbyaddr(self, _: object) -> tuple[str, list[str], list[str]]:
        """Answer what this machine is called, when alive."""
        self.answer()
        return self.name, [], []

    def answer(self) -> None:
        """Wait for life, for half a minute."""
        self.asked += 1
        assert self.alive.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameService]:
    """A name service, in place of the system's."""
    service = NameService()
    monkeypatch.setattr(socket, 'getaddrinfo', service.getaddrinfo)
    monkeypatch.setattr(socket, 'gethostbyaddr', service.gethostbyaddr)
    monkeypatch.setattr(resolver, 'NAME_TIMEOUT', 0.1)
    monkeypatch.setattr(resolver, '_found', {})
    monkeypatch.setattr(resolver, '_questions', {})
    yield service
    service.alive.set()


def ask(seconds: float = 0.1) -> Any:
    """Ask where a host is."""
    return resolver.addresses('consul', 80, time.monotonic() + seconds)


def test_addresses(names: NameService) -> None:
    """It is asked each time, since addresses change."""
    assert ask(5) == ask(5) == [(socket.AF_INET, ('10.1.2.3', 80))]
    assert names.asked == 2


def test_dead(names: NameService) -> None:
    """Who asks a dead name service waits as long as it can, and is told so."""
    names.alive.clear()
    for _ in range(3):
        with pytest.raises(OSError, match="did not say in time where 'consul' is"):
            ask()
    # Threads do not pile up.
    assert names.asked == 1
    names.alive.set()
    assert ask(5)


@pytest.mark.parametrize('how', ['silent', 'again'])
def test_dies(names: NameService, how: str) -> None:
    """What it said last counts when it does not answer any more."""
    found = ask(5)
    if how == 'silent':
        names.alive.clear()
    else:
        names.error = socket.gaierror(socket.EAI_AGAIN, 'no answer')
    assert ask() == found


def test_denies(names: NameService) -> None:
    """A host that is no more is an error, whatever it said last."""
    assert ask(5)
    names.error = socket.gaierror(socket.EAI_NONAME, 'no such host')
    with pytest.raises(OSError, match='no such host'):
        ask(5)


def test_no_room_for_a_thread(
    names: NameService, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a thread the caller asks by itself."""
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, 'start', refuse)
    assert ask(5) and names.asked == 1


def test_forked_child_asks_for_itself(names: NameService) -> None:
    """A question of the parent is none that anybody will answer in a child."""
    names.alive.clear()
    with pytest.raises(OSError):
        ask()
    child = os.fork()
    if child == 0:
        try:
            names.alive.set()
            os._exit(0 if ask(10) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_transport(names: NameService) -> None:
    """A request fails in its time; an address needs no name service."""
    names.alive.clear()
    with pytest.raises(TransportError, match='name service') as caught:
        Transport(Endpoint(host='consul', timeout=0.1)).request('GET', '/')
    assert not caught.value.sent
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportError, match='refused'):
        Transport(Endpoint(host='127.0.0.1', port=port)).request('GET', '/')
    assert names.asked == 1


@pytest.mark.parametrize('name', ['machine.example', 'localhost', None, ''])
def test_machine_name(names: NameService, name: str | None) -> None:
    """The full name, unless there is none, or none that tells anything."""
    if name is None:
        names.alive.clear()
    elif not name:
        names.error = UnicodeError('label too long')
    else:
        names.name = name
    expected = (name if name == 'machine.example' else os.uname().nodename)
    assert resolver.machine_name() == expected


def test_signal_is_answered_at_once() -> None:
    """SIGTERM ends who waits for a dead name service, and so does the exit."""
    with subprocess.Popen([sys.executable, '-c', textwrap.dedent('''
            import os, signal, socket, sys, time
            from jobslib import resolver
            def hang(*args, **kwargs):
                # Not by print(): this thread dies with the process, and must not
                # have the lock of the stream then.
                os.write(1, b'asked\\n')
                time.sleep(30)
            socket.getaddrinfo = hang
            signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))
            resolver.addresses('consul', 80, time.monotonic() + 20)
            ''')], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout and program.stdout.readline() == 'asked\n'
        began = time.monotonic()
        program.send_signal(signal.SIGTERM)
        assert program.wait(15) == 7
        assert time.monotonic() - began < 10
