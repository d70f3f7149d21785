"""Environment variables that other processes must not see."""

from __future__ import annotations

import contextlib
import os

__all__ = ['NOTIFY_SOCKET', 'WATCHDOG', 'forget']

#: The variables by which a process manager is told of the supervisor, and by which
#: the supervisor knows that it is watched.
NOTIFY_SOCKET = 'NOTIFY_SOCKET'
WATCHDOG = ('WATCHDOG_PID', 'WATCHDOG_USEC')

# Which fields of /proc/<pid>/stat say where the environment is, counted from the
# one after the name of the process.
ENV_START, ENV_END = 47, 48


def forget(name: str) -> None:
    """Take the variable *name* out of the environment of this process.

    The processes that it starts do not inherit it, and neither ``/proc`` nor
    ``ps`` shows its value any more.  These show the memory in which the process got
    its environment when it was started, which a forked process has as well.
    """
    os.environ.pop(name, None)
    # If that memory cannot be found, it stays as it is; only processes of the same
    # user can read it.
    with contextlib.suppress(OSError, ValueError, IndexError):
        _overwrite(f'{name}='.encode())


def _overwrite(prefix: bytes) -> None:
    """Overwrite the value of the entry that begins with *prefix*."""
    import ctypes
    with open('/proc/self/stat', 'rb') as file:
        fields = file.read().rpartition(b')')[2].split()
    start, end = int(fields[ENV_START]), int(fields[ENV_END])
    if not 0 < start < end:
        return
    offset = 0
    for entry in ctypes.string_at(start, end - start).split(b'\0'):
        if entry.startswith(prefix):
            ctypes.memset(start + offset + len(prefix), ord('*'),
                          len(entry) - len(prefix))
        offset += len(entry) + 1
