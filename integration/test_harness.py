"""The harness does what the other tests take for granted."""

import os
import pathlib
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests

from integration import fetch_debian, stamps
from integration.agents import (
    LIVE,
    Agent,
    Api,
    Cluster,
    free_ports,
    make_tls,
    wait_until,
)
from integration.fetch_consul import find_consul
from integration.fetch_debian import CONSUL, FetchError, Source
from integration.proxy import Proxy
from integration.report import allowed
from integration.stamps import Stamp, now
from integration.timeline import Timeline

LOST = (requests.ConnectionError, requests.Timeout)


def processes_of(folder: pathlib.Path) -> list[int]:
    """Ids of the processes that work in the folder."""
    found = []
    for link in pathlib.Path('/proc').glob('[0-9]*/cwd'):
        try:
            # A folder that is gone reads '/the/folder (deleted)'.
            if os.readlink(link).startswith(str(folder)):
                found.append(int(link.parent.name))
        except OSError:
            pass
    return found


# Agents

def test_agent_is_ready_and_leaves_nothing(consul_bin: pathlib.Path) -> None:
    """A constructed agent takes sessions; a closed one has no process or folder."""
    with Agent(binary=consul_bin) as agent:
        session = agent.api.create_session(TTL='10s')
        assert session in [each['ID'] for each in agent.api.sessions()]
        assert processes_of(agent.folder) == [agent.pid]
    assert not agent.running and agent not in LIVE
    assert processes_of(agent.folder) == [] and not agent.folder.exists()
    assert 'agent:' in agent.log_text()


def test_stopped_agent_is_closed(fresh_agent: Agent) -> None:
    """An agent that SIGSTOP holds answers nothing, and is closed all the same."""
    pid = fresh_agent.pid
    fresh_agent.stop()
    with pytest.raises(requests.Timeout):
        Api(fresh_agent.url, timeout=0.3).get('status/leader')
    fresh_agent.cont()
    assert fresh_agent.api.get('status/leader').ok
    fresh_agent.stop()
    fresh_agent.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_agent_that_cannot_start_says_why(consul_bin: pathlib.Path) -> None:
    """A broken configuration raises with the log, and leaves nothing."""
    before = list(LIVE)
    with pytest.raises(RuntimeError, match='bind_addr|nonsense'):
        Agent(binary=consul_bin, config={'nonsense': True})
    assert LIVE == before


def test_restart_keeps_data_on_disk_only(
    consul_bin: pathlib.Path, agent: Agent,
) -> None:
    """What was written to disk is there after a kill; in memory is refused."""
    with Agent(binary=consul_bin, on_disk=True) as disk:
        assert disk.api.put('kv/kept', 'value').json() is True
        disk.kill()
        disk.restart()
        entry = disk.api.kv('kept')
        assert entry is not None and entry['Value'] == b'value'
    with pytest.raises(RuntimeError):
        agent.restart()


def test_no_port_is_given_twice() -> None:
    """The port of a server that is down is nobody else's meanwhile."""
    assert not set(free_ports(500)) & set(free_ports(500))


def test_raft_index_counts_entries(consul_bin: pathlib.Path) -> None:
    """Creating a session is one Raft entry, renewing it none."""
    with Agent(binary=consul_bin, config={'disable_coordinates': True}) as agent:
        before = agent.raft_index()
        session = agent.api.create_session(TTL='10s')
        assert agent.raft_index() == before + 1
        assert agent.api.put(f'session/renew/{session}').ok
        assert agent.raft_index() == before + 1


@pytest.mark.parametrize('ttl, accepted', [
    ('9.9s', False), ('10s', True), ('86400s', True), ('86401s', False),
])
def test_session_ttl_limits(agent: Agent, ttl: str, accepted: bool) -> None:
    """A session's TTL lies in 10 s .. 86400 s."""
    response = agent.api.put('session/create', {'TTL': ttl})
    assert response.ok == accepted
    if accepted:
        agent.api.destroy_session(response.json()['ID'])


