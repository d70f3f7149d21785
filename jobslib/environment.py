"""Variables of the environment that are not for everybody."""

from __future__ import annotations

import contextlib
import os

__all__ = ['NOTIFY_SOCKET', 'WATCHDOG', 'forget']

#: By which a process manager hears of the supervisor, and watches it.
NOTIFY_SOCKET = 'NOTIFY_SOCKET'
WATCHDOG = ('WATCHDOG_PID', 'WATCHDOG_USEC')

# Of /proc/<pid>/stat, counted from the field after the name of the process.
ENV_START, ENV_END = 47, 48


def forget(name: str) -> None:
    """Take the variable *name* out of the environment of this process.

    What the process starts does not inherit it, and neither ``/proc`` nor
    ``ps`` shows its value any more: they show the memory in which the process
    was given its environment, and so do they for a process that is forked.
    """
    os.environ.pop(name, None)
    # Where that memory cannot be found it stays as it is: it is readable for
    # processes of this user only.
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
