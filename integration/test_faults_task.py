"""Tasks that do not let go: stuck in C code, deaf to the interrupt, with children."""

from integration import jobs, stalls, stamps
from integration.agents import Agent, wait_until
from integration.proxy import Proxy
from integration.report import COMPANY, allowed, judge
from integration.together import together
from integration.workers import LOCK_DELAY, TTL, Pair, is_alive

TERMINATED = 143
GRACE = 2.0  # what follows from TTL and LOCK_DELAY
MAX_RUN_TIME = 8.0  # by when there is a standby
#: How long the job may stand still, in seconds.
KILLED = 0.2
ALL_LOST = 2 * TTL + LOCK_DELAY + 0.5
SESSION_LOST = LOCK_DELAY + 0.5
#: Until a new process for the runs has been made.
MADE = 1.0
#: A kept lock and a limit; no pause after a failure, which would hide the rest.
LIMITED = ('--keep-lock', '--max-run-time', f'{MAX_RUN_TIME:g}',
           '--sleep-interval', '0.01')


def destroy_session(agent: Agent, pair: Pair) -> float:
    """Destroy the session of the holder; when that was."""
    session = pair.session(agent.api)
    assert session is not None
    at = stamps.now()
    agent.api.destroy_session(session)
    assert session not in [each['ID'] for each in agent.api.sessions()]
    return at


def watch_run(pair: Pair) -> int:
    """Have a stamp written when the process of the first run ends; its id."""
    pair.timeline.update()
    run = pair.timeline.of('a', 'task')[0].pid
    assert run == pair.a.run_process() != pair.a.pid
    pair.a.watch(run)
    return run


def wait_for_end(pair: Pair, run: int) -> stamps.Stamp:
    """The stamp of the end of a run's process; nobody ends the supervisor."""
    gone = pair.timeline.wait_for(
        lambda stamp: (stamp.event, stamp.pid) == (stamps.GONE, run), 20,
        "the stamp of the end of the run's process")
    assert pair.a.process.poll() is None
    return gone


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
        run = watch_run(pair)
        proxy.wait_connected()
        at = stamps.now()
        proxy.blackhole() if blackhole else proxy.refuse()
        gone = wait_for_end(pair, run)
        assert gone.at - at <= LOCK_DELAY + stalls.since(at)  # the window
        assert pair.session(agent.api) and proxy.faulted
        pair.a.wait_for_log('the lease could not be renewed in time')
        pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        judge(fault, pair, at, ALL_LOST)


@together
def test_stuck_in_c_with_packets_lost(agent: Agent) -> None:
    """Stuck and cut off, a run is killed before its lease ends."""
    stuck_without_consul(agent, True, 'C call, and packets to Consul vanish')


@together
def test_stuck_in_c_with_connections_refused(agent: Agent) -> None:
    """Stuck and refused, a run is killed before its lease ends."""
    stuck_without_consul(agent, False, 'C call, and Consul refuses connections')


@together
def test_stuck_in_c_beyond_its_time(agent: Agent) -> None:
    """Stuck for longer than it may run, a run is killed, and the lock is free."""
    started = stamps.now()
    with Pair([agent.http_addr], 'CCall', standby_task='Stamping',
              options=(*LIMITED, '--release-on-error'),
              env={jobs.SECONDS_VARIABLE: f'{6 * TTL:g}'}) as pair:
        run, at = watch_run(pair), pair.timeline.of('a')[0].at
        # Both may take it; only the standby has a process ready.
        begin = pair.timeline.wait_for(
            lambda stamp: stamp.token not in (0, pair.token), 20, 'another run')
        pair.a.wait_for_log(f'the run took longer than {MAX_RUN_TIME:g} s')
        gone = wait_for_end(pair, run)
        assert gone.at < begin.at
        killed = MAX_RUN_TIME + GRACE
        # The run begins before it writes its first stamp.
        assert killed - stalls.since(started) <= gone.at - at <= allowed(
            killed, COMPANY, since=at)
        promised = KILLED if begin.label == 'b' else MADE
        judge('C call, with --max-run-time', pair, at, promised, noise=COMPANY)


@together
def test_stuck_in_c_beyond_its_time_with_the_lock_kept(agent: Agent) -> None:
    """The same with a kept lock: the next run is of the same job, a new process."""
    started = stamps.now()
    with Pair([agent.http_addr], 'CCall', standby_task='Stamping',
              options=LIMITED,
              env={jobs.SECONDS_VARIABLE: f'{6 * TTL:g}'}) as pair:
        run, at = watch_run(pair), pair.timeline.of('a')[0].at
        gone = wait_for_end(pair, run)
        assert MAX_RUN_TIME + GRACE - stalls.since(started) <= gone.at - at
        assert gone.at - at <= allowed(MAX_RUN_TIME + GRACE, COMPANY, since=at)
        begin = pair.timeline.wait_for_begin('a', after=gone.at)
        assert begin.pid != run and begin.token == pair.token
        assert not pair.timeline.of('b')
        judge('C call, with --max-run-time, the lock kept', pair, at, MADE,
              noise=COMPANY)


@together
def test_deaf_to_a_lost_lock(agent: Agent) -> None:
    """A task that ignores the interrupt is killed when its grace time is over."""
    with Pair([agent.http_addr], 'Stubborn', begins='program') as pair:
        run = watch_run(pair)
        at = destroy_session(agent, pair)
        gone = wait_for_end(pair, run)
        events = [stamp.event for stamp in pair.timeline.of('a', 'task')]
        assert stamps.IGNORED in events
        assert gone.at - at >= GRACE
        # Killed in the same moment, but one is gone before the other.
        wait_until(lambda: not any(
            is_alive(stamp.pid) for stamp in pair.timeline.of('a')), 5, 'all gone')
        pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        judge('session destroyed, the interrupt ignored', pair, at, SESSION_LOST)
        # Killed, not ended: the job is a standby again, which takes over.
        pair.a.wait_for_log('the lock is held by')
        killed = pair.b.kill()
        pair.timeline.wait_for_begin('a', after=killed)
        judge('SIGKILL of the next holder, after a run that was killed', pair, killed,
              KILLED, loser='b', noise=COMPANY)


@together
def test_deaf_to_a_signal(agent: Agent) -> None:
    """A task that ignores SIGTERM is killed, with the child that does the same."""
    with Pair([agent.http_addr], 'Stubborn', begins='program') as pair:
        run = watch_run(pair)
        at = pair.a.terminate()
        begin = pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == TERMINATED
        pair.a.wait_for_log('the run did not stop when told to')
        # With nothing of the run left when the other began.
        gone = pair.timeline.wait_for(
            lambda stamp: (stamp.event, stamp.pid) == (stamps.GONE, run), 5, 'its end')
        assert max(gone.at, *(stamp.at for stamp in pair.timeline.of('a'))) < begin.at
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
