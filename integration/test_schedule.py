"""Slots under a real Consul: each is run once, by whichever process."""

import json
import math
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from integration.agents import Agent, wait_until
from integration.locks import Program, clean_environment, holder_of, lock_on
from integration.runjobs import lock_environment
from integration.together import together
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance.requests import Request

TASKS = '''
import os, time
from jobslib import BaseTask, argument

class Slots(BaseTask):
    """Says which slot it runs."""
    arguments = (argument('--seconds', type=float, default=0.1),)
    def task(self):
        what = os.environ['JOBSLIB_SLOT'], self.attempt
        print('SLOT', *what, flush=True)
        time.sleep(self.args.seconds)
        print('DONE', *what, flush=True)
'''

#: The last slot was long ago.
YEARLY = '--schedule', '0 0 1 1 *'
SECONDLY = '--schedule', '* * * * * *'
#: Every 2 s; on a machine that stands still for longer no slot is given up.
EVEN = '--schedule', '*/2 * * * * *', '--catch-up', 'all'
MINUTE = 60


class Job:
    """Processes of one job."""

    def __init__(self, stack: ExitStack, folder: pathlib.Path, agent: Agent,
                 key: str) -> None:
        self.stack = stack
        self.folder = folder
        self.agent = agent
        self.key = key
        self.programs: list[Program] = []
        (folder / 'slots.py').write_text(TASKS)

    def start(self, *args: str, seconds: float = 0.1) -> Program:
        """Start a process of the job."""
        program = self.stack.enter_context(Program.job(
            self.folder, *args, 'slots.Slots', '--seconds', str(seconds),
            **lock_environment(self.agent.http_addr, self.key)))
        self.programs.append(program)
        return program

    def ask(self, *args: str) -> Any:
        """What a command of runjob says in JSON."""
        done = subprocess.run(
            [sys.executable, '-m', 'jobslib', *args, '--json', 'slots.Slots'],
            cwd=self.folder, text=True, capture_output=True, timeout=60,
            env=clean_environment(
                **lock_environment(self.agent.http_addr, self.key)))
        assert done.returncode == ExitCode.DONE, done.stderr
        return json.loads(done.stdout)

    def said(self, word: str) -> list[tuple[str, int]]:
        """Return the slots and attempts of which runs said *word*."""
        lines = [line.split() for program in self.programs
                 for line in program.output.splitlines()]
        return sorted((line[1], int(line[2])) for line in lines
                      if len(line) == 3 and line[0] == word)

    def wait_for(self, word: str, times: int, timeout: float = 40) -> None:
        """Wait until runs have said *word* so many times."""
        wait_until(lambda: len(self.said(word)) >= times, timeout,
                   f'{word} {times} times')

    def in_a_run(self) -> Program | None:
        """A process that is in a run, if one is."""
        return next((program for program in self.programs
                     if program.popen.poll() is None
                     and program.output.count('SLOT ')
                     > program.output.count('DONE ')), None)


@contextmanager
def job_on(agent: Agent, name: str) -> Iterator[Job]:
    """A job with no process yet, for scenarios, which have no fixtures."""
    with (tempfile.TemporaryDirectory(prefix='jobslib-') as folder,
          ExitStack() as stack):
        yield Job(stack, pathlib.Path(folder), agent, f'slots/{name}')


@pytest.fixture
def job(agent: Agent, tmp_path: pathlib.Path,
        request: pytest.FixtureRequest) -> Iterator[Job]:
    """A job of its own, with no process yet."""
    with ExitStack() as stack:
        name = ''.join(each for each in request.node.name if each.isalnum())
        yield Job(stack, tmp_path, agent, f'slots/{name}')


def test_each_slot_once(job: Job) -> None:
    """Three processes without a kept lock run each slot once, and none is
    left out."""
    for _ in range(3):
        job.start(*SECONDLY)
    job.wait_for('DONE', 8)
    slots = job.said('SLOT')
    assert {attempt for _, attempt in slots} == {1}
    assert len(set(slots)) == len(slots)


