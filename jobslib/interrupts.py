"""Signals and other interrupts: recorded always, raised only where safe."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
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
        self._tell(interrupt)

    def guard(
        self, deliver: Callable[[Interrupt], None] | None = None,
    ) -> AbstractContextManager[None]:
        """Let interrupts reach the code inside.

        :param deliver: called, in a signal handler, with the interrupt; by
            default it is raised.
        """
        return _Guard(self, deliver or _raise)

    def clear(self) -> None:
        """Forget an interrupt that has been dealt with, but no signal."""
        if not isinstance(self.pending, Terminate):
            self.pending = None

    def _tell(self, interrupt: Interrupt) -> None:
        """Deliver *interrupt*, if the code is under guard."""
        if self._deliver is None:
            return
        try:
            self._deliver(interrupt)
        except BaseException:
            # What is raised leaves the guard; the end of that may not be
            # reached, when it is raised in the very instant of it.
            self._deliver = None
            raise

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


class _Guard:
    """What :meth:`Interrupts.guard` returns.

    No generator: one that an interrupt was raised past would end when it is
    forgotten, and with it the guard of that time.
    """

    def __init__(self, interrupts: Interrupts,
                 deliver: Callable[[Interrupt], None]) -> None:
        self._interrupts = interrupts
        self._deliver = deliver
        self._outer: Callable[[Interrupt], None] | None = None

    def __enter__(self) -> None:
        interrupts = self._interrupts
        self._outer, interrupts._deliver = interrupts._deliver, self._deliver
        if interrupts.pending is not None and self._outer is None:
            interrupts._tell(interrupts.pending)

    def __exit__(self, *exc_info: object) -> None:
        self._interrupts._deliver = self._outer


def _raise(interrupt: Interrupt) -> None:
    raise interrupt
