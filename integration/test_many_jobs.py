"""Many jobs on one machine leave Consul's other clients their connections."""

import pathlib
import tempfile
import time
from contextlib import ExitStack

from integration.agents import Agent, Api
from integration.locks import Program, holder_of
from integration.runjobs import job

#: Each is a process and its keeper. Consul's agents allow an address 200
#: connections, so more than 99 holders would be too many.
JOBS = 90
#: So many are started at a time.
AT_ONCE = 6
#: For each job to begin, in seconds. It is not one for all of them: whatever else
#: the machine does, each job has but those before it to wait for.
DEADLINE = 120.0
#: For how long all have to be there, renewals and all.
STEADY = 10.0


def is_held(agent: Agent, number: int) -> bool:
    """Whether a job has its lock."""
    return holder_of(agent.api, f'many/{number}/lock') is not None


def test_many_jobs() -> None:
    """All have their locks and keep them, and another client is answered."""
    with (Agent() as agent, ExitStack() as stack,
          tempfile.TemporaryDirectory(prefix='jobslib-') as folder):
        programs: list[Program] = []
        for number in range(JOBS):
            programs.append(stack.enter_context(job(
                pathlib.Path(folder), agent.http_addr, f'many/{number}/lock',
                '--keep-lock', 'tasks.Task', '--seconds', '600')))
            # What a job has written says why it does not begin.
            if number >= AT_ONCE:
                programs[number - AT_ONCE].wait_for('BEGIN', timeout=DEADLINE)
        for program in programs[-AT_ONCE:]:
            program.wait_for('BEGIN', timeout=DEADLINE)
        for number in range(JOBS):
            assert is_held(agent, number), programs[number].output
        tokens = {number: agent.api.kv(f'many/{number}/lock') for number in range(JOBS)}
        ends = time.monotonic() + STEADY
        while time.monotonic() < ends:
            # A connection of its own each time, like a client that just came.
            assert Api(agent.api.url).kv('many/0/lock') is not None
            time.sleep(0.5)
        for number in range(JOBS):
            assert agent.api.kv(f'many/{number}/lock') == tokens[number]
            assert programs[number].popen.poll() is None
        assert 'limits.' not in ''.join(each.output for each in programs)
