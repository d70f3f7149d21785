"""The watchdog of a run: in this process as long as it only interrupts."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support import DEADLINE, until

from jobslib import OneInstanceWatchdogError
from jobslib.exceptions import Interrupt
from jobslib.oneinstance.watchdog import ProcessWatchdog

GRACE = 60.0


@pytest.fixture
def make() -> Iterator[Callable[..., ProcessWatchdog]]:
    """A maker of watchdogs that are stopped at the end."""
    made = []

    def make(heartbeat: float | None = None) -> ProcessWatchdog:
        made.append(ProcessWatchdog(GRACE, heartbeat))
        return made[-1]

    yield make
    for watchdog in made:
        watchdog.stop()


def wait_in_vain() -> None:
    """Wait until an interrupt comes."""
    until(lambda: False, 'for an interrupt')


def timer() -> float:
    """Return when SIGALRM comes, in seconds; 0 for never."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_max_run_time(make: Callable[..., ProcessWatchdog]) -> None:
    """A run that takes too long is interrupted, and told why."""
    watchdog = make()
    started = time.monotonic()
    with pytest.raises(OneInstanceWatchdogError) as caught:
        watchdog.start(0.05)
        wait_in_vain()
    assert str(caught.value) == 'the run took longer than 0.05 s'
    assert time.monotonic() - started >= 0.05


def test_heartbeat(make: Callable[..., ProcessWatchdog]) -> None:
    """A run that is silent for too long is interrupted, and told why."""
    watchdog = make(0.05)
    with pytest.raises(OneInstanceWatchdogError) as caught:
        watchdog.start()
        wait_in_vain()
    assert str(caught.value) == 'the run was silent for 0.05 s'


def test_beats(make: Callable[..., ProcessWatchdog]) -> None:
    """A run that makes itself heard goes on."""
    watchdog = make(30)
    watchdog.start()
    signal.setitimer(signal.ITIMER_REAL, 20)
    watchdog.beat()
    assert 22 < timer() <= 30


def test_beats_do_not_lengthen_a_run(
        make: Callable[..., ProcessWatchdog]) -> None:
    """A run that makes itself heard still ends in time."""
    watchdog = make(10)
    with pytest.raises(OneInstanceWatchdogError) as caught:
        watchdog.start(0.1)
        ends = time.monotonic() + DEADLINE
        while time.monotonic() < ends:
            watchdog.beat()
    assert str(caught.value) == 'the run took longer than 0.1 s'


def test_told_once(make: Callable[..., ProcessWatchdog]) -> None:
    """A run is told once to stop, also in the midst of a heartbeat."""
    told: list[Interrupt] = []
    watchdog = make(10)
    watchdog.interrupt = told.append
    watchdog.start(0.01)
    until(lambda: told)
    # What a heartbeat does that began before.
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    until(lambda: timer() == 0)
    time.sleep(0.01)
    assert len(told) == 1


def test_the_nearer_limit_counts(
        make: Callable[..., ProcessWatchdog]) -> None:
    """Of heartbeat and longest run the nearer one counts."""
    make(20).start(30)
    assert 12 < timer() <= 20
    make(30).start(20)
    assert 12 < timer() <= 20


def test_no_limits(make: Callable[..., ProcessWatchdog]) -> None:
    """Without limits there is neither timer nor handler."""
    before = signal.getsignal(signal.SIGALRM)
    watchdog = make()
    watchdog.start()
    watchdog.beat()
    assert timer() == 0
    assert signal.getsignal(signal.SIGALRM) == before


def test_limits_beyond_all_timers(
        make: Callable[..., ProcessWatchdog]) -> None:
    """Limits that are too large for timers are no error."""
    watchdog = ProcessWatchdog(1e300, 1e300)
    watchdog.start(1e300)
    watchdog.beat()
    watchdog.stopping()
    watchdog.stop()


def test_beat_outside_of_a_run(
        make: Callable[..., ProcessWatchdog]) -> None:
    """Outside of a run a heartbeat starts nothing."""
    watchdog = make(5)
    watchdog.beat()
    assert timer() == 0
    watchdog.start()
    watchdog.stop()
    watchdog.beat()
    assert timer() == 0


