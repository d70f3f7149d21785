"""Single processes: what ``/proc`` says of them, and signals that hit no other.

A process is named by its id together with its start time, because an id may be used
again by another program at any time; signals are sent by a pidfd.  Standard library
only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ['GUARD_NAME', 'KEEPER_NAME', 'KEEPER_VARIABLE', 'by_age', 'command',
           'descend', 'has_ended', 'is_helper', 'is_keeper', 'is_tracker',
           'open_pidfd', 'pid_of', 'read', 'rename', 'scan', 'send',
           'start_time', 'status']

#: The environment variable by which keepers are recognized.  They are never
#: ended: a keeper leaves last, by itself.
KEEPER_VARIABLE = 'JOBSLIB_KEEPER'

#: The command names by which a forked keeper and a guard are recognized; the
#: kernel takes at most 15 characters.
KEEPER_NAME, GUARD_NAME = 'jobslib-keeper', 'jobslib-guard'

# Where the id of the newest process stands, the last word of it.
LOAD = '/proc/loadavg'

# How much of a command line is shown, in characters.
MAX_NAME = 80

# What multiprocessing starts beside the processes of a program, as it stands on
# their command lines.  They end by themselves when the program does.
TRACKER = b'multiprocessing.resource_tracker'
HELPERS = (TRACKER, b'multiprocessing.forkserver')


def start_time(pid: int) -> int:
    """Return when *pid* started, in clock ticks since boot; 0 if it ended."""
    found = status(pid)
    return found[1] if found else 0


def status(pid: int) -> tuple[int, int] | None:
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


def scan() -> tuple[dict[int, list[int]], dict[int, int]]:
    """Return the children of all processes, and when each started."""
    below: dict[int, list[int]] = {}
    starts: dict[int, int] = {}
    for name in os.listdir('/proc'):
        if name.isdigit() and (found := status(int(name))):
            parent, starts[int(name)] = found
            below.setdefault(parent, []).append(int(name))
    return below, starts


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{task}/children', 'rb') as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def descend(root: int) -> Iterator[tuple[int, int, int]]:
    """Return id, start time and parent of what runs below *root*, but for keepers."""
    queue = [root]
    # Kernels that do not list the children of a process need a look at all.
    below = (None if os.path.exists(f'/proc/{root}/task/{root}/children')
             else scan()[0])
    while queue:
        parent = queue.pop()
        for pid in (_children(parent) if below is None
                    else below.get(parent, ())):
            found = status(pid)
            if found and not is_keeper(pid):
                yield pid, found[1], parent
                queue.append(pid)


def by_age() -> list[int]:
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


def read(pid: int, name: str) -> bytes:
    """Return what one of the files of *pid* says; nothing if it cannot be read."""
    try:
        with open(f'/proc/{pid}/{name}', 'rb') as file:
            return file.read()
    except OSError:
        return b''


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


def is_keeper(pid: int) -> bool:
    """Return whether *pid* is a keeper or a guard."""
    # A forked keeper shows the environment of its parent, so it is recognized
    # by its name.
    return (f'{KEEPER_VARIABLE}='.encode() in read(pid, 'environ')
            or _title(pid) in (KEEPER_NAME, GUARD_NAME))


def is_tracker(pid: int) -> bool:
    """Return whether *pid* is a resource tracker of multiprocessing."""
    return TRACKER in read(pid, 'cmdline')


def is_helper(pid: int) -> bool:
    """Return whether *pid* is what multiprocessing starts beside its processes."""
    command = read(pid, 'cmdline')
    return any(name in command for name in HELPERS)


def _title(pid: int) -> str:
    """Return the command name of *pid*, see :func:`rename`."""
    return read(pid, 'comm').decode('utf-8', 'replace').strip()


def command(pid: int) -> str:
    """Return the command of *pid*, for a line of the log."""
    # The command line of a process that is about to end is empty.
    words = read(pid, 'cmdline').replace(b'\0', b' ').decode('utf-8', 'replace')
    return ' '.join(words.split())[:MAX_NAME] or _title(pid) or '?'


def open_pidfd(pid: int, start: int) -> int | None:
    """Return a pidfd of the process *pid* that started at *start*, if it is
    still there."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    found = status(pid)
    if found is None or found[1] != start:
        os.close(fd)
        return None
    return fd


def send(pidfd: int, signum: int) -> bool:
    """Send a signal; return whether that is allowed."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def has_ended(pidfd: int) -> bool:
    """Return whether the process has ended, reaped or not."""
    return bool(select.select([pidfd], [], [], 0)[0])


def pid_of(pidfd: int) -> int:
    """Return the process id of *pidfd*; -1 when it has been waited for."""
    for line in read(os.getpid(), f'fdinfo/{pidfd}').splitlines():
        if line.startswith(b'Pid:'):
            return int(line.split()[1])
    return -1
