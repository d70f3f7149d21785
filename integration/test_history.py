"""The history tells the truth, whatever becomes of those who write it."""

import json
import pathlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from integration.agents import Agent, wait_until
from integration.locks import held_record, hold, holder_of, lock_on
from integration.proxy import Proxy
from integration.runjobs import job, moments
from integration.together import together
from jobslib.commands.jobs import describe

#: Longer than the lock-delay, with much to spare.
LATE = 60.0


#: What becomes of the line of the holder, and for how many seconds: for longer
#: than its lease, and for less.
FAULTS = (('mute', 25), ('blackhole', 6), ('hold', 25), ('refuse', 12))


@contextmanager
def folder() -> Iterator[pathlib.Path]:
    """A folder for a job."""
    with tempfile.TemporaryDirectory(prefix='jobslib-') as name:
        yield pathlib.Path(name)


def shown(agent: Agent, key: str) -> list[tuple[Any, ...]]:
    """The runs as `runjob status` shows them: number, outcome, process."""
    with lock_on(agent.http_addr, key) as lock:
        return [(run['run'], run['outcome'], run['pid'])
                for run in describe('job', lock.look())['history']]


def written(agent: Agent, key: str) -> list[tuple[Any, ...]]:
    """The runs that are in the key of the history."""
    folder, _, name = key.rpartition('/')
    entry = agent.api.kv(f'{folder}/history/{name}')
    document = json.loads(entry['Value']) if entry else {'newest': []}
    return [(run['run'], run['outcome'], run['pid']) for run in document['newest']]


@together
def test_run_that_is_lost_with_its_holder(agent: Agent) -> None:
    """It is in the history when its holder is gone, while the next one has its
    first run, and when that one is gone, too."""
    key = 'true/lost'
    lost = held_record(timestamp=time.time() - 60, schedule={}, lock_delay=0)
    agent.api.destroy_session(hold(agent.api, key, lost, '0s'))
    assert shown(agent, key) == [(1, 'killed', 1)]
    with folder() as where, job(
            where, agent.http_addr, key, 'tasks.Task', '--seconds', '60') as program:
        program.wait_for('run 1 of elsewhere (pid 1) was not finished')
        program.wait_for('BEGIN')
        assert written(agent, key) == []
        assert shown(agent, key) == [(1, 'killed', 1)]
        record = json.loads((agent.api.kv(key) or {})['Value'])
        assert [each['pid'] for each in record['before']] == [1]
        program.popen.kill()
        # By its keeper, which has seen what became of the run.
        wait_until(lambda: holder_of(agent.api, key) is None, LATE, 'its end')
        assert shown(agent, key) == [
            (1, 'killed', 1), (2, 'killed', program.pid)]
    with folder() as where, job(where, agent.http_addr, key, '--run-once') as program:
        assert program.wait() == 0
        runs = [(1, 'killed', 1), (2, 'killed', record['pid']),
                (3, 'succeeded', program.pid)]
        assert shown(agent, key) == written(agent, key) == runs


@together
def test_run_that_ended_out_of_touch(agent: Agent) -> None:
    """What ended well while nobody could be told is in the history as soon as
    its process gets through, in the place of what the next holder presumed."""
    key = 'true/out-of-touch'
    with (folder() as where, ExitStack() as stack, Proxy(agent.http_addr) as proxy,
          job(where, proxy.addr, key, '--run-interval', '0.2', 'tasks.Task',
              '--seconds', '2', timeout=1, retry_max_attempts=1) as cut_off):
        cut_off.wait_for('BEGIN')
        proxy.blackhole()
        session = holder_of(agent.api, key)
        assert session is not None
        agent.api.destroy_session(session)
        cut_off.wait_for('run succeeded')
        other = stack.enter_context(job(
            where, agent.http_addr, key, '--keep-lock', '--run-interval', '1'))
        other.wait_for('run 1 of')
        wait_until(lambda: (1, 'killed', cut_off.pid) in shown(agent, key), LATE,
                   'what is presumed')
        proxy.pass_through()
        told = 1, 'succeeded', cut_off.pid
        wait_until(lambda: told in shown(agent, key), LATE, 'the truth')
        wait_until(lambda: told in written(agent, key), LATE, 'its merging')
        cut_off.popen.terminate()
        cut_off.wait()
        other.popen.terminate()
        other.wait()
        runs = written(agent, key)
        assert [run[0] for run in runs] == list(range(1, len(runs) + 1))
        assert runs == shown(agent, key) and runs[0] == told
        with lock_on(agent.http_addr, key) as lock:
            state = lock.look()
        assert not state.handed_in and not state.control.handed_in


def told(agent: Agent, key: str) -> dict[int, str]:
    """What `runjob status` says of the runs: outcomes, by fencing token."""
    with lock_on(agent.http_addr, key) as lock:
        runs = describe('job', lock.look())['history']
    found = {run['token']: run['outcome'] for run in runs}
    assert len(found) == len(runs)
    return found


@together
def test_lines_that_break(agent: Agent) -> None:
    """Of two processes the one that has the lock loses touch, again and again: each
    run that began is in the history, once, and no other is."""
    key, env = 'true/broken', {'JOBSLIB_HISTORY': '1000'}
    with (folder() as where, Proxy(agent.http_addr) as one,
          Proxy(agent.http_addr) as two, ExitStack() as stack):
        programs = [
            (proxy, stack.enter_context(job(
                where, proxy.addr, key, '--run-interval', '0.5', 'tasks.Task',
                '--seconds', '0.3', env=env, timeout=1, retry_max_attempts=2)))
            for proxy in (one, two)]
        for fault, seconds in FAULTS:
            wait_until(lambda: holder_of(agent.api, key), LATE, 'a holder')
            entry = agent.api.kv(key)
            assert entry is not None
            holder = json.loads(entry['Value'])['pid']
            proxy = one if programs[0][1].pid == holder else two
            getattr(proxy, fault)()
            time.sleep(seconds)
            proxy.pass_through()

        def begun() -> set[int]:
            return {moment.token for _, program in programs
                    for moment in moments(program, 'BEGIN')}
        assert len(begun()) > len(FAULTS)
        # But for the one that is under way.
        wait_until(lambda: begun() - set(told(agent, key)) <= {max(begun())}, LATE,
                   'all runs')
        for _, program in programs:
            program.popen.terminate()
            program.wait()
        runs = told(agent, key)
        assert begun() <= set(runs), '\n'.join(
            program.output[-1500:] for _, program in programs)
        # It was told to end before it could say that it began.
        assert {runs[token] for token in set(runs) - begun()} <= {'interrupted'}
        # What the last process handed in at its end is merged by the next holder.
        with job(where, agent.http_addr, key, '--run-once', env=env) as last:
            assert last.wait() == 0
        runs = told(agent, key)
        numbers = [run[0] for run in written(agent, key)]
        assert len(set(numbers)) == len(numbers) == len(runs)
