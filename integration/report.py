"""What the faults did: measured, collected and printed at the end of the run."""

import json
import os
import pathlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from integration import stalls
from integration.workers import Pair

#: Names a file for the figures: JSON when it ends so, else a table in Markdown.
REPORT_VARIABLE = 'JOBSLIB_FAULTS_REPORT'

#: What scheduling may add to any time, in seconds, before a test fails, and as
#: often again as there are more processes than processors to run them; the report
#: has the real figure and the load beside the promised figure.
NOISE = 0.25

#: The same for scenarios that run together and disturb each other.
COMPANY = 1.0

#: So often an outage may be longer than it should have been.
ATTEMPTS = 5

HEAD = ('fault', 'stood still', 'promised', 'load', 'two at once',
        "the loser's log says")
LONGEST = 100


@dataclass(frozen=True)
class Row:
    """One fault; times in seconds, the load of the machine per processor."""

    fault: str
    standstill: float
    promised: float
    load: float
    overlap: float
    says: str

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (self.fault, f'{self.standstill:.3f}', f'{self.promised:g}',
                f'{self.load:.1f}', f'{self.overlap:.3f}', self.says or '-')


#: The faults of this run, in the order in which they were over.
ROWS: list[Row] = []


def load() -> float:
    """How many processes want to run, for each processor."""
    return os.getloadavg()[0] / len(os.sched_getaffinity(0))


def allowed(promised: float, noise: float = NOISE, since: float | None = None) -> float:
    """What a promised time may be on this machine, at this moment, in seconds.

    `since` is when that time began: it may be longer by what the machine stood
    still.
    """
    stood = 0.0 if since is None else stalls.since(since)
    return promised + noise * max(1.0, load()) + stood


def attempts() -> Iterator[int]:
    """Numbers to try something by whose length the machine has a say in."""
    yield from range(ATTEMPTS)
    raise AssertionError('no outage was as short as it should have been')


def was_too_long(pair: Pair, at: float, over: float, slack: float) -> bool:
    """Whether an outage outlasted the slack, for which a run is interrupted.

    That of a test can, when the machine stood still or was slow to start a server:
    then it says nothing.
    """
    return ('interrupted' in pair.a.log_text()
            and over - at + stalls.since(at) > slack)


def judge(
    fault: str, pair: Pair, after: float, promised: float, *,
    overlap: float = 0.0, loser: str = 'a', noise: float = NOISE,
) -> Row:
    """Note what a fault at the time `after` did, and hold it to the promise.

    `promised` and `overlap` are the most seconds that nobody may run and that
    two may run at once.
    """
    pair.timeline.update()
    worker = pair.a if loser == 'a' else pair.b
    row = Row(fault, pair.timeline.standstill(after), promised, load(),
              pair.timeline.overlap(), worker.says())
    ROWS.append(row)
    assert row.overlap <= overlap, f'{row}\n{pair.timeline}'
    most = allowed(promised, noise, since=after)
    assert row.standstill <= most, f'{row}\n{pair.timeline}'
    return row


def table(longest: int | None = None) -> list[str]:
    """The rows as a table in Markdown, cells cut to a length."""
    rows = [[cell.replace('|', '/')[:longest] for cell in cells]
            for cells in (HEAD, *(row.cells() for row in ROWS))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [' | '.join(cell.ljust(width) for cell, width in
                        zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, ' | '.join('-' * width for width in widths))
    return [f'| {line} |' for line in lines]


def save() -> None:
    """Write the figures where the environment wants them, if it does."""
    path = os.environ.get(REPORT_VARIABLE)
    if not path:
        return
    if path.endswith('.json'):
        text = json.dumps([asdict(row) for row in ROWS], indent=2)
    else:
        text = '\n'.join(table())
    pathlib.Path(path).write_text(text + '\n')
