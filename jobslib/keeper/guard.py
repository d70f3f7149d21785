"""The guard: what remains when the lease keeper itself is killed or stopped.

A ward whose keeper dies starts another one.  It cannot while a C call keeps its
interpreter, or when it is stopped; the lease would end, and somebody else take
the lock, while the run may go on at any moment.  Nobody but a third process
can see that.  So the keeper forks a guard before it begins, when it has no
thread yet.  The guard asks nobody for anything: it reads in the shared memory
until when the lease is ours, and ends the ward, and what it started, shortly
before.  It does so only when there is no keeper who would have done it
earlier, and leaves as soon as another keeper has shown that it is at work.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import select

from jobslib.clock import now
from jobslib.keeper import processes
from jobslib.keeper.memory import LeaseMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ['Guard']

LOOK = 0.5


class Guard:
    """Watches one keeper, and the process that it keeps the lease of.

    :param memory: shared by all three.
    :param keeper_fd: a pidfd of the keeper.
    :param pidfd: one of the holder.
    :param pid: process id of the holder.
    :param marker: of what the holder starts.
    :param since: when the holder started.
    :param kill: allowance for a kill to be done, in seconds.
    :param report: see :func:`.processes.end`.
    """

    def __init__(self, memory: LeaseMemory, keeper_fd: int, pidfd: int, pid: int,
                 marker: str, since: int, kill: float,
                 report: Callable[[str], None] | None = None) -> None:
        self.memory = memory
        self.keeper_fd = keeper_fd
        self.pidfd = pidfd
        self.pid = pid
        self.marker = marker
        self.since = since
        self.kill = kill
        self.report = report

    def run(self) -> None:
        """Guard until there is nothing to guard, or another who does."""
        while not self._has_ended(self.keeper_fd):
            # The keeper would have acted before: it is stopped.
            if self._end_if_due():
                return
        alive = self.memory.alive
        while self.memory.held and not self._has_ended(self.pidfd):
            if self.memory.alive != alive or self._end_if_due():
                return
        if self.memory.held:
            # The process is gone as well, and left something running.
            self._end_processes(None)

    def _end_if_due(self) -> bool:
        due = self._has_something_to_end() and self._left() <= 0
        if due:
            self._end_processes(self.pidfd)
        return due

    def _has_something_to_end(self) -> bool:
        # A supervisor whose run the keeper has killed works beside nobody: it
        # is given the time to notice.
        return self.memory.held and not self.memory.cleared

    def _end_processes(self, pidfd: int | None) -> None:
        processes.end(self.pid, pidfd, self.marker, set(), since=self.since,
                      report=self.report)

    def _left(self) -> float:
        return self.memory.until - self.kill / 2 - now()

    def _has_ended(self, pidfd: int) -> bool:
        timeout = (min(max(self._left(), 0), LOOK)
                   if self._has_something_to_end() else LOOK)
        return bool(select.select([pidfd], [], [], timeout)[0])
