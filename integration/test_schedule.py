"""Slots under a real Consul: each is run once, by whichever process."""

import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest

from integration.agents import Agent, wait_until
from integration.locks import Program, clean_environment, holder_of
from integration.runjobs import lock_environment
from jobslib.exitcodes import ExitCode

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

    def wait_for(self, word: str, times: int) -> None:
        """Wait until runs have said *word* so many times."""
        wait_until(lambda: len(self.said(word)) >= times, 40,
                   f'{word} {times} times')


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


@pytest.mark.parametrize('keep', [(), ('--keep-lock',)])
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_recovery(job: Job, keep: tuple[str, ...],
                  signum: signal.Signals) -> None:
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


@pytest.mark.parametrize('keep', [(), ('--keep-lock',)])
def test_at_most_once(job: Job, keep: tuple[str, ...]) -> None:
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


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_done_before_the_holder_ends(job: Job, signum: signal.Signals) -> None:
    """What a holder that kept the lock has done is not done again."""
    first = job.start(*SECONDLY, '--keep-lock')
    job.wait_for('DONE', 3)
    job.start(*SECONDLY, '--keep-lock').wait_for('the lock is held by')
    first.send(signum)
    done = len(job.said('DONE'))
    job.wait_for('DONE', done + 3)
    slots = [slot for slot, _ in job.said('DONE')]
    assert len(set(slots)) == len(slots)


@pytest.mark.parametrize('keep', [(), ('--keep-lock',)])
def test_run_under_way_in_status(job: Job, keep: tuple[str, ...]) -> None:
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
