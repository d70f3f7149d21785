"""Signals to the holder's process, to its keeper, to both."""

import os
import signal
from contextlib import suppress

import pytest

from integration import stamps
from integration.agents import Agent, wait_until
from integration.report import COMPANY, allowed, judge
from integration.stamps import now
from integration.together import together
from integration.workers import LOCK_DELAY, TTL, Pair, process_state

TERMINATED = 143
#: How long the job may stand still, in seconds.
HANDED_OVER = 0.1
KILLED = 0.2
LARGE_HEAP = 0.1  # more: what the kernel needs for a gigabyte
ALL_LOST = 2 * TTL + LOCK_DELAY + 0.5
#: What the timings of the workers leave a run to stop.
GRACE = 2.0
#: Until a new process for the runs has been made.
MADE = 1.0


CHILDREN = pytest.mark.parametrize('task, begins', [
    ('Shell', 'program'), ('Forking', 'fork'), ('Daemon', 'daemon'),
    ('Clean', 'clean')])
EITHER = pytest.mark.parametrize(
    'signum', [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)


@EITHER
def test_terminated_while_running(agent: Agent, signum: signal.Signals) -> None:
    """A run that is told to end hands over at once."""
    with Pair([agent.http_addr]) as pair:
        at = pair.a.send(signum)
        pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == TERMINATED
        assert 'run interrupted after' in pair.a.log_text()
        assert f'ended by signal {signum.name}' in pair.a.log_text()
        judge(f'{signum.name}, running', pair, at, HANDED_OVER)


def test_terminated_with_the_whole_group(agent: Agent) -> None:
    """A process manager that signals keeper and shell too gets the same."""
    with Pair([agent.http_addr], 'Shell', begins='program') as pair:
        at = pair.a.signal_all(signal.SIGTERM)
        pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == TERMINATED
        judge('SIGTERM to the whole group', pair, at, HANDED_OVER)


@CHILDREN
def test_terminated_with_children(agent: Agent, task: str, begins: str) -> None:
    """What a terminated run leaves running is gone before another begins."""
    with Pair([agent.http_addr], task, begins=begins) as pair:
        at = pair.a.terminate()
        begin = pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == TERMINATED
        assert pair.timeline.of('a', begins)[-1].at < begin.at
        judge(f'SIGTERM, with a child: {begins}', pair, at, HANDED_OVER)


def test_terminated_with_slow_clean_up(agent: Agent) -> None:
    """A run that cleans up within its grace time is waited for."""
    with Pair([agent.http_addr], 'Tidy') as pair:
        at = pair.a.terminate()
        begin = pair.timeline.wait_for_begin('b', after=at)
        ended = pair.timeline.of('a')[-1]
        assert ended.event == stamps.END and 1.0 <= ended.at - at < begin.at - at
        judge('SIGTERM, cleaning up for 1 s', pair, at, HANDED_OVER)


@EITHER
def test_terminated_while_idle(agent: Agent, signum: signal.Signals) -> None:
    """Asleep with the lock kept, a process ends and frees it at once."""
    with Pair([agent.http_addr], 'Short',
              options=('--keep-lock', '--run-interval', '2')) as pair:
        pair.timeline.wait_for(
            lambda stamp: stamp.label == 'a' and stamp.event == stamps.END
            and stamp.at > now() - 0.2, 20, 'the end of a run')
        session = pair.session(agent.api)
        at = pair.a.send(signum)
        wait_until(lambda: pair.session(agent.api) not in (None, session), 5,
                   'the lock handed over', pause=0.005)
        assert now() - at <= allowed(HANDED_OVER, since=at)
        assert pair.a.wait() == TERMINATED
        begin = pair.timeline.wait_for_begin('b', after=at)
        # On the grid of the last holder: the next slot, neither early nor lost.
        begun = max(stamp.at for stamp in pair.timeline.of('a')
                    if stamp.event == stamps.BEGIN)
        assert begin.at - begun == pytest.approx(2.0, abs=allowed(0.0, since=begun))
        judge(f'{signum.name}, asleep with the lock kept', pair, at, 2.0)


@EITHER
def test_terminated_standby(agent: Agent, signum: signal.Signals) -> None:
    """A standby ends at once, takes its session along and disturbs nobody."""
    with Pair([agent.http_addr]) as pair:
        keeper = pair.b.keeper()
        session = max(agent.api.sessions(), key=lambda each: each['CreateIndex'])['ID']
        assert session != pair.session(agent.api)
        at = pair.b.send(signum)
        assert pair.b.wait() == TERMINATED
        assert now() - at <= allowed(HANDED_OVER, since=at)
        wait_until(lambda: not process_state(keeper), 5, 'the keeper gone')
        assert session not in [each['ID'] for each in agent.api.sessions()]
        judge(f'{signum.name} to the standby', pair, at, 0.0, loser='b')


def test_killed(agent: Agent) -> None:
    """The keeper of a killed process frees its lock."""
    with Pair([agent.http_addr]) as pair:
        at = pair.a.kill()
        pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == -signal.SIGKILL
        judge('SIGKILL of the process', pair, at, KILLED)


def test_group_killed(agent: Agent) -> None:
    """The keeper is in a group of its own, and is left to free the lock."""
    with Pair([agent.http_addr], 'Shell', begins='program') as pair:
        at = pair.a.signal_group(signal.SIGKILL)
        pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == -signal.SIGKILL
        judge('SIGKILL of the process group', pair, at, KILLED)


def test_killed_with_a_large_heap(agent: Agent) -> None:
    """The lock is free when the kernel is done with a process, not before."""
    with Pair([agent.http_addr], 'Large', standby_task='Exclusive') as pair:
        at = pair.a.kill()
        pair.timeline.wait_for_begin('b', after=at)
        assert pair.a.wait() == -signal.SIGKILL
        assert 'run failed' not in pair.b.log_text()
        judge('SIGKILL, heap of 1 GB', pair, at, KILLED + LARGE_HEAP)


@CHILDREN
def test_killed_with_children(agent: Agent, task: str, begins: str) -> None:
    """What a killed process leaves running is gone before another begins."""
    with Pair([agent.http_addr], task, begins=begins) as pair:
        at = pair.a.kill()
        pair.timeline.wait_for_begin('b', after=at)
        pair.a.wait_for_log('that it left running')
        judge(f'SIGKILL, with a child: {begins}', pair, at, KILLED)


def test_keeper_killed(agent: Agent) -> None:
    """Another keeper goes on with the same session, and nobody notices."""
    with Pair([agent.http_addr]) as pair:
        session = pair.session(agent.api)
        keeper = pair.a.keeper()
        at = pair.a.signal_keeper(signal.SIGKILL)
        assert pair.a.wait_for_keeper(other_than=keeper) != keeper
        assert not process_state(keeper)
        pair.pass_time(1.0)
        assert session and pair.session(agent.api) == session
        judge('SIGKILL of the keeper', pair, at, 0.0)
        # The new one does what the old one did.
        killed = pair.a.kill()
        pair.timeline.wait_for_begin('b', after=killed)
        judge('SIGKILL of the process, with its second keeper', pair, killed, KILLED)


@together
def test_keepers_killed(agent: Agent) -> None:
    """When no keeper stays alive the run is ended, with all that it started."""
    reason = 'the lease keeper dies again and again; ending the run'
    with Pair([agent.http_addr], 'Daemon', begins='daemon') as pair:
        at, keeper = stamps.now(), 0
        while reason not in pair.a.log_text() and stamps.now() < at + 20:
            with suppress(TimeoutError, ProcessLookupError, LookupError):
                keeper = pair.a.wait_for_keeper(1.0, other_than=keeper)
                os.kill(keeper, signal.SIGKILL)
        assert reason in pair.a.log_text()
        # The supervisor lives on, for the next time.
        assert pair.a.process.poll() is None
        pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        pair.pass_time(0.5)
        judge('SIGKILL of every keeper', pair, at, ALL_LOST)


@together
def test_process_and_keeper_killed(agent: Agent) -> None:
    """With nobody left to free it, the lock is free when Consul says so."""
    with Pair([agent.http_addr], 'Shell', begins='program') as pair:
        keeper = pair.a.keeper()
        at = pair.a.signal_all(signal.SIGKILL)
        assert pair.a.wait() == -signal.SIGKILL
        wait_until(lambda: process_state(keeper) in ('', 'Z'), 5, 'the keeper gone')
        begin = pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        assert begin.at - at > LOCK_DELAY
        judge('SIGKILL of process and keeper', pair, at, ALL_LOST)


@together
def test_group_stopped(agent: Agent) -> None:
    """The keeper ends what stands still, though all else of the job does."""
    with Pair([agent.http_addr]) as pair:
        at = pair.a.signal_group(signal.SIGSTOP)
        pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        assert pair.a.wait() == -signal.SIGKILL
        pair.a.wait_for_log('it stands still')
        judge('SIGSTOP of the process group', pair, at, GRACE + 0.5 + KILLED,
              noise=COMPANY)


@together
def test_process_stopped(agent: Agent) -> None:
    """A supervisor that stands still is ended, with its run."""
    with Pair([agent.http_addr]) as pair:
        at = pair.a.stop()
        pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        assert pair.a.wait() == -signal.SIGKILL
        pair.a.wait_for_log('it stands still')
        judge('SIGSTOP of the supervisor', pair, at, GRACE + 0.5 + KILLED,
              noise=COMPANY)


@together
def test_run_stopped(agent: Agent) -> None:
    """A stopped run keeps its lock for as long as keeper and supervisor work."""
    with Pair([agent.http_addr]) as pair:
        run = pair.timeline.of('a')[0].pid
        at = now()
        os.kill(run, signal.SIGSTOP)
        pair.pass_time(ALL_LOST + 3.0)
        assert process_state(run) == 'T'
        pair.timeline.update()
        assert not pair.timeline.of('b')
        os.kill(run, signal.SIGCONT)
        pair.timeline.wait_for(lambda stamp: stamp.at > at + ALL_LOST, 5, 'the run')
        assert pair.timeline.tokens() == [pair.token]
        judge('SIGSTOP of the run, SIGCONT', pair, at, ALL_LOST + 3.0)


@together
def test_run_stopped_that_has_a_heartbeat(agent: Agent) -> None:
    """A stopped run is killed when its heartbeat is missed, and nobody else."""
    heartbeat = 3.0
    env = {'JOBSLIB_ONE_INSTANCE_CONSUL_HEARTBEAT': str(heartbeat)}
    with Pair([agent.http_addr], 'Beating', env=env) as pair:
        run, at = pair.timeline.of('a')[0].pid, now()
        os.kill(run, signal.SIGSTOP)
        # The lock is kept, and the next run is of the same job.
        pair.timeline.wait_for_begin('a', timeout=20.0, after=at)
        pair.a.wait_for_log('the run was silent for 3 s')
        assert process_state(run) == ''
        assert pair.a.process.poll() is None
        assert not pair.timeline.of('b')
        judge('SIGSTOP of the run, with a heartbeat of 3 s', pair, at,
              heartbeat + GRACE + MADE, noise=COMPANY)


@together
def test_keeper_stopped(agent: Agent) -> None:
    """A keeper that is stopped is replaced while the lease has time left."""
    with Pair([agent.http_addr]) as pair:
        session, keeper = pair.session(agent.api), pair.a.keeper()
        at = pair.a.signal_keeper(signal.SIGSTOP)
        wait_until(lambda: process_state(keeper) == 'T', 5, 'the keeper stopped')
        assert pair.a.wait_for_keeper(other_than=keeper)
        assert now() - at < LOCK_DELAY
        wait_until(lambda: not process_state(keeper), 5, 'the old keeper gone')
        pair.pass_time(2 * TTL)
        assert session and pair.session(agent.api) == session
        judge('SIGSTOP of the keeper', pair, at, 0.0)


@together
def test_process_and_keeper_stopped(agent: Agent) -> None:
    """A frozen machine that wakes stops at once; what it writes is refused."""
    with Pair([agent.http_addr], 'Database') as pair:
        keeper = pair.a.keeper()
        at = pair.a.signal_all(signal.SIGSTOP)
        wait_until(lambda: process_state(pair.a.pid) == process_state(keeper) == 'T',
                   5, 'all stopped')
        pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        pair.pass_time(1.0)
        pair.a.signal_all(signal.SIGCONT)
        pair.a.wait_for_log(': killing ')
        pair.pass_time(0.5)
        # Named in the design: two at once for the instant before it looks.
        judge('SIGSTOP of supervisor, run and keeper, SIGCONT', pair, at, ALL_LOST,
              overlap=allowed(0.0))
        # Read once: the other worker goes on writing.
        writes = pair.writes()
        assert len(set(writes)) == 2 and writes == sorted(writes)
