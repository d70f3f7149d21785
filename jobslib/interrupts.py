"""Signals and other interrupts: recorded always, raised only where safe."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType

from jobslib.exceptions import Interrupt, Terminate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ['Interrupts']

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Takes over SIGTERM and SIGINT while it is entered.

    A signal is recorded; inside :meth:`interruptible` it is raised as well, as
    :class:`jobslib.Terminate`.  A second signal ends the process at once,
    as if there were no handler; the lock is then freed by what survives the
    process (the kernel, the lease keeper).
    """

    def __init__(self) -> None:
        #: The first signal that came, or ``None``.
        self.signum: int | None = None
        #: The interrupt that has not been raised yet, or that the code
        #: that is interruptible has been told of; ``None`` when there is none.
        self.pending: Interrupt | None = None
        self._deliver: Callable[[Interrupt], None] | None = None
        # What delivered the interrupt that is on its way out of that code.
        self._raised: Callable[[Interrupt], None] | None = None
        # Whether a signal was passed on that may still come by itself.
        self._expected = False
        # One for each time it was entered.
        self._previous: list[dict[int, Any]] = []

    def __enter__(self) -> Self:
        # What was ignored when we were started, by nohup or by a shell that
        # put us into the background, stays ignored.
        self._previous.append({
            signum: signal.signal(signum, self._handle)
            for signum in SIGNALS
            if signal.getsignal(signum) is not signal.SIG_IGN})
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._previous.pop().items():
            # None: a handler that was not installed by Python.
            signal.signal(
                signum, signal.SIG_DFL if handler is None else handler)

    def interrupt(self, interrupt: Interrupt) -> None:
        """Record *interrupt*, and raise it if the code is interruptible."""
        if self.pending is not None:
            return
        self.pending = interrupt
        self._tell(interrupt)

    def interrupt_again(self, interrupt: Interrupt) -> None:
        """Raise *interrupt*, also if it is raised already and was lost."""
        if self.pending is None:
            self.pending = interrupt
        self._tell(interrupt)

    def raise_dropped(self, interrupt: Interrupt) -> None:
        """Raise *interrupt*, which was raised and has come out nowhere."""
        self.pending = interrupt
        self._deliver = self._deliver or self._raised
        self._tell(interrupt)

    def terminate(self, signum: int) -> None:
        """Treat a signal that another process passed on as one of our own.

        It is the first one, or the same as that; a second one has to come
        by itself.
        """
        if self.signum is None:
            # It may have been sent to the whole group, and be on its way.
            self._expected = True
            self._terminate(signum)

    def interruptible(
        self, deliver: Callable[[Interrupt], None] | None = None,
    ) -> AbstractContextManager[None]:
        """Let interrupts reach the code inside.

        :param deliver: called, in a signal handler, with the interrupt; by
            default it is raised.
        """
        return _Interruptible(self, deliver or _raise)

    def clear(self) -> None:
        """Forget an interrupt that has been dealt with, but no signal."""
        if not isinstance(self.pending, Terminate):
            self.pending = None

    def clear_all(self) -> None:
        """Forget whatever came, in a process that signals do not end."""
        self.pending = None
        self._deliver = self._raised = None

    def leave_all(self) -> None:
        """Have the handlers of before, in a forked child."""
        self.clear_all()
        while self._previous:
            self.__exit__()

    def _tell(self, interrupt: Interrupt) -> None:
        """Deliver *interrupt*, if the code is interruptible."""
        if self._deliver is None:
            return
        try:
            self._deliver(interrupt)
        except BaseException:
            # What is raised leaves the code that is interruptible, whose end
            # may not be reached, when it is raised in the very instant of it.
            self._raised, self._deliver = self._deliver, None
            raise

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # The kernel sees to a second signal, even if Python is stuck.
        for each in self._previous[-1] if self._previous else SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if self._expected:
            self._expected = False
        else:
            self._terminate(signum)

    def _terminate(self, signum: int) -> None:
        self.signum = signum
        terminate = Terminate(f'signal {signal.Signals(signum).name}')
        if self.pending is not None and self._deliver is not None:
            # The run is being interrupted already, and stops on its own.
            self.pending = terminate
            return
        self.pending = None
        self.interrupt(terminate)


class _Interruptible:
    """What :meth:`Interrupts.interruptible` returns.

    No generator: one that an interrupt was raised past would end when it is
    forgotten, and the code of that time with it.
    """

    def __init__(self, interrupts: Interrupts,
                 deliver: Callable[[Interrupt], None]) -> None:
        self._interrupts = interrupts
        self._deliver = deliver
        self._outer: Callable[[Interrupt], None] | None = None

    def __enter__(self) -> None:
        interrupts = self._interrupts
        self._outer, interrupts._deliver = interrupts._deliver, self._deliver
        interrupts._raised = None
        if interrupts.pending is not None and self._outer is None:
            interrupts._tell(interrupts.pending)

    def __exit__(self, *exc_info: object) -> None:
        self._interrupts._deliver = self._outer
        self._interrupts._raised = None


def _raise(interrupt: Interrupt) -> None:
    raise interrupt
