"""A lease whose process is a supervisor: the run is a process below it."""

import json
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from support import until

from jobslib.consul.names import history_key
from jobslib.exceptions import LockUnavailableError
from jobslib.keeper import proc
from jobslib.loop.supervisor import LONGEST_ANSWER, answers_of
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.consul import ConsulLock
from jobslib.testing import ConsulStandIn, make_lock

#: A supervisor with the lock; what a run may do is up to its program.
HEAD = '''
import ctypes, os, signal, sys, time
from jobslib.keeper import proc, processes
from jobslib.oneinstance.consul import ConsulLock
from jobslib.keeper.memory import LeaseMemory
from jobslib.testing import make_lock
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
lock = make_lock(ConsulLock, {name!r}, **{options!r})
lock.supervised = True
assert lock.acquire()
lease = lock.lease
signal.signal(signal.SIGRTMIN + 5, lambda *args: None)
def say(*words):
    print(*words, flush=True)
def fork(function):
    child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(0)
    return child
def sleep():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
def sleep_below():
    fork(sleep)
    sleep()
def leave_orphan():
    fork(lambda: fork(sleep))
    sleep()
def wait_for(child, seconds=60):
    ends = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < ends:
        time.sleep(0.05)
        lock.sign_of_life()
def wait_for_children(count):
    while len(processes.children(os.getpid())) < count:
        time.sleep(0.01)
'''


@pytest.fixture
def consul() -> Iterator[ConsulStandIn]:
    """A stand-in of Consul."""
    with ConsulStandIn() as stand_in:
        yield stand_in


