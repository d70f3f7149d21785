"""Two requests to the kernel that Python has no function for."""

from __future__ import annotations

# The module ctypes is built on this one, and takes twenty times as long to import.
import _ctypes
import os
import signal

__all__ = ['adopt_orphans', 'die_with_parent']

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make this process the new parent of descendants that lose their own.

    So everything that a run has started can be found below the supervisor,
    however often it forked.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that forked it ends.

    :param parent: the process id of the parent; this process ends at once
        if the parent is gone already.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO


def _prctl(option: int, value: int) -> None:
    prctl = _Function(_ctypes.dlsym(_ctypes.dlopen('', 0), 'prctl'))
    if prctl(option, value, 0, 0, 0):
        errno = _ctypes.get_errno()
        raise OSError(errno, f'prctl: {os.strerror(errno)}')
