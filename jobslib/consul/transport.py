"""HTTP to one Consul agent: one connection, one total timeout, one token header.

Uses the standard library only, and of this package what does the same, because
the lease keeper loads it in an interpreter that sees no installed packages.
"""

from __future__ import annotations

import io
import os
import select
import socket
import time

from jobslib.consul.answers import read_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence
    from typing import Any

    from _typeshed import WriteableBuffer

    #: The family of an address, and the address; that of a unix socket is a path.
    Address = tuple[int, tuple[object, ...] | str]

__all__ = ['LIMIT', 'Endpoint', 'Response', 'Transport', 'TransportError']

MAX_BODY = 8 * 1024 * 1024

# While a blocking query waits, nothing is sent, so without keep-alive packets
# nobody would notice that its connection was lost on the way.  With these it is
# noticed after 11 seconds.
SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

#: What to look at when an agent takes no more connections from this address.
LIMIT = ("has this machine more connections to it than the agent's "
         'limits.http_max_conns_per_client allows, 200 by default?')
#: What to change, by what OpenSSL says; the first that fits counts.
CURES = (
    ('WRONG_VERSION_NUMBER', '; no https is spoken there: see scheme and port'),
    ('ertificate is not valid for', '; see host, and CONSUL_TLS_SERVER_NAME'),
    ('CERTIFICATE_VERIFY_FAILED', '; see ca_cert, the certificates of the '
                                  'authority'),
    ('ALERT_BAD_CERTIFICATE', '; the agent wants the certificate of a client: '
                              'see client_cert and client_key'),
    ('CERTIFICATE_REQUIRED', '; the agent wants the certificate of a client: '
                             'see client_cert and client_key'))
# How long after it was made the end of a connection is put down to that limit, in
# seconds.  The agent ends it at once; a later end has other causes.
AT_ONCE = 1.0

# What the socket, TLS, an answer and the encoding of a host name raise.
_FAILURES = (OSError, ValueError)

# What needs no quoting in a URL.
PLAIN = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
                  b'0123456789-._~')