def test_default_deny(consul_bin: pathlib.Path) -> None:
    """Without a token nothing may be written, with one what its rules say."""
    with Agent(binary=consul_bin, acl=True) as agent:
        assert agent.new_api().put('kv/some', '').status_code == 403
        secret = agent.api.create_token('key_prefix "own/" { policy = "write" }')
        api = agent.new_api(secret)
        assert api.put('kv/own/key', 'x').ok and api.kv('own/key') is not None
        assert api.put('kv/other', '').status_code == 403
        assert api.put('session/create', {}).status_code == 403


def test_tls_wants_a_certificate(
    consul_bin: pathlib.Path, tmp_path: pathlib.Path,
) -> None:
    """The agent speaks https to clients that hold a certificate of its CA."""
    with Agent(binary=consul_bin, tls=make_tls(tmp_path)) as agent:
        assert agent.url.startswith('https:')
        assert agent.api.get('status/leader').ok
        with pytest.raises(requests.ConnectionError):
            agent.new_api(with_cert=False).get('status/leader')
        with pytest.raises(requests.exceptions.SSLError):
            Api(agent.url).get('status/leader')  # does not know the private CA


def test_cluster_elects_another_leader(consul_bin: pathlib.Path) -> None:
    """A killed leader is replaced, its data stays, and it can come back."""
    with Cluster(binary=consul_bin) as cluster:
        leader = cluster.leader()
        wait_until(lambda: leader.api.put('kv/kept', 'value').ok, 20, 'a key')
        leader.kill()
        replaced = cluster.leader()
        assert replaced is not leader and leader not in cluster.followers()
        cluster.wait_ready()
        entry = wait_until(lambda: replaced.api.kv('kept'), 20, 'the key')
        assert entry['Value'] == b'value'
        leader.restart()
        assert leader in cluster.alive() and cluster.leader()
        cluster.wait_ready()
        folders = [each.folder for each in cluster]
    assert not any(processes_of(folder) for folder in folders)


# The proxy

@pytest.fixture
def api(proxy: Proxy) -> Iterator[Api]:
    """A client behind the proxy that has made one request."""
    client = Api(proxy.url)
    assert client.get('status/leader').ok
    yield client
    client.close()


@contextmanager
def no_answer(api: Api) -> Iterator[None]:
    """What is asked in the block is not answered; the client gives up early."""
    patience, api.timeout = api.timeout, 0.5
    with pytest.raises(requests.ReadTimeout):
        yield
    api.timeout = patience


def wait_for_faults(proxy: Proxy, count: int) -> None:
    """Wait until the proxy has done so many faults, and see that it has no more."""
    wait_until(lambda: proxy.faulted >= count, 10, f'{count} faults')
    assert proxy.faulted == count


def test_pass_through_counts_requests(agent: Agent, proxy: Proxy, api: Api) -> None:
    """Requests get through with their bodies, on one connection, and are listed."""
    body = 'x' * 200_000
    assert api.put('kv/harness/body', body).json() is True
    assert api.get('kv/harness/body', raw='').text == body
    assert [(method, path) for _, method, path in proxy.requests] == [
        ('GET', '/v1/status/leader'), ('PUT', '/v1/kv/harness/body'),
        ('GET', '/v1/kv/harness/body?raw='),
    ]
    times = [at for at, _, _ in proxy.requests]
    assert times == sorted(times) and times[-1] <= time.monotonic()
    assert proxy.faulted == 0


def test_blackhole(agent: Agent, proxy: Proxy, api: Api) -> None:
    """Nothing arrives or is answered, on old connections and on new ones."""
    proxy.blackhole()
    with no_answer(api):  # the connection that was there
        api.put('kv/harness/hole', 'old')
    with no_answer(api):  # a new one, which is accepted
        api.put('kv/harness/hole', 'new')
    wait_for_faults(proxy, 2)
    assert len(proxy.requests) == 3
    proxy.pass_through()
    assert api.get('status/leader').ok and proxy.faulted == 0
    assert agent.api.kv('harness/hole') is None


