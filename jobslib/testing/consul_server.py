"""The HTTP server of the stand-in for Consul."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from jobslib.testing.consul_api import Answer, Request
from jobslib.testing.consul_profiles import Profile

__all__ = ['Server']

HOST = '127.0.0.1'
TOO_MANY = ('Your IP is issuing too many concurrent connections, please rate '
            'limit your calls\n')
# How long the request of a client that is refused is waited for, in seconds.
POLITE = 0.5
# The value of SO_LINGER (on, 0 seconds) with which closing a socket sends a reset.
RESET = struct.pack('ii', 1, 0)


class Server(socketserver.ThreadingTCPServer):
    """One thread for each connection; all end by :meth:`server_close`.

    :param profile: what it limits.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, exchange: Callable[[Request], Answer | None],
                 profile: Profile) -> None:
        self.exchange = exchange
        self.profile = profile
        self._connections: set[socket.socket] = set()
        super().__init__((HOST, 0), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if len(self._connections) < self.profile.max_connections:
            return True
        if self.profile.explains_limit:
            with contextlib.suppress(OSError):
                request.sendall((
                    'HTTP/1.1 429 Too Many Requests\r\n'
                    'Content-Type: text/plain\r\n'
                    f'Content-Length: {len(TOO_MANY)}\r\n'
                    f'Connection: close\r\n\r\n{TOO_MANY}').encode())
                # The request is read, because otherwise the answer may be lost.
                request.settimeout(POLITE)
                request.recv(65536)
        else:
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            request.close()
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        # They are shut down and not only closed, because a forked child may have
        # copies, and because that wakes the threads that wait for requests.
        for request in list(self._connections):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # That a client has gone away is not reported.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """The HTTP of one connection."""

    server: Server
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    # One packet per answer.
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.profile.idle_timeout)

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers['Content-Length'] or 0))
        request = Request.parse(self.command, self.path, body)
        answer = self.server.exchange(request)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        if answer.index is not None:
            self.send_header('X-Consul-Index', str(answer.index))
            self.send_header('X-Consul-Knownleader', 'true')
            self.send_header('X-Consul-Lastcontact', '0')
        if answer.filtered:
            self.send_header('X-Consul-Results-Filtered-By-ACLs', 'true')
        body = answer.body
        if body:
            self.send_header('Content-Type', answer.content_type)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_DELETE = do_POST = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""
