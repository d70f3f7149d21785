"""``runjob exec`` under a real Consul: any command as a fenced singleton."""

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest

from integration.agents import Agent, wait_until
from integration.locks import Program, clean_environment
from integration.runjobs import lock_environment
from integration.workers import is_alive
from jobslib.exitcodes import ExitCode

#: Says what it was told; the rest is the test's.
TOLD = 'echo TOLD $JOBSLIB_JOB $JOBSLIB_SLOT $JOBSLIB_FENCING_TOKEN; '
#: Says that it and its child have been told to end, each by itself.
FAMILY = TOLD + '''
trap 'echo parent is told; wait; exit 0' TERM
sh -c 'trap "echo child is told; exit" TERM; echo CHILD $$
while :; do sleep 0.1; done' &
while :; do sleep 0.02; done
'''
YEARLY = '--schedule', '0 0 1 1 *', '--run-once'
#: A slot that is cut short is run again, whether a later one is due or not.
SLOTS = '--schedule', '*/5 * * * * *', '--catch-up', 'all'


class Commands:
    """Processes of one job whose run is a command."""

    def __init__(self, stack: ExitStack, folder: pathlib.Path, agent: Agent,
                 key: str) -> None:
        self.stack = stack
        self.folder = folder
        self.agent = agent
        self.environment = lock_environment(agent.http_addr, key)

    def start(self, *args: str, script: str) -> Program:
        """Start a process of the job."""
        return self.stack.enter_context(Program.job(
            self.folder, 'exec', '--name', 'shell', *args, '--', 'sh', '-c',
            script, **self.environment))

    def status(self) -> dict[str, Any]:
        """What ``runjob status`` says."""
        done = subprocess.run(
            [sys.executable, '-m', 'jobslib', 'status', '--json', '--name',
             'shell'], cwd=self.folder, text=True, capture_output=True,
            env=clean_environment(**self.environment), timeout=60)
        assert done.returncode == ExitCode.DONE, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def commands(agent: Agent, tmp_path: pathlib.Path,
             request: pytest.FixtureRequest) -> Iterator[Commands]:
    """A job of its own, with no process yet."""
    name = ''.join(each for each in request.node.name if each.isalnum())
    with ExitStack() as stack:
        yield Commands(stack, tmp_path, agent, f'exec/{name}/lock')


def told(program: Program, word: str = 'TOLD') -> list[str]:
    """What a command has said after a word."""
    program.wait_for(f'{word} ', timeout=60)
    wait_until(lambda: '\n' in program.output.partition(f'{word} ')[2], 10,
               'the end of the line')
    return program.output.partition(f'{word} ')[2].splitlines()[0].split()


@pytest.mark.parametrize(('end', 'code', 'outcome'), [
    ('exit 0', ExitCode.DONE, 'succeeded'),
    ('exit 3', ExitCode.TASK_FAILED, 'failed'),
    ('kill -9 $$', ExitCode.TASK_FAILED, 'killed')])
def test_outcome(commands: Commands, end: str, code: ExitCode,
                 outcome: str) -> None:
    """A command knows its job, slot and token; how it ends is the outcome."""
    program = commands.start(*YEARLY, script=TOLD + end)
    assert program.wait() == code
    name, slot, token = told(program)
    run = commands.status()['last_run']
    assert name == 'shell' and run['outcome'] == outcome
    assert run['slot'] == datetime.fromisoformat(slot).timestamp()
    assert run['token'] == int(token)


def test_terminated(commands: Commands) -> None:
    """SIGTERM reaches a command and what it has started, and the slot is run
    again by a standby with a larger token."""
    program = commands.start(*SLOTS, script=FAMILY)
    _, slot, token = told(program)
    [child] = told(program, 'CHILD')
    standby = commands.start(*SLOTS, script=TOLD)
    standby.wait_for('the lock is held by')
    program.send(signal.SIGTERM)
    assert program.wait() == ExitCode.TERMINATED
    assert 'parent is told' in program.output
    assert 'child is told' in program.output
    assert not is_alive(int(child))
    _, again, later = told(standby)
    assert again == slot and int(later) > int(token)


def test_killed(commands: Commands) -> None:
    """When a holder is killed, nothing of its command is left before a standby
    begins the slot again."""
    program = commands.start(*SLOTS, script=FAMILY)
    _, slot, token = told(program)
    [child] = told(program, 'CHILD')
    standby = commands.start(*SLOTS, script=(
        f'grep -qs "^State:.[RSDTt]" /proc/{child}/status && '
        f'echo ALIVE; {TOLD}'))
    standby.wait_for('the lock is held by')
    program.send(signal.SIGKILL)
    _, again, later = told(standby)
    assert again == slot and int(later) > int(token)
    assert 'ALIVE' not in standby.output
    wait_until(lambda: commands.status()['runs'] >= 2, 30, 'two runs')
    runs = commands.status()['history'][:2]
    assert [run['outcome'] for run in runs] == ['killed', 'succeeded']
    assert [(run['slot'], run['attempt']) for run in runs] == [
        (runs[0]['slot'], 1), (runs[0]['slot'], 2)]
