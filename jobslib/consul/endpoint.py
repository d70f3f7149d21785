"""Where a Consul agent is, and how to talk to it.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

__all__ = ['Endpoint']


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
