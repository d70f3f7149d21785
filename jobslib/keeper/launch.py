"""Starting the lease keeper's process.

Beside a program of users the keeper is a fresh interpreter without installed
packages, which is small and has nothing in common with the program that it has
to watch.  A *frozen* program, and one that Python is built into, has no
interpreter that could be started; there the keeper is forked.

A supervisor forks it as well, since it is small itself and runs no code of users.
A fork takes a quarter of the processor time that an interpreter takes to start,
and less memory, because the two share most of it.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterable

from jobslib.keeper import proc

__all__ = ['has_interpreter', 'start']

# The environment variables that the interpreter and the TLS library need.
PASSED_ON = ('LD_LIBRARY_PATH', 'SSL_CERT_FILE', 'SSL_CERT_DIR', 'TZ')

# The folder that the package jobslib is in.
ROOT = os.path.realpath(__file__).rsplit(os.sep, 3)[0]

# Runs the keeper without the __init__ of the packages that it is in, which would
# import what it does not need.  It ends by os._exit(), because there is nothing
# that the interpreter would have to clear up.
BOOT = """
import os, sys, types
for name in {'jobslib', 'jobslib.keeper', sys.argv[2].rpartition('.')[0]}:
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


def start(engines: str, messages_fd: int, memory_fd: int,
          supervised: bool = False) -> int:
    """Start a keeper; return its process id.

    :param engines: the name of the module that makes the engine; it is in a
        folder of this package, and uses the standard library alone.
    :param messages_fd: the keeper's end of the socket for messages.
    :param memory_fd: the file of the shared memory.
    :param supervised: whether this process is a supervisor.
    :raises OSError: the system lets no process be started.
    """
    if has_interpreter() and not supervised:
        return _spawn(engines, messages_fd, memory_fd)
    return _fork(engines, messages_fd, memory_fd)


def _spawn(engines: str, messages_fd: int, memory_fd: int) -> int:
    environment = {proc.KEEPER_VARIABLE: '1'} | {
        name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return os.posix_spawn(
        sys.executable,
        [sys.executable, '-I', '-S', '-c', BOOT, ROOT, engines], environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, messages_fd, 0),
                      (os.POSIX_SPAWN_DUP2, memory_fd, 1)],
        setsigmask=[])


def _fork(engines: str, messages_fd: int, memory_fd: int) -> int:
    # Imported before the fork: if another thread holds the lock of the imports
    # at that moment, nobody ever releases it in the child.
    import importlib
    maker = importlib.import_module(engines)
    from jobslib.keeper import keeper
    # Signals are blocked, so that no handler of this process runs in the child.
    every = signal.valid_signals()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, every)
    # The child inherits the name, so that it is seen to be a keeper from its
    # first moment.
    name = proc.rename(proc.KEEPER_NAME)
    try:
        if pid := os.fork():
            return pid
        # Whatever is raised here, this must never go on as a copy of the program.
        try:
            os.dup2(messages_fd, 0)
            os.dup2(memory_fd, 1)
            _shed(every, keeper.IGNORED)
            keeper.main(maker)
        except BaseException:
            with contextlib.suppress(BaseException):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    finally:
        proc.rename(name)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _shed(signals: Iterable[int], ignored: Iterable[int]) -> None:
    """Switch off what the child has inherited of the program."""
    # Objects of the program are never collected here.  If they were, they could
    # close their files, whose descriptors belong to the keeper by then.
    gc.freeze()
    signal.set_wakeup_fd(-1)
    for signum in signals:
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    for signum in ignored:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