@together
def test_a_minute_of_slots(agent: Agent) -> None:
    """For a minute three processes without a kept lock run each slot once."""
    with job_on(agent, 'minute') as job:
        for _ in range(3):
            job.start(*EVEN)
        job.wait_for('DONE', MINUTE // 2, 4 * MINUTE)
        begun = job.said('SLOT')
    assert {attempt for _, attempt in begun} == {1}
    assert gaps([slot for slot, _ in begun]) == {2}


def disturb(job: Job, keep: tuple[str, ...]) -> tuple[set[str], int]:
    """For a minute, kill who is in every fifth run, and hand the lock over just
    before every seventh slot.

    Returns the slots of the runs that were killed, and how often the lock was
    handed over.
    """
    killed, fifth, asked = set(), 5, {0}
    for _ in range(3):
        job.start(*EVEN, *keep, seconds=1.0)
    ends = time.monotonic() + MINUTE
    with lock_on(job.agent.http_addr, job.key) as lock:
        while time.monotonic() < ends:
            if len(job.said('SLOT')) >= fifth and (program := job.in_a_run()):
                program.send(signal.SIGKILL)
                program.wait()
                killed.add(program.output.rpartition('SLOT ')[2].split()[0])
                fifth = 5 * (len(job.said('SLOT')) // 5 + 1)
                job.start(*EVEN, *keep, seconds=1.0)
            slot = 2 * math.ceil(time.time() / 2)
            if slot % 14 == 0 and slot - time.time() < 0.5 and slot not in asked:
                state = lock.look()
                control = state.control.changed(request=Request(
                    'handover', state.token, 'a test', time.time()))
                if state.held and lock.ask(control, state.control):
                    asked.add(slot)
            time.sleep(0.05)
    return killed, len(asked) - 1


def judge_disturbed(job: Job, killed: set[str]) -> None:
    """Each slot but the newest, which may be under way, was run to its end:
    once, or again where its run was killed, as often as that is allowed."""
    done, begun = job.said('DONE'), job.said('SLOT')
    slots = sorted({slot for slot, _ in begun})
    assert gaps(slots) == {2}
    for slot in slots[:-1]:
        attempts = [attempt for each, attempt in begun if each == slot]
        ended = [attempt for each, attempt in done if each == slot]
        if slot in killed and 1 not in ended:
            assert (attempts, ended) == ([1, 2], [2]), slot
        else:
            # One that was killed in its last instant may be run again.
            assert attempts == ended, slot
            assert attempts == [1] or slot in killed and attempts == [1, 2]
    assert not [program.output for program in job.programs
                if 'given up: ' in program.output]


@together
def test_disturbed_slots(agent: Agent) -> None:
    """Each slot is run once, or recovered, through kills of processes that
    take the lock for each run."""
    with job_on(agent, 'disturbed') as job:
        killed, _ = disturb(job, ())
        judge_disturbed(job, killed)
    assert len(killed) >= 2


@together
def test_disturbed_slots_with_the_lock_kept(agent: Agent) -> None:
    """Each slot is run once, or recovered, through kills of holders that keep
    the lock, and through handovers in the last instant before a slot."""
    with job_on(agent, 'disturbed-kept') as job:
        killed, handovers = disturb(job, ('--keep-lock',))
        judge_disturbed(job, killed)
        released = sum(program.output.count('releasing the lock: handover')
                       for program in job.programs)
    assert len(killed) >= 2
    assert handovers >= 1 and released >= 1


def gaps(slots: list[str]) -> set[float]:
    """The distances of the slots, in seconds."""
    times = [datetime.fromisoformat(slot).timestamp() for slot in slots]
    return {later - earlier for earlier, later in pairwise(times)}


def test_two_run_once(job: Job) -> None:
    """Two processes for one run each, one after the other, make one run."""
    first = job.start('--run-once', *YEARLY)
    assert first.wait() == ExitCode.DONE
    second = job.start('--run-once', *YEARLY)
    assert second.wait() == ExitCode.DONE
    assert len(job.said('SLOT')) == 1
    assert 'was run by' in second.output
    assert 'next at' in second.output


def test_run_once_while_in_hand(job: Job) -> None:
    """A process for one run ends well when its slot is in hand elsewhere."""
    job.start('--run-once', *YEARLY, seconds=60).wait_for('SLOT')
    second = job.start('--run-once', *YEARLY)
    assert second.wait() == ExitCode.DONE
    assert 'the lock is held by' in second.output
    assert len(job.said('SLOT')) == 1


def recovery(job: Job, keep: tuple[str, ...], signum: signal.Signals) -> None:
    """A run that is cut short is run again at once, by another process."""
    schedule = '--schedule', '*/30 * * * * *'
    first = job.start(*schedule, *keep, seconds=60)
    first.wait_for('SLOT', timeout=60)
    second = job.start(*schedule, *keep)
    second.wait_for('the lock is held by')
    first.send(signum)
    second.wait_for('SLOT')
    begun = job.said('SLOT')
    assert begun[0][0] == begun[1][0]
    assert [attempt for _, attempt in begun] == [1, 2]
    wait_until(lambda: len(job.said('DONE')) == 1, 30, 'the end of the run')


@together
def test_recovery_after_sigterm(agent: Agent) -> None:
    """A run that SIGTERM cuts short is recovered."""
    with job_on(agent, 'recovery-term') as job:
        recovery(job, (), signal.SIGTERM)


@together
def test_recovery_after_sigterm_with_the_lock_kept(agent: Agent) -> None:
    """So it is where the lock was kept."""
    with job_on(agent, 'recovery-term-kept') as job:
        recovery(job, ('--keep-lock',), signal.SIGTERM)


@together
def test_recovery_after_sigkill(agent: Agent) -> None:
    """A run that SIGKILL of its supervisor cuts short is recovered."""
    with job_on(agent, 'recovery-kill') as job:
        recovery(job, (), signal.SIGKILL)


@together
def test_recovery_after_sigkill_with_the_lock_kept(agent: Agent) -> None:
    """So it is where the lock was kept."""
    with job_on(agent, 'recovery-kill-kept') as job:
        recovery(job, ('--keep-lock',), signal.SIGKILL)


def at_most_once(job: Job, keep: tuple[str, ...]) -> None:
    """Without recoveries a slot that was begun is not begun again."""
    args = '--schedule', '*/10 * * * * *', '--recoveries', '0', *keep
    first = job.start(*args, seconds=60)
    first.wait_for('SLOT')
    second = job.start(*args)
    second.wait_for('the lock is held by')
    first.send(signal.SIGKILL)
    second.wait_for('SLOT')
    begun = job.said('SLOT')
    assert begun[0][0] < begun[1][0]
    assert [attempt for _, attempt in begun] == [1, 1]
    assert 'given up: the slot of' in second.output


@together
def test_at_most_once(agent: Agent) -> None:
    """A slot that was begun, and has no recoveries, is given up."""
    with job_on(agent, 'at-most-once') as job:
        at_most_once(job, ())


@together
def test_at_most_once_with_the_lock_kept(agent: Agent) -> None:
    """So it is where the lock was kept."""
    with job_on(agent, 'at-most-once-kept') as job:
        at_most_once(job, ('--keep-lock',))


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_done_before_the_holder_ends(job: Job, signum: signal.Signals) -> None:
    """What a holder that kept the lock has done is not done again."""
    first = job.start(*SECONDLY, '--keep-lock')
    job.wait_for('DONE', 3)
    job.start(*SECONDLY, '--keep-lock').wait_for('the lock is held by')
    # Between two runs: one that is killed is run again.
    first.wait_for('run succeeded', first.output.count('run succeeded') + 1)
    first.send(signum)
    done = len(job.said('DONE'))
    job.wait_for('DONE', done + 3)
    slots = [slot for slot, _ in job.said('DONE')]
    assert len(set(slots)) == len(slots)


def run_under_way_in_status(job: Job, keep: tuple[str, ...]) -> None:
    """Status shows the slot of the run that is under way and the next ones,
    also of a holder that has not written them."""
    schedule = '--schedule', '*/20 * * * * *'
    job.start(*schedule, *keep, seconds=60)
    job.wait_for('SLOT', 1)
    [(slot, attempt)] = job.said('SLOT')
    status = job.ask(*schedule, 'status')
    run, begun = status['current_run'], datetime.fromisoformat(slot).timestamp()
    assert (run['slot'], run['attempt']) == (begun, attempt)
    assert begun <= run['started'] <= run['started'] + run['duration'] < time.time()
    assert status['last_run'] is None
    later = [each['slot'] - begun for each in status['next_runs']]
    assert later in ([20, 40, 60], [40, 60, 80], [60, 80, 100])


@together
def test_run_under_way_in_status(agent: Agent) -> None:
    """Status shows the slot of the run that is under way."""
    with job_on(agent, 'status') as job:
        run_under_way_in_status(job, ())


@together
def test_run_under_way_in_status_with_the_lock_kept(agent: Agent) -> None:
    """So it does where its holder has not written it."""
    with job_on(agent, 'status-kept') as job:
        run_under_way_in_status(job, ('--keep-lock',))


def test_standby_writes_nothing(job: Job) -> None:
    """A process that finds the slot done leaves the key as it is."""
    job.start('--run-once', *YEARLY).wait()
    api = job.agent.api
    before = api.get(f'kv/{job.key}').json()[0]['ModifyIndex']
    second = job.start(*YEARLY)
    second.wait_for('schedule: ')
    time.sleep(1)
    assert api.get(f'kv/{job.key}').json()[0]['ModifyIndex'] == before
    assert holder_of(api, job.key) is None
    assert len(job.said('SLOT')) == 1
