"""The API of the ``consul`` package, on our own transport.

The only module that uses that package.  It works with py-consul and with
its forerunner python-consul alike: their HTTP layer, which lacks timeouts or
keeps the token in the URL, is replaced by :mod:`.transport`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading

from jobslib.consul.package import import_api
from jobslib.consul.refusals import Refused
from jobslib.consul.transport import Transport, TransportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ['FAILURES', 'duration', 'make_consul']

_failure, _make_client = import_api()

CREATE_SESSION = '/v1/session/create'
UNKNOWN_FIELD = ('unknown field', 'invalid keys')


#: What a call can raise; the last five are what the package makes of an answer
#: that is not as Consul's are.
FAILURES = (TransportError, Refused, _failure, ValueError, TypeError,
            LookupError, AttributeError, RecursionError)


class _Answer:
    """An answer, as the package reads it."""

    def __init__(self, code: int, headers: dict[str, str], body: str) -> None:
        self.code = code
        self.headers = headers
        self.body = body


class _Http:
    """The HTTP layer of the ``consul`` package, on the transport.

    Raises :class:`Refused` for what the two packages would turn into
    different exceptions, without the status.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, callback: object, path: str, params: object = None, **_: Any) -> Any:
        return self._send('GET', callback, path, params)

    def put(
        self, callback: object, path: str, params: Any = None, data: Any = '', **_: Any,
    ) -> object:
        if path == CREATE_SESSION:
            return self._create_session(callback, path, params, data)
        return self._send('PUT', callback, path, params, data)

    def _create_session(
        self, callback: object, path: str, params: object, data: Any,
    ) -> Any:
        """Name the checks as Consul does from 1.7 on, which the package does not.

        Later versions say that the old name will go, and older ones do not
        know the new one; they refuse it without doing anything.
        """
        fields = json.loads(data)
        checks = [fields.pop(name) for name in list(fields)
                  if name.lower() == 'checks']
        if not checks:
            return self._send('PUT', callback, path, params, data)
        try:
            return self._send('PUT', callback, path, params, json.dumps(
                {**fields, 'NodeChecks': checks[0]}))
        except Refused as exc:
            if exc.status != 400 or not exc.says(UNKNOWN_FIELD):
                raise
            return self._send('PUT', callback, path, params, data)

    def post(self, *_: object, **__: object) -> object:
        raise NotImplementedError('a lock needs GET and PUT only')

    delete = post

    def close(self) -> None:
        self._transport.close()

    def _send(
        self, method: str, callback: Any, path: str, params: Any, data: Any = '',
    ) -> Any:
        # The token goes in the transport's header, never in a URL.
        params = [(name, value) for name, value in params or () if name != 'token']
        response = self._transport.request(
            method, path, params, data.encode() if isinstance(data, str) else data,
            timeout=self._timeout(dict(params)))
        if response.status != 200:
            raise Refused(response)
        headers = {'X-Consul-Index': str(response.index)}
        return callback(_Answer(response.status, headers, response.text))

    def _timeout(self, params: dict[str, str]) -> float:
        """Seconds that a request may take, the wait of a blocking query included."""
        timeout = self._transport.endpoint.timeout
        wait = params.get('wait')
        return timeout + (_seconds(wait) * 17 / 16 if wait else 0)


_environment = threading.Lock()


def make_consul(transport: Transport) -> Any:
    """Return a client of the package that talks by *transport*."""
    with _hidden_environment():
        return _make_client(_Http(transport))


@contextlib.contextmanager
def _hidden_environment() -> Iterator[None]:
    """Hide CONSUL_HTTP_* while a client of the package is made.

    Both packages prefer CONSUL_HTTP_TOKEN to what they are told, and
    python-consul fails on a CONSUL_HTTP_ADDR with a scheme.  What applies of
    these variables is in the endpoint already.
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
    """Return *seconds* as Consul reads them."""
    # 0 would be taken for Consul's default, five minutes.
    return f'{max(1, round(seconds * 1000))}ms'


def _seconds(duration: str) -> float:
    return int(duration.removesuffix('ms')) / 1000
