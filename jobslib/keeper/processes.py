"""Finding and ending a run's process and all that it started.

Why it is hard.  A process can leave its parent, its session, its process group
and its environment behind, and a process that is looked for may fork while the
list of all processes is read.  A process id may be used again by another
program at any time.

How it is done.  What a run starts is recognized by several marks, each of which
is hard to shed together with the others: its ancestors, a value in its limits
that every descendant inherits, an entry of its environment, the shared memory
that it has mapped, and the list of those that were seen below it before.  A
process is named by its id together with its start time, and signals are sent
by a pidfd, so no other program is ever hit.  After each round of kills all
processes are looked at again, until nothing is found.

Linux only, since it reads ``/proc``.  Standard library only, see
:mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import os
import select
import signal
import time

from jobslib.keeper import proc
from jobslib.keeper.marks import is_marked, limit_of

__all__ = ['children', 'end', 'end_gently', 'find', 'leftovers', 'still_there']

# How long killed processes are waited for before all are looked at again, and
# from one call of *tick* to the next, in seconds.
RESCAN = 5.0
TICK = 0.25
# How often it is reported that something is still waited for, in seconds.
SAY_AGAIN = 60.0

# How long a resource tracker may take to clear up when all others are gone, in
# seconds.
TRACKER_PATIENCE = 0.2

# To find a process that forks and ends again and again, so many of the youngest
# processes are looked at, so many times: CATCHES when something had to be killed
# before, FEW otherwise.
YOUNGEST = 16
CATCHES = 20
FEW = 3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def find(root: int, marker: str, known: set[tuple[int, int]],
         since: int = 0,
         spared: frozenset[int] = frozenset()) -> set[tuple[int, int]]:
    """Return what *root* started and what still lives, without *root*.

    These are the descendants of *root*; the processes that have *marker*,
    whoever their parent is now, in their limits, in their environment or, when
    they were forked from the run, in their memory map; those of *known* that
    have not ended; and the descendants of all these.

    :param known: what was seen below *root* before.
    :param since: :func:`.proc.start_time` of *root*; no marks are looked for in older
        processes, which saves most of the work.
    :param spared: processes that are not returned, nor the helpers of
        multiprocessing among their children; what else they started is.
    :returns: pairs of process id and start time, which tell a process from
        a later one of the same id.
    """
    below, starts = proc.scan()
    seeds = {pid for pid, start in starts.items()
             if (pid, start) in known
             or start >= since and is_marked(pid, marker)}
    helpers = {pid for parent in spared for pid in below.get(parent, ())
               if proc.is_helper(pid)}
    found: set[int] = set()
    queue = [*below.get(root, ()), *seeds]
    while queue:
        pid = queue.pop()
        if pid not in found and pid != root and not proc.is_keeper(pid):
            found.add(pid)
            queue += below.get(pid, ())
    return {(pid, starts[pid]) for pid in found - spared - helpers}


def children(root: int) -> set[tuple[int, int]]:
    """Return the descendants of *root*, without looking at all processes."""
    return {(pid, start) for pid, start, _ in proc.descend(root)}


def leftovers(root: int, spared: frozenset[int] = frozenset(),
              ) -> dict[tuple[int, int], str]:
    """Return what runs below *root*, without looking at all processes.

    Left out are keepers, *spared* and the helpers of multiprocessing that are
    children of those, but not what any of these started.

    :returns: the names of the commands by process id and start time.
    """
    # When its parent ends meanwhile, a process moves to another parent, whose
    # children may have been looked at already.  So nothing found counts only
    # when it is found twice.
    for _ in range(2):
        found = {(pid, start): proc.command(pid)
                 for pid, start, parent in proc.descend(root)
                 if pid not in spared
                 and not (parent in spared and proc.is_helper(pid))}
        if found:
            break
    return found


def still_there(known: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return those of *known* that have not ended."""
    return {(pid, start) for pid, start in known if proc.start_time(pid) == start}


