"""What can happen on the way between a holder and Consul.

The holder's way leads through a proxy, its standby reaches Consul directly. Each
fault comes for a time that the settings' slack covers, and then to stay until
the standby has taken over; and then the line is good again.
"""

import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence

from integration.agents import Agent, wait_until
from integration.lines import LINES
from integration.proxy import Proxy
from integration.report import attempts, judge, was_too_long
from integration.stamps import now
from integration.together import Scenario, together
from integration.workers import LOCK_DELAY, TTL, Pair, Worker
from jobslib.keeper.timings import Timings

TIMINGS = Timings.derive(TTL, LOCK_DELAY)
#: An outage that disturbs nothing, and one that is too long for the holder.
BLIP = TIMINGS.slack - 0.5
ALL_LOST = 2 * TTL + LOCK_DELAY + 0.5
#: When the run has been stopped, counted from the beginning of an outage.
STOPPED = TIMINGS.window

#: More than the 0.1 s that it takes, for all hand over in the same moment here.
HANDED_OVER = 0.5
#: How soon a process notices that Consul is back: timeout, pause and much more.
RESUMED = 20.0

Break = Callable[[Proxy], None]


def line_fault(fault: str, break_line: Break) -> Scenario:
    """The scenario of a fault."""
    def scenario(agent: Agent) -> None:
        for _attempt in attempts():
            with (Proxy(agent.http_addr) as proxy,
                  Pair([proxy.addr, agent.http_addr]) as pair):
                proxy.wait_connected()
                at = now()
                break_line(proxy)
                pair.pass_time(BLIP)
                assert proxy.faulted
                proxy.pass_through()
                over = now()
                pair.pass_time(TIMINGS.window)
                if was_too_long(pair, at, over, TIMINGS.slack):
                    continue
                assert 'interrupted' not in pair.a.log_text(), pair.a.log_text()
                judge(f'{fault}, {BLIP:g} s', pair, at, 0.0)
                return cut_off(proxy, pair)

    def cut_off(proxy: Proxy, pair: Pair) -> None:
        at = now()
        break_line(proxy)
        begin = pair.timeline.wait_for_begin('b', 40.0, after=at)
        pair.a.wait_for_log('run interrupted')
        assert pair.timeline.last('a') < at + STOPPED
        assert begin.at > pair.timeline.last('a')
        judge(f'{fault}, to stay', pair, at, ALL_LOST)
        proxy.pass_through()
        assert_takes_over(pair, fault)

    scenario.__doc__ = f'{fault}: a blip disturbs nothing, more ends the run in time.'
    return scenario


def assert_takes_over(pair: Pair, fault: str) -> None:
    """The loser has become a standby again, and takes over when it may."""
    def waits() -> bool:
        log = pair.a.log_text()
        return log.count('waiting for the lock') == log.count('answers again')
    wait_until(waits, RESUMED, 'Consul noticed')
    pair.a.wait_for_log('not run: the lock is held by', RESUMED)
    at = pair.b.terminate()
    pair.timeline.wait_for_begin('a', after=at)
    judge(f'{fault}, over: SIGTERM to the other', pair, at, HANDED_OVER, loser='b')


for _fault, _break in LINES.items():
    _scenario = line_fault(_fault, _break)
    _scenario.__name__ = 'test_' + ''.join(
        letter if letter.isalnum() else '_' for letter in _fault)
    globals()[_scenario.__name__] = together(_scenario)


@together
def test_slow_answers(agent: Agent) -> None:
    """Answers that come late, but within the timeout, disturb nothing."""
    with (Proxy(agent.http_addr) as proxy,
          Pair([proxy.addr, agent.http_addr]) as pair):
        at = now()
        proxy.delay(TIMINGS.timeout / 2)
        pair.pass_time(3 * TIMINGS.window)
        judge(f'answers delayed by {TIMINGS.timeout / 2:g} s', pair, at, 0.0)


