"""Finding and ending a task's process and all that it started.

Linux only: reads ``/proc``.  Standard library only, see ``keeper``.
"""

from __future__ import annotations

import os
import select
import signal

__all__ = ['KEEPER_VARIABLE', 'children', 'end', 'find', 'mark', 'start_time',
           'still_there', 'unmark']

#: Marks keepers, in their environment: they leave last, on their own.
KEEPER_VARIABLE = 'JOBSLIB_KEEPER'

#: Marks, in their environment, the processes that a task started.
MARKER_VARIABLE = 'JOBSLIB_LEASE'

# The limit of file locks, which means nothing to any Linux since 2.4.25.  It is
# inherited whatever else a process sheds (environment, parent, session), and
# its value can be a mark.
RLIMIT_LOCKS = 10

RESCAN = 5.0
TICK = 0.25

# Not typing.TYPE_CHECKING: importing typing costs the keeper milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def mark(marker: str) -> None:
    """Mark what this process starts from here on with *marker*."""
    os.environ[MARKER_VARIABLE] = marker
    _limit_locks(_number(marker))


def unmark() -> None:
    """Mark no more."""
    os.environ.pop(MARKER_VARIABLE, None)
    _limit_locks(None)


def start_time(pid: int) -> int:
    """Return when *pid* started, in clock ticks since boot; 0 if it ended."""
    status = _status(pid)
    return status[1] if status else 0


def find(root: int, marker: str, known: set[tuple[int, int]],
         since: int = 0) -> set[tuple[int, int]]:
    """Return what *root* started and what still lives, *root* excluded.

    A process belongs to it that descends from it; that has *marker*, whoever
    its parent is now: in its limits, in its environment or, forked from the
    task, in its memory map; or that is among *known*, which were seen below
    *root* before.  With each of them come its descendants.

    :param since: :func:`start_time` of *root*; older processes are not
        looked at, which saves most of the work.
    :returns: pairs of process id and start time, which tell a process from
        a later one of the same id.
    """
    below: dict[int, list[int]] = {}
    starts: dict[int, int] = {}
    for name in os.listdir('/proc'):
        if name.isdigit() and (status := _status(int(name))):
            parent, starts[int(name)] = status
            below.setdefault(parent, []).append(int(name))
    seeds = {pid for pid, start in starts.items()
             if (pid, start) in known
             or start >= since and _is_marked(pid, marker)}
    found: set[int] = set()
    queue = [*below.get(root, ()), *seeds]
    while queue:
        pid = queue.pop()
        if pid not in found and pid != root and not _is_keeper(pid):
            found.add(pid)
            queue += below.get(pid, ())
    return {(pid, starts[pid]) for pid in found}


def children(root: int) -> set[tuple[int, int]]:
    """Return the descendants of *root*, at little cost.

    Empty where the kernel lacks ``/proc/<pid>/task/<tid>/children``.
    """
    found: set[tuple[int, int]] = set()
    queue = [root]
    while queue:
        pid = queue.pop()
        for child in _children(pid):
            status = _status(child)
            if status and not _is_keeper(child):
                found.add((child, status[1]))
                queue.append(child)
    return found


def still_there(known: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return those of *known* that have not ended."""
    return {(pid, start) for pid, start in known if start_time(pid) == start}


def end(root: int, pidfd: int | None, marker: str,
        known: set[tuple[int, int]],
        tick: Callable[[], None] | None = None, since: int = 0) -> int:
    """Kill what *root* started, and wait until it is gone.

    :param pidfd: of *root*, to kill it as well; ``None`` spares it.
    :param tick: called now and then while it waits.
    :param since: see :func:`find`.
    :returns: how many processes were killed, *root* not counted.
    """
    if pidfd is not None:
        # Stopped, it starts nothing more while the others are looked for.
        _send(pidfd, signal.SIGSTOP)
    count = 0
    while True:
        found = find(root, marker, known, since)
        pidfds = [fd for pid, start in found
                  if (fd := _open(pid, start)) is not None]
        waiting = list(pidfds)
        if pidfd is not None:
            waiting.append(pidfd)
        for fd in waiting:
            _send(fd, signal.SIGKILL)
        _wait_for_end(waiting, tick)
        for fd in pidfds:
            os.close(fd)
        count += len(pidfds)
        if not pidfds and (pidfd is None or _has_ended(pidfd)):
            return count


def _status(pid: int) -> tuple[int, int] | None:
    """Return parent and start time of *pid*, ``None`` if it has ended."""
    try:
        with open(f'/proc/{pid}/stat', 'rb') as file:
            # The name, in parentheses, can have any character in it.
            fields = file.read().rpartition(b')')[2].split()
    except OSError:
        return None
    if not fields or fields[0] in (b'Z', b'X', b'x'):
        return None
    return int(fields[1]), int(fields[19])


def _number(marker: str) -> int:
    # Below infinity, and so large that no other limit is the same.
    return int(marker[:15], 16) | 1 << 60


def _limit_locks(number: int | None) -> None:
    # Imported late: the keeper marks nothing.
    import resource
    hard = resource.getrlimit(RLIMIT_LOCKS)[1]
    try:
        resource.setrlimit(
            RLIMIT_LOCKS, (hard if number is None else number, hard))
    except (ValueError, OSError):
        # The hard limit is lower; the other marks have to do.
        pass


def _is_marked(pid: int, marker: str) -> bool:
    # Environment and memory map are for where the limits are not shown.
    return (b' %d ' % _number(marker) in _read(pid, 'limits')
            or any(marker.encode() in _read(pid, name)
                   for name in ('environ', 'maps')))


def _is_keeper(pid: int) -> bool:
    return f'{KEEPER_VARIABLE}='.encode() in _read(pid, 'environ')


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f'/proc/{pid}/{name}', 'rb') as file:
            return file.read()
    except OSError:
        return b''


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{task}/children', 'rb') as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def _open(pid: int, start: int) -> int | None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    status = _status(pid)
    if status is None or status[1] != start:
        os.close(fd)
        return None
    return fd


def _send(pidfd: int, signum: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError):
        pass


def _has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _wait_for_end(pidfds: list[int],
                  tick: Callable[[], None] | None) -> None:
    """Wait until all have ended; give up after a while, to look again."""
    poller = select.poll()
    for fd in pidfds:
        poller.register(fd, select.POLLIN)
    left = len(pidfds)
    for _ in range(int(RESCAN / TICK)):
        if tick is not None:
            tick()
        for fd, _ in poller.poll(TICK * 1000) if left else ():
            poller.unregister(fd)
            left -= 1
        if not left:
            return
