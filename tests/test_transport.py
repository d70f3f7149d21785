"""The transport against servers that behave, and servers that do not."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobslib.keeper import launch
from jobslib.consul import transport as transport_module
from jobslib.consul.transport import Endpoint, Transport, TransportError

DEADLINE = 5.0

Handler = Callable[[socket.socket, int], None]


class Request:
    """One request as the server read it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode('ascii').split('\r\n')
        self.line = lines[0]
        self.headers = {name.lower(): value for name, value in
                        (line.split(': ', 1) for line in lines[1:])}
        self.body = body


class Server:
    """A server that calls *handler* with each connection and its number."""

    def __init__(self, listener: socket.socket, handler: Handler,
                 context: ssl.SSLContext | None = None) -> None:
        self.listener = listener
        self.handler = handler
        self.context = context
        self.requests: list[Request] = []
        self.transports: list[Transport] = []
        self.connections = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Listen no more; the next listener may get the same descriptor."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, daemon=True,
                             args=(connection, self.connections)).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(DEADLINE)
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            self.handler(connection, number)
        except OSError:
            pass
        finally:
            connection.close()
            self.ended.set()

    def read(self, connection: socket.socket) -> Request | None:
        """The next request, None at the end of the connection."""
        data = b''
        while b'\r\n\r\n' not in data:
            more = connection.recv(4096)
            if not more:
                return None
            data += more
        head, _, body = data.partition(b'\r\n\r\n')
        request = Request(head, body)
        while len(request.body) < int(request.headers.get('content-length', 0)):
            request.body += connection.recv(4096)
        self.requests.append(request)
        return request

    def answer_all(self, connection: socket.socket, number: int) -> None:
        """Answer each request with the connection's number."""
        while self.read(connection):
            connection.sendall(answer(str(number).encode()))


