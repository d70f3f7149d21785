"""The watchdog of a run: it notices a run that hangs or takes too long."""

from __future__ import annotations

from collections.abc import Callable

from jobslib.clock import now
from jobslib.exceptions import Interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ['LimitsWatchdog', 'Watchdog']

INFINITE = float('inf')


class Watchdog:
    """Knows how long a run may take, and how long it may be silent.

    The supervisor asks it, and interrupts a run that is overdue.  A run that
    does not stop then is killed.

    :param grace: from the interrupt to the kill, in seconds.
    :param heartbeat: the longest silence of a run in seconds, or ``None``.
    """

    def __init__(self, grace: float, heartbeat: float | None = None) -> None:
        self.grace = grace
        self.heartbeat = heartbeat
        #: Called with the interrupt, in a signal handler, by a lock that
        #: sees its loss by itself; by default it is raised.
        self.interrupt: Callable[[Interrupt], None] = _raise

    def start(self, max_run_time: float | None = None,
              run: dict[str, object] | None = None) -> None:
        """A run begins, which may take *max_run_time* seconds.

        :param run: the run as :meth:`jobslib.runs.Run.export` describes it, for
            a watchdog that writes down how it ended if its process dies.
        """
        raise NotImplementedError

    def beat(self) -> None:
        """The run makes progress."""
        raise NotImplementedError

    def stopping(self) -> None:
        """The run was told to stop, and gets the grace time."""
        raise NotImplementedError

    def stop(self) -> None:
        """The run is over."""
        raise NotImplementedError

    def overdue(self) -> str | None:
        """Return why the run has to stop now, ``None`` if it need not.

        It is always ``None`` where something else interrupts the run, as a lease
        keeper does.
        """
        return None

    def due(self) -> float:
        """Return by when :meth:`overdue` has to be asked again, a time of
        :func:`jobslib.clock.now`."""
        return INFINITE


class LimitsWatchdog(Watchdog):
    """A watchdog for locks that have no process of their own.

    :param clock: returns the time in seconds.
    """

    def __init__(self, grace: float, heartbeat: float | None = None,
                 clock: Callable[[], float] = now) -> None:
        super().__init__(grace, heartbeat)
        self._clock = clock
        self._watching = False
        self._beat = 0.0
        self._ends = INFINITE
        self._max_run_time = INFINITE

    def start(self, max_run_time: float | None = None,
              run: Mapping[str, object] | None = None) -> None:
        self._max_run_time = (
            INFINITE if max_run_time is None else max_run_time)
        self._beat = self._clock()
        self._ends = self._beat + self._max_run_time
        self._watching = True

    def beat(self) -> None:
        self._beat = self._clock()

    def stopping(self) -> None:
        # The run was told to stop already, so it is not overdue any more.
        self._watching = False

    def stop(self) -> None:
        self._watching = False

    def overdue(self) -> str | None:
        if not self._watching:
            return None
        time = self._clock()
        if time >= self._ends:
            return f'the run took longer than {self._max_run_time:g} s'
        if time >= self._beat + (self.heartbeat or INFINITE):
            return f'the run was silent for {self.heartbeat:g} s'
        return None

    def due(self) -> float:
        if not self._watching:
            return INFINITE
        return min(self._ends, self._beat + (self.heartbeat or INFINITE))


def _raise(interrupt: Interrupt) -> None:
    raise interrupt
