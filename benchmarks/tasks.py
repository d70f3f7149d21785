"""The tasks that are measured."""

import os
import time

from jobslib import BaseTask

__all__ = ['Hello', 'Sleep']


class Hello(BaseTask):
    """Says hello."""

    name = 'benchmark-hello'

    def task(self) -> None:
        self.stdout.write('hello, world\n')
        self.stdout.flush()


class Sleep(BaseTask):
    """Says when it starts, and in which process, and sleeps."""

    name = 'benchmark-sleep'

    def task(self) -> None:
        self.stdout.write(f'{time.monotonic()} {os.getpid()}\n')
        self.stdout.flush()
        time.sleep(3600)
