"""The guard: what remains when the lease keeper itself is killed or stopped.

Why there is one.  A ward whose keeper dies starts another keeper.  It cannot do
that while a C call keeps its interpreter, or while the ward itself is stopped.
Then nobody renews the lease: it ends, and another machine takes the lock, while
the ward may go on with its run at any moment.  Neither of the two can prevent
that, so a third process has to.

What it does.  The keeper forks it before it begins its work, when it has no
threads yet.  The guard sends no requests and waits for no answers.  It reads in
the shared memory until when the lease is ours, and shortly before that moment
kills the ward and whatever it started.  A keeper that is at work does that
earlier, so the guard comes to it only when there is none; and it leaves as soon
as another keeper has shown that it is at work.

What is still open.  When keeper and guard are stopped together, nobody kills
the ward; see :mod:`jobslib.keeper.keeper`.  Standard library only.
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
    """Watches one keeper and its ward.

    :param memory: shared by all three processes.
    :param keeper_fd: a pidfd of the keeper.
    :param pidfd: a pidfd of the ward.
    :param pid: the process id of the ward.
    :param marker: marks what the ward starts, see :func:`.marks.mark`.
    :param since: when the ward started, see :func:`.proc.start_time`.
    :param kill: how long a kill may take until all is gone, in seconds.
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
        """Guard until there is nothing to guard, or another keeper does."""
        while not self._has_ended(self.keeper_fd):
            # Nothing is due while the keeper works, since it would have killed
            # the ward earlier.  When something is, the keeper is stopped.
            if self._end_if_due():
                return
        alive = self.memory.alive
        while self.memory.held and not self._has_ended(self.pidfd):
            if self.memory.alive != alive or self._end_if_due():
                return
        if self.memory.held:
            # The ward is gone as well, and may have left something running.
            self._end_processes(None)

    def _end_if_due(self) -> bool:
        due = self._has_something_to_end() and self._left() <= 0
        if due:
            self._end_processes(self.pidfd)
        return due

    def _has_something_to_end(self) -> bool:
        # When the keeper has killed the run of a supervisor, nothing is left
        # that could work beside the next holder, and the supervisor gets the
        # time to notice it.
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
