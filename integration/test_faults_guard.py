"""A keeper that is killed or stopped while nobody can replace it."""

import signal

from integration import jobs, stalls, stamps
from integration.agents import Agent, wait_until
from integration.report import judge
from integration.together import together
from integration.workers import LOCK_DELAY, TTL, Pair, process_state

ALL_LOST = 2 * TTL + LOCK_DELAY + 0.5


def stuck_without_keeper(agent: Agent, signum: signal.Signals, state: str) -> None:
    """Stop a supervisor whose run is in a C call, and take its keeper away."""
    with Pair([agent.http_addr], 'CCall', standby_task='Stamping',
              env={jobs.SECONDS_VARIABLE: f'{6 * TTL:g}'}) as pair:
        keeper = pair.a.keeper()
        # It stamps nothing in its call: its end says until when it ran.
        pair.a.watch(pair.a.run_process())
        # Before it is seen to stand still.
        pair.a.stop()
        at = pair.a.signal_keeper(signum)
        # When the process has ended, it is nobody's any more.
        wait_until(lambda: process_state(keeper) in (state, ''), 5, 'a keeper away')
        assert pair.a.wait() == -signal.SIGKILL
        gone = pair.timeline.wait_for(
            lambda stamp: stamp.event == stamps.GONE, 5, 'the stamp of its end')
        assert 2 <= gone.at - at <= LOCK_DELAY + stalls.since(at)  # the window
        assert stamps.LEAVE not in [stamp.event for stamp in pair.timeline.of('a')]
        pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        judge(f'SIGSTOP of the supervisor, {signum.name} to the keeper, run in a C '
              f'call', pair, at, ALL_LOST)


@together
def test_keeper_killed_and_supervisor_stopped(agent: Agent) -> None:
    """With its keeper killed and its supervisor stopped, a run ends in time."""
    stuck_without_keeper(agent, signal.SIGKILL, 'Z')


@together
def test_keeper_and_supervisor_stopped(agent: Agent) -> None:
    """With keeper and supervisor stopped, a run ends before its lease does."""
    stuck_without_keeper(agent, signal.SIGSTOP, 'T')


@together
def test_process_and_keeper_killed_with_daemon(agent: Agent) -> None:
    """What process and keeper leave running is ended all the same."""
    with Pair([agent.http_addr], 'Daemon', begins='daemon') as pair:
        daemon = pair.timeline.of('a', 'daemon')[0].pid
        keeper = pair.a.keeper()
        at = pair.a.signal_keeper(signal.SIGKILL)
        pair.a.kill()
        wait_until(lambda: not process_state(keeper), 20, 'the keeper gone')
        wait_until(lambda: not process_state(daemon), 20, 'the daemon gone')
        pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        judge('SIGKILL of supervisor and keeper, with a daemon', pair, at, ALL_LOST)