def end(root: int, pidfd: int | None, marker: str,
        known: set[tuple[int, int]],
        tick: Callable[[], object] | None = None, since: int = 0,
        spared: frozenset[int] = frozenset(),
        report: Callable[[str], None] | None = None) -> int:
    """Kill what *root* started, and wait until it is gone.

    :param pidfd: a pidfd of *root*, to kill it as well; ``None`` spares it.
    :param known: see :func:`find`.
    :param tick: called every quarter of a second while it waits.
    :param since: see :func:`find`.
    :param spared: see :func:`find`.
    :param report: called with a line that says what is waited for, when it
        cannot be killed or does not end; again every minute.
    :returns: how many processes were killed, *root* not counted.
    """
    if pidfd is not None:
        # While it is stopped, it starts nothing new, and the others are found.
        proc.send(pidfd, signal.SIGSTOP)
    waiting = _Waiting(tick, report)
    killed: set[tuple[int, int]] = set()
    while True:
        found = find(root, marker, known, since, spared)
        trackers = {each for each in found if proc.is_tracker(each[0])}
        if trackers == found and (pidfd is None or proc.has_ended(pidfd)):
            # When all other processes of the program are gone, a resource
            # tracker removes the semaphores and the shared memory that they
            # left, and then ends.  Killed before, it would leave them behind.
            _wait_for_all(trackers, TRACKER_PATIENCE)
        else:
            found -= trackers
        pidfds = {each: fd for each in found
                  if (fd := proc.open_pidfd(*each)) is not None}
        refused = {each for each, fd in pidfds.items()
                   if not proc.send(fd, signal.SIGKILL)}
        waited = list(pidfds.values())
        if pidfd is not None:
            proc.send(pidfd, signal.SIGKILL)
            waited.append(pidfd)
        waiting.wait(waited, refused)
        for fd in pidfds.values():
            os.close(fd)
        killed |= pidfds.keys()
        if pidfds:
            continue
        # Nothing was left to kill.  What was found, if anything, has ended by
        # itself meanwhile, and may have forked before it did.
        caught = _catch(root, marker, since, spared,
                        CATCHES if found or killed else FEW)
        killed |= caught
        if not found and not caught and not trackers and (
                pidfd is None or proc.has_ended(pidfd)):
            return len(killed)


def end_gently(root: int, marker: str, known: set[tuple[int, int]],
               spared: frozenset[int], grace: float,
               tick: Callable[[], object] | None = None,
               report: Callable[[str], None] | None = None,
               ) -> list[tuple[int, str]]:
    """End what runs below *root*: by SIGTERM, and by SIGKILL after *grace*.

    :param spared: see :func:`find`.
    :param grace: in seconds.
    :param tick: called now and then while it waits.
    :param report: see :func:`end`.
    :returns: process id and name of the command of all that had to be ended.
    """
    told: dict[tuple[int, int], str] = {}
    ends = time.monotonic() + grace
    while left := leftovers(root, spared):
        # Processes that one of them has started meanwhile are told as well.
        for each in left.keys() - told.keys():
            # A resource tracker ends by itself when it has cleared up.
            if proc.is_tracker(each[0]):
                continue
            if (fd := proc.open_pidfd(*each)) is not None:
                told[each] = left[each]
                proc.send(fd, signal.SIGTERM)
                os.close(fd)
        if time.monotonic() >= ends:
            break
        _wait_for_any(left, min(ends - time.monotonic(), TICK))
        if tick is not None:
            tick()
    if not told and not still_there(known):
        return []
    # Now also those that are not below *root* any more, and those that are
    # still there after SIGTERM.
    since = proc.start_time(root)
    for each in find(root, marker, known, since, spared):
        told.setdefault(each, proc.command(each[0]))
    end(root, None, marker, known, tick, since, spared, report)
    return sorted((pid, name) for (pid, _), name in told.items())


