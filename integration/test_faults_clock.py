"""A wall clock that jumps, as the worker and its keeper see it.

The machine's own clock is left alone. What jumps is what Python programs ask:
`time.time`, `time_ns`, `gmtime`, `localtime`, `strftime` and `clock_gettime` of
the real-time clock, in the worker's process and in its keeper. Not shifted is
what C code asks by itself (`datetime`, the validity of certificates); the waits
of Python and of the kernel that are used here do not depend on that clock.
"""

import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from integration import stamps
from integration.agents import Agent, wait_until
from integration.report import allowed, judge
from integration.stamps import now
from integration.together import together
from integration.workers import LOCK_DELAY, TTL, Pair
from jobslib.keeper.timings import Timings

WINDOW = Timings.derive(TTL, LOCK_DELAY).window
DAY = 86400.0
HANDED_OVER = 0.1
KILLED = 0.2
INTERVAL = 2.0

SHIFT = '''
import functools, time
def _shift(path):
    def offset():
        with open(path) as file:
            return float(file.read() or 0)
    real, real_clock = time.time, time.clock_gettime
    time.time = lambda: real() + offset()
    time.time_ns = lambda: int(time.time() * 1e9)
    time.clock_gettime = lambda clock: real_clock(clock) + (
        offset() if clock == time.CLOCK_REALTIME else 0.0)
    def shifted(function):
        # Not a plain function: as an attribute of a class it stays what it is.
        return functools.partial(lambda seconds=None: function(
            time.time() if seconds is None else seconds))
    time.gmtime, time.localtime = shifted(time.gmtime), shifted(time.localtime)
    strftime = time.strftime
    time.strftime = lambda form, when=None: strftime(
        form, time.localtime() if when is None else when)
_shift({path!r})
'''

SITE = '''
import os
PATH = os.path.join({folder!r}, os.environ['FAULTS_LABEL'])
TEXT = {shift!r}.replace('{{path!r}}', repr(PATH))
exec(TEXT)
from jobslib.keeper import launch
launch.BOOT = TEXT + launch.BOOT
'''


