"""What a job needs of the kernel, and of the sandbox that it is in.

To keep runs apart takes system calls that old kernels do not have, and that a
sandbox or a limit may refuse.  They are tried before anything is locked, because a
refusal in the middle of a run is much worse than one at the start.  All of them
together take half a millisecond.

Only modules of the standard library are used that are loaded already.
"""

from __future__ import annotations

import os
import signal

__all__ = ['examine', 'missing']

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: How many threads and processes a job needs apart from those of its task.
THREADS = 4
#: How many open files it needs apart from those of its task.
FILES = 24

_PR_GET_DUMPABLE = 3

_KERNEL = ('needed: Linux 5.4 or later, and a sandbox (seccomp) that allows '
           'it')
_ROOM = 'needed: more room, see ulimit -{} and {}'


def missing() -> str | None:
    """Return the first thing that a job cannot have here, in one line for people;
    ``None`` when it can have all that it needs."""
    for what, error in examine():
        if error is not None:
            return f'this machine does not let a job {what}: {error}'
    return None


def examine() -> list[tuple[str, str | None]]:
    """Try all that a job needs.

    :returns: what was tried, and why it went wrong or ``None``.
    """
    return [(what, _try(call, hint)) for what, call, hint in _NEEDS]


def _try(call: Callable[[], None], hint: str) -> str | None:
    try:
        call()
    except OSError as exc:
        return f'{exc.strerror or exc}; {hint}'
    except (AttributeError, ImportError, RuntimeError) as exc:
        # The interpreter was built without it, or no thread could be started.
        return f'{exc}; {hint}'
    return None


def _start_threads() -> None:
    # Without threading, which waits until each is at work: that would take as
    # long as all the rest.
    import _thread
    hold = _thread.allocate_lock()
    running = []

    def run(over: _thread.LockType) -> None:
        with hold:
            over.release()

    try:
        with hold:
            for _ in range(THREADS):
                over = _thread.allocate_lock()
                over.acquire()
                _thread.start_new_thread(run, (over,))
                running.append(over)
    finally:
        for over in running:
            over.acquire()


def _open_files() -> None:
    opened = list(os.pipe())
    try:
        while len(opened) < FILES:
            opened.append(os.dup(opened[0]))
    finally:
        for fd in opened:
            os.close(fd)


def _open_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _send_signal() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        # The signal 0 only tries whether one could be sent.
        signal.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)


def _create_memory() -> None:
    os.close(os.memfd_create('jobslib-needs'))


def _create_event() -> None:
    os.close(os.eventfd(0))


def _call_prctl() -> None:
    # The module ctypes is built on this one, and takes twenty times as long to
    # import.
    import _ctypes
    function = _ctypes.dlsym(_ctypes.dlopen('', 0), 'prctl')
    if _ctypes.call_function(function, (_PR_GET_DUMPABLE, 0, 0, 0, 0)) < 0:
        raise OSError('it is refused')


def _read_proc() -> None:
    with open('/proc/self/stat', 'rb') as file:
        file.read()


_NEEDS: tuple[tuple[str, Callable[[], None], str], ...] = (
    ('open a few files', _open_files, _ROOM.format('n', 'LimitNOFILE')),
    ('start a few threads', _start_threads,
     _ROOM.format('u', 'the limit of processes of its container')),
    ('read /proc', _read_proc, 'needed: /proc is mounted'),
    ('watch processes (pidfd_open)', _open_pidfd, _KERNEL),
    ('end processes (pidfd_send_signal)', _send_signal, _KERNEL),
    ('share memory (memfd_create)', _create_memory, _KERNEL),
    ('wake processes (eventfd)', _create_event, _KERNEL),
    ('keep orphans (prctl)', _call_prctl, _KERNEL),
)
