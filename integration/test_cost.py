"""What a lock costs Consul: requests, and entries in the Raft log."""

import json
import pathlib
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from integration.agents import Agent, wait_until
from integration.families import connections, family
from integration.locks import Program, held_record, hold, lock_on
from integration.proxy import Proxy
from integration.runjobs import job, moments
from integration.stamps import now
from integration.together import together
from jobslib.exceptions import LockUnavailableError

KEY = 'cost/lock'

#: Consul itself writes an entry every 60 s, the first a minute after its start.
OWN_ENTRY = 60.0
#: How long an idle standby is watched.
MEASURED = 40.0


@contextmanager
def quiet() -> Iterator[tuple[Agent, Proxy, pathlib.Path]]:
    """A server that writes next to nothing on its own, a way to it, and a folder."""
    with (Agent(config={'disable_coordinates': True}) as agent,
          Proxy(agent.http_addr) as proxy,
          tempfile.TemporaryDirectory(prefix='jobslib-') as folder):
        yield agent, proxy, pathlib.Path(folder)


def wait_for_quiet(agent: Agent, started: float, seconds: float) -> None:
    """Wait until a server, started at a time, writes nothing for some seconds."""
    if now() - started + seconds > OWN_ENTRY - 1.0:
        index = agent.raft_index()
        wait_until(lambda: agent.raft_index() > index, OWN_ENTRY + 10,
                   "Consul's own entry")


@together
def test_standby(_: Agent) -> None:
    """An idle standby makes at most 12 requests a minute, and writes nothing."""
    started = now()
    with quiet() as (agent, proxy, folder):
        hold(agent.api, KEY, held_record(), ttl='600s')
        with job(folder, proxy.addr, KEY, '--keep-lock') as standby:
            standby.wait_for('not run')
            wait_until(lambda: waits(proxy), 20, 'a standby that waits')
            wait_for_quiet(agent, started, MEASURED)
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


def but_renewals(proxy: Proxy, before: int) -> Counter[str]:
    """The kinds of requests but the first so many; renewals depend on the time that
    passed, not on what was done in it."""
    return Counter(
        '/'.join(path.split('?')[0].split('/')[2:4])
        for _, _, path in list(proxy.requests)[before:]
        if '/session/renew/' not in path)


@together
def test_run(_: Agent) -> None:
    """A run costs three requests, and two entries: to acquire, and to release."""
    started = now()
    with quiet() as (agent, proxy, folder):
        wait_for_quiet(agent, started, 30.0)
        with job(folder, proxy.addr, KEY, '--run-interval', '0.25') as program:
            program.wait_for('BEGIN', 3)
            before = len(proxy.requests)
            program.wait_for('BEGIN', 13)
            kinds = but_renewals(proxy, before)
            requests = kinds.total() / 10
        tokens = [begin.token for begin in moments(program, 'BEGIN')]
    print(f'run: {requests:.1f} requests ({dict(kinds)})')
    # One to read the key, to take it and to release it; the last was under way.
    assert requests <= 3.2
    # The token is the index of the entry that acquired the lock.
    assert {later - token for token, later in pairwise(tokens)} == {2}


def has(agent: Agent, program: Program, count: int) -> bool:
    """Whether a job has so many connections, all its processes together, for a
    while."""
    for _ in range(10):
        if sum(connections(agent.http_addr[1], each)
               for each in family(program.pid)) != count:
            return False
        time.sleep(0.1)
    return True


@together
def test_connections(agent: Agent) -> None:
    """A holder has two connections, a standby one, who waits for a slot none."""
    with tempfile.TemporaryDirectory(prefix='jobslib-') as name:
        folder, key, addr = pathlib.Path(name), 'cost/connections', agent.http_addr
        with (job(folder, addr, key, '--keep-lock', 'tasks.Task',
                  '--seconds', '60') as holder,
              job(folder, addr, 'cost/slot', '--run-interval', '60') as waiting):
            holder.wait_for('BEGIN')
            waiting.wait_for('END')
            with job(folder, addr, key, '--keep-lock') as standby:
                standby.wait_for('not run')
                # A renewal may take another for a moment.
                for program, count in (holder, 2), (standby, 1), (waiting, 0):
                    wait_until(lambda: has(agent, program, count), 20,
                               f'{count} connections')
                # Both are its keeper's.
                assert connections(addr[1], holder.pid) == 0


def test_one_connection_too_many() -> None:
    """A client that the agent has no connection for is told of the limit."""
    limits = {'http_max_conns_per_client': 4}
    with Agent(config={'limits': limits}) as agent:
        others = [socket.create_connection(agent.http_addr) for _ in range(6)]
        try:
            with (lock_on(agent.http_addr, 'cost/many') as lock,
                  pytest.raises(LockUnavailableError, match='http_max_conns_per')):
                lock.acquire()
        finally:
            for each in others:
                each.close()
        with lock_on(agent.http_addr, 'cost/many') as lock:
            wait_until(lock.acquire, 10, 'the lock')


