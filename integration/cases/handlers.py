"""Signals, timers and masks: what a task does to the signals of its process.

Right, for those that go on for ever: whatever the task did to its own handlers, what
asks the job to end is obeyed, and nobody else runs meanwhile.
"""

import asyncio
import ctypes
import faulthandler
import os
import signal
import subprocess
import time

from integration import stamps
from integration.cases.base import PAUSE, Case

BOTH = (signal.SIGTERM, signal.SIGINT)
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1


class Own(Case):
    """Has handlers of its own that ask it to stop, and takes a while to do so."""

    asked = False

    def work(self) -> None:
        """Work until asked, and a while longer."""
        for signum in BOTH:
            signal.signal(signum, self.ask)
        while not self.asked:
            self.marks.mark(stamps.ALIVE)
            time.sleep(PAUSE)
        self.marks.write_on('main', 0.3)
        self.say('stopped its own way')

    def ask(self, *_: object) -> None:
        """Ask."""
        self.asked = True


class Served(Case):
    """A coroutine has handlers of its own while it runs, as aiohttp's run_app."""

    async def task(self) -> None:  # type: ignore[override]
        """One run."""
        self.begin()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in BOTH:
            loop.add_signal_handler(signum, stop.set)
        try:
            while not stop.is_set():
                self.marks.mark(stamps.ALIVE)
                await asyncio.sleep(PAUSE)
            self.say('stopped its own way')
        finally:
            for signum in BOTH:
                loop.remove_signal_handler(signum)


class Waits(Case):
    """Blocks the signals and waits for one, as programs with threads do."""

    def work(self) -> None:
        """Wait, and write stamps meanwhile."""
        signal.pthread_sigmask(signal.SIG_BLOCK, BOTH)
        while signal.sigtimedwait(BOTH, PAUSE) is None:
            self.marks.mark(stamps.ALIVE)
        self.say('stopped its own way')


class Handled(Case):
    """Has handlers that do nothing."""

    def work(self) -> None:
        """Work for ever."""
        for signum in BOTH:
            signal.signal(signum, lambda *_: None)
        self.marks.write_on('main')


class Registered(Case):
    """Has the faulthandler show where it is when it is signalled."""

    def work(self) -> None:
        """Work for ever."""
        faulthandler.register(signal.SIGTERM)
        self.marks.write_on('main')


class Stops(Case):
    """Stops its process."""

    def work(self) -> None:
        """Stop."""
        self.marks.mark(stamps.ALIVE)
        signal.raise_signal(signal.SIGSTOP)
        self.marks.write_on('main')


class Outlives(Case):
    """Is no longer killed with its parent, as after a change of its user."""

    def work(self) -> None:
        """Work for ever."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
        self.marks.write_on('main')


class Apart(Case):
    """Leaves the group and the session of the job, as daemons do."""

    def work(self) -> None:
        """Work for ever."""
        os.setsid()
        self.marks.write_on('main')


class Stubborn(Case):
    """A coroutine goes on when it is cancelled."""

    async def task(self) -> None:  # type: ignore[override]
        """One run."""
        self.begin()
        while True:
            try:
                self.marks.mark(stamps.ALIVE)
                await asyncio.sleep(PAUSE)
            except asyncio.CancelledError:
                self.marks.mark(stamps.IGNORED)


class Ignoring(Case):
    """Ignores the signals."""

    def work(self) -> None:
        """Work for ever."""
        for signum in BOTH:
            signal.signal(signum, signal.SIG_IGN)
        self.marks.write_on('main')


class Default(Case):
    """Has the signals end its process."""

    def work(self) -> None:
        """Work for ever."""
        for signum in BOTH:
            signal.signal(signum, signal.SIG_DFL)
        self.marks.write_on('main')


class Blocked(Case):
    """Blocks all signals."""

    def work(self) -> None:
        """Work for ever."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.marks.write_on('main')


class Swallows(Case):
    """Catches whatever is raised, again and again."""

    def work(self) -> None:
        """Work for ever."""
        while True:
            try:
                self.marks.write_on('main')
            except BaseException:
                self.marks.mark(stamps.IGNORED)


class SwallowsOnce(Case):
    """Catches what is raised, and returns as if nothing had been."""

    def work(self) -> None:
        """Work until something is raised."""
        try:
            self.marks.write_on('main')
        except BaseException:
            self.marks.mark(stamps.IGNORED)


class Tidies(Case):
    """Takes half a second to clean up."""

    def work(self) -> None:
        """Work, and clean up."""
        try:
            self.marks.write_on('main')
        finally:
            self.marks.write_on('main', 0.5)
            self.say('cleaned up')


# What a run leaves behind in its process

class LeavesHandler(Case):
    """Leaves handlers behind that do nothing."""

    def work(self) -> None:
        """Set them."""
        for signum in BOTH:
            signal.signal(signum, lambda *_: None)


class LeavesIgnored(Case):
    """Leaves the signals ignored."""

    def work(self) -> None:
        """Ignore them."""
        for signum in BOTH:
            signal.signal(signum, signal.SIG_IGN)


class LeavesBlocked(Case):
    """Leaves all signals blocked."""

    def work(self) -> None:
        """Block them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class IgnoresChildren(Case):
    """Has the kernel reap its children."""

    def work(self) -> None:
        """Start one that is reaped so."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        subprocess.run(['true'], check=False)
        self.say('a child was reaped')


# Timers

class Alarm(Case):
    """Sets an alarm. Right: it rings once, heartbeat or not."""

    def work(self) -> None:
        """Count how often it rings."""
        rung: list[int] = []
        signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
        signal.alarm(1)
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            self.extend_lock()
            time.sleep(PAUSE)
        self.say('rung', len(rung))


class Interval(Case):
    """Sets an interval timer. Right: it rings again and again."""

    def work(self) -> None:
        """Wait until it has rung, and stop it."""
        rung: list[int] = []
        signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        while len(rung) < 5:
            self.extend_lock()
            time.sleep(PAUSE)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.say('rung often enough')


class LeavesAlarm(Case):
    """Leaves an alarm behind, which ends its process after the run.

    Right: the run has succeeded, and the loop goes on in a new process.
    """

    def work(self) -> None:
        """Set it."""
        signal.setitimer(signal.ITIMER_REAL, 0.1)


class Dumps(Case):
    """Has the faulthandler end the process when the run takes too long.

    Right: the run is noted as killed, and the loop goes on.
    """

    def work(self) -> None:
        """Take too long."""
        faulthandler.dump_traceback_later(0.2, exit=True)
        time.sleep(20)
