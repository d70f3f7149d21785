"""Starting the lease keeper's process.

Beside a program of users it is a fresh interpreter without installed packages:
it is small, and has nothing of the program that it is to guard.  A *frozen*
program has no interpreter to be started, and neither has one that Python is
built into; there the keeper is forked.

A supervisor forks it, too: it is small itself and runs no code of users, and
the fork costs a quarter of the processor time that an interpreter takes to
start, and less memory, because much of it is shared.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterable

from jobslib.keeper import processes

__all__ = ['has_interpreter', 'start']

# What the interpreter and the TLS library need of the environment.
PASSED_ON = ('LD_LIBRARY_PATH', 'SSL_CERT_FILE', 'SSL_CERT_DIR', 'TZ')

# What makes the engine of the lock service.
ENGINES = 'jobslib.consul.engine'

# The folder of the package jobslib.
ROOT = os.path.realpath(__file__).rsplit(os.sep, 3)[0]

# Runs the keeper without the __init__ of the packages it is in, which would
# import what it does not need.  At its end there is nothing that the
# interpreter would have to clear up.
BOOT = """
import os, sys, types
for name in ('jobslib', 'jobslib.consul', 'jobslib.keeper'):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [sys.argv[1] + '/' + name.replace('.', '/')]
from jobslib.keeper.keeper import main
__import__(sys.argv[2])
main(sys.modules[sys.argv[2]])
os._exit(0)
"""


def has_interpreter() -> bool:
    """Tell whether :data:`sys.executable` is a Python that can be started."""
    name = os.path.basename(sys.executable or '')
    return not getattr(sys, 'frozen', False) and (
        'python' in name or 'pypy' in name)


def start(messages_fd: int, memory_fd: int, supervised: bool = False) -> int:
    """Start a keeper; return its process id.

    :param supervised: this process is a supervisor.
    :param messages_fd: its end of the socket for messages.
    :param memory_fd: of the memory that it shares.
    :raises OSError: that is impossible.
    """
    if has_interpreter() and not supervised:
        return _spawn(messages_fd, memory_fd)
    return _fork(messages_fd, memory_fd)


def _spawn(messages_fd: int, memory_fd: int) -> int:
    environment = {processes.KEEPER_VARIABLE: '1'} | {
        name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return os.posix_spawn(
        sys.executable,
        [sys.executable, '-I', '-S', '-c', BOOT, ROOT, ENGINES], environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, messages_fd, 0),
                      (os.POSIX_SPAWN_DUP2, memory_fd, 1)],
        setsigmask=[])


def _fork(messages_fd: int, memory_fd: int) -> int:
    # Imported before the fork: whoever has the lock of the imports then has
    # it for ever in the child.
    from jobslib.consul import engine as consulengine
    from jobslib.keeper import keeper
    # No handler of this process may run in the child.
    every = signal.valid_signals()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, every)
    # Named before: there is no instant at which it is not seen to be a keeper.
    name = processes.rename(processes.KEEPER_NAME)
    try:
        if pid := os.fork():
            return pid
        # Whatever happens, this must never go on as a copy of the program.
        try:
            os.dup2(messages_fd, 0)
            os.dup2(memory_fd, 1)
            _shed(every, keeper.IGNORED)
            keeper.main(consulengine)
        except BaseException:
            with contextlib.suppress(BaseException):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    finally:
        processes.rename(name)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _shed(signals: Iterable[int], ignored: Iterable[int]) -> None:
    """Become the keeper: keep nothing that works of the program."""
    # What the program has made is never looked through, so it is never
    # cleared up: closing its files would close those of the keeper.
    gc.freeze()
    signal.set_wakeup_fd(-1)
    for signum in signals:
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    for signum in ignored:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
