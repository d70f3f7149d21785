"""``python -m benchmarks``: all figures, side by side, in one run.

Ratios and counts, since times depend on the machine.  Needs a Consul agent
to start, as the integration tests do.
"""

import argparse
import signal
import statistics
import sys
import time

from benchmarks.measure import (
    CONSUL_LOCK,
    RUNJOB,
    children,
    cpu_time,
    environment,
    first_line,
    memory,
    pause,
    started,
    ticks,
)
from integration.agents import Agent
from integration.proxy import Proxy

DUMMY = 'jobslib.oneinstance.dummy.DummyLock'
FILE = 'jobslib.oneinstance.file.FileLock'
HELLO = [RUNJOB, '--run-once', 'benchmarks.tasks.Hello']


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks')
    parser.add_argument('--rounds', type=int, default=15,
                        help='how often each command is run (default 15)')
    parser.add_argument('--minutes', type=float, default=1.0,
                        help='how long a standby is watched (default 1)')
    options = parser.parse_args()
    # Coordinates and the reconciliation of the leader write now and then,
    # whether or not anybody works.
    with Agent(config={'disable_coordinates': True}) as agent:
        start_up(agent, options.rounds)
        cost_of_runs(agent)
        standby(agent, options.minutes)
        handover(agent, options.rounds)
        processes(agent)


def start_up(agent: Agent, rounds: int) -> None:
    """Print the CPU time of one run, as a multiple of an empty program."""
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        'python -c pass': ([sys.executable, '-c', 'pass'], environment(DUMMY)),
        'import consul': (
            [sys.executable, '-c', 'import consul'], environment(DUMMY)),
        'runjob, DummyLock': (HELLO, environment(DUMMY)),
        'runjob, FileLock': (HELLO, environment(FILE)),
        'runjob, ConsulLock': (
            HELLO, environment(CONSUL_LOCK, agent.http_addr)),
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, (command, env) in commands.items():
            taken[name].append(cpu_time(command, env))
    # The first run compiles.
    medians = {name: statistics.median(times[1:])
               for name, times in taken.items()}
    base = medians['python -c pass']
    print(f'CPU time of one run, all processes, median of {rounds}')
    for name, seconds in medians.items():
        print(f'  {name:20} {seconds * 1000:7.1f} ms {seconds / base:6.2f} x')


def cost_of_runs(agent: Agent, runs: int = 20) -> None:
    """Print requests and Raft entries of one run."""
    print(f'\nCost of a run to Consul, {runs} runs')
    for name, arguments, history in (
            ('lock released', [], '100'), ('lock kept', ['--keep-lock'], '100'),
            ('lock kept, HISTORY=0', ['--keep-lock'], '0')):
        with Proxy(agent.http_addr) as proxy, started(
                [*arguments, '--run-interval', '0.2',
                 'benchmarks.tasks.Hello'],
                environment(CONSUL_LOCK, proxy.addr,
                            JOBSLIB_HISTORY=history)) as process:
            first_line(process)
            first_line(process)
            requests, index = len(proxy.requests), agent.raft_index()
            for _ in range(runs):
                first_line(process)
            pause(0.1)
            entries = agent.raft_index() - index
            print(f'  {name:20} '
                  f'{(len(proxy.requests) - requests) / runs:5.2f} requests '
                  f'{entries / runs:5.2f} Raft entries')


def standby(agent: Agent, minutes: float) -> None:
    """Print what an idle standby costs."""
    with started(['--keep-lock', 'benchmarks.tasks.Sleep'],
                 environment(CONSUL_LOCK, agent.http_addr)) as holder:
        first_line(holder)
        with Proxy(agent.http_addr) as proxy, started(
                ['--keep-lock', 'benchmarks.tasks.Sleep'],
                environment(CONSUL_LOCK, proxy.addr)) as waiting:
            while not any('wait=' in path for *_, path in proxy.requests):
                pause(0.1)
            pause(1)
            requests, index = len(proxy.requests), agent.raft_index()
            cpu = _cpu(waiting.pid)
            pause(60 * minutes)
            print('\nAn idle standby, in a minute')
            print(f'  requests {(len(proxy.requests) - requests) / minutes:g}'
                  f', Raft entries of it and of the holder '
                  f'{(agent.raft_index() - index) / minutes:g}, CPU time of '
                  f'both its processes '
                  f'{(_cpu(waiting.pid) - cpu) / minutes * 1000:.0f} ms')


def _cpu(pid: int) -> float:
    return ticks(pid) + sum(map(ticks, children(pid)))


def handover(agent: Agent, rounds: int) -> None:
    """Print how long a job stands still when its process ends."""
    print(f'\nFrom a signal to the holder until a standby runs, {rounds} '
          f'times')
    env = environment(CONSUL_LOCK, agent.http_addr)
    for name in ('SIGTERM', 'SIGKILL'):
        times: list[float] = []
        for _ in range(rounds):
            with started(['--keep-lock', 'benchmarks.tasks.Sleep'],
                         env) as holder:
                first_line(holder)
                with started(['--keep-lock', 'benchmarks.tasks.Sleep'],
                             env) as waiting:
                    while not children(waiting.pid):
                        pause(0.05)
                    pause(0.5)
                    ended = time.monotonic()
                    holder.send_signal(signal.Signals[name])
                    times.append(float(first_line(waiting)) - ended)
        print(f'  {name}: median {statistics.median(times) * 1000:.1f} ms, '
              f'longest {max(times) * 1000:.1f} ms')


def processes(agent: Agent) -> None:
    """Print the memory of a holder and its keeper."""
    with started(['--keep-lock', 'benchmarks.tasks.Sleep'],
                 environment(CONSUL_LOCK, agent.http_addr)) as holder:
        first_line(holder)
        pause(3)
        keeper, = children(holder.pid)
        guard, = children(keeper)
        print('\nMemory (PSS) while the lock is held')
        print(f'  runjob {memory(holder.pid):.1f} MiB, its keeper '
              f'{memory(keeper):.1f} MiB, the guard {memory(guard):.1f} MiB')
        used = ticks(keeper)
        pause(20)
        print(f'CPU time of the keeper while the lock is held: '
              f'{(ticks(keeper) - used) / 20:.2%} of a core')


if __name__ == '__main__':
    main()
