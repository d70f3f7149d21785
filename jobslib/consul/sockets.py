"""Connections to one Consul agent, on which every request has one deadline.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import io
import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from _typeshed import WriteableBuffer

    from jobslib.consul.endpoint import Endpoint

    #: The family of an address, and the address; that of a unix socket is a path.
    Address = tuple[int, tuple[object, ...] | str]

__all__ = ['Connection', 'connect', 'has_ended']

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


class Connection:
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

    def reader(self) -> io.BufferedReader:
        """Return what the server sends, as a file for one answer."""
        return io.BufferedReader(_Reader(self))

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

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._connection.recv_into(buffer)


def connect(endpoint: Endpoint, deadline: float) -> Connection:
    """Return a new connection, which for https has shaken hands."""
    sock = _connect_any(_addresses(endpoint, deadline), deadline)
    if endpoint.scheme != 'https':
        return Connection(sock)
    try:
        sock.settimeout(_remaining(deadline))
        # The context is made anew each time, so that certificates that were
        # renewed on the disk are used from the next connection on.
        return Connection(_tls_context(endpoint).wrap_socket(
            sock, server_hostname=endpoint.server_name or endpoint.host))
    except BaseException:
        sock.close()
        raise


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


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


def has_ended(exc: Exception) -> bool:
    """Tell whether the other side has ended the connection."""
    # The exceptions of TLS are compared by name, so that it is not imported
    # where it is not used.
    return isinstance(exc, ConnectionResetError | BrokenPipeError) or (
        type(exc).__name__ in ('SSLEOFError', 'SSLZeroReturnError'))
