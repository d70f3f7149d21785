"""Signals and other interrupts: recorded always, raised only where safe."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from jobslib.exceptions import Interrupt, Terminate

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ['Interrupts']

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Takes over SIGTERM and SIGINT while it is entered.

    A signal is recorded; inside :meth:`guard` it is raised as well, as
    :class:`jobslib.Terminate`.  A second signal ends the process at once,
    as if there were no handler; the lock is then freed by what survives the
    process (the kernel, the lease keeper).
    """

    def __init__(self) -> None:
        #: The first signal that came, or ``None``.
        self.signum: int | None = None
        #: The interrupt that has not been raised yet, or that the code
        #: under guard has been told of; ``None`` when there is none.
        self.pending: Interrupt | None = None
        self._deliver: Callable[[Interrupt], None] | None = None
        # One for each time it was entered.
        self._previous: list[dict[int, Any]] = []

    def __enter__(self) -> Self:
        self._previous.append({
            signum: signal.signal(signum, self._handle)
            for signum in SIGNALS})
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._previous.pop().items():
            # None: a handler that was not installed by Python.
            signal.signal(
                signum, signal.SIG_DFL if handler is None else handler)

    def interrupt(self, interrupt: Interrupt) -> None:
        """Record *interrupt*, and raise it if the code is under guard."""
        if self.pending is not None:
            return
        self.pending = interrupt
        if self._deliver is not None:
            self._deliver(interrupt)

    @contextmanager
    def guard(
        self, deliver: Callable[[Interrupt], None] | None = None,
    ) -> Iterator[None]:
        """Let interrupts reach the code inside.

        :param deliver: called, in a signal handler, with the interrupt; by
            default it is raised.
        """
        outer = self._deliver
        self._deliver = deliver or _raise
        try:
            if self.pending is not None and outer is None:
                self._deliver(self.pending)
            yield
        finally:
            self._deliver = outer

    def clear(self) -> None:
        """Forget an interrupt that has been dealt with, but no signal."""
        if not isinstance(self.pending, Terminate):
            self.pending = None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # The kernel sees to a second signal, even if Python is stuck.
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self.signum = signum
        terminate = Terminate(f'signal {signal.Signals(signum).name}')
        if self.pending is not None and self._deliver is not None:
            # The run is being interrupted already, and stops on its own.
            self.pending = terminate
            return
        self.pending = None
        self.interrupt(terminate)


def _raise(interrupt: Interrupt) -> None:
    raise interrupt
