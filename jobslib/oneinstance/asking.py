"""Asking Consul for something, and noting how it went."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import signal
from collections.abc import Callable, Iterator

from jobslib.consul.transport import (
    Endpoint,
    Response,
    Transport,
    TransportError,
)
from jobslib.oneinstance.diagnosis import (
    DENIED,
    FAILED,
    NOT_TRIED,
    OK,
    Finding,
)

__all__ = ['Asker', 'RefusedError', 'SkippedError', 'denial', 'undisturbed']

_DENIED = ('permission denied', 'acl not found')


class RefusedError(Exception):
    """An answer that is not the one hoped for; the message is Consul's."""

    def __init__(self, response: Response) -> None:
        super().__init__(_reason(response))
        self.denied = response.status in (401, 403) or self.says(*_DENIED)

    def says(self, *phrases: str) -> bool:
        """Return whether it says one of these, in lower case."""
        return any(phrase in str(self).lower() for phrase in phrases)


class SkippedError(Exception):
    """It cannot be told, or is not needed; the message says why."""


class Asker:
    """Requests to one agent, each of which may lead to a finding."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.findings: list[Finding] = []
        #: Whether Consul does not answer, so that nothing more is tried.
        self.away = False
        self._transport = Transport(endpoint)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def attempt(self, what: str, call: Callable[[], object],
                grant: str = '') -> None:
        """Call, and note how it went; *call* may return a detail."""
        if self.away:
            self.findings.append(Finding(
                what, NOT_TRIED, 'Consul does not answer'))
            return
        try:
            detail = call()
        except SkippedError as exc:
            finding = Finding(what, NOT_TRIED, str(exc))
        except RefusedError as exc:
            result = DENIED if exc.denied else FAILED
            if exc.says('acl not found'):
                grant = 'a token that Consul knows'
            finding = Finding(what, result, str(exc),
                              grant if exc.denied else '')
        except TransportError as exc:
            self.away = True
            finding = Finding(what, FAILED, str(exc))
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            finding = Finding(what, FAILED, f'not an answer of Consul: '
                                            f'{type(exc).__name__}')
        else:
            finding = Finding(
                what, OK, detail if isinstance(detail, str) else '')
        self.findings.append(finding)

    def remove(self, what: str, call: Callable[[], object]) -> None:
        """Call, to clear up, also when Consul did not answer before."""
        away, self.away = self.away, False
        self.attempt(what, call)
        self.away = self.away or away

    def ask(self, method: str, path: str, body: object = None,
            **params: object) -> Response:
        """Send a request and return the answer, if its status is 200.

        :raises RefusedError: it has another.
        :raises TransportError: there is none.
        """
        data = b'' if body is None else json.dumps(body).encode()
        response = self._transport.request(
            method, f'/v1/{path}', list(params.items()), data)
        if response.status != 200:
            raise RefusedError(response)
        return response

    def transact(self, *operations: tuple[str, str, str | None]) -> None:
        """Do the operations, each a verb, a key and a session, or none."""
        self.ask('PUT', 'txn', [
            {'KV': {'Verb': verb, 'Key': key,
                    'Value': base64.b64encode(b'{}').decode()}
             | ({'Session': session} if session else {})}
            for verb, key, session in operations])


def _reason(response: Response) -> str:
    """Return why a request was refused, in Consul's words."""
    text = response.text
    if response.status == 409:
        with contextlib.suppress(TransportError, LookupError, TypeError):
            text = '; '.join(
                str(error['What']) for error in response.json()['Errors'])
    text = re.sub(r'\s+', ' ', text).strip()[:200]
    # A 404 without an index is not Consul's.
    if response.status == 404 and response.index:
        return text
    return text or f'{response.origin}: status {response.status}'


def denial(text: str) -> Response:
    """Return what Consul would answer if it did not just leave things out."""
    return Response(403, {}, text.encode())


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Have SIGINT and SIGTERM wait until the end of the block."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
