"""Operating a job under a real Consul: status, pause, release, handover."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import pytest

from integration.agents import HOST, Agent, wait_until
from integration.locks import clean_environment, held_record, hold, holder_of
from integration.proxy import Proxy
from integration.report import allowed
from integration.runjobs import TASKS, job, lock_environment, moments
from integration.stamps import now
from integration.together import together
from jobslib.consul.engine import ConsulEngine
from jobslib.consul.transport import Endpoint
from jobslib.exitcodes import ExitCode
from jobslib.keeper.notes import Notes

KEPT = ('--keep-lock', '--run-interval', '0.25')
LONG = ('--keep-lock', 'tasks.Task', '--seconds', '60')
# What an operator's command may take until a holder has obeyed.
OBEYED = 1.0


class Operator:
    """Gives commands for the job of one key."""

    def __init__(self, agent: Agent, folder: pathlib.Path, key: str) -> None:
        self.agent = agent
        self.folder = folder
        self.key = key

    def run(self, *args: str, task: str = 'tasks.Task') -> tuple[int, Any, str]:
        """Run ``runjob`` with *args*; its exit code, JSON and errors."""
        (self.folder / 'tasks.py').write_text(TASKS)
        env = lock_environment(self.agent.http_addr, self.key)
        done = subprocess.run(
            [sys.executable, '-m', 'jobslib', *args, '--json', task],
            cwd=self.folder, env=clean_environment(**env), text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        assert 'Traceback' not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout or 'null'), done.stderr

    def do(self, *args: str) -> str:
        """Run a command that must succeed; what it says."""
        code, answer, errors = self.run(*args)
        assert code == ExitCode.DONE and answer['done'], (answer, errors)
        message: str = answer['message']
        return message

    def status(self) -> dict[str, Any]:
        """What ``runjob status`` says."""
        code, status, errors = self.run('status')
        assert code == ExitCode.DONE, errors
        found: dict[str, Any] = status
        return found

    def is_free(self) -> bool:
        """Whether nobody holds the lock."""
        return holder_of(self.agent.api, self.key) is None


@pytest.fixture
def operator(agent: Agent, tmp_path: pathlib.Path,
             request: pytest.FixtureRequest) -> Operator:
    """The operator of a job that no other test has."""
    return Operator(agent, tmp_path, f'operating/{request.node.name}/lock')


# Status

def test_status(operator: Operator, tmp_path: pathlib.Path) -> None:
    """Status says who has the job, since when, and who waits for it."""
    addr, key = operator.agent.http_addr, operator.key
    assert operator.status()['state'] == 'free'
    with job(tmp_path, addr, key, *LONG) as holder:
        holder.wait_for('BEGIN')
        with job(tmp_path, addr, key, *LONG) as standby:
            standby.wait_for('not run')
            wait_until(lambda: len(operator.status()['standbys']) == 1, 30,
                       'the standby is seen')
            status = operator.status()
            assert status['state'] == 'running'
            assert status['holder']['pid'] == holder.pid
            assert status['standbys'][0]['pid'] == standby.pid
            [begin] = moments(holder, 'BEGIN')
            assert status['holder']['token'] == begin.token
            assert abs(status['holder']['since'] - begin.at) < 5
            assert status['last_run'] is None and status['runs'] == 0


def test_status_of_all(operator: Operator, tmp_path: pathlib.Path) -> None:
    """Without a task all jobs are shown whose keys begin with the prefix."""
    addr = operator.agent.http_addr
    prefix = operator.key.removesuffix('lock')
    for name in ('one', 'two'):
        with job(tmp_path, addr, f'{prefix}{name}', '--run-once', 'tasks.Task',
                 '--seconds', '0') as program:
            assert program.wait() == ExitCode.DONE
    env = clean_environment(**lock_environment(addr, operator.key))
    done = subprocess.run(
        [sys.executable, '-m', 'jobslib', 'status', '--json', '--prefix', prefix],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    # Both are the same task, under two keys, and so two jobs.
    found = json.loads(done.stdout)
    assert [each['lock']['key'] for each in found] == [
        f'{prefix}one', f'{prefix}two']
    assert [(each['task'], each['runs']) for each in found] == 2 * [
        ('tasks.Task', 1)]


# History

def test_history(operator: Operator, tmp_path: pathlib.Path) -> None:
    """How runs ended is kept, with the lock released and with it kept."""
    addr, key = operator.agent.http_addr, operator.key
    for seconds, code in (('0', ExitCode.DONE), ('0', ExitCode.TASK_FAILED)):
        fail = ['--fail'] if code else []
        with job(tmp_path, addr, key, '--run-once', 'tasks.Task', '--seconds',
                 seconds, *fail) as program:
            assert program.wait() == code
    with job(tmp_path, addr, key, *KEPT, 'tasks.Task', '--seconds', '0') as kept:
        kept.wait_for('run succeeded', 3)
        wait_until(lambda: operator.status()['runs'] >= 5, 30, 'five runs noted')
        status = operator.status()
    outcomes = [run['outcome'] for run in status['history'][:5]]
    assert outcomes == ['succeeded', 'failed'] + ['succeeded'] * 3
    assert [run['run'] for run in status['history'][:5]] == [1, 2, 3, 4, 5]
    assert status['history'][1]['error'] == 'RuntimeError: went wrong'
    assert status['failures'] == 1
    tokens = [run['token'] for run in status['history']]
    assert tokens == sorted(tokens) and len(set(tokens[2:])) == 1
    # The next run is due when the grid says so.
    assert 0 < status['due'] - status['last_run']['started'] <= 0.5


def test_killed_run_is_in_the_history(operator: Operator,
                                      tmp_path: pathlib.Path) -> None:
    """A run that ends with its process is told by the keeper."""
    addr, key = operator.agent.http_addr, operator.key
    with job(tmp_path, addr, key, *LONG) as program:
        program.wait_for('BEGIN')
        program.send(signal.SIGKILL)
        wait_until(operator.is_free, 5, 'the lock is free')
        killed = operator.status()['last_run']
        assert killed['outcome'] == 'killed'
        assert killed['error'] == 'its process ended'
        assert killed['pid'] == program.pid
    with job(tmp_path, addr, key, '--run-once') as program:
        assert program.wait() == ExitCode.DONE
    status = operator.status()
    assert [run['outcome'] for run in status['history']] == [
        'killed', 'succeeded']
    assert [run['run'] for run in status['history']] == [1, 2]


def test_stale_holder_cannot_overwrite_the_history(
        agent: Agent, proxy: Proxy) -> None:
    """What a holder notes is written while it has the lock, as it took it."""
    key, target = 'operating/stale/lock', 'operating/stale/history/lock'

    def written() -> bytes | None:
        entry = agent.api.kv(target)
        return None if entry is None else bytes(entry['Value'])

    def token() -> int:
        entry = agent.api.kv(key)
        assert entry is not None
        return int(entry['ModifyIndex'])

    engine = ConsulEngine(
        Endpoint(host=HOST, port=proxy.addr[1]), 'none', key, 15.0)
    notes = Notes(engine.write)

    def note(text: str, token: int) -> None:
        """Add a note, and wait until Consul has answered it."""
        sent = len(proxy.requests)
        notes.add(target, text, token)
        wait_until(lambda: len(proxy.requests) > sent, 10, 'the note is sent')
        # Of one connection: the next is sent when this one is answered.
        notes.add(f'{target}/other', text, 0)
        wait_until(lambda: len(proxy.requests) > sent + 1, 10,
                   'the note is answered')

    session = hold(agent.api, key, held_record(), '0s')
    stale = token()
    note('of the first', stale)
    assert written() == b'of the first'
    # Given up, and taken again by the same session.
    agent.api.put(f'kv/{key}', b'', release=session)
    note('late', stale)
    agent.api.put(f'kv/{key}', held_record(), acquire=session)
    note('late', stale)
    assert written() == b'of the first'
    note('of the second', token())
    assert written() == b'of the second'
    # Lost, and taken by another one.
    agent.api.destroy_session(session)
    session = hold(agent.api, key, held_record(), '0s')
    note('late', stale)
    assert written() == b'of the second'
    note('of the third', token())
    assert written() == b'of the third'
    agent.api.destroy_session(session)


def test_progress(operator: Operator, tmp_path: pathlib.Path) -> None:
    """How far a run is can be seen from elsewhere, and not after its end."""
    addr, key = operator.agent.http_addr, operator.key
    with job(tmp_path, addr, key, '--run-once', 'tasks.Counting') as program:
        program.wait_for('BEGIN')
        first = wait_until(lambda: operator.status()['progress'], 30, 'progress')
        assert first['total'] == 10_000 and first['message'] == 'counted'
        assert 0 < first['done'] < 10_000
        program.send(signal.SIGTERM)
        assert program.wait() == ExitCode.TERMINATED
    assert operator.status()['progress'] is None


@together
def test_standby_that_lost_its_session(agent: Agent) -> None:
    """A standby whose session has ended makes another, and is seen again."""
    key = 'operating/session/lock'

    def sessions() -> set[str]:
        return {each['ID'] for each in agent.api.sessions()
                if each['Name'].startswith(f'jobslib {key} ')}

    with tempfile.TemporaryDirectory(prefix='jobslib-') as name:
        folder = pathlib.Path(name)
        with job(folder, agent.http_addr, key, *LONG) as holder:
            holder.wait_for('BEGIN')
            [held] = sessions()
            with job(folder, agent.http_addr, key, *LONG) as standby:
                standby.wait_for('not run')
                [idle] = wait_until(lambda: sessions() - {held}, 20, 'a session')
                agent.api.destroy_session(idle)
                wait_until(lambda: sessions() - {held}, 60, 'another session')
                assert held in sessions() and idle not in sessions()
                holder.send(signal.SIGKILL)
                standby.wait_for('BEGIN')


# Pause

def test_pause_and_resume(operator: Operator, tmp_path: pathlib.Path) -> None:
    """A paused job is run by nobody; resumed, it is run by one again."""
    addr, key = operator.agent.http_addr, operator.key
    with (job(tmp_path, addr, key, *KEPT) as one,
          job(tmp_path, addr, key, *KEPT) as two):
        wait_until(lambda: 'run succeeded' in one.output + two.output, 10,
                   'a run')
        message = operator.do('pause', '--reason', 'an upgrade')
        paused = now(), time.time()
        assert message.startswith('paused')
        wait_until(operator.is_free, 5, 'the lock is free')
        obeyed = allowed(OBEYED, since=paused[0])
        assert now() - paused[0] < obeyed
        status = operator.status()
        assert status['state'] == 'paused'
        assert status['paused']['reason'] == 'an upgrade'
        assert 'is already paused by' in operator.do('pause')
        time.sleep(1.0)  # the pause itself
        begins = moments(one, 'BEGIN') + moments(two, 'BEGIN')
        assert max(each.at for each in begins) < paused[1] + obeyed
        resumed = time.time()
        assert operator.do('resume') == 'resumed'
        wait_until(lambda: any(
            each.at > resumed for program in (one, two)
            for each in moments(program, 'BEGIN')), 10, 'a run')
        assert operator.do('resume') == 'is not paused'


def test_nothing_begins_after_a_pause(operator: Operator,
                                      tmp_path: pathlib.Path) -> None:
    """Where each run takes the lock, none begins once the pause is written."""
    addr, key = operator.agent.http_addr, operator.key
    args = ('--run-interval', '0.05', 'tasks.Task', '--seconds', '0')
    with (job(tmp_path, addr, key, *args) as one,
          job(tmp_path, addr, key, *args) as two):
        # Their grids may be such that the one is never in the other's way, or
        # always.
        for each in (one, two):
            wait_until(lambda: 'BEGIN' in each.output or 'not run' in each.output,
                       30, 'both take part')
        wait_until(lambda: one.output.count('BEGIN') + two.output.count('BEGIN') > 3,
                   30, 'runs')
        operator.do('pause')
        wait_until(operator.is_free, 5, 'the run that was under way ended')
        count = [len(moments(each, 'BEGIN')) for each in (one, two)]
        # For many of the slots that would be due.  The log need not say it: who
        # waited for the other's run has said that it waits.
        until = now() + 40 * 0.05
        while now() < until:
            assert operator.is_free()
            assert operator.status()['state'] == 'paused'
        assert [len(moments(each, 'BEGIN')) for each in (one, two)] == count


def test_paused_run_once(operator: Operator, tmp_path: pathlib.Path) -> None:
    """With --run-once a paused job is not run, and the log says why."""
    operator.do('pause')
    with job(tmp_path, operator.agent.http_addr, operator.key,
             '--run-once') as program:
        assert program.wait() == ExitCode.LOCK_NOT_AVAILABLE
        assert 'not run: paused by' in program.output
        assert 'BEGIN' not in program.output


# Runs and slots

def test_run_and_stop(operator: Operator, tmp_path: pathlib.Path) -> None:
    """A holder begins a run within a second, and ends it within one."""
    addr, key = operator.agent.http_addr, operator.key
    args = ('--keep-lock', '--run-interval', '3600', 'tasks.Task')
    # So long that the run is still under way when it is stopped.
    with job(tmp_path, addr, key, *args, '--seconds', '6') as holder:
        holder.wait_for('run succeeded')
        began = now()
        operator.do('run')
        holder.wait_for('BEGIN', 2)
        assert now() - began < allowed(OBEYED + 1, since=began)
        assert operator.status()['state'] == 'running'
        code, answer, _ = operator.run('run')
        assert code == ExitCode.LOCK_NOT_AVAILABLE and not answer['done']
        token = operator.status()['holder']['token']
        assert 'under way any more' in operator.do('stop')
        status = operator.status()
        assert status['holder']['token'] == token
        assert status['stop'] is None and status['extra'] is None
        wait_until(lambda: (operator.status()['last_run'] or {}).get(
            'outcome') == 'interrupted', 30, 'the history is written')
        assert operator.do('run', '--wait').endswith('run 3 succeeded')


def test_run_without_a_holder(operator: Operator,
                              tmp_path: pathlib.Path) -> None:
    """One of those that sleep until their next slot runs, and one only."""
    addr, key = operator.agent.http_addr, operator.key
    args = ('--run-interval', '3600', 'tasks.Task', '--seconds', '1')
    with job(tmp_path, addr, key, *args) as one:
        one.wait_for('run succeeded')
        with job(tmp_path, addr, key, *args) as two:
            wait_until(lambda: len(operator.status()['standbys']) == 2 or (
                'schedule: ' in two.output), 30, 'both are there')
            wait_until(operator.is_free, 30, 'the lock is free')
            assert operator.do('run', '--wait').endswith('run 2 succeeded')
            status = operator.status()
            assert (status['runs'], status['extra']) == (2, None)
            assert one.output.count('BEGIN') + two.output.count('BEGIN') == 2


def test_extra_run_of_a_holder_that_is_killed(
        operator: Operator, tmp_path: pathlib.Path) -> None:
    """The next holder begins it again, once."""
    addr, key = operator.agent.http_addr, operator.key
    args = ('--keep-lock', '--run-interval', '3600', 'tasks.Task')
    with job(tmp_path, addr, key, *args, '--seconds', '2') as holder:
        holder.wait_for('run succeeded')
        operator.do('run')
        holder.wait_for('BEGIN', 2)
        os.kill(holder.pid, signal.SIGKILL)
        with job(tmp_path, addr, key, *args, '--seconds', '0') as other:
            other.wait_for('run succeeded')
            wait_until(lambda: operator.status()['extra'] is None, 30,
                       'the run is done with')
            assert operator.status()['last_run']['asked']
            assert other.output.count('BEGIN') == 1


def test_skip(operator: Operator, tmp_path: pathlib.Path) -> None:
    """A slot that is skipped is not run, by a holder that keeps the lock."""
    addr, key = operator.agent.http_addr, operator.key
    args = ('--keep-lock', '--run-interval', '6')
    with job(tmp_path, addr, key, *args, 'tasks.Task', '--seconds',
             '0') as holder:
        holder.wait_for('run succeeded')
        assert 'is skipped' in operator.do('skip', *args[1:])
        holder.wait_for('an operator had it skipped')
        holder.wait_for('BEGIN', 2)
        first, second, *_ = moments(holder, 'BEGIN')
        assert second.at - first.at > 11


# Release and handover

def test_release(operator: Operator, tmp_path: pathlib.Path) -> None:
    """A holder that waits for its next run gives the lock to a standby."""
    addr, key = operator.agent.http_addr, operator.key
    args = ('--keep-lock', '--run-interval', '60')
    assert operator.do('release') == 'nobody holds the lock'
    with job(tmp_path, addr, key, *args) as holder:
        holder.wait_for('run succeeded')
        with job(tmp_path, addr, key, *args) as standby:
            standby.wait_for('not run')
            began = now()
            assert 'has released the lock' in operator.do('release')
            standby.wait_for('the lock is acquired')
            assert now() - began < allowed(OBEYED + 1, since=began)
            assert 'releasing the lock: release asked for' in holder.output


def test_release_waits_for_the_run(operator: Operator,
                                   tmp_path: pathlib.Path) -> None:
    """A run that is under way is not disturbed by a release."""
    addr, key = operator.agent.http_addr, operator.key
    with job(tmp_path, addr, key, '--keep-lock', 'tasks.Task', '--seconds',
             '8') as holder:
        holder.wait_for('BEGIN')
        code, answer, _ = operator.run('release', '--timeout', '0.5')
        assert code == ExitCode.LOCK_NOT_AVAILABLE and not answer['done']
        wait_until(operator.is_free, 30, 'the lock is free')
        assert 'run succeeded' in holder.output


def test_handover(operator: Operator, tmp_path: pathlib.Path) -> None:
    """The lock goes to another process, and the schedule goes on."""
    addr, key = operator.agent.http_addr, operator.key
    code, answer, _ = operator.run('handover')
    assert code == ExitCode.LOCK_NOT_AVAILABLE
    assert answer['message'] == 'nobody holds the lock'
    args = ('--keep-lock', '--run-interval', '0.5')
    with job(tmp_path, addr, key, *args) as holder:
        holder.wait_for('BEGIN')
        code, answer, _ = operator.run('handover')
        assert code == ExitCode.LOCK_NOT_AVAILABLE
        assert answer['message'] == 'nobody is ready to take over; ready: nobody'
        with job(tmp_path, addr, key, *args) as standby:
            standby.wait_for('not run')
            code, answer, _ = operator.run('handover', '--to', 'nowhere')
            assert code == ExitCode.LOCK_NOT_AVAILABLE
            assert 'on nowhere' in answer['message']
            # The very first run is late by what connecting takes.
            holder.wait_for('BEGIN', 3)
            message = operator.do('handover')
            assert f'(pid {standby.pid}) has taken over' in message
            standby.wait_for('BEGIN', 3)
            assert 'handover asked for' in holder.output
            # Any one of the others can be late as well.
            lates = [(begin.at - first.at) % 0.5 for begin in moments(standby, 'BEGIN')
                     for first in moments(holder, 'BEGIN')[1:]]
            assert min(min(late, 0.5 - late) for late in lates) < 0.05


def test_forced_release(operator: Operator, tmp_path: pathlib.Path) -> None:
    """A holder that does not answer loses its session, and its run."""
    addr, key = operator.agent.http_addr, operator.key
    with job(tmp_path, addr, key, *LONG, lock_delay=3) as holder:
        holder.wait_for('BEGIN')
        code, answer, errors = operator.run('release', '--force')
        assert code == ExitCode.DONE
        assert 'is ended' in answer['message']
        assert errors.startswith('runjob: warning: the run is interrupted')
        holder.wait_for('run interrupted')
        assert holder_of(operator.agent.api, key) is None


def test_consul_is_gone(operator: Operator, unreachable: tuple[str, int],
                        tmp_path: pathlib.Path) -> None:
    """Without Consul every command says so in one line, with its own code."""
    (tmp_path / 'tasks.py').write_text(TASKS)
    env = clean_environment(**lock_environment(
        unreachable, 'any', retry_max_attempts=1))
    for command in ('status', 'pause', 'resume', 'release', 'handover'):
        done = subprocess.run(
            [sys.executable, '-m', 'jobslib', command, 'tasks.Task'],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE
        assert done.stderr.startswith('runjob: error: cannot read ')
        assert done.stderr.count('\n') == 1


def test_table(operator: Operator, tmp_path: pathlib.Path) -> None:
    """For people the same is a table."""
    with job(tmp_path, operator.agent.http_addr, operator.key, '--run-once',
             'tasks.Task', '--fail') as program:
        assert program.wait() == ExitCode.TASK_FAILED
    env = clean_environment(**lock_environment(
        operator.agent.http_addr, operator.key))
    done = subprocess.run(
        [sys.executable, '-m', 'jobslib', 'status', 'tasks.Task'],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    rows = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert rows['state'] == 'free' and rows['outcome'] == 'failed'
    assert rows['error'] == 'RuntimeError: went wrong'
    assert rows['1'].endswith('RuntimeError: went wrong')