def start(consul: ConsulStandIn, name: str, program: str,
          **options: float) -> subprocess.Popen[str]:
    """Start a supervisor that takes the lock and goes on with *program*."""
    head = HEAD.format(name=name, options=consul.options(**options))
    return subprocess.Popen(
        [sys.executable, '-c', head + textwrap.dedent(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)


def lines(supervisor: subprocess.Popen[str]) -> tuple[list[str], str]:
    """Return what a supervisor says until its end, and its keeper."""
    try:
        out, err = supervisor.communicate(timeout=30)
    finally:
        supervisor.kill()
    return out.splitlines(), err


def is_gone(pid: int) -> bool:
    """Return whether the process has ended."""
    return not proc.start_time(pid)


def test_supervisor_survives_the_kill_of_its_run(
    consul: ConsulStandIn,
) -> None:
    """A run that does not stop is killed with all it started, and no more."""
    supervisor = start(consul, 'survives', '''
        run = fork(leave_orphan)
        wait_for_children(2)
        lock.watchdog.start(0.2)
        say('cleared', lease.memory.cleared)
        wait_for(run)
        while not lease.memory.cleared:
            time.sleep(0.01)
        lock.watchdog.stop()
        say('left', len(processes.children(os.getpid())))
        say('held', lock.refresh())
        # And once more, with the same keeper.
        keeper = lease.keeper_pid
        run = fork(sleep)
        lock.watchdog.start(0.2)
        say('cleared', lease.memory.cleared)
        wait_for(run)
        lock.watchdog.stop()
        say('held', lock.refresh(), keeper == lease.keeper_pid)
        say('released', lock.release())
        lock.close()
        ''', grace=0.5)
    said, err = lines(supervisor)
    assert said == ['cleared False', 'left 0', 'held True', 'cleared False',
                    'held True True', 'released True']
    assert supervisor.returncode == 0
    assert err.count('keeper: killing the run of process') == 2
    assert len(re.findall(
        r'^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING jobslib\.keeper: '
        r'killing the run of process \d+: .+ \(\S+\)$', err, re.M)) == 2
    assert 'the run took longer than 0.2 s' in err


def test_supervisor_that_does_not_notice(consul: ConsulStandIn) -> None:
    """One that does not say that its run is gone is killed as well."""
    supervisor = start(consul, 'blind', '''
        run = fork(sleep)
        say(run)
        lock.watchdog.start(0.2)
        while True:
            time.sleep(0.05)
            lock.sign_of_life()
        ''', grace=0.5)
    said, err = lines(supervisor)
    assert supervisor.returncode == -signal.SIGKILL
    assert 'it does not notice' in err
    assert is_gone(int(said[0]))
    until(lambda: not consul.sessions, 'for the end of the session')


def test_lost_lease_ends_the_run_alone(consul: ConsulStandIn) -> None:
    """A supervisor whose lease is lost outlives its run, without the lock."""
    supervisor = start(consul, 'lost', '''
        run = fork(sleep)
        lock.watchdog.start()
        say('runs')
        wait_for(run)
        lock.watchdog.stop()
        say('held', lock.refresh())
        say('released', lock.release())
        lock.close()
        ''', grace=0.5)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == 'runs\n'
    consul.lose_lock(make_lock(ConsulLock, 'lost', **consul.options()).key)
    said, _ = lines(supervisor)
    assert said == ['held False', 'released False']
    assert supervisor.returncode == 0


def test_supervisor_that_stands_still(consul: ConsulStandIn) -> None:
    """A supervisor that is stopped loses its run, its life and the lock."""
    supervisor = start(consul, 'still', '''
        run = fork(sleep_below)
        wait_for_children(2)
        lock.watchdog.start(None, {'run': 7})
        say(run)
        os.kill(os.getpid(), signal.SIGSTOP)
        ''', grace=0.5)
    said, err = lines(supervisor)
    assert supervisor.returncode == -signal.SIGKILL
    assert 'it stands still' in err
    assert is_gone(int(said[0]))
    until(lambda: not consul.sessions, 'for the end of the session')
    key = make_lock(ConsulLock, 'still', **consul.options()).key
    record = json.loads(consul.value(key) or b'')
    assert record['killed']['run'] == 7
    assert record['killed']['error'] == 'its supervisor stands still'


def test_supervisor_with_signs_of_life(consul: ConsulStandIn) -> None:
    """Whoever gives a sign of life is not taken to stand still."""
    supervisor = start(consul, 'alive', '''
        run = fork(sleep)
        lock.watchdog.start()
        wait_for(run, 4)
        say('held', lock.refresh())
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
        lock.watchdog.stop()
        say('released', lock.release())
        lock.close()
        ''', grace=0.5)
    assert lines(supervisor)[0] == ['held True', 'released True']


def test_run_reads_and_beats_by_the_page(consul: ConsulStandIn) -> None:
    """A process with the memory's descriptor sees the lease, and keeps going."""
    supervisor = start(consul, 'memory', '''
        os.set_inheritable(lease.memory_fd, True)
        program = """if True:
            import sys, time
            from jobslib.clock import now
            from jobslib.keeper.memory import LeaseMemory
            memory = LeaseMemory(int(sys.argv[1]))
            for _ in range(30):
                memory.beat = now()
                time.sleep(0.1)
            print('valid', memory.is_valid(), flush=True)
            time.sleep(60)
        """
        lock.watchdog.heartbeat = 1.5
        lock.watchdog.start()
        run = os.spawnv(os.P_NOWAIT, sys.executable, [
            sys.executable, '-c', program, str(lease.memory_fd)])
        wait_for(run)
        say('reason', lease.memory.reason)
        lock.watchdog.stop()
        say('released', lock.release())
        lock.close()
        ''', grace=0.5)
    assert lines(supervisor)[0] == [
        'valid True', 'reason the run was silent for 1.5 s', 'released True']


def test_spared_process(consul: ConsulStandIn) -> None:
    """The run's own process may be left for a proper exit, not its child."""
    supervisor = start(consul, 'spared', '''
        run = fork(sleep_below)
        wait_for_children(2)
        lock.spared = {run}
        lock.watchdog.start()
        lock.watchdog.stopping()
        lock.watchdog.stop()
        say([pid for pid, _ in processes.children(os.getpid())] == [run])
        say('held', lock.refresh())
        say('released', lock.release())
        lock.close()
        os.kill(run, signal.SIGKILL)
        ''', grace=0.5)
    assert lines(supervisor)[0] == ['True', 'held True', 'released True']


@pytest.mark.parametrize('signum', ['SIGKILL', 'SIGSTOP'])
def test_keeper_is_replaced(consul: ConsulStandIn, signum: str) -> None:
    """A supervisor has no thread, and sees to its keeper all the same."""
    supervisor = start(consul, 'replaced', f'''
        import threading
        say('threads', threading.active_count())
        run = fork(sleep)
        lock.watchdog.start()
        keeper = lease.keeper_pid
        os.kill(keeper, signal.{signum})
        while lease.keeper_pid == keeper:
            time.sleep(0.05)
            lock.sign_of_life()
        say('held', lock.refresh(), threading.active_count())
        # And while it waits for an answer.
        os.kill(lease.keeper_pid, signal.{signum})
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
        lock.watchdog.stop()
        say('held', lock.refresh())
        say('released', lock.release())
        lock.close()
        ''', lock_delay=10.0)
    said, err = lines(supervisor)
    assert said == ['threads 1', 'held True 1', 'held True',
                    'released True'], err
    until(lambda: not consul.sessions, 'for the end of the session')


def test_keeper_stopped_with_a_short_window(consul: ConsulStandIn) -> None:
    """It is replaced long before its guard ends the supervisor."""
    supervisor = start(consul, 'short', '''
        keeper, stopped = lease.keeper_pid, time.monotonic()
        os.kill(keeper, signal.SIGSTOP)
        while lease.keeper_pid == keeper:
            lock.sign_of_life()
            time.sleep(0.05)
        say('soon', time.monotonic() - stopped < lock.timings.window / 2)
        say('released', lock.release())
        ''', lock_delay=5.0)
    said, err = lines(supervisor)
    assert said == ['soon True', 'released True'], err
    assert supervisor.returncode == 0


def test_keeper_that_was_left_is_reaped(consul: ConsulStandIn) -> None:
    """A lease that is closed is not waited for, and leaves no zombie."""
    supervisor = start(consul, 'left', '''
        def files():
            return len(os.listdir('/proc/self/fd'))
        keeper = lease.keeper_pid
        pidfd = os.pidfd_open(keeper)
        before = files()
        del lease
        lock.close()
        import select
        select.select([pidfd], [], [])
        assert lock.acquire()
        say('there', os.path.exists(f'/proc/{keeper}'))
        say('files', files() - before)
        lock.close()
        ''')
    said, err = lines(supervisor)
    assert said == ['there False', 'files 0'], err


def test_supervisor_that_loses_all_keepers(consul: ConsulStandIn) -> None:
    """Where no keeper can be forked any more, the run ends, and the lock is
    given up."""
    supervisor = start(consul, 'no-more', '''
        run = fork(sleep)
        lock.watchdog.start()
        def refuse():
            raise OSError('Resource temporarily unavailable')
        os.fork = refuse
        os.kill(lease.keeper_pid, signal.SIGKILL)
        wait_for(run)
        lock.watchdog.stop()
        say('held', lock.refresh())
        say('released', lock.release())
        lock.close()
        ''')
    said, err = lines(supervisor)
    assert said == ['held False', 'released False'], err
    assert supervisor.returncode == 0
    assert ('jobslib: the lease keeper cannot be started: Resource '
            'temporarily unavailable; ending the run\n') in err
    assert not consul.sessions


def test_outcome_without_a_keeper(consul: ConsulStandIn) -> None:
    """Nor is what the lock leaves lost with its keepers."""
    supervisor = start(consul, 'outcome', '''
        def refuse():
            raise OSError('Resource temporarily unavailable')
        os.fork = refuse
        os.kill(lease.keeper_pid, signal.SIGKILL)
        while lease.memory.state != LeaseMemory.LOST:
            lock.sign_of_life()
        lock.schedule = {'due': 5.0}
        lock.history = {'runs': 41}
        lock.release()
        say(lock.key)
        lock.close()
        ''')
    [key], err = lines(supervisor)
    assert consul.holder(key) is None, err
    record = json.loads(consul.value(key) or b'')
    assert record['schedule'] == {'due': 5.0} and 'released' in record
    assert json.loads(consul.value(history_key(key)) or b'')['runs'] == 41


def test_outcome_when_keeper_and_supervisor_die(consul: ConsulStandIn) -> None:
    """A keeper that takes the place of another leaves what that was to leave."""
    supervisor = start(consul, 'both', '''
        lock.schedule = {'due': 5.0}
        lock.history = {'runs': 41}
        lock.secure_outcome(False)
        lock.sign_of_life()
        keeper = lease.keeper_pid
        os.kill(keeper, signal.SIGKILL)
        while lease.keeper_pid == keeper:
            lock.sign_of_life()
        say(lock.key)
        os.kill(os.getpid(), signal.SIGKILL)
        ''')
    [key], err = lines(supervisor)
    until(lambda: consul.holder(key) is None, 'for the release')
    record = json.loads(consul.value(key) or b'')
    assert record['schedule'] == {'due': 5.0}, err
    assert json.loads(consul.value(history_key(key)) or b'')['runs'] == 41


def test_supervisor_that_cannot_end_its_run(consul: ConsulStandIn) -> None:
    """Where it cannot even do that, it ends itself, and the guard the run."""
    supervisor = start(consul, 'helpless', '''
        import threading
        run = fork(sleep)
        say(run)
        lock.watchdog.start()
        def refuse(*args):
            raise OSError('Resource temporarily unavailable')
        def refuse_thread(*args):
            raise RuntimeError("can't start new thread")
        os.fork = refuse
        threading.Thread.start = refuse_thread
        os.kill(lease.keeper_pid, signal.SIGKILL)
        wait_for(run)
        ''')
    said, _ = lines(supervisor)
    assert supervisor.returncode == -signal.SIGKILL
    until(lambda: is_gone(int(said[0])), 'for the guard')


def test_owner_is_known_without_consul(consul: ConsulStandIn) -> None:
    """Who has the lock itself says so at once, also while Consul is away."""
    supervisor = start(consul, 'owner', '''
        say('holds')
        sys.stdin.readline()
        begun = time.monotonic()
        owner = lock.get_lock_owner_info()
        say(owner['pid'] == os.getpid(), time.monotonic() - begun < 1)
        ''', lock_delay=10.0)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == 'holds\n'
    with consul.partition():
        assert supervisor.stdin is not None
        supervisor.stdin.write('\n')
        supervisor.stdin.flush()
        assert supervisor.stdout.readline() == 'True True\n'
    lines(supervisor)


def test_slow_answers_are_waited_for() -> None:
    """A supervisor that waits for a service does not seem to stand still."""
    signs: list[float] = []

    class Lock:
        own_record: dict[str, str] = {}
        report_progress = refresh = lease_left = control = None
        silence = BaseLock.silence

        def sign_of_life(self, seconds: float = 0.0) -> None:
            signs.append(seconds)

        def get_lock_owner_info(self) -> None:
            assert signs == [LONGEST_ANSWER]
            raise LockUnavailableError('away')

    answers = answers_of(Lock(), None)  # type: ignore[arg-type]
    with pytest.raises(LockUnavailableError):
        answers['get_lock_owner_info']()
    assert signs == [LONGEST_ANSWER, 0.0]
