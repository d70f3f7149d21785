"""``python -m benchmarks``: all figures, side by side, in one run.

Ratios and counts, since times depend on the machine.  Needs a Consul agent
to start, as the integration tests do.
"""

import argparse
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from benchmarks.candidates import (
    CONSUL_LOCK,
    DUMMY_LOCK,
    FILE_LOCK,
    Candidate,
    candidates,
)
from benchmarks.measure import (
    Job,
    cpu_time,
    first_line,
    memory,
    pause,
    started,
    ticks,
)
from integration.agents import Agent
from integration.families import connections, family
from integration.proxy import Proxy

HELLO = ('--run-once', 'benchmarks.tasks.Hello')
COLD = 'COLD_STANDBY'
# Cells of a table by row and column.
Table = dict[str, dict[str, str]]


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks')
    parser.add_argument('--beside', metavar='REVISION',
                        help='measure that revision of git as well')
    parser.add_argument('--rounds', type=int, default=15,
                        help='how often each command is run (default 15)')
    parser.add_argument('--minutes', type=float, default=1.0,
                        help='how long a standby is watched (default 1)')
    options = parser.parse_args()
    # Coordinates and the reconciliation of the leader write now and then,
    # whether or not anybody works.
    with (candidates(options.beside) as measured,
          Agent(config={'disable_coordinates': True}) as agent):
        start_up(agent, measured, options.rounds)
        cost_of_runs(agent, measured)
        resting(agent, measured, options.minutes)
        handover(agent, measured, options.rounds)


def show(title: str, table: Table) -> None:
    """Print a table."""
    columns = list(dict.fromkeys(each for row in table.values() for each in row))
    width = max(map(len, table)) + 2
    print(f'\n{title}\n{"":{width}}' + ''.join(
        f'{each:>24}' for each in columns))
    for name, row in table.items():
        print(f'{name:{width}}' + ''.join(
            f'{row.get(each, "-"):>24}' for each in columns), flush=True)


def start_up(agent: Agent, measured: Sequence[Candidate], rounds: int) -> None:
    """Print the CPU time of one run, as a multiple of an empty program."""
    bare = 'python -c pass'

    def commands(each: Candidate) -> Mapping[str, tuple[list[str], dict[str, str]]]:
        hello = each.runjob(*HELLO)
        return {
            bare: ([each.python, '-c', 'pass'], each.environment(DUMMY_LOCK)),
            'import consul': ([each.python, '-c', 'import consul'],
                              each.environment(DUMMY_LOCK)),
            'runjob, DummyLock': (hello, each.environment(DUMMY_LOCK)),
            'runjob, FileLock': (hello, each.environment(FILE_LOCK)),
            'runjob, ConsulLock': (
                hello, each.environment(CONSUL_LOCK, agent.http_addr))}

    taken: dict[tuple[str, str], list[float]] = {}
    # The first run compiles.
    for number in range(rounds + 1):
        for each in measured:
            for name, (command, env) in commands(each).items():
                seconds = cpu_time(command, env)
                if number:
                    taken.setdefault((name, each.name), []).append(seconds)
    table: Table = {}
    for (name, column), times in taken.items():
        median = statistics.median(times)
        ratio = median / statistics.median(taken[bare, column])
        table.setdefault(name, {})[column] = f'{median * 1000:.1f} ms {ratio:6.2f} x'
    show(f'CPU time of one run, all processes, median of {rounds}', table)


def cost_of_runs(agent: Agent, measured: Sequence[Candidate],
                 runs: int = 20) -> None:
    """Print requests and Raft entries of one run."""
    grid, calendar = ('--run-interval', '0.2'), ('--schedule', '* * * * * *')
    kept = '--keep-lock'
    table: Table = {}
    for name, arguments, history in (
            ('lock released', grid, '100'), ('lock kept', (*grid, kept), '100'),
            ('lock kept, HISTORY=0', (*grid, kept), '0'),
            ('by the calendar, lock released', calendar, '100'),
            ('by the calendar, lock kept', (*calendar, kept), '100'),
            ('the same, HISTORY=0', (*calendar, kept), '0'),
            ('the same, RECOVERIES=0', (*calendar, kept, '--recoveries', '0'),
             '100')):
        for each in measured:
            if all(each.knows(word) for word in arguments if word[:2] == '--'):
                table.setdefault(name, {})[each.name] = _cost(
                    agent, each, arguments, history, runs)
    table['too late for its slot'] = {
        each.name: _cost_of_coming_late(agent, each) for each in measured
        if each.knows('--schedule')}
    show(f'Cost of a run to Consul: requests, Raft entries; {runs} runs', table)


def _cost(agent: Agent, each: Candidate, arguments: Sequence[str],
          history: str, runs: int) -> str:
    with Proxy(agent.http_addr) as proxy, started(
            each.runjob(*arguments, 'benchmarks.tasks.Hello'),
            each.environment(CONSUL_LOCK, proxy.addr,
                             JOBSLIB_HISTORY=history)) as job:
        job.line()
        job.line()
        requests, index = len(proxy.requests), agent.raft_index()
        for _ in range(runs):
            job.line()
        pause(0.1)
        entries = agent.raft_index() - index
        return (f'{(len(proxy.requests) - requests) / runs:.2f}, '
                f'{entries / runs:.2f}')


