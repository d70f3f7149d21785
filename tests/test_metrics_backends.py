"""The backends of metrics: what they send, and which options they take."""

from __future__ import annotations

import base64
import math
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from support import make_context, until

from jobslib.context import Context
from jobslib.exceptions import ConfigError
from jobslib.metrics import BaseMetrics
from jobslib.metrics.influxdb import InfluxDBMetrics
from jobslib.metrics.prometheus import PrometheusMetrics

if TYPE_CHECKING:
    from jobslib.metrics import Metrics

HOST = '127.0.0.1'
PROMETHEUS = 'jobslib.metrics.prometheus.PrometheusMetrics'
INFLUXDB = 'jobslib.metrics.influxdb.InfluxDBMetrics'


class Request(NamedTuple):
    """What a server was sent."""

    path: str
    query: dict[str, list[str]]
    authorization: str | None
    lines: list[str]


class Server(ThreadingHTTPServer):
    """Takes what is posted to it."""

    status = 204
    body = b''

    def __init__(self) -> None:
        super().__init__((HOST, 0), Handler)
        self.requests: list[Request] = []
        self.url = f'http://{HOST}:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
    """Answers as the server says."""

    def do_POST(self) -> None:
        """Take note of the request."""
        server = self.server
        assert isinstance(server, Server)
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers['Content-Length']))
        server.requests.append(Request(
            parts.path, parse_qs(parts.query), self.headers['Authorization'],
            body.decode().splitlines()))
        self.send_response(server.status)
        self.send_header('Content-Length', str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, *args: Any) -> None:
        """Be silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server for what is pushed."""
    with Server() as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def make_backend(backend: str, options: dict[str, Any],
                 **settings: Any) -> Any:
    """Return a backend with these options."""
    context: Context = make_context(
        settings | {'METRICS': {'backend': backend, 'options': options}})
    metrics = context.config.metrics
    return metrics.backend_class(context, metrics.options)


def number(value: float, **tags: str) -> Metrics:
    """Return one metric with this value."""
    return {'n': {'value': value, 'tags': tags}}


# Prometheus

@pytest.fixture
def endpoint() -> Iterator[PrometheusMetrics]:
    """A backend with an endpoint, which is not open yet."""
    backend = make_backend(PROMETHEUS, {'host': HOST, 'port': free_port()})
    yield backend
    backend.close()