@together
def test_server_that_does_not_know_its_sessions_yet(agent: Agent) -> None:
    """What a server says that has not read its log yet is not believed.

    One that is restarted does, for some milliseconds, and then it is right.
    """
    with (Proxy(agent.http_addr) as proxy,
          Pair([proxy.addr, agent.http_addr]) as pair):
        session, at = pair.session(agent.api), now()
        proxy.status(404, f"Session id '{session}' not found",
                     lambda _, path: '/session/renew/' in path)
        wait_until(lambda: proxy.faulted > 2, 10, 'renewals refused')
        proxy.pass_through()
        pair.pass_time(TIMINGS.window)
        assert pair.session(agent.api) == session
        judge('renewals answered by 404, the session lives', pair, at, 0.0)


@together
def test_short_faults_again_and_again(agent: Agent) -> None:
    """A line that fails half of the time, in any way, disturbs nothing."""
    with (Proxy(agent.http_addr) as proxy,
          Pair([proxy.addr, agent.http_addr]) as pair):
        at = now()
        for break_line in LINES.values():
            break_line(proxy)
            pair.pass_time(1.5)
            proxy.pass_through()
            pair.pass_time(1.5)
        judge('each of them for 1.5 s of every 3 s', pair, at, 0.0)


class Tokens:
    """Token files of two workers, by label, and the tokens in them."""

    def __init__(self, agent: Agent, folder: pathlib.Path) -> None:
        self.agent = agent
        self.folder = folder
        for label in 'ab':
            self.renew(label)

    def path(self, label: str) -> pathlib.Path:
        """The file of a worker."""
        return self.folder / label

    def renew(self, label: str) -> None:
        """Put a new token into the file."""
        rules = (f'session "{self.agent.name}" {{ policy = "write" }}\n'
                 f'key_prefix "faults/" {{ policy = "write" }}')
        new = self.folder / f'{label}.new'
        new.write_text(self.agent.api.create_token(rules))
        new.replace(self.path(label))  # which is read all the time

    def revoke(self, label: str) -> None:
        """Revoke the token that is in the file."""
        api = self.agent.new_api(self.path(label).read_text())
        accessor = api.get('acl/token/self').json()['AccessorID']
        assert self.agent.api.delete(f'acl/token/{accessor}').ok
        api.close()


class TokenPair(Pair):
    """Two workers, each with a token file of its own."""

    def __init__(self, agent: Agent, tokens: Tokens) -> None:
        self.tokens = tokens
        super().__init__([agent.http_addr])

    def _start(self, label: str, task: str, folder: pathlib.Path,
               addr: tuple[str, int], options: Sequence[str],
               env: Mapping[str, str]) -> Worker:
        variable = 'JOBSLIB_ONE_INSTANCE_CONSUL_TOKEN_FILE'
        env = {**env, variable: str(self.tokens.path(label))}
        return super()._start(label, task, folder, addr, options, env)


@together
def test_token_revoked_and_replaced(_: Agent) -> None:
    """A token revoked for too long ends the run in time; its successor resumes it."""
    with (Agent(acl=True) as agent,
          tempfile.TemporaryDirectory(prefix='jobslib-') as folder):
        for _attempt in attempts():
            tokens = Tokens(agent, pathlib.Path(folder))
            with TokenPair(agent, tokens) as pair:
                at = now()
                tokens.revoke('a')
                pair.pass_time(BLIP)
                tokens.renew('a')
                over = now()
                pair.pass_time(TIMINGS.window)
                if was_too_long(pair, at, over, TIMINGS.slack):
                    continue
                assert 'interrupted' not in pair.a.log_text(), pair.a.log_text()
                judge(f'token revoked, replaced after {BLIP:g} s', pair, at, 0.0)
                return revoke_for_long(tokens, pair)


def revoke_for_long(tokens: Tokens, pair: Pair) -> None:
    """Revoke the token of the holder, until the standby has taken over."""
    at = now()
    tokens.revoke('a')
    pair.timeline.wait_for_begin('b', 40.0, after=at)
    pair.a.wait_for_log('run interrupted')
    assert pair.timeline.last('a') < at + STOPPED
    judge('token revoked, not replaced', pair, at, ALL_LOST)
    tokens.renew('a')
    assert_takes_over(pair, 'token revoked')
