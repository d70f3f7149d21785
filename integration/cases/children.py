"""Children of a run.

Right, for those that go on for ever: gone before anybody else begins, the next run
of the same holder included.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import NoReturn

from integration import stamps
from integration.cases.base import HELPER, PAUSE, Case, Marks


class Forked(Case):
    """A forked child works, and its parent waits for it."""

    def work(self) -> None:
        """Fork, and wait."""
        child = os.fork()
        if child == 0:
            write_on(self.marks)
        os.waitpid(child, 0)


class ForkedOff(Case):
    """A forked child works beside its parent."""

    def work(self) -> None:
        """Fork, and work."""
        if os.fork() == 0:
            write_on(self.marks)
        self.marks.write_on('main')


class Unwound(Case):
    """A forked child works, and is left by the exception that ends it."""

    def work(self) -> None:
        """Fork, and work in both."""
        role = 'main' if os.fork() else 'child'
        self.marks.write_on(role)


class Deaf(Case):
    """A forked child works that ignores the signals that end it."""

    def work(self) -> None:
        """Fork, and wait."""
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            write_on(self.marks)
        os.waitpid(child, 0)


class Shell(Case):
    """A shell's child works."""

    def work(self) -> None:
        """Start it, and wait."""
        subprocess.run(['sh', '-c', '"$@" | cat', 'sh', *self.marks.program('child')],
                       check=False)


class Session(Case):
    """A program works in a session of its own, started without a parent."""

    def work(self) -> None:
        """Start it, and sleep."""
        subprocess.run(['sh', '-c', '"$@" &', 'sh', *self.marks.program('child')],
                       start_new_session=True, check=True)
        time.sleep(stamps.LIFETIME)


class Copies(Case):
    """A program works that has copies of all descriptors."""

    def work(self) -> None:
        """Copy them, and wait."""
        copies = []
        for number in map(int, os.listdir('/proc/self/fd')):
            with contextlib.suppress(OSError):
                copies.append(os.dup(number))
        subprocess.run(self.marks.program('child'), pass_fds=copies, check=False)


class Twice(Case):
    """A grandchild works, a daemon that was forked twice."""

    def work(self) -> None:
        """Fork twice, and sleep."""
        fork_twice(self.marks, 'child')
        time.sleep(stamps.LIFETIME)


class Chain(Case):
    """A child forks and ends, again and again, in a session of its own."""

    def work(self) -> None:
        """Fork, and sleep."""
        if os.fork() == 0:
            os.setsid()
            ends = stamps.now() + stamps.LIFETIME
            while stamps.now() < ends:
                self.marks.mark(stamps.ALIVE, 'child')
                time.sleep(PAUSE / 4)
                if os.fork():
                    os._exit(0)
            os._exit(0)
        time.sleep(stamps.LIFETIME)


class Pool(Case):
    """The workers of a pool work."""

    start: BaseContext = multiprocessing.get_context('fork')

    def work(self) -> None:
        """Wait for the workers."""
        with self.start.Pool(2) as pool:
            pool.map(self.marks.write_on, ['child', 'child'])


class SpawnPool(Pool):
    """The same, with workers that are interpreters of their own."""

    start = multiprocessing.get_context('spawn')


class ServedPool(Pool):
    """The same, with workers that a server forks."""

    start = multiprocessing.get_context('forkserver')


class Stopped(Case):
    """A child has stopped itself."""

    def work(self) -> None:
        """Fork, and wait."""
        child = os.fork()
        if child == 0:
            self.marks.mark(stamps.ALIVE, 'child')
            os.kill(os.getpid(), signal.SIGSTOP)
            write_on(self.marks)
        os.waitpid(child, 0)


class Zombies(Case):
    """Children have ended that nobody has waited for."""

    def work(self) -> None:
        """Fork, and work."""
        for _ in range(3):
            if os.fork() == 0:
                os._exit(0)
        self.marks.write_on('main')


class FromThread(Case):
    """A thread has forked a child, which works."""

    def work(self) -> None:
        """Start the thread, and sleep."""
        threading.Thread(target=self.fork, daemon=True).start()
        time.sleep(stamps.LIFETIME)

    def fork(self) -> None:
        """Fork, and wait."""
        child = os.fork()
        if child == 0:
            write_on(self.marks)
        os.waitpid(child, 0)


class Futures(Case):
    """The workers of an executor work, which waits for them at the end."""

    def work(self) -> None:
        """Leave the block, which waits."""
        context = multiprocessing.get_context('fork')
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            for _ in range(2):
                pool.submit(self.marks.write_on, 'child')


# Children that leave task()