def test_blackhole_closes_nothing(proxy: Proxy) -> None:
    """A connection in the black hole sees neither data nor an end."""
    with socket.create_connection(proxy.addr, 30) as client:
        client.settimeout(10)
        client.sendall(b'GET /v1/agent/self HTTP/1.1\r\nHost: x\r\n\r\n')
        assert client.recv(12) == b'HTTP/1.1 200'
        client.settimeout(0.5)
        proxy.blackhole()
        client.sendall(b'GET /v1/kv/x HTTP/1.1\r\nHost: x\r\n\r\n')
        wait_until(lambda: proxy.faulted, 5, 'the fault')
        with pytest.raises(TimeoutError):
            while client.recv(65536):  # what was sent before the hole opened
                pass
        proxy.pass_through()
        with pytest.raises(TimeoutError):  # what vanished stays away
            client.recv(1)


def test_blackhole_swallows_an_answer_that_is_waited_for(
    agent: Agent, proxy: Proxy,
) -> None:
    """A blocking query that was under way gets no answer any more."""
    agent.api.put('kv/harness/watch', '1')
    entry = agent.api.kv('harness/watch')
    assert entry is not None
    query = f'/v1/kv/harness/watch?index={entry["ModifyIndex"]}&wait=60s'
    with socket.create_connection(proxy.addr, 30) as client:
        client.sendall(f'GET {query} HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
        wait_until(lambda: proxy.requests, 5, 'the query at the proxy')
        proxy.blackhole()
        agent.api.put('kv/harness/watch', '2')
        wait_for_faults(proxy, 1)  # the answer is there
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_hold(agent: Agent, proxy: Proxy, api: Api) -> None:
    """A request that was held arrives after its client gave up."""
    proxy.hold()
    with no_answer(api):
        api.put('kv/harness/held', 'late')
    wait_for_faults(proxy, 1)
    assert agent.api.kv('harness/held') is None
    proxy.pass_through()
    wait_until(lambda: agent.api.kv('harness/held'), 5, 'the late request')
    assert api.get('status/leader').ok


def test_mute(agent: Agent, proxy: Proxy, api: Api) -> None:
    """A request takes effect, its answer vanishes."""
    proxy.mute()
    with no_answer(api):
        api.put('kv/harness/muted', 'x')
    wait_for_faults(proxy, 1)
    wait_until(lambda: agent.api.kv('harness/muted'), 5, 'the effect')


def test_refuse(proxy: Proxy, api: Api) -> None:
    """Old connections are reset, new ones refused, until others are welcome."""
    with socket.create_connection(proxy.addr, 30) as client:
        client.sendall(b'GET /v1/agent/self HTTP/1.1\r\nHost: x\r\n\r\n')
        assert client.recv(12) == b'HTTP/1.1 200'
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            while client.recv(65536):
                pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.addr, 30)
    with pytest.raises(requests.ConnectionError):
        api.get('status/leader')
    assert proxy.faulted == 2
    proxy.pass_through()
    assert api.get('status/leader').ok


def test_dead_target_resets(proxy: Proxy) -> None:
    """With nobody behind it the proxy resets connections."""
    proxy.target = ('127.0.0.1', 1)
    with pytest.raises(requests.ConnectionError):
        Api(proxy.url).get('status/leader')


def test_delay(proxy: Proxy, api: Api) -> None:
    """An answer is late by the time given, once, and complete."""
    proxy.delay(0.5)
    begin = now()
    assert api.get('agent/self').json()['Config']
    assert 0.5 <= now() - begin < allowed(0.5, 0.45, since=begin)
    assert proxy.faulted == 1


def test_delay_ends_with_the_mode(proxy: Proxy, api: Api) -> None:
    """An answer that is being delayed is let go by another mode."""
    proxy.delay(60.0)
    timer = threading.Timer(0.2, proxy.pass_through)
    timer.start()
    assert api.get('status/leader').ok
    timer.join()


