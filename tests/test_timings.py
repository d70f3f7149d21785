"""The arithmetic of a lease."""

import pytest

from jobslib.exceptions import ConfigError
from jobslib.keeper.timings import Timings


def test_defaults() -> None:
    """With a TTL and lock-delay of 15 s an outage of 8.5 s disturbs nothing."""
    timings = Timings.derive(15, 15)
    assert timings.window == 15
    assert timings.renew_interval == 3
    assert timings.timeout == 2
    assert timings.grace == 3
    assert timings.slack == 8.5
    assert timings.dead_machine == 45


@pytest.mark.parametrize('ttl', [10, 15, 60, 86400])
@pytest.mark.parametrize('lock_delay', [1.8, 2, 5, 10, 15, 60])
@pytest.mark.parametrize('client_timeout', [0.1, 1, 5])
def test_derived_holds(
    ttl: float, lock_delay: float, client_timeout: float,
) -> None:
    """What is derived leaves time to renew, to interrupt and to kill."""
    timings = Timings.derive(ttl, lock_delay, None, client_timeout)
    assert timings.window == min(ttl, lock_delay)
    assert timings.timeout <= client_timeout
    assert 0.5 <= timings.grace <= 3
    assert (timings.renew_interval + timings.timeout + timings.grace
            + timings.kill <= timings.window)
    assert timings.slack >= timings.timeout - 1e-9


@pytest.mark.parametrize('ttl, lock_delay, grace', [
    (15, 1.5, None), (15, 0.1, None), (15, 15, 10), (10, 60, 6)])
def test_contradictions(
    ttl: float, lock_delay: float, grace: float | None,
) -> None:
    """Timings that leave no time to stop a run are refused with the sum."""
    with pytest.raises(ConfigError) as caught:
        Timings.derive(ttl, lock_delay, grace)
    text = str(caught.value)
    window = min(ttl, lock_delay)
    assert f'is {window:g} s' in text
    parts = [window / 5, min(2, window / 5), grace or 0.5, 0.5]
    assert f'= {sum(parts):g} s' in text
    assert '\n' not in text


def test_grace_that_fits() -> None:
    """A grace time within the window is taken as it is."""
    assert Timings.derive(30, 30, 20).grace == 20


def test_dead_machine_with_check() -> None:
    """A check of the agent is what notices a dead machine, if there is one."""
    assert Timings.derive(15, 10, check_ttl=2).dead_machine == 12