def answer(body: bytes, extra: str = '') -> bytes:
    head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{extra}\r\n'
    return head.encode() + body


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start a server on a free port: ``serve(handler, context=None)``."""
    servers = []

    def start(handler: Handler | None = None,
              context: ssl.SSLContext | None = None) -> Server:
        listener = socket.create_server(('127.0.0.1', 0))
        server = Server(listener, handler or (lambda *_: None), context)
        servers.append(server)
        if handler is None:
            server.handler = server.answer_all
        return server

    yield start
    for server in servers:
        server.close()
        for transport in server.transports:
            transport.close()


def transport_to(server: Server, **settings: Any) -> Transport:
    settings.setdefault('timeout', DEADLINE)
    host, port = server.listener.getsockname()
    transport = Transport(Endpoint(host=host, port=port, **settings))
    server.transports.append(transport)
    return transport


def scripted(server: Server, *steps: bytes | None) -> Handler:
    """Answer the requests of a connection with *steps*; None ends it."""
    def handle(connection: socket.socket, number: int) -> None:
        for step in steps:
            server.read(connection)
            if step is None:
                return
            connection.sendall(step)
    return handle


def failure(transport: Transport, method: str = 'GET', **kwargs: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        transport.request(method, '/v1/kv/a', **kwargs)
    assert '\n' not in str(caught.value)
    return caught.value


def test_answer_is_read_whole(serve: Callable[..., Server]) -> None:
    """Status, headers whatever their case, index and body come back."""
    server = serve()
    server.handler = scripted(
        server, b'HTTP/1.1 404 Not Found\r\nx-consul-INDEX: 17\r\n'
        b'Content-Length: 7\r\n\r\n["\xc3\xa1"] ')
    response = transport_to(server).request('GET', '/v1/kv/a')
    assert (response.status, response.index) == (404, 17)
    assert response.header('X-Consul-Index') == '17'
    assert response.text == '["á"] '
    assert response.json() == ['á']


def test_chunked_answer_keeps_the_connection(serve: Callable[..., Server]) -> None:
    """A chunked answer is joined and leaves the connection usable."""
    server = serve()
    server.handler = scripted(
        server, b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
        b'3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n', answer(b'next'))
    transport = transport_to(server)
    assert transport.request('GET', '/').body == b'abcde'
    assert transport.request('GET', '/').body == b'next'
    assert server.connections == 1


def test_missing_index_is_zero(serve: Callable[..., Server]) -> None:
    """Without X-Consul-Index the index is 0."""
    assert transport_to(serve()).request('GET', '/').index == 0


def test_what_is_sent(serve: Callable[..., Server]) -> None:
    """Path and query are quoted; datacenter and namespace are added once."""
    server = serve()
    transport = transport_to(server, dc='dc 2', namespace='team')
    transport.request('PUT', '/v1/kv/a ž', [('dc', 'own'), ('x', 1)], b'{}')
    transport.request('GET', '/v1/kv/b')
    put, get = server.requests
    assert put.line == 'PUT /v1/kv/a%20%C5%BE?dc=own&x=1&ns=team HTTP/1.1'
    assert put.body == b'{}'
    assert put.headers['host'] == '{}:{}'.format(*server.listener.getsockname())
    assert get.line == 'GET /v1/kv/b?dc=dc%202&ns=team HTTP/1.1'


def test_connection_is_kept(serve: Callable[..., Server]) -> None:
    """Requests share one connection until it is closed."""
    server = serve()
    transport = transport_to(server)
    for _ in range(3):
        assert transport.request('GET', '/').text == '1'
    transport.close()
    assert transport.request('GET', '/').text == '2'


def test_connection_that_is_lost_is_noticed(serve: Callable[..., Server]) -> None:
    """A connection that waits for an answer sends keep-alive packets."""
    transport = transport_to(serve())
    transport.request('GET', '/v1/x')
    assert transport._idle is not None
    sock = transport._idle.sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, name) for name in (
        socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT))
    assert idle + interval * count < 15


def test_connection_close_is_obeyed(serve: Callable[..., Server]) -> None:
    """An answer with Connection: close is the last of its connection."""
    server = serve()
    last = answer(b'', 'Connection: close\r\n')
    server.handler = scripted(server, last, last)
    transport = transport_to(server)
    transport.request('GET', '/')
    transport.request('PUT', '/')
    assert server.connections == 2


def test_idle_connection_that_ended_is_replaced(serve: Callable[..., Server]) -> None:
    """A connection that the server closed while idle costs not even a PUT."""
    server = serve()
    server.handler = scripted(server, answer(b'once'))
    transport = transport_to(server)
    transport.request('GET', '/')
    assert server.ended.wait(DEADLINE)
    assert transport.request('PUT', '/').text == 'once'
    assert server.connections == 2


def test_read_is_repeated_on_a_dead_connection(serve: Callable[..., Server]) -> None:
    """GET is sent again when a kept connection ends before the answer."""
    server = serve()
    server.handler = scripted(server, answer(b'first'), None)
    transport = transport_to(server)
    transport.request('GET', '/')
    assert transport.request('GET', '/').text == 'first'
    assert (server.connections, len(server.requests)) == (2, 3)


def test_write_is_not_repeated(serve: Callable[..., Server]) -> None:
    """PUT is not sent again when it may have been carried out."""
    server = serve()
    server.handler = scripted(server, answer(b'first'), None)
    transport = transport_to(server)
    transport.request('GET', '/')
    assert failure(transport, 'PUT').sent
    assert len(server.requests) == 2


def test_read_is_not_repeated_on_a_fresh_connection(
    serve: Callable[..., Server],
) -> None:
    """A server that never answers is asked once."""
    server = serve()
    server.handler = scripted(server, None)
    assert failure(transport_to(server)).sent
    assert server.connections == 1


def test_read_is_not_repeated_after_the_first_byte(
    serve: Callable[..., Server],
) -> None:
    """An answer that has begun is not asked for again."""
    server = serve()
    server.handler = scripted(server, answer(b'first'), b'HTTP/1.1 2')
    transport = transport_to(server)
    transport.request('GET', '/')
    failure(transport)
    assert server.connections == 1


def test_refused() -> None:
    """A refused connection is told with the address, and as not sent."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    error = failure(Transport(Endpoint(port=port)), params=[('secret', 'x')])
    assert not error.sent
    assert str(error).startswith(f'GET /v1/kv/a on http://127.0.0.1:{port}: ')
    assert 'refused' in str(error)
    assert 'secret' not in str(error)


@pytest.mark.parametrize('reset', [False, True])
def test_too_many_connections(serve: Callable[..., Server], reset: bool) -> None:
    """A connection that is ended at once may be one too many: the limit is named."""
    def end(connection: socket.socket, number: int) -> None:
        if reset:
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

    error = failure(transport_to(serve(end)))
    assert 'limits.http_max_conns_per_client' in str(error)