def scrape(backend: PrometheusMetrics) -> list[str]:
    """Return the lines that the endpoint has for Prometheus."""
    url = f'http://{HOST}:{backend.options.port}/metrics'
    with urllib.request.urlopen(url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return [line for line in lines if not line.startswith('# HELP')]


def test_endpoint_opens_with_the_first_push(
        endpoint: PrometheusMetrics) -> None:
    """Nothing listens before there is something to tell."""
    with pytest.raises(OSError):
        scrape(endpoint)
    endpoint.push({})
    assert scrape(endpoint) == []


def test_endpoint_has_what_was_pushed(endpoint: PrometheusMetrics) -> None:
    """The newest value of each series is there; _total makes a counter."""
    endpoint.push(number(1, a='x') | {'k_total': {'value': 3}})
    endpoint.push(number(2, b='y'))
    endpoint.push(number(4, a='x'))
    assert scrape(endpoint) == [
        '# TYPE n gauge', 'n{a="x",b=""} 4.0', 'n{a="",b="y"} 2.0',
        '# TYPE k_total counter', 'k_total 3.0']


def test_endpoint_reads_at_the_moment(endpoint: PrometheusMetrics) -> None:
    """What is watched has the value of the moment of the scrape."""
    values = iter([1.0, 2.0])
    assert endpoint.watch(lambda: [number(next(values))])
    endpoint.push({})
    assert scrape(endpoint)[-1] == 'n 1.0'
    assert scrape(endpoint)[-1] == 'n 2.0'


def test_names_are_made_to_fit(endpoint: PrometheusMetrics) -> None:
    """What may not stand in a name becomes an underscore."""
    endpoint.push({'2 be:or-not': {'value': 1, 'tags': {'wo:ärld': 'ä"'}}})
    assert scrape(endpoint)[-1] == r'_2_be:or_not{wo__rld="ä\""} 1.0'


def test_port_in_use_is_tried_again(endpoint: PrometheusMetrics) -> None:
    """A port that is taken is an error of the push, until it is free."""
    with socket.create_server((HOST, endpoint.options.port)):
        with pytest.raises(OSError, match=r'endpoint 127.0.0.1:\d+: .* in use'):
            endpoint.push({})
    endpoint.push(number(1))
    assert scrape(endpoint)[-1] == 'n 1.0'


@pytest.mark.filterwarnings('ignore:.*fork:DeprecationWarning')
def test_fork_does_not_keep_the_endpoint(endpoint: PrometheusMetrics) -> None:
    """The port is free again although a forked process lives on."""
    endpoint.push(number(1))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        endpoint.push(number(2))
        os.read(read, 1)
        os._exit(0)
    try:
        assert scrape(endpoint)[-1] == 'n 1.0'
        endpoint.close()

        def is_free() -> bool:
            try:
                socket.create_server((HOST, endpoint.options.port)).close()
            except OSError:
                return False
            return True
        until(is_free)
    finally:
        os.close(write)
        os.close(read)
        assert os.waitpid(pid, 0)[1] == 0


def test_gateway_is_for_run_once(server: Server) -> None:
    """With both, the gateway is used for --run-once, else the endpoint."""
    options = {'push_gateway': server.url, 'host': HOST, 'port': free_port()}
    backend = make_backend(PROMETHEUS, options, RUN_ONCE=True)
    assert not backend.watch(lambda: [number(2, a='x')])
    backend.push({'m': {'value': 1}})
    with pytest.raises(OSError):
        scrape(backend)
    [request] = server.requests
    assert request.path == (
        f'/metrics/job/plain/instance/{backend.context.fqdn}')
    assert request.authorization is None
    assert [line for line in request.lines if line[0] != '#'] == [
        'm 1.0', 'n{a="x"} 2.0']
    backend = make_backend(PROMETHEUS, options)
    backend.push({})
    assert len(server.requests) == 1 and scrape(backend) == []
    backend.close()


def test_gateway_alone_is_used_always(server: Server) -> None:
    """Without a port all is pushed, under the name and the user given."""
    backend = make_backend(PROMETHEUS, {
        'push_gateway': f'{server.url}/', 'job': 'my/job', 'user': 'me',
        'password': 'geheim'})
    backend.push(number(1))
    [request] = server.requests
    job = base64.urlsafe_b64encode(b'my/job').decode()
    assert request.path.startswith(f'/metrics/job@base64/{job}/instance/')
    assert request.authorization == basic('me', 'geheim')


def basic(user: str, password: str) -> str:
    """Return the header of basic authentication."""
    return 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode()


def test_refusal_of_the_gateway(server: Server) -> None:
    """A push that is refused is an error that says where and why."""
    server.status = 401
    backend = make_backend(PROMETHEUS, {
        'push_gateway': server.url, 'user': 'me', 'password': 'geheim'})
    with pytest.raises(OSError, match=f'^{server.url}: .*401') as caught:
        backend.push(number(1))
    assert 'geheim' not in str(caught.value)


# InfluxDB

def test_bucket(server: Server) -> None:
    """A bucket is written to with a token, all points in one request."""
    backend = make_backend(INFLUXDB, {
        'url': server.url, 'bucket': 'b', 'org': 'o', 'token': 'geheim',
        'prefix': 'my.'})
    backend.push_many([number(1, **{'a b': 'x,y', 'none': ''}),
                       number(2.5) | {'m': {'value': math.nan}}])
    [request] = server.requests
    assert request.path == '/api/v2/write'
    assert request.query['bucket'] == ['b'] and request.query['org'] == ['o']
    assert request.authorization == 'Token geheim'
    assert request.lines == [r'my.n,a\ b=x\,y value=1', 'my.n value=2.5']


@pytest.mark.parametrize(('options', 'header'), [
    ({}, None), ({'token': 'geheim'}, 'Token geheim'),
    ({'user': 'me', 'password': 'geheim'}, basic('me', 'geheim')),
    ({'user': 'žena', 'password': 'žluť'}, basic('žena', 'žluť'))])
def test_database(server: Server, options: dict[str, str],
                  header: str | None) -> None:
    """A database is written to by the interface of InfluxDB 1."""
    backend = make_backend(INFLUXDB, {
        'url': f'{server.url}/', 'database': 'd', **options})
    backend.push(number(1, a='x'))
    assert server.requests == [
        Request('/write', {'db': ['d']}, header, ['n,a=x value=1'])]


def test_nothing_to_write(server: Server) -> None:
    """Without a value that InfluxDB knows there is no request."""
    backend = make_backend(INFLUXDB, {'url': server.url, 'database': 'd'})
    backend.push(number(math.inf))
    assert not server.requests


@pytest.mark.parametrize('kind', ['bucket', 'database'])
def test_refusal_of_influxdb(server: Server, kind: str) -> None:
    """A refused write is an error with the server's reason, in one line."""
    server.status = 401
    server.body = b'{"message": "not you", "error": "not you"}'
    backend = make_backend(INFLUXDB, {
        'url': server.url, kind: 'd', 'token': 'geheim'})
    with pytest.raises(OSError, match='^401 Unauthorized: .*not you') as caught:
        backend.push(number(1))
    assert 'geheim' not in str(caught.value)
    assert '\n' not in str(caught.value)


# Options

@pytest.mark.parametrize(('backend', 'options', 'message'), [
    (PROMETHEUS, {}, 'neither port nor push_gateway is given'),
    (PROMETHEUS, {'port': 0}, 'port: 0 from settings'),
    (PROMETHEUS, {'push_gateway': 'here:9091'},
     "push_gateway: 'here:9091' from .* is not a URL"),
    (PROMETHEUS, {'push_gateway': 'http://:9091'}, 'is not a URL'),
    (PROMETHEUS, {'push_gateway': 'http://here:port'}, 'is not a URL'),
    (PROMETHEUS, {'port': 1, 'user': 'me'}, 'user and password go together'),
    (PROMETHEUS, {'push_gateway': 'http://me:geheim@here'},
     'user and password from .* are not allowed in a URL'),
    (INFLUXDB, {}, 'give a bucket or a database, one of them'),
    (INFLUXDB, {'bucket': 'b', 'database': 'd'}, 'one of them'),
    (INFLUXDB, {'database': 'd', 'password': 'geheim'}, 'go together'),
    (INFLUXDB, {'bucket': 'b', 'user': 'me', 'password': 'geheim'},
     'go with a database'),
    (INFLUXDB, {'database': 'd', 'user': 'me', 'password': 'geheim',
                'token': 'geheim'}, 'without a token'),
    (INFLUXDB, {'database': 'd', 'url': 'influx'}, "url: 'influx' from"),
    (INFLUXDB, {'database': 'd', 'interval': 0.1}, 'at least 1'),
])
def test_options_are_checked(backend: str, options: dict[str, Any],
                             message: str) -> None:
    """What cannot be is refused, with nothing secret in the message."""
    with pytest.raises(ConfigError, match=message) as caught:
        make_backend(backend, options)
    assert 'geheim' not in str(caught.value)


@pytest.mark.parametrize('cls', [PrometheusMetrics, InfluxDBMetrics])
def test_options_have_variables(cls: type[BaseMetrics]) -> None:
    """Each option of a backend can be given in the environment."""
    name = cls.__name__.removesuffix('Metrics').upper()
    for option in vars(cls.OptionsConfig).values():
        if hasattr(option, 'env'):
            assert option.env == (
                f'JOBSLIB_METRICS_{name}_{option.name.upper()}')
