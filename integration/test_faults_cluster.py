"""Three servers: what their leader, or all of them, may go through.

The workers talk to an agent that is no server, as machines have it beside their
jobs; it finds a server that lives by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from integration.agents import HOST, Agent, Cluster, wait_until
from integration.report import attempts, judge, was_too_long
from integration.stamps import now
from integration.together import together
from integration.workers import LOCK_DELAY, TTL, Pair
from jobslib.keeper.timings import Timings

TIMINGS = Timings.derive(TTL, LOCK_DELAY)
ALL_LOST = 2 * TTL + LOCK_DELAY + 0.5

#: A server that was away has its vote as soon as it is back.
CONFIG = {'autopilot': {'cleanup_dead_servers': False}}
#: How long a server needs to find its way back into a cluster, in seconds.
ELECTED = 20.0
#: How long a leader is stopped: past every timer of a session.
STOPPED = 2 * TTL + 5.0


@contextmanager
def cluster() -> Iterator[tuple[Cluster, Agent]]:
    """Three servers of one's own, and an agent beside the jobs."""
    with Cluster(config=CONFIG) as servers:
        join = [f'{HOST}:{each.ports.serf_lan}' for each in servers]
        config = {'server': False, 'bootstrap_expect': 0, 'retry_join': join}
        with Agent(on_disk=True, config=config) as client:
            yield servers, client


@together
def test_leader_killed(_: Agent) -> None:
    """An election disturbs no run, and the lock stays where it is."""
    with (cluster() as (servers, client),
          Pair([client.http_addr]) as pair):
        for number in (1, 2):
            leader, at = servers.leader(), now()
            leader.kill()
            servers.leader()
            pair.pass_time(TIMINGS.window + 2.0)
            assert pair.timeline.tokens() in ([], [pair.token])
            judge(f'leader killed, time {number}', pair, at, 0.0)
            leader.restart()
            servers.wait_ready()
        at = pair.a.terminate()
        pair.timeline.wait_for_begin('b', after=at)
        judge('leader killed twice, SIGTERM after that', pair, at, 0.5)


@together
def test_leader_stopped_until_it_leads_again(_: Agent) -> None:
    """A leader that wakes and leads again may end any session: never two at once.

    It counts the TTL of a session from the last renewal that it knew of, and can
    destroy one that was renewed all the time with another leader.
    """
    with (cluster() as (servers, client),
          Pair([client.http_addr]) as pair):
        leader, at = servers.leader(), now()
        leader.stop()
        servers.leader()
        pair.pass_time(STOPPED)
        # Requests hang while the others still believe in it, now and then for
        # longer than the slack; then the run is stopped, and goes on after.
        judge('leader stopped', pair, at, ALL_LOST)
        at = now()
        leader.cont()
        wait_until(lambda: servers.leader(), ELECTED, 'a leader')
        make_leader(servers, leader, pair)
        pair.pass_time(2 * TTL + LOCK_DELAY)
        pair.timeline.wait_for(lambda stamp: stamp.at > now() - 0.5, ALL_LOST,
                               'somebody runs')
        judge('leader continued until it leads again', pair, at, LOCK_DELAY + 0.5)


@together
def test_servers_gone_and_back(_: Agent) -> None:
    """Without servers the run stops in time; when they are back it goes on."""
    with (cluster() as (servers, client),
          Pair([client.http_addr]) as pair):
        at = now()
        for each in servers:
            each.kill()
        pair.a.wait_for_log('run interrupted', TIMINGS.window + 10.0)
        pair.timeline.update()
        assert pair.timeline.last('a') < at + TIMINGS.window
        pair.pass_time(3.0)
        back = now()
        for each in servers:
            each.restart(wait=False)
        servers.wait_ready()
        begin = pair.timeline.wait_for(
            lambda stamp: stamp.token > pair.token, 2 * ALL_LOST, 'a run')
        # An election gives every session its full TTL, doubled, once more.
        judge('all servers gone and back', pair, at,
              back - at + ELECTED + ALL_LOST)
        print(f'all servers gone: the job runs {begin.at - back:.1f} s after they '
              f'are back')


@together
def test_servers_gone_for_a_moment(_: Agent) -> None:
    """Servers that are back within the slack disturb nothing."""
    for _attempt in attempts():
        with (cluster() as (servers, client),
              Pair([client.http_addr]) as pair):
            at = now()
            for each in servers:
                each.stop()
            pair.pass_time(TIMINGS.slack - 3.0)
            for each in servers:
                each.cont()
            # The outage is over when they have elected a leader.
            servers.wait_ready()
            over = now()
            pair.pass_time(TIMINGS.window + 2.0)
            if was_too_long(pair, at, over, TIMINGS.slack):
                continue
            judge(f'all servers stopped for {TIMINGS.slack - 3.0:g} s', pair, at, 0.0)
            return


def make_leader(servers: Cluster, wanted: Agent, pair: Pair) -> None:
    """Stop other leaders for a moment, until the wanted one leads.

    Of two that may be elected it is one or the other.
    """
    for _ in range(30):
        leader = servers.leader()
        if leader is wanted:
            return
        leader.stop()
        servers.leader()
        leader.cont()
        servers.leader()
        # Elections one upon the other would be an outage of their own.
        pair.pass_time(TIMINGS.timeout)
    raise AssertionError(f'{wanted.name} does not get to lead')
