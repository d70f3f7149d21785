"""What the log says of a service that does not answer."""

import logging
import time

import pytest
from support import FakeClock

from jobslib.loop.outages import Outage


def test_outage(caplog: pytest.LogCaptureFixture) -> None:
    """It is said at once, then every minute with since when, then its end."""
    clock = FakeClock()
    began = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(clock.wall()))
    outage = Outage(logging.getLogger('jobslib'), clock)
    caplog.set_level(logging.INFO)
    outage.over()
    assert not outage.lasts and not caplog.messages
    assert outage.failed('refused')
    for _ in range(70):
        clock.sleep(2.0)
        assert not outage.failed('no answer')
        assert outage.lasts
    outage.over()
    assert caplog.messages == [
        'waiting for the lock: refused',
        f'the lock is still waited for, since {began} (60 s): no answer; to '
        f'see why: runjob check',
        f'the lock is still waited for, since {began} (120 s): no answer; to '
        f'see why: runjob check',
        'the service of the lock answers again, after 140 s']


def test_next_outage(caplog: pytest.LogCaptureFixture) -> None:
    """After its end another outage is news."""
    outage = Outage(logging.getLogger('jobslib'), FakeClock())
    caplog.set_level(logging.INFO)
    assert outage.failed('one') and not outage.failed('one')
    outage.over()
    outage.over()
    assert outage.failed('two')
    assert caplog.messages == [
        'waiting for the lock: one',
        'the service of the lock answers again, after 0 s',
        'waiting for the lock: two']