@together
def test_run_with_the_lock_kept(_: Agent) -> None:
    """With the lock kept a run costs one entry, its history."""
    started = now()
    with quiet() as (agent, proxy, folder):
        with job(folder, proxy.addr, KEY, '--keep-lock', '--run-interval',
                 '0.25') as program:
            program.wait_for('BEGIN', 3)
            wait_until(lambda: noted(agent)[0] > 0, 30, 'a run noted')
            wait_for_quiet(agent, started, 20.0)
            runs, entry = noted(agent)
            wait_until(lambda: noted(agent)[0] >= runs + 9, 30, 'nine runs noted')
            runs_then, entry_then = noted(agent)
    assert entry_then - entry == runs_then - runs


def noted(agent: Agent) -> tuple[int, int]:
    """How many runs the history has counted, and the entry that wrote the last."""
    document = agent.api.kv('cost/history/lock')
    if document is None:
        return 0, 0
    return json.loads(document['Value'])['runs'], document['ModifyIndex']


@together
def test_run_without_history(_: Agent) -> None:
    """Without a history it costs none, and renewals write nothing."""
    started = now()
    with quiet() as (agent, proxy, folder):
        with job(folder, proxy.addr, KEY, '--keep-lock', '--run-interval',
                 '0.25', env={'JOBSLIB_HISTORY': '0'}) as program:
            program.wait_for('BEGIN', 3)
            wait_for_quiet(agent, started, 30.0)
            before, entries = len(proxy.requests), agent.raft_index()
            began, count = now(), program.output.count('BEGIN')
            program.wait_for('BEGIN', count + 40)
            took = now() - began
            requests = proxy.requests[before:]
            assert agent.raft_index() == entries
    renewals = [path for _, _, path in requests if '/session/renew/' in path]
    print(f'run with the lock kept: {len(requests)} requests in {took:.1f} s')
    assert len(renewals) > 3
    assert len(requests) - len(renewals) <= 2


SECONDLY = '--schedule', '* * * * * *'


@together
def test_scheduled_run(_: Agent) -> None:
    """A run of a slot costs what any run does: two entries, three requests."""
    with quiet() as (_agent, proxy, folder):
        with job(folder, proxy.addr, KEY, *SECONDLY) as program:
            program.wait_for('BEGIN', 3)
            before = len(proxy.requests)
            program.wait_for('BEGIN', 9)
            kinds = but_renewals(proxy, before)
            requests = kinds.total() / 6
        tokens = [begin.token for begin in moments(program, 'BEGIN')]
    print(f'run of a slot: {requests:.1f} requests ({dict(kinds)})')
    # The release that was under way counts as well.
    assert requests <= 3.4
    assert {later - token for token, later in pairwise(tokens)} == {2}


@pytest.mark.parametrize(('options', 'history', 'entries'), [
    ((), '100', 1), ((), '0', 0), (('--recoveries', '0'), '100', 2),
    (('--recoveries', '0'), '0', 2)])
def test_scheduled_run_with_the_lock_kept(
        options: tuple[str, ...], history: str, entries: int) -> None:
    """With the lock kept a run of a slot costs one entry, none without a
    history, and one more if the slot must be recorded before its run."""
    started = now()
    with quiet() as (agent, proxy, folder):
        with job(folder, proxy.addr, KEY, '--keep-lock', *SECONDLY, *options,
                 env={'JOBSLIB_HISTORY': history}) as program:
            program.wait_for('run succeeded', 2)
            wait_for_quiet(agent, started, 20.0)
            before, count = agent.raft_index(), program.output.count('BEGIN')
            program.wait_for('BEGIN', count + 6)
            written = agent.raft_index() - before
            runs = program.output.count('BEGIN') - count
    print(f'run of a slot, lock kept, {" ".join(options)} HISTORY={history}: '
          f'{written / runs:.1f} entries')
    # One of a run is perhaps counted, and the run is not, or the other way round.
    assert entries * (runs - 1) <= written <= entries * (runs + 1)


def test_late_contender(fresh_agent: Agent) -> None:
    """A process that finds the slot done has read the key once, and written
    nothing."""
    yearly = '--run-once', '--schedule', '0 0 1 1 *'
    with (Proxy(fresh_agent.http_addr) as proxy,
          tempfile.TemporaryDirectory(prefix='jobslib-') as name):
        folder = pathlib.Path(name)
        with job(folder, fresh_agent.http_addr, KEY, *yearly) as first:
            assert first.wait() == 0
        with job(folder, proxy.addr, KEY, *yearly) as second:
            assert second.wait() == 0
        assert 'was run by' in second.output
        assert [method for _, method, _ in proxy.requests] == ['GET']