class Clocks:
    """The offsets of the workers' clocks, in files."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        site = folder / 'site'
        site.mkdir()
        (site / 'sitecustomize.py').write_text(
            SITE.format(folder=str(folder), shift=SHIFT))
        others = os.environ.get('PYTHONPATH')
        self.env = {'PYTHONPATH': f'{site}:{others}' if others else str(site)}
        for label in 'ab':
            self.jump(label, 0)

    def jump(self, label: str, seconds: float) -> None:
        """Set the clock of a worker so much ahead of the real one."""
        new = self.folder / f'{label}.new'
        new.write_text(f'{seconds}')
        new.replace(self.folder / label)


@contextmanager
def clocks() -> Iterator[Clocks]:
    """Clocks that are right."""
    with tempfile.TemporaryDirectory(prefix='jobslib-clock-') as folder:
        yield Clocks(pathlib.Path(folder))


def test_clock_is_shifted(agent: Agent) -> None:
    """What these tests shift is shifted: the record, log lines of both processes."""
    with clocks() as shifts:
        shifts.jump('a', 400 * DAY)
        env = shifts.env
        with Pair([agent.http_addr], 'Shell', begins='program', env=env) as pair:
            record = agent.api.get(f'kv/{pair.key}', raw='').json()
            year = record['time_utc'][:4]
            assert year > agent.api.get('agent/self').headers['Date'].split()[3]
            pair.a.kill()
            pair.timeline.wait_for_begin('b')
            for name in ('jobslib:', 'jobslib.keeper:'):
                pair.a.wait_for_log(name)
                lines = [line for line in pair.a.log_text().splitlines()
                         if name in line]
                assert lines and all(line.startswith(year) for line in lines)


@together
def test_jumps_while_running(agent: Agent) -> None:
    """A clock that jumps to and fro disturbs neither holder nor standby."""
    with clocks() as shifts, Pair([agent.http_addr], env=shifts.env) as pair:
        at = now()
        for offset in (DAY, -DAY, 0.0, -3600.0, 3600.0):
            shifts.jump('a', offset)
            shifts.jump('b', -offset)
            pair.pass_time(WINDOW / 2 + 1.0)
        judge('wall clock jumps by a day, to and fro', pair, at, 0.0)


def handover(agent: Agent, a: float, b: float) -> None:
    """The lock goes from a worker to one with another clock, and back."""
    with clocks() as shifts, Pair([agent.http_addr], env=shifts.env) as pair:
        shifts.jump('a', a)
        shifts.jump('b', b)
        pair.pass_time(1.0)
        at = pair.a.kill()
        pair.timeline.wait_for_begin('b', after=at)
        judge(f'SIGKILL, clocks {a - b:+g} s apart', pair, at, KILLED)


@pytest.mark.parametrize('offset', [DAY, -DAY])
def test_handover_between_clocks(agent: Agent, offset: float) -> None:
    """Clocks that differ, or jumped, delay no handover."""
    handover(agent, offset, 0.0)
    handover(agent, 0.0, offset)


@together
def test_session_lost_clock_ahead(agent: Agent) -> None:
    """The lock-delay is waited out by a clock that does not jump."""
    lose_session(agent, DAY)


@together
def test_session_lost_clock_behind(agent: Agent) -> None:
    """The same with a clock that jumps back."""
    lose_session(agent, -DAY)


def lose_session(agent: Agent, offset: float) -> None:
    """The session is destroyed, and then all clocks jump."""
    with clocks() as shifts, Pair([agent.http_addr], env=shifts.env) as pair:
        session, at = pair.session(agent.api), now()
        assert session is not None
        agent.api.destroy_session(session)
        pair.pass_time(1.0)
        for label in 'ab':
            shifts.jump(label, offset)
        begin = pair.timeline.wait_for(
            lambda stamp: stamp.token > pair.token, 20.0, 'a run')
        assert begin.at - at >= LOCK_DELAY
        judge(f'session destroyed, clocks jump by {offset:+g} s', pair, at,
              LOCK_DELAY + 0.5)


def begins(pair: Pair, label: str) -> list[float]:
    """When runs of a worker began."""
    pair.timeline.update()
    return [stamp.at for stamp in pair.timeline.of(label, 'task')
            if stamp.event == stamps.BEGIN]


@together
def test_grid_clock_ahead(agent: Agent) -> None:
    """The grid of runs stays where it is, and another clock delays no run."""
    keep_grid(agent, DAY)


@together
def test_grid_clock_behind(agent: Agent) -> None:
    """The same with a clock that jumps back."""
    keep_grid(agent, -DAY)


def keep_grid(agent: Agent, offset: float) -> None:
    """The clock of a holder with --run-interval jumps, then it hands over."""
    options = ('--keep-lock', '--run-interval', f'{INTERVAL:g}')
    with (clocks() as shifts,
          Pair([agent.http_addr], 'Short', env=shifts.env, options=options) as pair):
        wait_until(lambda: len(begins(pair, 'a')) >= 2, 20, 'runs')
        shifts.jump('a', offset)
        wait_until(lambda: len(begins(pair, 'a')) >= 5, 20, 'more runs')
        starts = begins(pair, 'a')[1:5]
        late = allowed(0.0, since=starts[0])
        for number, start in enumerate(starts):
            assert start == pytest.approx(starts[0] + number * INTERVAL, abs=late)
        at = pair.a.terminate()
        first = pair.timeline.wait_for_begin('b', after=at)
        assert first.at - at <= allowed(INTERVAL + HANDED_OVER, since=at)
        wait_until(lambda: len(begins(pair, 'b')) >= 3, 20, 'runs of b')
        starts = begins(pair, 'b')[:3]
        late = allowed(0.0, since=starts[0])
        for number, start in enumerate(starts[1:], 1):
            assert start <= starts[0] + number * INTERVAL + late
        judge(f'SIGTERM on the grid, clock {offset:+g} s', pair, at,
              INTERVAL + HANDED_OVER)
