"""The API of the ``consul`` package, on our own transport.

The only module that uses that package.  It works with py-consul and with
its forerunner python-consul alike: their HTTP layer, which lacks timeouts or
keeps the token in the URL, is replaced by :mod:`.transport`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import NamedTuple

from jobslib.consul.package import import_api
from jobslib.consul.refusals import Refused, refuse_failure
from jobslib.consul.transport import Transport, TransportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    #: What the package makes of an answer.
    Callback = Callable[['_Answer'], object]
    Params = Iterable[tuple[str, object]] | None

__all__ = ['FAILURES', 'duration', 'make_consul']

_failure, _make_client = import_api()

#: What a call can raise; the last five are what the package makes of an answer
#: that is not Consul's.
FAILURES = (TransportError, Refused, _failure, ValueError, TypeError,
            LookupError, AttributeError, RecursionError)


class _Answer(NamedTuple):
    """An answer, with the attributes that the package reads."""

    code: int
    headers: dict[str, str]
    body: str


class _Http:
    """What a lock needs of the package's HTTP layer, on the transport.

    Raises :class:`Refused` for each status but 200.  The two packages would
    raise different exceptions, which do not have the status.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, callback: Callback, path: str, params: Params = None,
            **_: object) -> object:
        return self._send('GET', callback, path, params)

    def put(self, callback: Callback, path: str, params: Params = None,
            data: str | bytes = '', **_: object) -> object:
        return self._send('PUT', callback, path, params, data)

    def _send(self, method: str, callback: Callback, path: str, params: Params,
              data: str | bytes = '') -> object:
        # The transport sends the token in a header; it must never be in a URL.
        params = [(name, value) for name, value in params or () if name != 'token']
        response = self._transport.request(
            method, path, params, data.encode() if isinstance(data, str) else data,
            timeout=self._timeout(dict(params)))
        refuse_failure(response)
        headers = {'X-Consul-Index': str(response.index)}
        return callback(_Answer(response.status, headers, response.text))

    def _timeout(self, params: dict[str, object]) -> float:
        """Return how long a request may take in seconds, with the wait of a
        blocking query, which Consul answers up to a sixteenth late."""
        timeout = self._transport.endpoint.timeout
        wait = params.get('wait')
        return timeout + (_seconds(str(wait)) * 17 / 16 if wait else 0)


_environment = threading.Lock()


def make_consul(transport: Transport) -> Any:
    """Return a client of the package that sends its requests by *transport*."""
    with _hidden_environment():
        return _make_client(_Http(transport))


@contextlib.contextmanager
def _hidden_environment() -> Iterator[None]:
    """Hide CONSUL_HTTP_* while a client of the package is made.

    Both packages prefer CONSUL_HTTP_TOKEN to the token that they are given, and
    python-consul fails on a CONSUL_HTTP_ADDR with a scheme.  The endpoint has
    what counts of these variables already.
    """
    with _environment:
        hidden = {name: value for name, value in os.environ.items()
                  if name.startswith('CONSUL_HTTP_')}
        try:
            for name in hidden:
                del os.environ[name]
            yield
        finally:
            os.environ.update(hidden)


def duration(seconds: float) -> str:
    """Return *seconds* in the notation of Consul."""
    # Consul takes 0 for its default, which is five minutes.
    return f'{max(1, round(seconds * 1000))}ms'


def _seconds(duration: str) -> float:
    return int(duration.removesuffix('ms')) / 1000
