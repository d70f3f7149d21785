"""Tasks that do not let go: stuck in C code, deaf to the interrupt, with children."""

import signal

from integration import jobs, stalls, stamps
from integration.agents import Agent, wait_until
from integration.proxy import Proxy
from integration.report import COMPANY, allowed, judge
from integration.together import together
from integration.workers import LOCK_DELAY, TTL, Pair, is_alive

GRACE = 2.0  # what follows from TTL and LOCK_DELAY
MAX_RUN_TIME = 8.0  # by when there is a standby
#: How long the job may stand still, in seconds.
KILLED = 0.2
ALL_LOST = 2 * TTL + LOCK_DELAY + 0.5
SESSION_LOST = LOCK_DELAY + 0.5


def destroy_session(agent: Agent, pair: Pair) -> float:
    """Destroy the session of the holder; when that was."""
    session = pair.session(agent.api)
    assert session is not None
    at = stamps.now()
    agent.api.destroy_session(session)
    assert session not in [each['ID'] for each in agent.api.sessions()]
    return at


@together
def test_stuck_in_c(agent: Agent) -> None:
    """With the interpreter kept for 3 x TTL the lease is renewed all the same."""
    with Pair([agent.http_addr], 'CCall',
              env={jobs.SECONDS_VARIABLE: f'{3 * TTL:g}'}) as pair:
        at = stamps.now()
        left = pair.timeline.wait_for(
            lambda stamp: stamp.event == stamps.LEAVE, 4 * TTL, 'the end of the call')
        entered = next(stamp for stamp in pair.timeline.of('a')
                       if stamp.event == stamps.ENTER)
        assert left.at - entered.at >= 3 * TTL
        # Not one stamp between: the interpreter was kept.
        assert not [stamp for stamp in pair.timeline.stamps
                    if entered.at < stamp.at < left.at]
        pair.pass_time(1.0)
        judge('one C call for 3 x TTL', pair, at, 0.0)
        assert pair.timeline.tokens() == [pair.token]


def stuck_without_consul(agent: Agent, blackhole: bool, fault: str) -> None:
    """Keep a holder in a C call while its Consul cannot be reached."""
    with Proxy(agent.http_addr) as proxy, Pair(
            [proxy.addr, agent.http_addr], 'CCall',
            env={jobs.SECONDS_VARIABLE: f'{6 * TTL:g}'}) as pair:
        at = stamps.now()
        proxy.blackhole() if blackhole else proxy.refuse()
        assert pair.a.wait() == -signal.SIGKILL
        gone = pair.timeline.wait_for(
            lambda stamp: stamp.event == stamps.GONE, 5, 'the stamp of its end')
        assert gone.at - at <= LOCK_DELAY + stalls.since(at)  # the window
        assert pair.session(agent.api) and proxy.faulted
        pair.a.wait_for_log('the lease could not be renewed in time')
        pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        judge(fault, pair, at, ALL_LOST)


@together
def test_stuck_in_c_with_packets_lost(agent: Agent) -> None:
    """Stuck and cut off, a process is killed before its lease ends."""
    stuck_without_consul(agent, True, 'C call, and packets to Consul vanish')


@together
def test_stuck_in_c_with_connections_refused(agent: Agent) -> None:
    """Stuck and refused, a process is killed before its lease ends."""
    stuck_without_consul(agent, False, 'C call, and Consul refuses connections')


@together
def test_stuck_in_c_beyond_its_time(agent: Agent) -> None:
    """Stuck for longer than it may run, a process is killed."""
    started = stamps.now()
    with Pair([agent.http_addr], 'CCall', standby_task='Stamping',
              options=('--keep-lock', '--max-run-time', f'{MAX_RUN_TIME:g}'),
              env={jobs.SECONDS_VARIABLE: f'{6 * TTL:g}'}) as pair:
        at = pair.timeline.of('a')[0].at
        pair.timeline.wait_for_begin('b', after=at)
        pair.a.wait_for_log(f'the run took longer than {MAX_RUN_TIME:g} s')
        assert pair.a.wait() == -signal.SIGKILL
        killed = MAX_RUN_TIME + GRACE
        # The run begins before it writes its first stamp.
        assert killed - stalls.since(started) <= pair.timeline.takeover(at) <= allowed(
            killed, COMPANY, since=at)
        judge('C call, with --max-run-time', pair, at, KILLED, noise=COMPANY)


@together
def test_deaf_to_a_lost_lock(agent: Agent) -> None:
    """A task that ignores the interrupt is killed when its grace time is over."""
    with Pair([agent.http_addr], 'Stubborn', begins='program') as pair:
        at = destroy_session(agent, pair)
        assert pair.a.wait() == -signal.SIGKILL
        pair.timeline.update()
        events = [stamp.event for stamp in pair.timeline.of('a', 'task')]
        assert stamps.IGNORED in events
        gone = pair.timeline.wait_for(
            lambda stamp: stamp.event == stamps.GONE, 5, 'the stamp of its end')
        assert gone.at - at >= GRACE
        # Killed in the same moment, but one is gone before the other.
        wait_until(lambda: not any(
            is_alive(stamp.pid) for stamp in pair.timeline.of('a')), 5, 'all gone')
        pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        judge('session destroyed, the interrupt ignored', pair, at, SESSION_LOST)


@together
def test_deaf_to_a_signal(agent: Agent) -> None:
    """A task that ignores SIGTERM is killed, with the child that does the same."""
    with Pair([agent.http_addr], 'Stubborn', begins='program') as pair:
        at = pair.a.terminate()
        begin = pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == -signal.SIGKILL
        pair.a.wait_for_log('the run did not stop when told to')
        assert GRACE <= begin.at - at <= allowed(GRACE, COMPANY, since=at)
        judge('SIGTERM, ignored', pair, at, KILLED, noise=COMPANY)


def lose_with_child(agent: Agent, task: str, role: str) -> None:
    """Have a run with a child lose its lock; the process goes on as a standby."""
    with Pair([agent.http_addr], task, begins=role) as pair:
        at = destroy_session(agent, pair)
        begin = pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        assert pair.timeline.of('a', role)[-1].at < begin.at
        judge(f'session destroyed, with a child: {role}', pair, at, SESSION_LOST)
        assert 'run interrupted' in pair.a.log_text()
        # Interrupted, not ended: the process is a standby that takes over.
        pair.a.wait_for_log('the lock is held by')
        killed = pair.b.kill()
        pair.timeline.wait_for_begin('a', after=killed)
        judge(f'SIGKILL of the next holder, with a child: {role}', pair, killed,
              KILLED, loser='b', noise=COMPANY)


@together
def test_lost_with_a_program(agent: Agent) -> None:
    """A shell and the program that it started are gone before another run."""
    lose_with_child(agent, 'Shell', 'program')


@together
def test_lost_with_a_fork(agent: Agent) -> None:
    """A fork of the task is gone before another run."""
    lose_with_child(agent, 'Forking', 'fork')


@together
def test_lost_with_a_daemon(agent: Agent) -> None:
    """A daemon that the task made is gone before another run."""
    lose_with_child(agent, 'Daemon', 'daemon')


@together
def test_lost_with_a_clean_environment(agent: Agent) -> None:
    """A program without the task's environment is gone before another run."""
    lose_with_child(agent, 'Clean', 'clean')
