"""Names of machines, from a name service that may be dead.

To ask the system for a name may take half a minute when the name service is dead,
and nothing can interrupt that, because Python calls a signal handler only when the
call is over.  So a thread asks, and the caller waits for the thread, which a signal
can interrupt, and not for long.

Standard library only: the lease keeper uses it as well.
"""

from __future__ import annotations

import os
import socket
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Address = tuple[int, tuple[object, ...]]

__all__ = ['addresses', 'machine_name']

#: How long to wait for the full name of this machine, in seconds.
NAME_TIMEOUT = 1.0


class _Question:
    """A question to the system, asked by a thread of its own."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._answered = threading.Event()
        self._answer: object = None
        self._error: Exception | None = None
        self.pid = os.getpid()
        threading.Thread(
            target=self._run, daemon=True, name='jobslib-names').start()

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as exc:
            self._error = exc
        finally:
            self._answered.set()

    def answer(self, timeout: float) -> object:
        """Return the answer, or raise the exception that came instead.

        :raises TimeoutError: neither came within *timeout* seconds.
        """
        if not self._answered.wait(max(timeout, 0.0)):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._answer

    @property
    def is_open(self) -> bool:
        """Whether the thread still waits for the answer."""
        # In a forked child there is no such thread.
        return not self._answered.is_set() and self.pid == os.getpid()


# The questions by what they ask for; the same is not asked twice at a time, so that
# threads do not pile up.
_questions: dict[object, _Question] = {}
# The addresses that were found last, by host and port.
_found: dict[tuple[str, int], list[Address]] = {}


def _ask(what: object, ask: Callable[[], object], timeout: float) -> Any:
    question = _questions.get(what)
    if question is None or not question.is_open:
        try:
            question = _questions[what] = _Question(ask)
        except RuntimeError:
            # The system has no room for a thread, so it is asked here.
            return ask()
    return question.answer(timeout)


def addresses(host: str, port: int, deadline: float) -> list[Address]:
    """Return the families and the addresses of *host*.

    When the name service does not answer, these are the ones that it gave last.

    :param deadline: until when to wait, in monotonic seconds.
    :raises OSError: there is no such host, or no answer.
    """
    def ask() -> list[Address]:
        # Given as bytes, because for a string the large tables of IDNA are loaded.
        found = socket.getaddrinfo(
            host.encode(), port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    known = _found.get((host, port))
    left = deadline - time.monotonic()
    try:
        found: list[Address] = _ask(
            (host, port), ask, left / 2 if known else left)
    except (TimeoutError, socket.gaierror) as exc:
        if known is not None and _is_no_answer(exc):
            return known
        if isinstance(exc, TimeoutError):
            raise OSError(
                f'the name service did not say in time where {host!r} is'
            ) from exc
        raise
    _found[host, port] = found
    return found


def _is_no_answer(exc: Exception) -> bool:
    return isinstance(exc, TimeoutError) or (
        isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN)


def machine_name() -> str:
    """Return the full name of this machine, or its short name if the name service
    knows no other or does not answer soon."""
    short = os.uname().nodename
    try:
        name: str = _ask('machine', lambda: _full_name(short), NAME_TIMEOUT)
    except (OSError, ValueError):
        return short
    # This name would not tell which machine it is.
    return short if name.startswith('localhost') else name


def _full_name(short: str) -> str:
    """Like :func:`socket.getfqdn`, but raise an error that this one hides."""
    # Given as bytes, see addresses().
    name, others, _ = socket.gethostbyaddr(
        short.encode())  # type: ignore[arg-type]
    return next((each for each in (name, *others) if '.' in each), name)