class TransportError(Exception):
    """No usable answer came: the connection was refused, the answer was late,
    cut short, or not HTTP.

    The message is one line that names the method, the path without its query
    and the address.  *sent* tells whether the request may have reached the
    server.
    """

    def __init__(self, message: str, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Endpoint:
    """Where the agent is and how to talk to it.

    *timeout* is in seconds.  With *socket_path* the connection goes to that
    unix socket instead of *host* and *port*.  *server_name* is the name that
    the server's certificate must have, by default *host*.  *token_file* is
    read for each request, and only if *token* is not set.
    """

    __slots__ = (
        'scheme', 'host', 'port', 'socket_path', 'ca_cert', 'client_cert',
        'client_key', 'verify', 'server_name', 'token', 'token_file', 'dc',
        'namespace', 'timeout',
    )

    def __init__(
        self, *, scheme: str = 'http', host: str = '127.0.0.1', port: int = 8500,
        socket_path: str | None = None, ca_cert: str | None = None,
        client_cert: str | None = None, client_key: str | None = None,
        verify: bool = True, server_name: str | None = None,
        token: str | None = None, token_file: str | None = None,
        dc: str | None = None, namespace: str | None = None, timeout: float = 5.0,
    ) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.socket_path = socket_path
        self.ca_cert = ca_cert
        self.client_cert = client_cert
        self.client_key = client_key
        self.verify = verify
        self.server_name = server_name
        self.token = token
        self.token_file = token_file
        self.dc = dc
        self.namespace = namespace
        self.timeout = timeout

    @property
    def url(self) -> str:
        """The address, for people."""
        if self.socket_path:
            return f'unix://{self.socket_path}'
        return f'{self.scheme}://{self.netloc}'

    @property
    def netloc(self) -> str:
        """The value of the Host header."""
        if self.socket_path:
            return 'localhost'
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{host}:{self.port}'

    def to_dict(self) -> dict[str, object]:
        """The constructor's arguments, as JSON takes them; the token is among
        them."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __repr__(self) -> str:
        return f'<Endpoint {self.url}>'


class Response:
    """An answer, read to its end.  *origin* says what was asked, for messages."""

    def __init__(
        self, status: int, headers: dict[str, str], body: bytes, origin: str = '',
    ) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body
        self.origin = origin

    def header(self, name: str) -> str | None:
        """The header *name*, whatever its case; None if it is missing."""
        return self.headers.get(name.lower())

    @property
    def is_filtered(self) -> bool:
        """Whether Consul left out what the token may not read.

        Consul says so from version 1.11 on.
        """
        return self.header('X-Consul-Results-Filtered-By-ACLs') == 'true'

    @property
    def text(self) -> str:
        """The body, decoded; what cannot be decoded is replaced."""
        return self.body.decode('utf-8', 'replace')

    @property
    def index(self) -> int:
        """X-Consul-Index, 0 if it is missing."""
        value = self.header('X-Consul-Index') or ''
        return int(value) if value.isascii() and value.isdigit() else 0

    def json(self) -> Any:
        """The decoded body.  Raises :class:`TransportError` if it is not JSON."""
        import json
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            message = f'{self.origin}: the answer is not JSON'
            raise TransportError(message, sent=True) from exc


class _Connection:
    """A connected socket whose every operation ends by one deadline.

    The timeout of a socket is per operation, so a server that sends a byte now
    and then could hold a request for ever: the time that remains is set anew
    before each one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent = self.received = False

    def start(self, deadline: float) -> None:
        """Begin a request that must end by *deadline* (monotonic seconds)."""
        self.deadline = deadline
        self.sent = False
        self.received = False

    def send(self, data: bytes) -> None:
        # Not by sendall(): with TLS its timeout is for each piece that it sends.
        left = memoryview(data)
        while left:
            self.sock.settimeout(_remaining(self.deadline))
            left = left[self.sock.send(left):]
            self.sent = True

    def recv_into(self, buffer: WriteableBuffer) -> int:
        self.sock.settimeout(_remaining(self.deadline))
        count = self.sock.recv_into(buffer)
        self.received = self.received or count > 0
        return count

    def is_stale(self) -> bool:
        """Tell whether an idle connection has ended, or has received bytes that
        nobody has asked for."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        # Closed, but not shut down: this process may be a fork, and its parent
        # may be using the connection.
        self.sock.close()


class _Reader(io.RawIOBase):
    """The bytes that a connection receives, as a raw file."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._connection.recv_into(buffer)


class Transport:
    """Requests to one agent, over one connection that is kept open.

    Not thread-safe.  Proxies that the environment names are ignored.  The
    timeout is for a whole request, including the resolution of the host's name.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: _Connection | None = None
        self._pid = os.getpid()

    def request(
        self, method: str, path: str, params: Iterable[tuple[str, object]] = (),
        body: bytes = b'', timeout: float | None = None,
    ) -> Response:
        """Send a request and read the whole answer, whatever its status.

        *timeout* is in seconds, by default the endpoint's.  Raises
        :class:`TransportError`.  When a kept connection turns out to be dead,
        the request is sent again, once, by a new one, provided that it cannot
        be carried out twice by that.
        """
        timeout = self.endpoint.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        target = _quote(path, PLAIN | frozenset(b'/:'))
        origin = f'{method} {target} on {self.endpoint.url}'
        request = self._compose(origin, method, target, params, body)
        connection = self._take()
        connected = 0.0
        try:
            if connection is not None:
                try:
                    return self._exchange(connection, deadline, request, origin)
                except _FAILURES as exc:
                    if not _may_repeat(connection, method, exc):
                        raise
                    connection = None
            connected = time.monotonic()
            connection = _Connection(_connect(self.endpoint, deadline))
            return self._exchange(connection, deadline, request, origin)
        except _FAILURES as exc:
            sent = connection is not None and connection.sent
            received = connection is not None and connection.received
            reason = _reason(exc, timeout)
            if (_is_end(exc) and not received
                    and time.monotonic() < connected + AT_ONCE):
                reason = f'{reason}; {LIMIT}'
            raise TransportError(f'{origin}: {reason}', sent) from exc

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        connection, self._idle = self._idle, None
        if connection is not None:
            connection.close()

    def _take(self) -> _Connection | None:
        """Return the idle connection, if it is usable.

        It is taken out for the time of a request, and put back only when the
        answer was read to its end.  So when a request is interrupted, its late
        answer cannot be taken for the answer to the next one.
        """
        connection, self._idle = self._idle, None
        if connection is None:
            return None
        if self._pid != os.getpid() or connection.is_stale():
            connection.close()
            return None
        return connection

    def _exchange(
        self, connection: _Connection, deadline: float, request: bytes, origin: str,
    ) -> Response:
        try:
            connection.start(deadline)
            connection.send(request)
            answer = read_answer(
                io.BufferedReader(_Reader(connection)), MAX_BODY)
        except BaseException:
            connection.close()
            raise
        if answer.closes:
            connection.close()
        else:
            self._pid = os.getpid()
            self._idle = connection
        return Response(answer.status, answer.headers, answer.body, origin)

    def _compose(
        self, origin: str, method: str, target: str,
        params: Iterable[tuple[str, object]], body: bytes,
    ) -> bytes:
        query = '&'.join(
            f'{_quote(name)}={_quote(str(value))}'
            for name, value in _with_defaults(list(params), self.endpoint))
        if query:
            target += '?' + query
        lines = [f'{method} {target} HTTP/1.1', f'Host: {self.endpoint.netloc}']
        token = _token(self.endpoint, origin)
        if token:
            lines.append(f'X-Consul-Token: {token}')
        if method != 'GET':
            lines.append(f'Content-Length: {len(body)}')
        return '\r\n'.join([*lines, '', '']).encode('ascii') + body


def _quote(text: str, plain: frozenset[int] = PLAIN) -> str:
    """Quote *text* like :func:`urllib.parse.quote`, whose import would take a
    millisecond of each start."""
    return ''.join(chr(byte) if byte in plain else f'%{byte:02X}'
                   for byte in text.encode())


def _may_repeat(connection: _Connection, method: str, exc: Exception) -> bool:
    """Tell whether a request that failed on a kept connection may be repeated.

    A server may have carried out a request and then closed the connection.  So
    when a byte of the request was sent, only a read may be repeated.
    """
    if connection.received or isinstance(exc, TimeoutError):
        return False
    return method == 'GET' or not connection.sent


def _is_end(exc: Exception) -> bool:
    """Tell whether the other side has ended the connection."""
    # The exceptions of TLS are compared by name, so that it is not imported
    # where it is not used.
    return isinstance(exc, ConnectionResetError | BrokenPipeError) or (
        type(exc).__name__ in ('SSLEOFError', 'SSLZeroReturnError'))


def _with_defaults(
    params: list[tuple[str, object]], endpoint: Endpoint,
) -> Sequence[tuple[str, object]]:
    """Return *params*, with the endpoint's datacenter and namespace unless they
    are among them."""
    names = {name for name, _ in params}
    defaults = (('dc', endpoint.dc), ('ns', endpoint.namespace))
    return params + [(name, value) for name, value in defaults
                     if value and name not in names]


def _token(endpoint: Endpoint, origin: str) -> str:
    """Return the token to send, '' for none.  No message shows it."""
    token = endpoint.token or ''
    if not token and endpoint.token_file:
        try:
            with open(endpoint.token_file, encoding='ascii', errors='replace') as file:
                token = file.read().strip()
        except OSError as exc:
            raise TransportError(
                f'{origin}: cannot read the token file {endpoint.token_file}: '
                f'{exc.strerror}', False) from exc
        if not token:
            raise TransportError(
                f'{origin}: the token file {endpoint.token_file} is empty', False)
    if not (token.isascii() and token.isprintable()):
        raise TransportError(f'{origin}: the token has characters that cannot be '
                             f'sent in a header', False)
    return token


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connect(endpoint: Endpoint, deadline: float) -> socket.socket:
    """Return a socket that is connected and, for https, has shaken hands."""
    sock = _connect_any(_addresses(endpoint, deadline), deadline)
    if endpoint.scheme != 'https':
        return sock
    try:
        sock.settimeout(_remaining(deadline))
        # The context is made anew each time, so that certificates that were
        # renewed on the disk are used from the next connection on.
        return _tls_context(endpoint).wrap_socket(
            sock, server_hostname=endpoint.server_name or endpoint.host)
    except BaseException:
        sock.close()
        raise


def _addresses(endpoint: Endpoint, deadline: float) -> Sequence[Address]:
    """Return family and address of each place where the agent may listen."""
    if endpoint.socket_path:
        return [(socket.AF_UNIX, endpoint.socket_path)]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, endpoint.host)
        except (OSError, ValueError):
            continue
        return [(family, (endpoint.host, endpoint.port))]
    # Imported here, because an agent that is given by its address needs no
    # resolver.
    from jobslib.resolver import addresses
    return addresses(endpoint.host, endpoint.port, deadline)


def _connect_any(addresses: Sequence[Address], deadline: float) -> socket.socket:
    """Try one address after the other, each for its share of the time left."""
    error = OSError('the name has no address')
    for position, (family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_remaining(deadline) / (len(addresses) - position))
            sock.connect(address)
            if family != socket.AF_UNIX:
                for level, name, value in SOCKET_OPTIONS:
                    sock.setsockopt(level, name, value)
            return sock
        except BaseException as exc:
            sock.close()
            if not isinstance(exc, OSError):
                raise
            error = exc
    raise error


def _tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    import ssl
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_cert)
        if endpoint.client_cert:
            # A password is given so that an encrypted key fails instead of
            # asking for one on a terminal.
            context.load_cert_chain(
                endpoint.client_cert, endpoint.client_key, password='')
    except OSError as exc:
        files = (endpoint.ca_cert, endpoint.client_cert, endpoint.client_key)
        names = ', '.join(filter(None, files))
        raise OSError(f'cannot load the certificates {names}: {exc}') from exc
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(exc: Exception, timeout: float) -> str:
    """Return one short line for a message."""
    if isinstance(exc, TimeoutError):
        return f'no answer within {timeout:g} s'
    text = ' '.join(str(exc).split()) or type(exc).__name__
    cure = next((cure for said, cure in CURES if said in text), '')
    return text[:200] + cure
