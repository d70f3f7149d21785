"""How far the clock of a machine is from that of a service."""

import email.utils
import math

import pytest

from jobslib.clock import Clock
from jobslib.oneinstance.clocks import LIMIT, compare

T0 = 1.7e9
#: How long a request takes, in seconds; the first connects as well.
ROUND_TRIP = 0.01
CONNECT = 0.2


class Machine(Clock):
    """A machine whose clock is ahead of that of a service.

    :param ahead: by so many seconds.
    :param phase: of the second that has passed at the start.
    """

    def __init__(self, ahead: float, phase: float = 0.0) -> None:
        self.ahead = ahead
        self.time = T0 + phase
        self.requests = 0
        self.slept = 0.0

    def wall(self) -> float:
        """The time by its own clock."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Pass this time."""
        self.time += seconds
        self.slept += seconds

    def ask(self) -> str:
        """The answer of the service, in whole seconds."""
        self.time += ROUND_TRIP / 2 + (0.0 if self.requests else CONNECT)
        self.requests += 1
        date = email.utils.formatdate(
            math.floor(self.time - self.ahead), usegmt=True)
        self.time += ROUND_TRIP / 2
        return date


PHASES = [number / 20 for number in range(20)]


@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('ahead', [
    -3600.0, -2.0, -1.5, -1.1, -0.99, -0.5, 0.0, 0.3, 0.99, 1.1, 1.5, 2.0, 86400])
def test_difference(ahead: float, phase: float) -> None:
    """The difference is within the bounds, whatever the phase; one above the
    limit is always seen, and one below it never taken for more."""
    machine = Machine(ahead, phase)
    bounds = compare(machine.ask, machine)
    assert bounds is not None
    low, high = bounds
    assert low <= ahead <= high <= low + 1.0 + CONNECT + ROUND_TRIP
    assert (low > LIMIT) == (ahead > LIMIT)
    assert (high < -LIMIT) == (ahead < -LIMIT)
    assert machine.slept <= 1.0 and machine.requests <= 3


@pytest.mark.parametrize('date', [None, '', 'yesterday', '0'])
def test_no_time(date: str | None) -> None:
    """A service that does not tell its time is not compared with."""
    assert compare(lambda: date, Machine(0.0)) is None


def test_clock_that_is_set_meanwhile() -> None:
    """When the clock is set between two answers, the last one counts."""
    machine = Machine(30.0)
    found = machine.ask

    def ask() -> str:
        if machine.requests == 1:
            machine.ahead = 0.0
        return found()

    bounds = compare(ask, machine)
    assert bounds is not None
    assert bounds[0] <= 0.0 <= bounds[1]
