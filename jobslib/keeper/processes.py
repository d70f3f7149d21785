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
import sys
import time

__all__ = ['GUARD_NAME', 'KEEPER_NAME', 'KEEPER_VARIABLE', 'children', 'end',
           'end_gently', 'find', 'is_marked', 'leftovers', 'mark', 'rename',
           'start_time', 'still_there', 'unmark']

#: The environment variable by which keepers are recognized.  They are never
#: ended here: a keeper leaves last, by itself.
KEEPER_VARIABLE = 'JOBSLIB_KEEPER'

#: The command names by which a forked keeper and a guard are recognized; the
#: kernel takes at most 15 characters.
KEEPER_NAME, GUARD_NAME = 'jobslib-keeper', 'jobslib-guard'

#: The environment variable by which what a run has started is recognized.
MARKER_VARIABLE = 'JOBSLIB_LEASE'

# The limit of file locks, which means nothing to any Linux since 2.4.25.  It is
# inherited whatever else a process sheds (environment, parent, session), and
# its value can be a mark.
RLIMIT_LOCKS = 10

# Where the id of the newest process stands, the last word of it.
LOAD = '/proc/loadavg'

# How long killed processes are waited for before all are looked at again, and
# from one call of *tick* to the next, in seconds.
RESCAN = 5.0
TICK = 0.25
# How often it is reported that something is still waited for, in seconds.
SAY_AGAIN = 60.0
# How much of a command line is shown, in characters.
MAX_NAME = 80

# How long a resource tracker may take to clear up when all others are gone, in
# seconds.
TRACKER_PATIENCE = 0.2

# To find a process that forks and ends again and again, so many of the youngest
# processes are looked at, so many times: CATCHES when something had to be killed
# before, FEW otherwise.
YOUNGEST = 16
CATCHES = 20
FEW = 3

# What multiprocessing starts beside the processes of a program, as it stands on
# their command lines.  They end by themselves when the program does.
TRACKER = b'multiprocessing.resource_tracker'
HELPERS = (TRACKER, b'multiprocessing.forkserver')

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


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
         since: int = 0,
         spared: frozenset[int] = frozenset()) -> set[tuple[int, int]]:
    """Return what *root* started and what still lives, without *root*.

    These are the descendants of *root*; the processes that have *marker*,
    whoever their parent is now, in their limits, in their environment or, when
    they were forked from the run, in their memory map; those of *known* that
    have not ended; and the descendants of all these.

    :param known: what was seen below *root* before.
    :param since: :func:`start_time` of *root*; no marks are looked for in older
        processes, which saves most of the work.
    :param spared: processes that are not returned, nor the helpers of
        multiprocessing among their children; what else they started is.
    :returns: pairs of process id and start time, which tell a process from
        a later one of the same id.
    """
    below, starts = _scan()
    seeds = {pid for pid, start in starts.items()
             if (pid, start) in known
             or start >= since and is_marked(pid, marker)}
    helpers = {pid for parent in spared for pid in below.get(parent, ())
               if _is_helper(pid)}
    found: set[int] = set()
    queue = [*below.get(root, ()), *seeds]
    while queue:
        pid = queue.pop()
        if pid not in found and pid != root and not _is_keeper(pid):
            found.add(pid)
            queue += below.get(pid, ())
    return {(pid, starts[pid]) for pid in found - spared - helpers}


def children(root: int) -> set[tuple[int, int]]:
    """Return the descendants of *root*, without looking at all processes."""
    return {(pid, start) for pid, start, _ in _descend(root)}


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
        found = {(pid, start): _command(pid)
                 for pid, start, parent in _descend(root)
                 if pid not in spared
                 and not (parent in spared and _is_helper(pid))}
        if found:
            break
    return found


