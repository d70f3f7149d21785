"""HTTP to one Consul agent: one connection, one total timeout, one token header.

Uses the standard library only, and of this package what does the same, because
the lease keeper loads it in an interpreter that sees no installed packages.
"""

from __future__ import annotations

import os
import time

from jobslib.consul.answers import read_answer
from jobslib.consul.endpoint import Endpoint
from jobslib.consul.sockets import Connection, connect, has_ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

__all__ = ['LIMIT', 'Endpoint', 'Response', 'Transport', 'TransportError']

MAX_BODY = 8 * 1024 * 1024

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


class Transport:
    """Requests to one agent, over one connection that is kept open.

    Not thread-safe.  Proxies that the environment names are ignored.  The
    timeout is for a whole request, including the resolution of the host's name.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: Connection | None = None
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
            connection = connect(self.endpoint, deadline)
            return self._exchange(connection, deadline, request, origin)
        except _FAILURES as exc:
            sent = connection is not None and connection.sent
            received = connection is not None and connection.received
            reason = _reason(exc, timeout)
            if (has_ended(exc) and not received
                    and time.monotonic() < connected + AT_ONCE):
                reason = f'{reason}; {LIMIT}'
            raise TransportError(f'{origin}: {reason}', sent) from exc

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        connection, self._idle = self._idle, None
        if connection is not None:
            connection.close()

    def _take(self) -> Connection | None:
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
        self, connection: Connection, deadline: float, request: bytes, origin: str,
    ) -> Response:
        try:
            connection.start(deadline)
            connection.send(request)
            answer = read_answer(connection.reader(), MAX_BODY)
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


def _may_repeat(connection: Connection, method: str, exc: Exception) -> bool:
    """Tell whether a request that failed on a kept connection may be repeated.

    A server may have carried out a request and then closed the connection.  So
    when a byte of the request was sent, only a read may be repeated.
    """
    if connection.received or isinstance(exc, TimeoutError):
        return False
    return method == 'GET' or not connection.sent


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


def _reason(exc: Exception, timeout: float) -> str:
    """Return one short line for a message."""
    if isinstance(exc, TimeoutError):
        return f'no answer within {timeout:g} s'
    text = ' '.join(str(exc).split()) or type(exc).__name__
    cure = next((cure for said, cure in CURES if said in text), '')
    return text[:200] + cure
