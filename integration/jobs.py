"""The tasks that the suite of faults runs; each writes time stamps.

Where they write and what they are called comes from the environment, which
`integration.workers.Worker` sets.
"""

import ctypes
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import NoReturn

from integration import stamps
from integration.stamps import Writer
from jobslib import BaseTask

STAMPS_VARIABLE = 'FAULTS_STAMPS'
LABEL_VARIABLE = 'FAULTS_LABEL'
#: How long `CCall` keeps the interpreter, in seconds.
SECONDS_VARIABLE = 'FAULTS_SECONDS'
DATABASE_VARIABLE = 'FAULTS_DATABASE'

GIGABYTE = 1 << 30
PAGE = 4096


class Stamping(BaseTask):
    """Writes stamps for ever."""

    def task(self) -> None:
        """One run; it ends by an interrupt."""
        self.prepare()
        self.writer = self.new_writer('task')
        self.writer.write(stamps.BEGIN)
        try:
            self.begin()
            ends = stamps.now() + stamps.LIFETIME
            while stamps.now() < ends:
                self.step()
            # Nobody is left to end it.
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            self.end()

    def new_writer(self, role: str) -> Writer:
        """Write stamps in another role."""
        return Writer(os.environ[STAMPS_VARIABLE], os.environ[LABEL_VARIABLE], role,
                      self.fencing_token or 0)

    def prepare(self) -> None:
        """What comes before the first stamp; to be overridden."""

    def begin(self) -> None:
        """What comes after it; to be overridden."""

    def step(self) -> None:
        """What is done all the time; to be overridden."""
        self.writer.write(stamps.ALIVE)
        time.sleep(stamps.PAUSE)

    def end(self) -> None:
        """What comes last; to be overridden."""
        self.writer.write(stamps.END)
        self.writer.close()

    def program(self, role: str) -> list[str]:
        """The command of a program that writes stamps on its own."""
        return [sys.executable, '-I', '-S', stamps.__file__,
                os.environ[STAMPS_VARIABLE], os.environ[LABEL_VARIABLE], role,
                str(self.fencing_token or 0)]


class Short(Stamping):
    """Runs for a fifth of a second."""

    def task(self) -> None:
        """One run."""
        self.writer = self.new_writer('task')
        self.writer.write(stamps.BEGIN)
        ends = stamps.now() + 0.2
        while stamps.now() < ends:
            self.step()
        self.end()


class Beating(Stamping):
    """Says all the time that it makes progress."""

    def step(self) -> None:
        """One step, and the heartbeat."""
        self.extend_lock()
        super().step()


class CCall(Stamping):
    """Spends a time in one C call that keeps the interpreter."""

    def begin(self) -> None:
        """One C call; no signal ends it, other than one that ends the process."""
        self.writer.write(stamps.ENTER)
        keep_interpreter(float(os.environ[SECONDS_VARIABLE]))
        self.writer.write(stamps.LEAVE)


class Timespec(ctypes.Structure):
    """A time of the C library."""

    _fields_ = [('seconds', ctypes.c_long), ('nanoseconds', ctypes.c_long)]


def keep_interpreter(seconds: float) -> None:
    """Spend some seconds in a C function, without letting another thread in.

    To lock a mutex that is locked already is the one wait of the C library
    that has an end and that no signal cuts short.
    """
    library = ctypes.PyDLL(None)  # does not release the interpreter
    mutex = ctypes.create_string_buffer(64)  # zeros are its initial state
    ends = time.time() + seconds
    until = Timespec(int(ends), int(ends % 1 * 1e9))
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_timedlock(mutex, ctypes.byref(until))


class Stubborn(Stamping):
    """Catches and ignores whatever should interrupt it; so does its child."""

    def begin(self) -> None:
        """Start a shell that ignores signals, and starts a program."""
        start_shell(self.program('program'), "trap '' TERM INT HUP; ")

    def step(self) -> None:
        """One step, to the end in any case."""
        try:
            super().step()
        except BaseException:
            self.writer.write(stamps.IGNORED)


class Tidy(Stamping):
    """Needs a second to clean up."""

    def end(self) -> None:
        """Clean up, running all the while."""
        ends = stamps.now() + 1.0
        while stamps.now() < ends:
            self.writer.write(stamps.ALIVE)
            time.sleep(stamps.PAUSE)
        super().end()


class Shell(Stamping):
    """Starts a shell that starts a program."""

    def begin(self) -> None:
        """Start the shell and leave it running."""
        start_shell(self.program('program'))


class Forking(Stamping):
    """Forks a child that goes on for ever."""

    def begin(self) -> None:
        """Fork."""
        if os.fork() == 0:
            write_on(self.new_writer('fork'))


class Daemon(Stamping):
    """Forks a daemon: a grandchild in a session of its own, without a parent."""

    def begin(self) -> None:
        """Fork twice."""
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                write_on(self.new_writer('daemon'))
            os._exit(0)
        os.waitpid(child, 0)


class Clean(Stamping):
    """Starts a program that keeps nothing of the task: no environment, no parent."""

    def begin(self) -> None:
        """Start it, by a shell of another session that ends at once."""
        subprocess.run(['/bin/sh', '-c', '"$@" &', 'sh', *self.program('clean')],
                       env={}, start_new_session=True, check=True)


class Exclusive(Stamping):
    """Cannot run while another run is not wholly gone, its memory and all."""

    def prepare(self) -> None:
        """Take a lock of the kernel's, which goes after the memory."""
        self.file = open(os.environ[STAMPS_VARIABLE])
        fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Large(Exclusive):
    """Has a heap of a gigabyte."""

    def prepare(self) -> None:
        """Touch every page of it."""
        super().prepare()
        self.memory = bytearray(GIGABYTE)
        self.memory[::PAGE] = b'x' * (GIGABYTE // PAGE)


class Database(Stamping):
    """Writes to a database that refuses what comes with an older token."""

    def begin(self) -> None:
        """Open the database."""
        self.database = sqlite3.connect(
            os.environ[DATABASE_VARIABLE], timeout=10.0, isolation_level=None)
        self.database.executescript(
            'PRAGMA synchronous = off;'
            'CREATE TABLE IF NOT EXISTS writes (id INTEGER PRIMARY KEY, token, at);'
            'CREATE INDEX IF NOT EXISTS writes_token ON writes (token);')

    def step(self) -> None:
        """Write a row if no younger token has written one."""
        token = self.fencing_token
        accepted = self.database.execute(
            'INSERT INTO writes (token, at) SELECT ?, ? WHERE ? >= '
            '(SELECT coalesce(max(token), 0) FROM writes)',
            (token, stamps.now(), token),
        ).rowcount == 1
        self.writer.write(stamps.ALIVE if accepted else stamps.REFUSED)
        time.sleep(stamps.PAUSE)


def start_shell(program: list[str], first: str = '') -> None:
    """Start a shell that starts the program and waits for it."""
    # With a command after it the shell cannot become the program.
    subprocess.Popen(['sh', '-c', f'{first}"$@"; true', 'sh', *program])


def write_on(writer: Writer) -> NoReturn:
    """Be a child that writes stamps until it is killed."""
    try:
        writer.write(stamps.BEGIN)
        writer.write_on()
    finally:
        os._exit(0)