def test_cut_late(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is cut after a while, or in the middle of an answer, is not too much."""
    server = serve()
    server.handler = scripted(server, None)
    with monkeypatch.context() as patch:
        patch.setattr(transport_module, 'AT_ONCE', 0.0)
        assert 'limits.' not in str(failure(transport_to(server)))
    server.handler = scripted(server, b'HTTP/1.1 200 OK\r\nContent-Le', None)
    assert 'limits.' not in str(failure(transport_to(server)))


@pytest.mark.parametrize('host', ['a..b', 'no-such-host.invalid'])
def test_host_that_cannot_be(host: str) -> None:
    """A host name that cannot be resolved or encoded is a transport error."""
    assert not failure(Transport(Endpoint(host=host))).sent


def test_silence_times_out(serve: Callable[..., Server]) -> None:
    """A server that says nothing fails the request, kept connection or not."""
    server = serve(lambda connection, number: None)
    silent = threading.Event()

    def handle(connection: socket.socket, number: int) -> None:
        server.read(connection)
        connection.sendall(answer(b''))
        server.read(connection)
        silent.wait(DEADLINE)

    server.handler = handle
    transport = transport_to(server)
    transport.request('GET', '/')
    error = failure(transport, timeout=0.1)
    silent.set()
    assert error.sent
    assert str(error).endswith('no answer within 0.1 s')
    assert server.connections == 1


def trickle(connection: socket.socket, start: bytes) -> None:
    """Send *start* and then a byte now and then, until the client is gone."""
    end = time.monotonic() + DEADLINE
    connection.sendall(start)
    while time.monotonic() < end:
        connection.sendall(b'x')
        time.sleep(0.02)


@pytest.mark.parametrize('start', [
    b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n',
    b'HTTP/1.1 200 OK\r\nX-Long: ',
    b'HTTP/1.1 200 OK\r\n\r\n',
], ids=['body', 'header', 'until-closed'])
def test_trickle_times_out(serve: Callable[..., Server], start: bytes) -> None:
    """The timeout is that of the whole request, however the bytes drip."""
    server = serve()

    def handle(connection: socket.socket, number: int) -> None:
        server.read(connection)
        trickle(connection, start)

    server.handler = handle
    begin = time.monotonic()
    assert failure(transport_to(server, timeout=0.2)).sent
    assert time.monotonic() - begin < DEADLINE / 2


def test_sending_times_out(serve: Callable[..., Server]) -> None:
    """A server that does not read cannot hold a request either."""
    done = threading.Event()
    server = serve(lambda connection, number: done.wait(DEADLINE) and None)
    body = b'x' * 12 * 1024 * 1024
    error = failure(transport_to(server, timeout=0.5), 'PUT', body=body)
    done.set()
    assert error.sent
    assert 'no answer within' in str(error)


def test_nothing_is_sent_without_time(serve: Callable[..., Server]) -> None:
    """A request that has no time left is not sent, on a kept connection either."""
    transport = transport_to(serve())
    transport.request('PUT', '/')
    assert not failure(transport, 'PUT', timeout=0).sent


@pytest.mark.parametrize('rubbish', [
    b'', b'\r\n\r\n', b'SSH-2.0-OpenSSH\r\n', b'HTTP/1.1 two hundred\r\n\r\n',
    b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort',
    b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab',
    b'HTTP/1.1 200 OK\r\nX: ' + b'y' * 70000 + b'\r\n\r\n',
], ids=range(9))
def test_rubbish(serve: Callable[..., Server], rubbish: bytes) -> None:
    """What is cut short or not HTTP is a transport error, and ends the connection."""
    server = serve()

    def handle(connection: socket.socket, number: int) -> None:
        server.read(connection)
        connection.sendall(rubbish if number == 1 else answer(b'good'))

    server.handler = handle
    transport = transport_to(server)
    error = failure(transport)
    assert error.sent
    assert len(str(error)) < 400
    assert transport.request('GET', '/').text == 'good'


def test_long_answer_is_refused(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer over the limit is refused, one at the limit is not."""
    monkeypatch.setattr(transport_module, 'MAX_BODY', 10)
    server = serve()
    server.handler = scripted(server, answer(b'x' * 10), answer(b'x' * 11))
    transport = transport_to(server)
    assert len(transport.request('GET', '/').body) == 10
    assert 'longer than 10 bytes' in str(failure(transport))


@pytest.mark.parametrize('body', [b'<html>', b'[' * 100_000], ids=['html', 'nested'])
def test_answer_that_is_not_json(
    serve: Callable[..., Server], body: bytes,
) -> None:
    """Decoding what is not JSON says what was asked of whom."""
    server = serve()
    server.handler = scripted(server, answer(body))
    response = transport_to(server).request('GET', '/v1/kv/a')
    with pytest.raises(TransportError, match=r'^GET /v1/kv/a on http://.*not JSON'):
        response.json()


def test_token_goes_in_the_header_only(
    serve: Callable[..., Server], tmp_path: pathlib.Path,
) -> None:
    """The token is in the header, wins over the file and is shown nowhere."""
    (tmp_path / 'token').write_text('from-file')
    server = serve()
    transport = transport_to(
        server, token='s3cret', token_file=str(tmp_path / 'token'))
    transport.request('GET', '/v1/kv/a', [('x', '1')])
    transport.close()
    server.handler = scripted(server, None)
    error = failure(transport)
    assert server.requests[0].headers['x-consul-token'] == 's3cret'
    assert 's3cret' not in server.requests[0].line
    assert 's3cret' not in repr(transport.endpoint) + repr(error) + str(error)


def test_rotated_token_file_is_read_again(
    serve: Callable[..., Server], tmp_path: pathlib.Path,
) -> None:
    """Each request carries what the token file has at that time."""
    path = tmp_path / 'token'
    server = serve()
    transport = transport_to(server, token_file=str(path))
    for token in ('first', 'second'):
        path.write_text(token + '\n')
        transport.request('GET', '/')
    sent = [request.headers['x-consul-token'] for request in server.requests]
    assert sent == ['first', 'second']


@pytest.mark.parametrize('content', [None, '', ' \n', 's3cret\nX-Other: 1', 's3crét'])
def test_token_file_that_will_not_do(
    serve: Callable[..., Server], tmp_path: pathlib.Path, content: str | None,
) -> None:
    """A token file that is missing, empty or no header value fails before sending."""
    path = tmp_path / 'token'
    if content is not None:
        path.write_text(content)
    server = serve()
    error = failure(transport_to(server, token_file=str(path)))
    assert not error.sent
    assert 'token' in str(error)
    assert 's3cr' not in str(error)
    assert server.connections == 0


def test_endpoint_travels_as_json() -> None:
    """An endpoint survives JSON with everything, and hides its token in repr."""
    endpoint = Endpoint(scheme='https', host='::1', port=1, token='s3cret', dc='x')
    copy = Endpoint(**json.loads(json.dumps(endpoint.to_dict())))
    assert copy.to_dict() == endpoint.to_dict()
    assert copy.url == 'https://[::1]:1'
    assert repr(copy) == '<Endpoint https://[::1]:1>'


def test_proxies_are_ignored(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy in the environment is not asked."""
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:1')
    assert transport_to(serve()).request('GET', '/').text == '1'


def test_unix_socket(tmp_path: pathlib.Path) -> None:
    """A unix socket serves as well, and names itself in messages."""
    path = str(tmp_path / 'agent.sock')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = Server(listener, lambda connection, number: None)
    server.handler = server.answer_all
    transport = Transport(Endpoint(socket_path=path))
    assert transport.request('GET', '/').text == '1'
    assert server.requests[0].headers['host'] == 'localhost'
    transport.close()
    server.close()
    error = failure(Transport(Endpoint(socket_path=path + '.none')))
    assert str(error).startswith(f'GET /v1/kv/a on unix://{path}.none: ')


class Interrupt(BaseException):
    """What the test's signal handler raises."""


def test_interrupted_request_leaves_no_answer_behind(
    serve: Callable[..., Server],
) -> None:
    """The answer to an interrupted request is not read as that of the next."""
    server = serve()
    interrupted = threading.Event()
    closed = threading.Event()
    main = threading.get_ident()

    def handle(connection: socket.socket, number: int) -> None:
        server.read(connection)
        connection.sendall(answer(b'first'))
        if server.read(connection):
            signal.pthread_kill(main, signal.SIGUSR1)
            interrupted.wait(DEADLINE)
            connection.sendall(answer(b'late'))
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b''
            closed.set()

    def interrupt(*_: object) -> None:
        raise Interrupt

    server.handler = handle
    transport = transport_to(server)
    transport.request('GET', '/')
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        # The exception is kept, and with it what only its frames refer to.
        with pytest.raises(Interrupt) as caught:
            transport.request('PUT', '/')
    finally:
        signal.signal(signal.SIGUSR1, before)
    interrupted.set()
    assert closed.wait(DEADLINE)
    assert transport.request('PUT', '/').text == 'first'
    assert server.connections == 2
    del caught


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_forked_child_has_its_own_connection(serve: Callable[..., Server]) -> None:
    """A forked child opens a connection and leaves the parent's alone."""
    server = serve()
    transport = transport_to(server)
    transport.request('GET', '/')
    child = os.fork()
    if child == 0:
        try:
            os._exit(int(transport.request('GET', '/').text))
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert transport.request('GET', '/').text == '1'


@pytest.fixture(scope='session')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for server.dc1.consul that signs itself, and its key."""
    openssl = shutil.which('openssl')
    if openssl is None:
        pytest.skip('openssl is not installed')
    folder = tmp_path_factory.mktemp('tls')
    names = (str(folder / 'cert.pem'), str(folder / 'key.pem'))
    subprocess.run(
        [openssl, 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
         'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=test',
         '-addext', 'subjectAltName=DNS:server.dc1.consul',
         '-out', names[0], '-keyout', names[1]], check=True, capture_output=True)
    return names


@pytest.fixture
def context(certificate: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_tls(
    serve: Callable[..., Server], certificate: tuple[str, str],
    context: ssl.SSLContext,
) -> None:
    """TLS keeps its connection and checks the name that it was given."""
    server = serve(context=context)
    good = transport_to(server, scheme='https', ca_cert=certificate[0],
                        server_name='server.dc1.consul')
    assert [good.request('PUT', '/').text for _ in range(3)] == ['1', '1', '1']
    for settings in ({'ca_cert': certificate[0]}, {'server_name': 'server.dc1.consul'}):
        error = failure(transport_to(server, scheme='https', **settings))
        assert not error.sent
        assert 'CERTIFICATE_VERIFY_FAILED' in str(error)
    careless = transport_to(server, scheme='https', verify=False)
    assert careless.request('GET', '/').status == 200


def test_tls_trickle_times_out(
    serve: Callable[..., Server], context: ssl.SSLContext,
) -> None:
    """The timeout of the whole request holds under TLS."""
    server = serve(context=context)

    def handle(connection: socket.socket, number: int) -> None:
        server.read(connection)
        trickle(connection, b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n')

    server.handler = handle
    begin = time.monotonic()
    assert failure(transport_to(
        server, scheme='https', verify=False, timeout=1.5)).sent
    assert time.monotonic() - begin < DEADLINE / 2


def test_tls_handshake_times_out(serve: Callable[..., Server]) -> None:
    """A server that accepts and then says nothing cannot hold the handshake."""
    done = threading.Event()
    server = serve(lambda connection, number: done.wait(DEADLINE) and None)
    error = failure(transport_to(server, scheme='https', timeout=0.2))
    done.set()
    assert not error.sent
    assert 'no answer within' in str(error)


def test_certificate_that_cannot_be_loaded(
    serve: Callable[..., Server], certificate: tuple[str, str],
) -> None:
    """A missing certificate file is named in the message."""
    error = failure(transport_to(serve(), scheme='https', client_cert='/no/such.pem'))
    assert not error.sent
    assert '/no/such.pem' in str(error)


def test_stands_alone() -> None:
    """In a keeper's interpreter it loads the standard library, and little of that."""
    code = launch.BOOT.partition('from jobslib')[0] + (
        'import jobslib.consul.transport\n'
        'print({"typing", "urllib", "email", "http", "ssl"} & set(sys.modules))')
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', code, launch.ROOT,
         'jobslib.consul.engine'], check=True,
        capture_output=True, text=True, cwd='/')
    assert done.stdout == 'set()\n'
