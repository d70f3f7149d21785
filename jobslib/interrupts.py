"""Signals and other interrupts: always recorded, raised only where that is safe.

Why it is hard.  A signal can arrive between any two instructions.  If its handler
raises an exception there, that exception can come up while the lock is being taken,
so that a lock is held that nobody knows of, or in the middle of a release, or in the
``finally`` of the code that it ends.  If the handler does not raise one, code that
waits is not interrupted: Python goes on waiting when the handler has returned.

What does not work.  Plain Python raises ``KeyboardInterrupt`` wherever the program is
at that moment, and ends the process at once on SIGTERM.  To set a flag, and to look
at it from time to time, lets a wait of a minute take a minute.  To block the signals
while something must not be interrupted makes a second signal, by which a person ends
a process that hangs, wait as well.

The solution.  Handlers record, the loop acts: a handler writes the interrupt down in
:attr:`Interrupts.pending`, where the loop finds it between two steps.  The code that
may be interrupted says so by ``with interrupts.interruptible():``, which is around
waits, requests and runs.  In such a block the handler also *delivers* the interrupt,
by default by raising it.  While a run is under way in another process, delivering
means to pass it on to that process.  An interrupt that came before the block is
delivered at its beginning.  So none is lost, and none comes up where nobody expects it.

- The first SIGTERM or SIGINT restores the handlers of before, so that a second signal
  ends the process at once, by the kernel, even if Python hangs.  The lock is then freed
  by what survives the process: the lease keeper, or the kernel.
- A signal that is sent to the whole process group reaches the supervisor twice: by
  itself, and passed on by the run's process.  The two count as one.

What is still open.  Python calls a handler only between two instructions, so a C call
that does not return delays it.  In the supervisor there is none that takes long; in the
run's process there may be, and the supervisor kills that when its grace time is over.
And Python drops an exception that a handler raises in a finalizer; how it is raised
again is in ``jobslib.run.signals``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType

from jobslib.exceptions import Interrupt, Terminate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    #: What Python knows as the handler of a signal.
    Handler = Callable[[int, FrameType | None], object] | int | None

__all__ = ['Interrupts']

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Takes over SIGTERM and SIGINT while it is entered.

    A signal is recorded.  Inside :meth:`interruptible` it is raised as well, as
    :class:`jobslib.Terminate`.  A second signal ends the process at once, as if
    there were no handler.
    """

    def __init__(self) -> None:
        #: The first signal that came, or ``None``.
        self.signum: int | None = None
        #: The interrupt that nobody has dealt with yet, whether it was delivered
        #: or not; ``None`` when there is none.
        self.pending: Interrupt | None = None
        # Delivers an interrupt to the block that is interruptible, if the code is
        # in one.
        self._deliver: Callable[[Interrupt], None] | None = None
        # While an exception is on its way out of such a block: what raised it.
        self._raised: Callable[[Interrupt], None] | None = None
        # Whether a signal was passed on by another process and may still come
        # by itself.
        self._expected = False
        # The handlers of before, for each time that this was entered.
        self._previous: list[dict[int, Handler]] = []

    def __enter__(self) -> Self:
        # A signal that was ignored when the process was started, by nohup or by a
        # shell that runs it in the background, stays ignored.
        self._previous.append({
            signum: signal.signal(signum, self._handle)
            for signum in SIGNALS
            if signal.getsignal(signum) is not signal.SIG_IGN})
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._previous.pop().items():
            # It is None for a handler that was not installed by Python.
            signal.signal(
                signum, signal.SIG_DFL if handler is None else handler)

    def interrupt(self, interrupt: Interrupt) -> None:
        """Record *interrupt* unless another one is pending, and deliver it if the
        code is interruptible."""
        if self.pending is not None:
            return
        self.pending = interrupt
        self._tell(interrupt)

    def interrupt_again(self, interrupt: Interrupt) -> None:
        """Deliver *interrupt*, even if it was delivered before."""
        if self.pending is None:
            self.pending = interrupt
        self._tell(interrupt)

    def raise_dropped(self, interrupt: Interrupt) -> None:
        """Raise *interrupt* once more, since Python has dropped it."""
        self.pending = interrupt
        self._deliver = self._deliver or self._raised
        self._tell(interrupt)

    def terminate(self, signum: int) -> None:
        """Treat a signal that another process has passed on as one of this process.

        It counts as the first signal, or as the same one if that has come already,
        and never as a second one.
        """
        if self.signum is None:
            # If it was sent to the whole group, it is on its way to this process
            # as well.
            self._expected = True
            self._terminate(signum)

    def interruptible(
        self, deliver: Callable[[Interrupt], None] | None = None,
    ) -> AbstractContextManager[None]:
        """Let interrupts reach the code in a ``with`` block.

        :param deliver: called in a signal handler with the interrupt; by default
            it is raised.
        """
        return _Interruptible(self, deliver or _raise)

    def clear(self) -> None:
        """Forget an interrupt that was dealt with, unless it is a signal."""
        if not isinstance(self.pending, Terminate):
            self.pending = None

    def clear_all(self) -> None:
        """Forget all interrupts, signals as well."""
        self.pending = None
        self._deliver = self._raised = None

    def leave_all(self) -> None:
        """Restore the handlers of before; called in a forked child."""
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
            # The exception leaves the interruptible block.  When it is raised at
            # the very end of the block, __exit__() may be skipped, so the code
            # stops being interruptible here.
            self._raised, self._deliver = self._deliver, None
            raise

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # With these, the kernel ends the process on a second signal, even if
        # Python hangs.
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
            # The run was interrupted already and is about to stop; the loop finds
            # the signal when it has.
            self.pending = terminate
            return
        self.pending = None
        self.interrupt(terminate)


class _Interruptible:
    """The context manager that :meth:`Interrupts.interruptible` returns.

    It is a class and not a generator.  When an interrupt was raised past a
    generator, its ``finally`` would run when Python collects it, some time later,
    and undo what another block has set since.
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