def _catch(root: int, marker: str, since: int, spared: frozenset[int],
           tries: int) -> set[tuple[int, int]]:
    """Kill processes that fork and end again and again, and return them.

    By the time that all processes have been looked at, such a process has
    ended, and its child has an id that was passed already.  So only a few are
    looked at here, and each is killed at once: those below *root*, as
    :func:`leftovers` sees them, and the youngest on the machine.

    :param tries: how many looks in vain are enough to say that there is none.
    """
    caught: set[tuple[int, int]] = set()
    vain = 0
    while vain < tries:
        vain += 1
        for each in _youngest(root, marker, since, spared):
            if (fd := proc.open_pidfd(*each)) is not None:
                proc.send(fd, signal.SIGKILL)
                os.close(fd)
                if each not in caught:
                    caught.add(each)
                    vain = 0
    return caught


def _youngest(root: int, marker: str, since: int,
              spared: frozenset[int]) -> Iterator[tuple[int, int]]:
    for pid, start, _ in proc.descend(root):
        if pid not in spared and not proc.is_helper(pid):
            yield pid, start
    number = limit_of(marker)
    for pid in proc.by_age()[:YOUNGEST]:
        status = proc.status(pid)
        if (status and status[1] >= since and pid not in spared | {root}
                and number in proc.read(pid, 'limits')
                and not (proc.is_keeper(pid) or proc.is_helper(pid))):
            yield pid, status[1]


class _Waiting:
    """Waits for processes to end, and reports when that takes long."""

    def __init__(self, tick: Callable[[], object] | None,
                 report: Callable[[str], None] | None) -> None:
        self._tick = tick
        self._report = report
        self._say_at = 0.0

    def wait(self, pidfds: list[int], refused: set[tuple[int, int]]) -> None:
        """Wait until all have ended, or for :data:`RESCAN` seconds.

        :param refused: those that may not be killed.
        """
        if refused:
            self._say('of other users, which may not be killed',
                      [pid for pid, _ in refused])
        poller = select.poll()
        for fd in pidfds:
            poller.register(fd, select.POLLIN)
        left = len(pidfds)
        for _ in range(int(RESCAN / TICK)):
            if self._tick is not None:
                self._tick()
            for fd, _ in poller.poll(TICK * 1000) if left else ():
                poller.unregister(fd)
                left -= 1
            if not left:
                return
        if not refused:
            self._say('that were killed and do not end', [
                pid for fd in pidfds if not proc.has_ended(fd)
                if (pid := proc.pid_of(fd)) > 0])

    def _say(self, what: str, pids: list[int]) -> None:
        if self._report is None or time.monotonic() < self._say_at:
            return
        self._say_at = time.monotonic() + SAY_AGAIN
        names = ', '.join(f'{pid} ({proc.command(pid)})' for pid in sorted(pids))
        self._report(f'waiting for processes {what}: {names}')


def _wait_for_all(processes: Iterable[tuple[int, int]],
                  timeout: float) -> None:
    """Wait until all of *processes* have ended, at most *timeout* seconds."""
    ends = time.monotonic() + timeout
    while (left := still_there(set(processes))) and time.monotonic() < ends:
        _wait_for_any(left, ends - time.monotonic())


def _wait_for_any(processes: Iterable[tuple[int, int]],
                  timeout: float) -> None:
    """Wait until one of *processes* has ended, at most *timeout* seconds."""
    known = set(processes)
    poller = select.poll()
    pidfds = [fd for each in known if (fd := proc.open_pidfd(*each)) is not None]
    for fd in pidfds:
        poller.register(fd, select.POLLIN)
    # One that had ended before it was opened would not be waited for.
    if len(pidfds) == len(known) or still_there(known) == known:
        poller.poll(max(timeout, 0) * 1000)
    for fd in pidfds:
        os.close(fd)
