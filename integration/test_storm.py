"""A storm: several contenders, and faults drawn by a seed.

Most of a minute by default. `JOBSLIB_STORM_SECONDS` sets another length, or
`JOBSLIB_STORM_FAULTS` the number of faults instead; `JOBSLIB_STORM_GROUPS` the
number of groups, each of three workers on a key of its own; `JOBSLIB_STORM_SEED`
the seed, which is printed. A seed draws the same faults again; when each of them
comes depends on how long the job needs to come back.

Left out is what the design says that no lock can promise to survive: keys deleted
by hand, and whole machines frozen for longer than their lease.
"""

import os
import pathlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration import report
from integration.agents import Agent
from integration.report import Row
from integration.storm import BACK, Figures, Group, Storm, read_figures

SECONDS = float(os.environ.get('JOBSLIB_STORM_SECONDS') or 45)
FAULTS = int(os.environ.get('JOBSLIB_STORM_FAULTS') or 0)
GROUPS = int(os.environ.get('JOBSLIB_STORM_GROUPS') or 4)
SEED = os.environ.get('JOBSLIB_STORM_SEED') or str(random.randrange(2**32))


@pytest.fixture
def disk(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server that keeps its data on disk, and takes many connections."""
    config = {'limits': {'http_max_conns_per_client': 2000}}
    with Agent(binary=consul_bin, on_disk=True, config=config) as agent:
        yield agent


def test_storm(disk: Agent) -> None:
    """Through all of it, never do two run at once, and the job always comes back."""
    print(f'JOBSLIB_STORM_SEED={SEED}')
    storm = Storm(SECONDS, FAULTS)
    groups = [Group(disk, str(number), storm, SEED) for number in range(GROUPS)]
    try:
        with ThreadPoolExecutor(GROUPS) as threads:
            results = [threads.submit(group.run) for group in groups]
        figures = [read_figures(group) for group in groups]
        note(storm, figures)
        for group, found in zip(groups, figures, strict=True):
            problems = '\n'.join(found.problems[:5])
            assert found.late == 0 and found.overlap == 0, f'{problems}\n{group}'
        for result in results:
            result.result()
    finally:
        for group in groups:
            group.close()


def note(storm: Storm, figures: list[Figures]) -> None:
    """Put the figures into the report, and print them."""
    total = sum(found.seconds for found in figures)
    stood = sum(found.stood for found in figures)
    says = (f'{sum(found.runs for found in figures)} runs; the job ran '
            f'{100 * (1 - stood / total):.1f} % of the time; '
            + ', '.join(f'{name}: {count}' for name, count in storm.counts.items()))
    row = Row(f'storm of {storm.counts.total()} faults, seed {SEED}',
              max(found.standstill for found in figures), BACK, report.load(),
              sum(found.overlap for found in figures), says)
    report.ROWS.append(row)
    print(row)
