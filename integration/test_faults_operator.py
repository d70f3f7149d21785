"""What an operator may do to a lock, and to the agent in front of it."""

from integration import stamps
from integration.agents import HOST, Agent, wait_until
from integration.report import COMPANY, attempts, judge, was_too_long
from integration.together import together
from integration.workers import LOCK_DELAY, TTL, Pair
from jobslib.keeper.timings import Timings

#: How long the job may stand still, in seconds.
KILLED = 0.2
ALL_LOST = 2 * TTL + LOCK_DELAY + 0.5
SESSION_LOST = LOCK_DELAY + 0.5
SLACK = Timings.derive(TTL, LOCK_DELAY).slack

#: For how long two may run where Consul keeps no delay: the grace time that is
#: left then, and the time to kill.
UNPROTECTED = 0.2 + 0.5


def client_of(server: Agent) -> Agent:
    """An agent that is no server, as machines have it beside their jobs."""
    return Agent(on_disk=True, config={
        'server': False, 'bootstrap_expect': 0,
        'retry_join': [f'{HOST}:{server.ports.serf_lan}']})


@together
def test_session_destroyed(agent: Agent) -> None:
    """The run stops at once; the lock goes on when Consul's delay is over."""
    with Pair([agent.http_addr]) as pair:
        session, at = pair.session(agent.api), stamps.now()
        assert session is not None
        agent.api.destroy_session(session)
        begin = pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        assert session not in [each['ID'] for each in agent.api.sessions()]
        assert begin.at - at >= LOCK_DELAY
        assert 'run interrupted' in pair.a.log_text()
        assert 'the lock was lost' in pair.a.log_text()
        judge('session destroyed', pair, at, SESSION_LOST)


@together
def test_key_deleted(agent: Agent) -> None:
    """Without a delay of Consul's two may meet; the fencing token tells them apart."""
    with Pair([agent.http_addr], 'Database') as pair:
        at = stamps.now()
        agent.api.delete(f'kv/{pair.key}')
        begin = pair.timeline.wait_for_begin('b', after=at)
        pair.a.wait_for_log('run interrupted')
        pair.pass_time(1.0)
        entry = agent.api.kv(pair.key)
        # Made anew: its count of acquisitions starts again, the token does not.
        assert entry is not None and entry['LockIndex'] == 1
        assert begin.token > pair.token
        # The latter when the other was quicker than the news.
        assert any(reason in pair.a.log_text() for reason in (
            'the key was deleted', 'another session holds the key'))
        judge('key deleted', pair, at, KILLED, overlap=UNPROTECTED,
              noise=COMPANY)
        # Read once: the other worker goes on writing.
        writes = pair.writes()
        assert len(set(writes)) == 2 and writes == sorted(writes)


@together
def test_key_overwritten(agent: Agent) -> None:
    """A plain PUT takes the owner record, not the lock."""
    with Pair([agent.http_addr]) as pair:
        session, at = pair.session(agent.api), stamps.now()
        agent.api.put(f'kv/{pair.key}', 'rubbish')
        pair.pass_time(2 * TTL)
        entry = agent.api.kv(pair.key)
        assert entry is not None and entry['Value'] == b'rubbish'
        assert entry['LockIndex'] == 0 and entry['Session'] == session
        judge('key overwritten by a plain PUT', pair, at, 0.0)
        assert pair.timeline.tokens() == [pair.token]
        killed = pair.a.kill()
        pair.timeline.wait_for_begin('b', after=killed)
        judge('SIGKILL of the process, key overwritten', pair, killed, KILLED,
              noise=COMPANY)


@together
def test_client_agent_terminated(agent: Agent) -> None:
    """An agent that leaves ends the sessions of its machine; the run stops in time."""
    with client_of(agent) as client, Pair([client.http_addr, agent.http_addr]) as pair:
        session, at = pair.session(agent.api), stamps.now()
        client.terminate()
        wait_until(lambda: session not in [
            each['ID'] for each in agent.api.sessions()], 20, 'the session ended')
        assert pair.session(agent.api) is None
        client.restart()
        begin = pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        assert begin.at - at >= LOCK_DELAY
        pair.a.wait_for_log('the lock is held by')
        judge("SIGTERM to the holder's agent, started again", pair, at, SESSION_LOST)


@together
def test_client_agent_killed(agent: Agent) -> None:
    """With its agent gone a run stops before its lease ends, and can come back."""
    with client_of(agent) as client, Pair([client.http_addr, agent.http_addr]) as pair:
        session, at = pair.session(agent.api), stamps.now()
        client.kill()
        pair.a.wait_for_log('run interrupted')
        pair.timeline.update()
        assert pair.timeline.last('a') < at + LOCK_DELAY
        assert session and pair.session(agent.api) == session
        assert 'the lease could not be renewed in time' in pair.a.log_text()
        pair.timeline.wait_for_begin('b', timeout=40.0, after=at)
        judge("SIGKILL of the holder's agent", pair, at, ALL_LOST)
        client.restart()
        pair.a.wait_for_log('the lock is held by')
        killed = pair.b.kill()
        pair.timeline.wait_for_begin('a', after=killed)
        judge('SIGKILL of the next holder, the first is back', pair, killed, KILLED,
              loser='b', noise=COMPANY)


@together
def test_client_agent_killed_and_back(agent: Agent) -> None:
    """An agent that comes back before the lease ends is not missed."""
    for _attempt in attempts():
        with (client_of(agent) as client,
              Pair([client.http_addr, agent.http_addr]) as pair):
            at = stamps.now()
            client.kill()
            assert not client.running
            pair.pass_time(1.0)
            client.restart()
            if undisturbed("SIGKILL of the holder's agent, started again", client,
                           pair, at):
                return


@together
def test_server_terminated_and_back(_agent: Agent) -> None:
    """A server that is restarted keeps the sessions, and the run its lock."""
    for _attempt in attempts():
        with Agent(on_disk=True) as server, Pair([server.http_addr]) as pair:
            at = stamps.now()
            server.terminate()
            assert not server.running
            server.restart()
            if undisturbed('SIGTERM to the only server, started again', server,
                           pair, at):
                return


@together
def test_server_killed_and_back(_agent: Agent) -> None:
    """So does one that was killed."""
    for _attempt in attempts():
        with Agent(on_disk=True) as server, Pair([server.http_addr]) as pair:
            at = stamps.now()
            server.kill()
            assert not server.running
            server.restart()
            if undisturbed('SIGKILL of the only server, started again', server,
                           pair, at):
                return


def undisturbed(fault: str, agent: Agent, pair: Pair, at: float) -> bool:
    """Hold an outage to its promise: nobody notices, and all works as before.

    False when it was longer than that promise covers.
    """
    session, over = pair.session(agent.api), stamps.now()
    pair.pass_time(2 * TTL)
    if was_too_long(pair, at, over, SLACK):
        return False
    assert session and pair.session(agent.api) == session
    judge(fault, pair, at, 0.0)
    assert pair.timeline.tokens() == [pair.token]
    killed = pair.a.kill()
    pair.timeline.wait_for_begin('b', after=killed)
    judge(f'SIGKILL of the process, after: {fault}', pair, killed, KILLED,
          noise=COMPANY)
    return True
