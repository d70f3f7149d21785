"""What the tasks have in common: each run writes time stamps of its own."""

import os
import sys
import time
from dataclasses import dataclass

from integration import jobs, stamps
from integration.stamps import Stamp
from jobslib import BaseTask
from jobslib.runs import Run

#: Between two stamps, in seconds; many of these tasks run at the same time.
PAUSE = 0.02
#: The role of what a run may leave behind while the lock is kept.
HELPER = 'helper'
#: The role of a hook.
HOOK = 'hook'


@dataclass(frozen=True)
class Marks:
    """Writes the stamps of one run, from whichever process or thread of it.

    Holds no descriptor, so that it works when all of them were closed, and
    travels to children by pickling.
    """

    path: str
    label: str
    run: str
    token: int

    def mark(self, event: str, role: str = 'main') -> None:
        """Append a stamp of the calling process in a role of this run."""
        stamp = Stamp(stamps.now(), self.label, f'{role}:{self.run}', os.getpid(),
                      self.token, event)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, stamp.line())
        finally:
            os.close(file)

    def write_on(self, role: str, seconds: float = stamps.LIFETIME) -> None:
        """Write stamps for so long."""
        if role != 'main':
            self.mark(stamps.BEGIN, role)
        ends = stamps.now() + seconds
        while stamps.now() < ends:
            self.mark(stamps.ALIVE, role)
            time.sleep(PAUSE)

    def program(self, role: str) -> list[str]:
        """The command of a program that writes stamps until it is killed."""
        return [sys.executable, '-I', '-S', stamps.__file__, self.path, self.label,
                f'{role}:{self.run}', str(self.token)]


class Case(BaseTask):
    """Writes a stamp where a run begins, ends, and calls a hook."""

    #: How many runs this process has begun.
    begun = 0
    marks: Marks

    def initialize(self) -> None:
        """Read where to write to; a run may clear the environment."""
        self.path = os.environ[jobs.STAMPS_VARIABLE]
        self.label = os.environ[jobs.LABEL_VARIABLE]

    def task(self) -> None:
        """One run."""
        self.begin()
        self.work()
        self.marks.mark(stamps.END)

    def begin(self) -> None:
        """Make the marks of this run, and write the first."""
        self.begun += 1
        self.marks = Marks(
            self.path, self.label, f'{os.getpid()}.{self.begun}',
            self.fencing_token or 0)
        self.marks.mark(stamps.BEGIN)

    def work(self) -> None:
        """What the case is about; to be overridden."""
        raise NotImplementedError

    def say(self, *words: object) -> None:
        """Print words that a test looks for."""
        print('SAYS', *words, flush=True)

    def on_success(self, run: Run) -> None:
        """Write a stamp: a hook belongs to the process of the run."""
        self.marks.mark(stamps.ALIVE, HOOK)
