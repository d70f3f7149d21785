"""Faults of a holder whose session is bound to a check of its own agent."""

import pathlib
import signal

from integration.agents import Agent, wait_until
from integration.report import judge
from integration.stamps import now
from integration.together import together
from integration.workers import LOCK_DELAY, Pair, Worker

CHECK_TTL = 2.0
NOTICED = CHECK_TTL + LOCK_DELAY + 0.5
#: Where it is not measured, so long that no pause of the machine fails a check.
LONG_TTL = 5.0


def bound(ttl: float) -> dict[str, str]:
    """The environment of a job with checks of a TTL."""
    return {'JOBSLIB_ONE_INSTANCE_CONSUL_CHECK_TTL': f'{ttl:g}'}


def checks(agent: Agent, pair: Pair) -> dict[str, str]:
    """The status of the pair's checks, by id."""
    found = agent.api.get('agent/checks').json().values()
    return {check['CheckID']: check['Status'] for check in found
            if check['Name'] == f'jobslib {pair.key}'}


@together
def test_everything_killed(agent: Agent) -> None:
    """With process and keeper gone, the check fails and ends the session."""
    with Pair([agent.http_addr], env=bound(CHECK_TTL)) as pair:
        assert set(checks(agent, pair).values()) == {'passing'}
        session = pair.session(agent.api)
        at = pair.a.signal_all(signal.SIGKILL)
        wait_until(lambda: 'critical' in checks(agent, pair).values(),
                   CHECK_TTL + 10, 'the check of the dead')
        pair.timeline.wait_for_begin('b', after=at, timeout=NOTICED + 10)
        assert pair.session(agent.api) != session
        judge('SIGKILL of process and keeper, check_ttl 2 s', pair, at, NOTICED)


@together
def test_check_failed(agent: Agent) -> None:
    """A check that somebody fails ends the session; the holder stops first."""
    with Pair([agent.http_addr], env=bound(LONG_TTL)) as pair:
        session = pair.session(agent.api)
        about = agent.api.get(f'session/info/{session}').json()[0]
        check, = set(about['NodeChecks']) - {'serfHealth'}
        at = now()

        def has_ended() -> bool:
            # The keeper passes it now and then: before the servers are told of
            # the failure, if it happens so.
            agent.api.put(f'agent/check/fail/{check}')
            return not agent.api.get(f'session/info/{session}').json()

        wait_until(has_ended, LOCK_DELAY, 'the end of the session')
        begin = pair.timeline.wait_for_begin('b', timeout=20.0, after=at)
        assert begin.at - at >= LOCK_DELAY
        assert agent.api.get(f'session/info/{session}').json() == []
        assert 'run interrupted' in pair.a.log_text()
        judge('check failed by an operator', pair, at, LOCK_DELAY + 0.5)


def test_checks_are_deregistered(agent: Agent, tmp_path: pathlib.Path) -> None:
    """Checks go with their processes; those of the dead go with the next."""
    env = bound(LONG_TTL)
    with Pair([agent.http_addr], env=env) as pair:
        pair.b.signal_all(signal.SIGKILL)
        wait_until(lambda: sorted(checks(agent, pair).values())
                   == ['critical', 'passing'], 20, 'the check of the dead')
        with Worker('c', 'Stamping', tmp_path, pair.key, agent.http_addr,
                    options=('--keep-lock',), env=env) as worker:
            worker.wait_for_keeper()
            assert list(checks(agent, pair).values()) == ['passing', 'passing']
            for each in (worker, pair.a):
                each.terminate()
                each.wait()
            wait_until(lambda: not checks(agent, pair), 20,
                       'the end of the checks')
