"""Threads of a run.

Right, for those that go on for ever: no stamp of theirs after the first of the next
holder's, nor beside another run of the same process.
"""

import _thread
import asyncio
import atexit
import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from integration import stamps
from integration.cases.base import HELPER, PAUSE, Case


class Plain(Case):
    """A thread works; the main thread looks after it."""

    def work(self) -> None:
        """Start it, and wait for it in steps."""
        thread = threading.Thread(target=self.marks.write_on, args=('thread',))
        thread.start()
        while thread.is_alive():
            time.sleep(PAUSE)


class Joined(Case):
    """A thread works; the main thread joins it, whatever it is told."""

    def work(self) -> None:
        """Start it, and wait for it."""
        thread = threading.Thread(target=self.marks.write_on, args=('thread',))
        thread.start()
        try:
            thread.join()
        finally:
            thread.join()


class Daemon(Case):
    """A daemon thread works."""

    def work(self) -> None:
        """Start it, and sleep."""
        threading.Thread(
            target=self.marks.write_on, args=('thread',), daemon=True).start()
        time.sleep(stamps.LIFETIME)


class Unknown(Case):
    """A thread works that `threading` knows nothing of, and the exit takes a while."""

    def work(self) -> None:
        """Start it, and sleep."""
        atexit.register(time.sleep, 0.5)
        _thread.start_new_thread(self.marks.write_on, ('thread',))
        time.sleep(stamps.LIFETIME)


class First(Case):
    """A thread works when the main thread has ended, which is not the process."""

    def work(self) -> None:
        """Start it, and end the main thread alone."""
        threading.Thread(target=self.marks.write_on, args=('thread',)).start()
        ctypes.CDLL(None).pthread_exit(None)


class Executor(Case):
    """The threads of a pool that is left without waiting for it work."""

    def work(self) -> None:
        """Fill the pool, and sleep."""
        pool = ThreadPoolExecutor(2)
        for _ in range(2):
            pool.submit(self.marks.write_on, 'thread')
        time.sleep(stamps.LIFETIME)


class Waited(Case):
    """The threads of a pool that waits for them work."""

    def work(self) -> None:
        """Fill the pool, and leave its block."""
        with ThreadPoolExecutor(2) as pool:
            for _ in range(2):
                pool.submit(self.marks.write_on, 'thread')


class ToThread(Case):
    """A coroutine waits for a thread, which nothing can cancel."""

    async def task(self) -> None:  # type: ignore[override]
        """One run."""
        self.begin()
        await asyncio.to_thread(self.marks.write_on, 'thread')


class Alarms(Case):
    """One `threading.Timer` follows another."""

    def work(self) -> None:
        """Start the first, and sleep."""
        self.ring()
        time.sleep(stamps.LIFETIME)

    def ring(self) -> None:
        """Write a stamp, and start the next."""
        self.marks.mark(stamps.ALIVE, 'thread')
        threading.Timer(PAUSE, self.ring).start()


class Returns(Case):
    """The run returns while a thread works on for a second.

    Right: the run is over when the thread is, as a Python program is.
    """

    def work(self) -> None:
        """Start the thread."""
        threading.Thread(target=self.marks.write_on, args=('thread', 1.0)).start()


class LeavesDaemon(Case):
    """The run returns while a daemon thread works on.

    Right: it may, and is gone before the lock is.
    """

    def work(self) -> None:
        """Start the thread."""
        threading.Thread(
            target=self.marks.write_on, args=(HELPER,), daemon=True).start()
