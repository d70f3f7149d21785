"""Ways in which a run ends, of which most take its process along.

Right: the run is noted at once, with the signal or the exit code; the loop goes on
with the next one, in a new process, and a kept lock is kept.
"""

import os
import resource
import signal
import sys
import tempfile
import threading
import time

from integration.cases.base import Case


class Faults(Case):
    """Ends by a memory fault."""

    def work(self) -> None:
        """Send it, as the kernel does."""
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)


class Killed(Case):
    """Is killed, by the kernel for want of memory for instance."""

    def work(self) -> None:
        """Kill it."""
        os.kill(os.getpid(), signal.SIGKILL)


class Aborts(Case):
    """Ends by an assertion in C code."""

    def work(self) -> None:
        """Abort."""
        os.abort()


class OsExits(Case):
    """Exits without cleaning up, as if all were well."""

    def work(self) -> None:
        """Exit."""
        os._exit(0)


class OsExitsWith(Case):
    """Exits without cleaning up, with a code."""

    def work(self) -> None:
        """Exit."""
        os._exit(7)


class ThreadExits(Case):
    """A thread of it exits without cleaning up."""

    def work(self) -> None:
        """Start the thread, and sleep."""
        threading.Thread(target=os._exit, args=(9,)).start()
        time.sleep(20)


class Becomes(Case):
    """Becomes another program, which succeeds."""

    def work(self) -> None:
        """Become it."""
        os.execvp('true', ['true'])


class BecomesForEver(Case):
    """Becomes another program, which goes on for ever."""

    def work(self) -> None:
        """Become it."""
        program = self.marks.program('child')
        os.execv(program[0], program)


class Returns(Case):
    """Returns."""

    def work(self) -> None:
        """Return."""


class Exits(Case):
    """Exits, as if all were well. Right: the run has succeeded."""

    def work(self) -> None:
        """Exit."""
        sys.exit()


class ExitsWith(Case):
    """Exits with a code. Right: the run has failed, its process is well."""

    def work(self) -> None:
        """Exit."""
        sys.exit(3)


class ExitsSaying(Case):
    """Exits with a text. Right: the run has failed, its process is well."""

    def work(self) -> None:
        """Exit."""
        sys.exit('something is missing')


class ThreadLeaves(Case):
    """A thread of it calls sys.exit(). Right: that ends the thread alone."""

    def work(self) -> None:
        """Start the thread, and wait for it."""
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()


class Breaks(Case):
    """Raises what Ctrl-C does in Python. Right: the run has failed."""

    def work(self) -> None:
        """Raise it."""
        raise KeyboardInterrupt


class Odd(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError('no text')


class RaisesOdd(Case):
    """Raises what cannot be shown. Right: the run has failed."""

    def work(self) -> None:
        """Raise it."""
        raise Odd


class RaisesHuge(Case):
    """Raises with a message of megabytes. Right: the run has failed."""

    def work(self) -> None:
        """Raise it."""
        raise ValueError('x' * 5_000_000)


class Limits(Case):
    """May open no more files than it has. Right: later runs go on."""

    def work(self) -> None:
        """Limit it, with one left for the stamps."""
        most = max(map(int, os.listdir('/proc/self/fd'))) + 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Moves(Case):
    """Leaves its folder, which is removed, its environment, and its mask of files.

    Right: later runs go on.
    """

    def work(self) -> None:
        """Leave them."""
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)
        os.umask(0o777)
        os.environ.clear()