def _cost_of_coming_late(agent: Agent, each: Candidate) -> str:
    command = each.runjob('--run-once', '--schedule', '@yearly',
                          'benchmarks.tasks.Hello')
    with Proxy(agent.http_addr) as proxy:
        for _ in range(2):
            requests, index = len(proxy.requests), agent.raft_index()
            cpu_time(command, each.environment(
                CONSUL_LOCK, proxy.addr, 'coming-late'))
        return (f'{len(proxy.requests) - requests}, '
                f'{agent.raft_index() - index}')


def resting(agent: Agent, measured: Sequence[Candidate],
            minutes: float) -> None:
    """Print what a holder and a standby cost while nothing happens."""
    table: Table = {}

    def note(name: str, each: Candidate, text: str) -> None:
        table.setdefault(name, {})[each.name] = text

    for each in measured:
        env = each.environment(CONSUL_LOCK, agent.http_addr, 'resting')
        with started(hold(each), env) as holder:
            holder.line()
            with Proxy(agent.http_addr) as proxy:
                through = each.environment(CONSUL_LOCK, proxy.addr, 'resting')
                with standby(each, through) as waiting:
                    asked, index = len(proxy.requests), agent.raft_index()
                    both = family(holder.pid), family(waiting.pid)
                    used = [ticks(pids) for pids in both]
                    pause(60 * minutes)
                    spent = [(ticks(pids) - before) / minutes * 1000
                             for pids, before in zip(both, used, strict=True)]
                    requests = (len(proxy.requests) - asked) / minutes
                    entries = (agent.raft_index() - index) / minutes
                    note('connections of the holder', each,
                         _connections(holder, agent.http_addr))
                    note('connections of the standby', each,
                         _connections(waiting, proxy.addr))
                    note('memory of the holder', each, _memory(holder))
                    note('memory of the standby', each, _memory(waiting))
                    note('requests of the standby', each, f'{requests:g}')
                    note('Raft entries of both', each, f'{entries:g}')
                    note('CPU time of the holder', each, f'{spent[0]:.0f} ms')
                    note('CPU time of the standby', each, f'{spent[1]:.0f} ms')
            if each.knows(COLD):
                with standby(each, env | {f'JOBSLIB_{COLD}': '1'}) as waiting:
                    note('memory of a cold standby', each, _memory(waiting))
    show('At rest: memory (PSS), requests and the like in a minute, '
         'all processes', table)


def _connections(job: Job, address: tuple[str, int]) -> str:
    # A renewal may have another one for a moment.
    seen = []
    for _ in range(15):
        seen.append(sum(connections(address[1], pid) for pid in family(job.pid)))
        pause(0.1)
    return f'{statistics.median_low(seen)}'


def _memory(job: Job) -> str:
    return f'{memory(family(job.pid)):.1f} MiB'


def hold(each: Candidate) -> list[str]:
    """A job that takes the lock and keeps it, in one run that does not end."""
    # Where a run that was cut short is made up for in its slot, the next begins
    # at once; where runs just follow one another, after a pause of a second.
    slots = ('--run-interval', '3600') if each.knows('RECOVERIES') else ()
    return each.runjob('--keep-lock', *slots, 'benchmarks.tasks.Sleep')


@contextmanager
def standby(each: Candidate, env: dict[str, str]) -> Iterator[Job]:
    """Start a job that waits for the lock."""
    with started(hold(each), env) as job:
        job.wait_for('not run')
        # The query by which it waits comes next.
        pause(0.5)
        yield job


def handover(agent: Agent, measured: Sequence[Candidate], rounds: int) -> None:
    """Print how long a job stands still when a process of it ends."""
    faults: dict[str, Callable[[Job, int], None]] = {
        'SIGTERM': lambda job, run: os.kill(job.pid, signal.SIGTERM),
        'SIGKILL of the supervisor': lambda job, run: _kill(job.pid),
        "SIGKILL of the run's process": lambda job, run: _kill(run),
        'SIGKILL of both': lambda job, run: _kill(job.pid, run)}
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, strike in faults.items():
            for each in measured:
                taken.setdefault((name, each.name), []).append(
                    _interruption(each, agent, strike))
    table: Table = {}
    for (name, column), times in taken.items():
        table.setdefault(name, {})[column] = (
            f'{statistics.median(times) * 1000:.0f} ms, '
            f'{max(times) * 1000:.0f} ms')
    show(f'From a signal to the holder until a run begins: median and longest '
         f'of {rounds}', table)


def _interruption(each: Candidate, agent: Agent,
                  strike: Callable[[Job, int], None]) -> float:
    env = each.environment(
        CONSUL_LOCK, agent.http_addr, f'handover-{time.monotonic_ns()}')
    with started(hold(each), env) as holder:
        _, run = holder.line()
        with standby(each, env) as waiting:
            struck = time.monotonic()
            strike(holder, int(run))
            begun, _ = first_line([holder, waiting])
            return float(begun) - struck


def _kill(*pids: int) -> None:
    # Before jobslib had a run's process, both were one.
    for pid in dict.fromkeys(pids):
        os.kill(pid, signal.SIGKILL)


if __name__ == '__main__':
    main()