@pytest.mark.parametrize('after_bytes', [0, 10, 400])
def test_cut(agent: Agent, proxy: Proxy, api: Api, after_bytes: int) -> None:
    """The answer ends after so many bytes; the request took effect."""
    key = f'harness/cut-{after_bytes}'
    agent.api.put(f'kv/{key}', os.urandom(1000))  # Consul compresses answers
    proxy.cut(after_bytes)
    with socket.create_connection(proxy.addr, 30) as client:
        client.sendall(f'GET /v1/kv/{key}?raw HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
        got = b''
        while data := client.recv(65536):
            got += data
    assert len(got) == after_bytes and proxy.faulted == 1
    with pytest.raises(requests.RequestException):
        api.get(f'kv/{key}', raw='')
    assert proxy.faulted == 2


@pytest.mark.parametrize('code, body', [
    (500, 'rpc error'), (403, 'Permission denied'), (404, ''), (429, 'slow down'),
])
def test_status(proxy: Proxy, api: Api, code: int, body: str) -> None:
    """Requests are answered with the status and the body, again and again."""
    proxy.status(code, body)
    for _ in range(2):
        response = api.put('kv/harness/status', 'x')
        assert (response.status_code, response.text) == (code, body)
    assert proxy.faulted == 2
    proxy.pass_through()
    assert api.get('kv/harness/status').status_code == 404


def test_rubbish(proxy: Proxy, api: Api) -> None:
    """An answer is not HTTP."""
    proxy.rubbish()
    with pytest.raises(requests.ConnectionError, match='BadStatusLine'):
        api.get('status/leader')
    assert proxy.faulted == 1


@pytest.mark.parametrize('mode', [
    lambda proxy, only: proxy.status(500, 'rpc error', only=only),
    lambda proxy, only: proxy.blackhole(only=only),
    lambda proxy, only: proxy.mute(only=only),
])
def test_only_some_requests(
    proxy: Proxy, api: Api,
    mode: Callable[[Proxy, Callable[[str, str], bool]], None],
) -> None:
    """A limited fault spares the other requests and does not count them."""
    mode(proxy, lambda method, path: path.startswith('/v1/session/'))
    assert api.get('status/leader').ok and proxy.faulted == 0
    api.timeout = 0.5
    try:
        assert api.put('session/create', {'TTL': '10s'}).status_code == 500
    except requests.ReadTimeout:
        pass
    api.timeout = 10
    wait_for_faults(proxy, 1)
    assert api.get('status/leader').ok and proxy.faulted == 1


@pytest.mark.parametrize('mode', [
    Proxy.pass_through, Proxy.blackhole, Proxy.hold, Proxy.refuse, Proxy.mute,
])
def test_closed_proxy_leaves_no_thread(
    agent: Agent, mode: Callable[[Proxy], None],
) -> None:
    """Closing ends the thread and the connections, in whatever mode."""
    before = set(threading.enumerate())
    with Proxy(agent.http_addr) as proxy:
        api = Api(proxy.url)
        api.get('status/leader')
        mode(proxy)
        api.timeout = 0.2
        try:
            api.get('status/leader')
        except LOST:
            pass
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.addr, 30)


# Getting a Consul

ONE_LINE = '''\
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
deb http://mirror.example/debian bookworm-updates main
deb [arch=amd64 signed-by=/keys/vendor.gpg] https://vendor.example/apt bookworm main
deb https://other.example/packages bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb [ arch=amd64 ] http://mirror.example/debian/ bookworm main contrib # a remark
'''
DEB822 = '''\
Types: deb
URIs: https://vendor.example/debian
Suites: bookworm
Components: stable

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main

Types: deb deb-src
# URIs: http://commented.example/debian
URIs: http://mirror.example/debian
 http://second.example/debian
suites: trixie trixie-updates
Components: main non-free
Signed-By: /keys/debian-archive-keyring.pgp

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main
'''


def test_archive_among_one_line_sources() -> None:
    """The archive is told from its updates, from vendors and from remarks."""
    sources = fetch_debian.parse_one_line(ONE_LINE)
    assert fetch_debian.debian_archive(sources) == Source(
        ('http://mirror.example/debian/',), ('bookworm',), ('main', 'contrib'))
    assert sources[2].signed_by == '/keys/vendor.gpg'


