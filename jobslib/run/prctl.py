"""Two requests to the kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ['adopt_orphans', 'die_with_parent']

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of what descends from this process and loses its own.

    So everything that a run has started can be found below the supervisor,
    however often it forked.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends.

    :param parent: the process id of the parent; this process ends at once
        if that is gone already.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    unsigned = ctypes.c_ulong
    if libc.prctl(option, unsigned(value), unsigned(0), unsigned(0),
                  unsigned(0)):
        errno = ctypes.get_errno()
        raise OSError(errno, f'prctl: {os.strerror(errno)}')
