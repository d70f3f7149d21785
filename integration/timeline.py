"""What the time stamps say: who ran when, when nobody did, when two did."""

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from integration import stamps
from integration.stamps import Stamp

Interval = tuple[float, float]

#: Stamps of one process that are closer than this, in seconds, are of one time
#: of running. Far more than the pause between them, for a busy machine; a
#: process that was stopped for as short is taken to have run.
JOIN = 0.5


class Timeline:
    """The stamps of one file, read on as they are written.

    A run is known by its fencing token, and what it started carries the same;
    two at once are processes of two tokens, on whatever worker. Times are those
    of `stamps.now()`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamps: list[Stamp] = []
        self.closed = False  # whoever waits shall give up
        self._offset = 0

    def update(self) -> list[Stamp]:
        """Read what was written since, and return it."""
        if not self.path.exists():
            return []
        with self.path.open('rb') as file:
            file.seek(self._offset)
            data = file.read()
        complete = data[:data.rfind(b'\n') + 1]
        self._offset += len(complete)
        added = [Stamp.parse(line) for line in complete.splitlines()]
        self.stamps += added
        self.stamps.sort()
        return added

    def wait_for(
        self, condition: Callable[[Stamp], bool], timeout: float, what: str,
    ) -> Stamp:
        """The first stamp for which the condition holds, be it still to come."""
        ends = time.monotonic() + timeout
        self.update()
        unseen = self.stamps
        while True:
            for stamp in unseen:
                if condition(stamp):
                    return stamp
            if self.closed or time.monotonic() > ends:
                raise TimeoutError(f'not within {timeout:g} s: {what}\n{self}')
            time.sleep(0.05)
            unseen = self.update()

    def wait_for_begin(
        self, label: str, timeout: float = 20.0, after: float = 0.0, role: str = 'task',
    ) -> Stamp:
        """The first begin of a run (or of what it starts) on a worker after a time."""
        return self.wait_for(
            lambda stamp: (stamp.label, stamp.role, stamp.event)
            == (label, role, stamps.BEGIN) and stamp.at >= after,
            timeout, f'{role} of {label} begins')

    def of(self, label: str, role: str | None = None) -> list[Stamp]:
        """The stamps of a worker, of one role or of all."""
        return [stamp for stamp in self.stamps if stamp.label == label
                and stamp.event != stamps.GONE and role in (None, stamp.role)]

    def last(self, label: str) -> float:
        """When a worker (its children included) was last seen running."""
        return max(stamp.at for stamp in self.of(label))

    def tokens(self) -> list[int]:
        """The fencing tokens of all runs."""
        return sorted({stamp.token for stamp in self.stamps})

    def intervals(self, token: int) -> list[Interval]:
        """When the run of a token and what it started were running."""
        return self._intervals(lambda stamp: stamp.token == token)

    def overlap(self) -> float:
        """For how many seconds two runs, their children included, ran at once."""
        return overlap_of(map(self.intervals, self.tokens()))

    def overlap_of_runs(self, apart: Collection[str] = ()) -> float:
        """The same for runs whose stamps name them, `ROLE:RUN`, whatever their token.

        What runs in a role of `apart` may do so beside any run.
        """
        runs: dict[str, list[Stamp]] = {}
        for stamp in self.stamps:
            role, _, run = stamp.role.partition(':')
            if run and role not in apart:
                runs.setdefault(run, []).append(stamp)
        return overlap_of(map(intervals_of, runs.values()))

    def standstill(self, after: float) -> float:
        """The longest time, in seconds, that nobody ran, of what ends after a time.

        To be asked when the job runs again: it does not know of a gap that has
        no end yet.
        """
        longest, ran = 0.0, 0.0
        for start, end in self._intervals(lambda stamp: True, join=0.0):
            if ran and start > after:
                longest = max(longest, start - ran)
            ran = end
        return longest

    def takeover(self, after: float) -> float:
        """The seconds from a time until a run began that holds a new token."""
        known = {stamp.token for stamp in self.stamps if stamp.at <= after}
        return min(stamp.at for stamp in self.stamps if stamp.token not in known
                   and stamp.event != stamps.GONE) - after

    def _intervals(
        self, condition: Callable[[Stamp], bool], join: float = JOIN,
    ) -> list[Interval]:
        return intervals_of(filter(condition, self.stamps), join)

    def __str__(self) -> str:
        lines = [f'{self.path}: {len(self.stamps)} stamps']
        for token in self.tokens():
            labels = {stamp.label for stamp in self.stamps if stamp.token == token}
            lines += [f'  token {token} on {"/".join(labels)}: {start:.3f} .. {end:.3f}'
                      for start, end in self.intervals(token)]
        return '\n'.join(lines)


def intervals_of(some: Iterable[Stamp], join: float = JOIN) -> list[Interval]:
    """When any of the processes ran that wrote these stamps."""
    processes: dict[int, list[Stamp]] = {}
    for stamp in some:
        processes.setdefault(stamp.pid, []).append(stamp)
    return merge(interval for each in processes.values()
                 for interval in running(each, join))


def overlap_of(each: Iterable[list[Interval]]) -> float:
    """For how many seconds two of some were running at once."""
    edges = sorted((at, change) for intervals in each
                   for start, end in intervals
                   for at, change in ((start, 1), (end, -1)))
    total, running, since = 0.0, 0, 0.0
    for at, change in edges:
        if running > 1:
            total += at - since
        running, since = running + change, at
    return total


def running(process: list[Stamp], join: float) -> Iterable[Interval]:
    """When the process ran that wrote these stamps."""
    previous = None
    for stamp in process:
        if previous is not None and (
                previous.event == stamps.ENTER
                or stamp.event != stamps.GONE and stamp.at - previous.at <= join):
            yield previous.at, stamp.at
        elif stamp.event != stamps.GONE:
            yield stamp.at, stamp.at
        previous = stamp


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """The same times as intervals that are apart from each other."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