def test_archive_among_deb822_sources() -> None:
    """Stanzas are parsed with comments, continued lines and disabled entries."""
    sources = fetch_debian.parse_deb822(DEB822)
    assert len(sources) == 3
    archive = fetch_debian.debian_archive(sources)
    assert archive == Source(
        ('http://mirror.example/debian', 'http://second.example/debian'),
        ('trixie', 'trixie-updates'), ('main', 'non-free'),
        '/keys/debian-archive-keyring.pgp')


def test_stanza_swaps_the_suite_and_keeps_the_key() -> None:
    """The mirror and the key are the machine's, the suite is the package's."""
    source = Source(('http://mirror.example/debian',), ('trixie',), ('main',))
    text = fetch_debian.stanza(source, CONSUL.suite, 'amd64', '/keys/found.gpg')
    assert fetch_debian.parse_deb822(text) == [Source(
        ('http://mirror.example/debian',), ('bullseye',), ('main',),
        '/keys/found.gpg')]


def test_sources_of_both_formats_are_read(tmp_path: pathlib.Path) -> None:
    """Both formats are read from their folder, other files are not."""
    parts = tmp_path / 'sources.list.d'
    parts.mkdir()
    (tmp_path / 'sources.list').write_text('deb http://a.example/debian sid main\n')
    (parts / 'b.list').write_text('deb http://b.example/debian sid main\n')
    (parts / 'c.sources').write_text(DEB822)
    (parts / 'd.list.save').write_text('deb http://d.example/debian sid main\n')
    uris = [source.uris[0] for source in fetch_debian.read_sources(tmp_path)]
    assert uris[:2] == ['http://a.example/debian', 'http://b.example/debian']
    assert len(uris) == 5
    assert fetch_debian.read_sources(tmp_path / 'missing') == []


def test_named_binary_must_be_executable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path,
) -> None:
    """CONSUL_BIN is used as it is, or refused by name."""
    monkeypatch.setenv('CONSUL_BIN', sys.executable)
    assert find_consul() == pathlib.Path(sys.executable)
    monkeypatch.setenv('CONSUL_BIN', str(tmp_path / 'missing'))
    with pytest.raises(FetchError, match='CONSUL_BIN .*missing'):
        find_consul()


def test_cached_binary_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path,
) -> None:
    """What was fetched once is found without any tool; else apt is missed."""
    monkeypatch.delenv('CONSUL_BIN', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('PATH', '')
    with pytest.raises(FetchError, match='no apt-get.*\n.*set CONSUL_BIN'):
        find_consul()
    CONSUL.cached.parent.mkdir(parents=True)
    shutil.copy(sys.executable, CONSUL.cached)
    assert find_consul() == CONSUL.cached


def stamp(at: float, pid: int, token: int, role: str = 'main:1') -> Stamp:
    """A stamp of a process that is alive."""
    return Stamp(at, 'a', role, pid, token, stamps.ALIVE)


def test_two_holders_at_once_are_seen(tmp_path: pathlib.Path) -> None:
    """The stamps of one token stand between those of another."""
    timeline = Timeline(tmp_path)
    timeline.stamps = [stamp(1.0, 10, 1), stamp(1.2, 20, 2), stamp(1.3, 10, 1),
                       stamp(1.5, 20, 2)]
    assert timeline.overlap() == pytest.approx(0.1)
    timeline.stamps = [stamp(1.0, 10, 1), stamp(1.2, 10, 1), stamp(1.3, 20, 2)]
    assert timeline.overlap() == 0.0


def test_two_runs_at_once_are_seen(tmp_path: pathlib.Path) -> None:
    """One holder's runs, in one process: but what may live on is left out."""
    timeline = Timeline(tmp_path)
    timeline.stamps = [stamp(1.0, 10, 1), stamp(1.1, 10, 1, 'main:2'),
                       stamp(1.2, 10, 1, 'thread:1'), stamp(1.4, 10, 1, 'main:2')]
    assert timeline.overlap() == 0.0
    assert timeline.overlap_of_runs() == pytest.approx(0.1)
    assert timeline.overlap_of_runs(apart=('thread',)) == 0.0
