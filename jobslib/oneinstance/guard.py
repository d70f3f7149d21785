"""The guard: what remains when the lease keeper itself is killed or stopped.

A process whose keeper dies starts another.  It cannot while a C call keeps
its interpreter; then the guard, which the keeper forks before it begins,
ends it before the lease does.  Standard library only, see ``keeper``.
"""

from __future__ import annotations

import select

from jobslib.clock import now
from jobslib.oneinstance import processes
from jobslib.oneinstance.page import Page

__all__ = ['Guard']

LOOK = 0.5


class Guard:
    """Watches one keeper, and the process that it keeps the lease of.

    :param page: shared by all three.
    :param keeper_fd: a pidfd of the keeper.
    :param pidfd: one of the holder.
    :param pid: process id of the holder.
    :param marker: of what the holder starts.
    :param since: when the holder started.
    :param kill: allowance for a kill to be done, in seconds.
    """

    def __init__(self, page: Page, keeper_fd: int, pidfd: int, pid: int,
                 marker: str, since: int, kill: float) -> None:
        self.page = page
        self.keeper_fd = keeper_fd
        self.pidfd = pidfd
        self.pid = pid
        self.marker = marker
        self.since = since
        self.kill = kill

    def run(self) -> None:
        """Guard until there is nothing to guard, or another who does."""
        while not self._has_ended(self.keeper_fd):
            # The keeper would have acted before: it is stopped.
            if self._end_if_due():
                return
        alive = self.page.alive
        while self.page.held and not self._has_ended(self.pidfd):
            if self.page.alive != alive or self._end_if_due():
                return
        if self.page.held:
            # The process is gone as well, and left something running.
            self._end_processes(None)

    def _end_if_due(self) -> bool:
        due = self.page.held and self._left() <= 0
        if due:
            self._end_processes(self.pidfd)
        return due

    def _end_processes(self, pidfd: int | None) -> None:
        processes.end(self.pid, pidfd, self.marker, set(), since=self.since)

    def _left(self) -> float:
        return self.page.until - self.kill / 2 - now()

    def _has_ended(self, pidfd: int) -> bool:
        timeout = min(max(self._left(), 0), LOOK) if self.page.held else LOOK
        return bool(select.select([pidfd], [], [], timeout)[0])
