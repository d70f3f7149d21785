"""Asking Consul for something, and noting how it went.

The calls are those of which the client of the locks is made.  That client tries
again what has failed, needs more than one right for a call, and turns a refusal
into an error of the lock.  Here each request needs one right, is sent once, and
its refusal is shown in Consul's own words.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

from jobslib.consul.api import FAILURES
from jobslib.consul.calls import Calls
from jobslib.consul.endpoint import Endpoint
from jobslib.consul.refusals import Refused
from jobslib.consul.transport import Response, TransportError
from jobslib.findings import DENIED, FAILED, NOT_TRIED, OK, Finding

__all__ = ['Attempts', 'SkippedError', 'denial', 'undisturbed']


class SkippedError(Exception):
    """It cannot be tried, or is not needed; the message says why."""


class Attempts:
    """Calls of one agent, each of which may lead to a finding."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.findings: list[Finding] = []
        #: True when Consul did not answer, so that nothing more is tried.
        self.away = False
        self.calls = Calls(endpoint)

    def close(self) -> None:
        """Close the connection."""
        self.calls.close()

    def attempt(self, what: str, call: Callable[[], object],
                grant: str = '') -> None:
        """Call, and note how it went.

        :param what: what is tried, for people.
        :param call: tries it; a string that it returns is shown as a detail.
        :param grant: the ACL rule to name when it is denied.
        """
        if self.away:
            self.findings.append(Finding(
                what, NOT_TRIED, 'Consul does not answer'))
            return
        try:
            detail = call()
        except SkippedError as exc:
            finding = Finding(what, NOT_TRIED, str(exc))
        except Refused as exc:
            if exc.says(('acl not found',)):
                grant = 'a token that Consul knows'
            finding = (Finding(what, DENIED, exc.reason, grant)
                       if exc.is_denied else Finding(what, FAILED, exc.reason))
        except TransportError as exc:
            self.away = True
            finding = Finding(what, FAILED, str(exc))
        except FAILURES as exc:
            # The package puts what it has found wrong into an error of its own.
            finding = Finding(what, FAILED, f'not an answer of Consul: '
                                            f'{type(exc.__cause__ or exc).__name__}')
        else:
            finding = Finding(
                what, OK, detail if isinstance(detail, str) else '')
        self.findings.append(finding)

    def remove(self, what: str, call: Callable[[], object]) -> None:
        """Like :meth:`attempt`, also when Consul did not answer before."""
        away, self.away = self.away, False
        self.attempt(what, call)
        self.away = self.away or away


def denial(text: str) -> Refused:
    """Return the refusal that stands for something that Consul left out of an
    answer because the token may not read it."""
    return Refused(Response(403, {}, text.encode()))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the end of the block."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
