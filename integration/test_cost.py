"""What a lock costs Consul: requests, and entries in the Raft log."""

import json
import pathlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from integration.agents import Agent, wait_until
from integration.locks import held_record, hold
from integration.proxy import Proxy
from integration.runjobs import job, moments
from integration.together import together

KEY = 'cost/lock'

#: Consul itself writes an entry every 60 s, the first a minute after its start.
MEASURED = 40.0


@contextmanager
def quiet() -> Iterator[tuple[Agent, Proxy, pathlib.Path]]:
    """A server that writes nothing on its own, a way to it, and a folder."""
    with (Agent(config={'disable_coordinates': True}) as agent,
          Proxy(agent.http_addr) as proxy,
          tempfile.TemporaryDirectory(prefix='jobslib-') as folder):
        yield agent, proxy, pathlib.Path(folder)


@together
def test_standby(_: Agent) -> None:
    """An idle standby makes at most 12 requests a minute, and writes nothing."""
    with quiet() as (agent, proxy, folder):
        hold(agent.api, KEY, held_record())
        with job(folder, proxy.addr, KEY, '--keep-lock') as standby:
            standby.wait_for('not run')
            wait_until(lambda: waits(proxy), 10, 'a standby that waits')
            before, entries = len(proxy.requests), agent.raft_index()
            time.sleep(MEASURED)
            requests = proxy.requests[before:]
            written = agent.raft_index() - entries
    kinds = Counter(path.split('?')[0].split('/')[2] for _, _, path in requests)
    print(f'idle standby: {len(requests)} requests ({dict(kinds)}) and {written} '
          f'entries in {MEASURED:g} s')
    assert len(requests) <= 12 * MEASURED / 60
    assert written == 0


def waits(proxy: Proxy) -> bool:
    """Whether the last of the requests but renewals is one that waits for the key."""
    paths = [path for _, _, path in proxy.requests if '/session/renew/' not in path]
    return 'index=' in paths[-1]


@together
def test_run(_: Agent) -> None:
    """A run costs two entries: one to acquire the lock, one to release it."""
    with quiet() as (agent, proxy, folder):
        with job(folder, proxy.addr, KEY, '--run-interval', '0.25') as program:
            program.wait_for('BEGIN', 3)
            before = len(proxy.requests)
            program.wait_for('BEGIN', 13)
            requests = (len(proxy.requests) - before) / 10
        tokens = [begin.token for begin in moments(program, 'BEGIN')]
    print(f'run: {requests:.1f} requests')
    # The token is the index of the entry that acquired the lock.
    assert {later - token for token, later in zip(tokens, tokens[1:])} == {2}


@together
def test_run_with_the_lock_kept(_: Agent) -> None:
    """With the lock kept a run costs one entry, its history."""
    with quiet() as (agent, proxy, folder):
        with job(folder, proxy.addr, KEY, '--keep-lock', '--run-interval',
                 '0.25') as program:
            program.wait_for('BEGIN', 3)
            noted, entries = runs_and_entries(agent)
            wait_until(lambda: runs(agent) >= noted + 9, 30, 'nine runs noted')
            noted_then, entries_then = runs_and_entries(agent)
    assert entries_then - entries == noted_then - noted


def runs_and_entries(agent: Agent) -> tuple[int, int]:
    """How many runs the history has counted, and the entries at that moment."""
    def look() -> tuple[int, int] | None:
        before, entries, after = runs(agent), agent.raft_index(), runs(agent)
        return (before, entries) if before == after else None
    return wait_until(look, 5, 'no run noted meanwhile')


def runs(agent: Agent) -> int:
    """How many runs the history has counted."""
    document = agent.api.kv('cost/history/lock')
    count: int = json.loads(document['Value'])['runs'] if document else 0
    return count


@together
def test_run_without_history(_: Agent) -> None:
    """Without a history it costs none, and renewals write nothing."""
    with quiet() as (agent, proxy, folder):
        with job(folder, proxy.addr, KEY, '--keep-lock', '--run-interval',
                 '0.25', env={'JOBSLIB_HISTORY': '0'}) as program:
            program.wait_for('BEGIN', 3)
            before, entries = len(proxy.requests), agent.raft_index()
            started = time.monotonic()
            program.wait_for('BEGIN', 43)
            took = time.monotonic() - started
            requests = proxy.requests[before:]
            assert agent.raft_index() == entries
    renewals = [path for _, _, path in requests if '/session/renew/' in path]
    print(f'run with the lock kept: {len(requests)} requests in {took:.1f} s')
    assert len(renewals) > 3
    assert len(requests) - len(renewals) <= 2