def test_stop(make: Callable[..., ProcessWatchdog]) -> None:
    """After a run there is no timer, and the handler from before is back."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        watchdog = make(5)
        watchdog.start(5)
        assert signal.getsignal(signal.SIGALRM) is not signal.SIG_IGN
        watchdog.stop()
        watchdog.stop()
        assert timer() == 0
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGALRM, before)


def test_stop_forgets_the_run(make: Callable[..., ProcessWatchdog]) -> None:
    """The end of one run does not limit the next."""
    watchdog = make(30)
    watchdog.start(15)
    watchdog.stop()
    watchdog.start()
    assert 22 < timer() <= 30


def test_beats_count_again_in_the_next_run(
        make: Callable[..., ProcessWatchdog]) -> None:
    """A run that was told to stop does not silence the next one."""
    watchdog = make(30)
    watchdog.start()
    watchdog.stopping()
    signal.setitimer(signal.ITIMER_REAL, 20)
    watchdog.beat()
    assert 12 < timer() <= 20
    watchdog.stop()
    watchdog.start()
    signal.setitimer(signal.ITIMER_REAL, 20)
    watchdog.beat()
    assert 22 < timer() <= 30


def test_interrupt_is_delivered(
        make: Callable[..., ProcessWatchdog]) -> None:
    """The interrupt is delivered as the loop wants it."""
    told: list[Interrupt] = []
    watchdog = make()
    watchdog.interrupt = told.append
    watchdog.start(0.01)
    until(lambda: told)
    assert [type(interrupt) for interrupt in told] == [
        OneInstanceWatchdogError]


def test_outside_of_the_main_thread(
        make: Callable[..., ProcessWatchdog]) -> None:
    """Outside of the main thread a run is watched without signals."""
    before = signal.getsignal(signal.SIGALRM)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            watchdog = make(30)
            watchdog.start(30)
            watchdog.beat()
            assert timer() == 0
            watchdog.stop()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []
    assert signal.getsignal(signal.SIGALRM) == before


def run_python(script: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run *script*; return how it ended and how long it took."""
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, '-c', SETUP + script], timeout=DEADLINE,
        capture_output=True, text=True)
    return process, time.monotonic() - started


SETUP = '''
import sys, threading, time
from jobslib import OneInstanceWatchdogError
from jobslib.oneinstance.watchdog import ProcessWatchdog
watchdog = ProcessWatchdog(grace=0.2)
'''

SWALLOW = '''
watchdog.grace = 3
watchdog.start(0.1)
while True:
    try:
        time.sleep(0.01)
    except OneInstanceWatchdogError:
        print('swallowed', flush=True)
'''

SWALLOW_AND_BEAT = '''
watchdog.grace = 3
watchdog.heartbeat = 0.1
watchdog.start(0.3)
def swallow(error):
    print('swallowed', flush=True)
watchdog.interrupt = swallow
while True:
    watchdog.beat()
'''

STUCK = '''
watchdog.start(0.1)
sum(range(10 ** 12))
'''

TOLD_TO_STOP = '''
watchdog.stopping()
time.sleep(60)
'''

THREAD = '''
def run():
    watchdog.start(0.1)
    sum(range(10 ** 12))
threading.Thread(target=run, daemon=True).start()
time.sleep(60)
'''

NO_STDERR = '''
sys.__stderr__ = None
watchdog.start(0.1)
sum(range(10 ** 12))
'''

CLOSED_STDERR = '''
sys.stderr.close()
watchdog.start(0.1)
sum(range(10 ** 12))
'''


@pytest.mark.parametrize('script', [
    SWALLOW, SWALLOW_AND_BEAT, STUCK, TOLD_TO_STOP, THREAD, NO_STDERR,
    CLOSED_STDERR], ids=['swallow', 'beat', 'stuck', 'told', 'thread',
                         'no stderr', 'closed stderr'])
def test_process_ends(script: str) -> None:
    """A run that does not stop in its grace time loses its process."""
    process, _ = run_python(script)
    assert process.returncode == 1
    assert process.stderr.startswith('Timeout (0:00:0')
    assert 'File "<string>", line' in process.stderr
    assert process.stdout == 'swallowed\n' * ('swallowed' in script)


def test_grace_time() -> None:
    """A run that stops in its grace time keeps its process."""
    process, taken = run_python('''
watchdog.grace = 2
watchdog.start(0.05)
try:
    while True:
        time.sleep(0.01)
except OneInstanceWatchdogError:
    time.sleep(0.1)
watchdog.stop()
time.sleep(2.1)
print('alive')
''')
    assert (process.returncode, process.stdout) == (0, 'alive\n')
    assert process.stderr == ''
    assert taken >= 2.2


def test_heartbeat_of_another_thread(
        make: Callable[..., ProcessWatchdog]) -> None:
    """A heartbeat counts whichever thread it comes from."""
    watchdog = make(30.0)
    watchdog.start()
    signal.setitimer(signal.ITIMER_REAL, 15.0)
    beating = threading.Thread(target=watchdog.beat)
    beating.start()
    beating.join()
    assert 22 < timer() <= 30