class Returns(Case):
    """A forked child returns from task().

    Right: the child ends there, as in plain Python, and calls no hook.
    """

    def work(self) -> None:
        """Fork, and leave in both."""
        child = os.fork()
        if child == 0:
            self.marks.mark(stamps.BEGIN, 'child')
            self.leave()
            return
        self.say('child ended with', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def leave(self) -> None:
        """What the child does last; to be overridden."""


class Raises(Returns):
    """A forked child raises an exception."""

    def leave(self) -> None:
        """Raise it."""
        raise RuntimeError('the child went wrong')


class Exits(Returns):
    """A forked child exits."""

    def leave(self) -> None:
        """Exit."""
        sys.exit(3)


class OsExits(Returns):
    """A forked child exits without cleaning up."""

    def leave(self) -> None:
        """Exit."""
        os._exit(4)


class Late(Case):
    """A forked child returns from task() when its parent has long returned.

    Right: it becomes no runner.
    """

    def work(self) -> None:
        """Fork, and leave in both."""
        if os.fork() == 0:
            time.sleep(0.3)


class LeavesZombies(Case):
    """Leaves children that have ended, and that nobody has waited for."""

    def work(self) -> None:
        """Fork them, and wait until they have ended."""
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


# Pools that are left early

class Left(Case):
    """A pool is left with work in hand, in workers that catch everything.

    Right: the run ends at once, as in plain Python.
    """

    start: BaseContext = multiprocessing.get_context('fork')

    def work(self) -> None:
        """Take the first result."""
        with self.start.Pool(3) as pool:
            for _ in pool.imap_unordered(stubborn, [0.1, 20.0, 20.0, 20.0]):
                break
        self.say('left')


class LeftSpawn(Left):
    """The same, with workers that are interpreters of their own."""

    start = multiprocessing.get_context('spawn')


class LeftFutures(Case):
    """An executor is shut down without waiting, and its workers terminated."""

    def work(self) -> None:
        """Terminate the workers."""
        context = multiprocessing.get_context('fork')
        pool = ProcessPoolExecutor(2, mp_context=context)
        pool.submit(stubborn, 0.1).result()
        pool.submit(stubborn, 20.0)
        processes = list(pool._processes.values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
            process.join()
        self.say('left')


class Kept(Case):
    """An executor has done its work, and is never shut down.

    Right: the run is over, as the program would be in plain Python.
    """

    pools: list[ProcessPoolExecutor] = []

    def work(self) -> None:
        """Have it work, and keep it."""
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork'))
        self.say(pool.submit(pow, 2, 3).result())
        self.pools.append(pool)


class KeptPool(Case):
    """A pool has done its work, and is never closed.

    Right: the run is over; the pool is ended by its process, and that ends.
    """

    pools: list[object] = []

    def work(self) -> None:
        """Have it work, and keep it."""
        pool = multiprocessing.get_context('fork').Pool(1)
        self.say(pool.apply(pow, (2, 3)))
        self.pools.append(pool)


# Children that are ended, and waited for

class Terminated(Case):
    """A child is terminated.

    Right: it ends by the signal, as in plain Python.
    """

    def work(self) -> None:
        """Start a child, and end it."""
        context = multiprocessing.get_context('fork')
        child = context.Process(target=time.sleep, args=(20,))
        child.start()
        child.terminate()
        child.join()
        self.say('child ended with', child.exitcode)


class Interrupted(Case):
    """A forked child gets SIGINT.

    Right: it ends by KeyboardInterrupt, as in plain Python.
    """

    def work(self) -> None:
        """Fork a child, and interrupt it."""
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(tell, b'x')
                ends = stamps.now() + 20
                # Python sleeps to the end when the signal comes in the instant
                # before it falls asleep.
                while stamps.now() < ends:
                    time.sleep(PAUSE)
            except KeyboardInterrupt:
                os._exit(5)
            finally:
                os._exit(6)
        os.read(ready, 1)
        os.kill(child, signal.SIGINT)
        self.say('child ended with', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


class WaitsForAll(Case):
    """All children are waited for.

    Right: there are those of the task's own, and no more.
    """

    def work(self) -> None:
        """Wait until there are none."""
        fork_short()
        waited = 0
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
                waited += 1
        self.say('waited for', waited)


class Reaps(Case):
    """A handler of SIGCHLD reaps whatever has ended, as servers do."""

    def work(self) -> None:
        """Have the handler count."""
        self.reaped = 0
        previous = signal.signal(signal.SIGCHLD, self.reap)
        fork_short()
        while self.reaped < 3:
            time.sleep(PAUSE)
        signal.signal(signal.SIGCHLD, previous)
        self.say('waited for', self.reaped)

    def reap(self, *_: object) -> None:
        """Reap what has ended."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                self.reaped += 1


# What a run that has succeeded leaves running

class Helper(Case):
    """The first run starts a program that works on.

    Right: it may live while the lock is kept, and is gone before the lock is.
    """

    def work(self) -> None:
        """Start it once."""
        if self.begun == 1:
            self.start()

    def start(self) -> None:
        """Start it."""
        subprocess.Popen(self.marks.program(HELPER))


class HelperOfSession(Helper):
    """The same, in a session of its own, without a parent."""

    def start(self) -> None:
        """Start it by a shell that ends."""
        subprocess.run(['sh', '-c', '"$@" &', 'sh', *self.marks.program(HELPER)],
                       start_new_session=True, check=True)


class HelperForked(Helper):
    """The same, forked twice."""

    def start(self) -> None:
        """Fork twice."""
        fork_twice(self.marks, HELPER)


class HelperDeaf(Helper):
    """The same, forked, and ignoring SIGTERM."""

    def start(self) -> None:
        """Fork."""
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            write_on(self.marks, HELPER)


def write_on(marks: Marks, role: str = 'child') -> NoReturn:
    """Be a child that writes stamps until it is killed."""
    try:
        marks.write_on(role)
    finally:
        os._exit(0)


def fork_twice(marks: Marks, role: str) -> None:
    """Fork a daemon that writes stamps: a session of its own, no parent."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            write_on(marks, role)
        os._exit(0)
    os.waitpid(child, 0)


def fork_short() -> None:
    """Fork three children that end soon."""
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(0.1)
            os._exit(0)


def stubborn(seconds: float) -> float:
    """Sleep, and catch whatever comes."""
    try:
        time.sleep(seconds)
    except BaseException:
        pass
    return seconds