def still_there(known: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return those of *known* that have not ended."""
    return {(pid, start) for pid, start in known if start_time(pid) == start}


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
        _send(pidfd, signal.SIGSTOP)
    waiting = _Waiting(tick, report)
    killed: set[tuple[int, int]] = set()
    while True:
        found = find(root, marker, known, since, spared)
        trackers = {each for each in found if _is_tracker(each[0])}
        if trackers == found and (pidfd is None or _has_ended(pidfd)):
            # When all other processes of the program are gone, a resource
            # tracker removes the semaphores and the shared memory that they
            # left, and then ends.  Killed before, it would leave them behind.
            _wait_for_all(trackers, TRACKER_PATIENCE)
        else:
            found -= trackers
        pidfds = {each: fd for each in found
                  if (fd := _open(*each)) is not None}
        refused = {each for each, fd in pidfds.items()
                   if not _send(fd, signal.SIGKILL)}
        waited = list(pidfds.values())
        if pidfd is not None:
            _send(pidfd, signal.SIGKILL)
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
                pidfd is None or _has_ended(pidfd)):
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
            if _is_tracker(each[0]):
                continue
            if (fd := _open(*each)) is not None:
                told[each] = left[each]
                _send(fd, signal.SIGTERM)
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
    since = start_time(root)
    for each in find(root, marker, known, since, spared):
        told.setdefault(each, _command(each[0]))
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
            if (fd := _open(*each)) is not None:
                _send(fd, signal.SIGKILL)
                os.close(fd)
                if each not in caught:
                    caught.add(each)
                    vain = 0
    return caught


def _youngest(root: int, marker: str, since: int,
              spared: frozenset[int]) -> Iterator[tuple[int, int]]:
    for pid, start, _ in _descend(root):
        if pid not in spared and not _is_helper(pid):
            yield pid, start
    number = b' %d ' % _number(marker)
    for pid in _by_age()[:YOUNGEST]:
        status = _status(pid)
        if (status and status[1] >= since and pid not in spared | {root}
                and number in _read(pid, 'limits')
                and not (_is_keeper(pid) or _is_helper(pid))):
            yield pid, status[1]


def _by_age() -> list[int]:
    """Return the ids of all processes, the youngest first."""
    ids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
    # Ids go up to the kernel's limit and then begin anew, so those above the
    # newest one are the oldest.
    last = _newest_id()
    return sorted(ids, key=lambda pid: (pid > last, -pid))


def _newest_id() -> int:
    """Return the id that the kernel gave last, or nearly so."""
    try:
        with open(LOAD, 'rb') as file:
            return int(file.read().split()[-1])
    except OSError:
        # Some sandboxes show nothing of /proc but processes.  A thread gets the
        # next id of the same count.
        import threading
        thread = threading.Thread(target=int)
        try:
            thread.start()
        except RuntimeError:
            # The system has no room for a thread; ids that begin anew are rare.
            return sys.maxsize
        thread.join()
        assert thread.native_id is not None
        return thread.native_id


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
                pid for fd in pidfds if not _has_ended(fd)
                if (pid := _pid_of(fd)) > 0])

    def _say(self, what: str, pids: list[int]) -> None:
        if self._report is None or time.monotonic() < self._say_at:
            return
        self._say_at = time.monotonic() + SAY_AGAIN
        names = ', '.join(f'{pid} ({_command(pid)})' for pid in sorted(pids))
        self._report(f'waiting for processes {what}: {names}')


def _status(pid: int) -> tuple[int, int] | None:
    """Return parent and start time of *pid*, ``None`` if it has ended.

    A process whose first thread has ended while others go on looks like one that
    has ended, but for the number of its threads.
    """
    try:
        with open(f'/proc/{pid}/stat', 'rb') as file:
            # The fields are counted from behind the name of the command, which
            # is in parentheses and can have spaces and parentheses in it.
            fields = file.read().rpartition(b')')[2].split()
    except OSError:
        return None
    if not fields or fields[0] in (b'Z', b'X', b'x') and int(fields[17]) < 2:
        return None
    return int(fields[1]), int(fields[19])


def _scan() -> tuple[dict[int, list[int]], dict[int, int]]:
    """Return the children of all processes, and when each started."""
    below: dict[int, list[int]] = {}
    starts: dict[int, int] = {}
    for name in os.listdir('/proc'):
        if name.isdigit() and (status := _status(int(name))):
            parent, starts[int(name)] = status
            below.setdefault(parent, []).append(int(name))
    return below, starts


def _number(marker: str) -> int:
    """Return the limit that stands for *marker*."""
    # So large that no limit set for a purpose is the same, and smaller than
    # "unlimited".
    return int(marker[:15], 16) | 1 << 60


def _limit_locks(number: int | None) -> None:
    # Imported here, because the keeper, which marks nothing, does not need it.
    import resource
    hard = resource.getrlimit(RLIMIT_LOCKS)[1]
    try:
        resource.setrlimit(
            RLIMIT_LOCKS, (hard if number is None else number, hard))
    except (ValueError, OSError):
        # Somebody has set a lower hard limit; then the other marks have to do.
        pass


def is_marked(pid: int, marker: str) -> bool:
    """Return whether *pid* has inherited *marker*."""
    # Environment and memory map are looked at as well, because the limits are
    # neither shown nor set everywhere.
    return (b' %d ' % _number(marker) in _read(pid, 'limits')
            or any(marker.encode() in _read(pid, name)
                   for name in ('environ', 'maps')))


def rename(name: str) -> str:
    """Give this thread, and what it forks, a command name.

    :returns: the name that it had before.
    """
    with open('/proc/thread-self/comm', 'r+', encoding='utf-8',
              errors='surrogateescape') as file:
        before = file.read().rstrip('\n')
        file.seek(0)
        file.write(name)
    return before


def _is_keeper(pid: int) -> bool:
    # A forked keeper shows the environment of its parent, so it is recognized
    # by its name.
    return (f'{KEEPER_VARIABLE}='.encode() in _read(pid, 'environ')
            or _title(pid) in (KEEPER_NAME, GUARD_NAME))


def _is_tracker(pid: int) -> bool:
    return TRACKER in _read(pid, 'cmdline')


def _is_helper(pid: int) -> bool:
    command = _read(pid, 'cmdline')
    return any(name in command for name in HELPERS)


def _title(pid: int) -> str:
    """Return the command name of *pid*, see :func:`rename`."""
    return _read(pid, 'comm').decode('utf-8', 'replace').strip()


def _command(pid: int) -> str:
    """Return the command of *pid*, for a line of the log."""
    # The command line of a process that is about to end is empty.
    words = _read(pid, 'cmdline').replace(b'\0', b' ').decode('utf-8', 'replace')
    return ' '.join(words.split())[:MAX_NAME] or _title(pid) or '?'


def _descend(root: int) -> Iterator[tuple[int, int, int]]:
    """Return id, start time and parent of what runs below *root*."""
    queue = [root]
    # Kernels that do not list the children of a process need a look at all.
    below = (None if os.path.exists(f'/proc/{root}/task/{root}/children')
             else _scan()[0])
    while queue:
        parent = queue.pop()
        for pid in (_children(parent) if below is None
                    else below.get(parent, ())):
            status = _status(pid)
            if status and not _is_keeper(pid):
                yield pid, status[1], parent
                queue.append(pid)


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
    """Return a pidfd of the process *pid* that started at *start*, if it is
    still there."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    status = _status(pid)
    if status is None or status[1] != start:
        os.close(fd)
        return None
    return fd


def _send(pidfd: int, signum: int) -> bool:
    """Send a signal; return whether that is allowed."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def _has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _pid_of(pidfd: int) -> int:
    """Return the process id of *pidfd*; -1 when it has been waited for."""
    for line in _read(os.getpid(), f'fdinfo/{pidfd}').splitlines():
        if line.startswith(b'Pid:'):
            return int(line.split()[1])
    return -1


def _wait_for_all(processes: Iterable[tuple[int, int]],
                  timeout: float) -> None:
    """Wait until all of *processes* have ended, at most *timeout* seconds."""
    ends = time.monotonic() + timeout
    while (left := still_there(set(processes))) and time.monotonic() < ends:
        _wait_for_any(left, ends - time.monotonic())


def _wait_for_any(processes: Iterable[tuple[int, int]],
                  timeout: float) -> None:
    """Wait until one of *processes* has ended, at most *timeout* seconds."""
    poller = select.poll()
    pidfds = [fd for each in processes if (fd := _open(*each)) is not None]
    for fd in pidfds:
        poller.register(fd, select.POLLIN)
    poller.poll(max(timeout, 0) * 1000)
    for fd in pidfds:
        os.close(fd)
