"""Time stamps: who ran when, one line each, by every process in one file.

Run as a program it is what tasks start: it writes stamps until it is killed.
Standard library only, so that this costs little and needs no environment.
"""

import os
import sys
import time
from typing import NamedTuple, Self

PAUSE = 0.01
#: Nothing that a test starts and loses runs for longer, in seconds.
LIFETIME = 300.0

# What happened; `ENTER` and `LEAVE` stand around a time without stamps in
# which the process runs nevertheless, `GONE` is written by who watches it.
BEGIN, ALIVE, END = 'begin', 'alive', 'end'
ENTER, LEAVE, GONE = 'enter', 'leave', 'gone'
IGNORED, REFUSED = 'ignored', 'refused'


def now() -> float:
    """The time since boot, in seconds: all stamps are of this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Stamp(NamedTuple):
    """A moment in the life of a process; `token` is the fencing token."""

    at: float
    label: str
    role: str
    pid: int
    token: int
    event: str

    def line(self) -> bytes:
        """The stamp as a line."""
        return (f'{self.at:.6f} {self.label} {self.role} {self.pid} {self.token} '
                f'{self.event}\n').encode()

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """The stamp of a line."""
        at, label, role, pid, token, event = line.decode().split()
        return cls(float(at), label, role, int(pid), int(token), event)


class Writer:
    """Writes the stamps of one process; `role` tells task from child."""

    def __init__(self, path: str, label: str, role: str, token: int) -> None:
        self.label = label
        self.role = role
        self.token = token
        # Short lines that are appended never mix.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, pid: int | None = None) -> None:
        """Append a stamp of this process, or of the one with id `pid`."""
        stamp = Stamp(now(), self.label, self.role, pid or os.getpid(), self.token,
                      event)
        os.write(self._file, stamp.line())

    def write_on(self) -> None:
        """Write stamps until somebody ends it."""
        ends = now() + LIFETIME
        while now() < ends:
            self.write(ALIVE)
            time.sleep(PAUSE)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def main() -> None:
    """Arguments: path, label, role, token."""
    path, label, role, token = sys.argv[1:]
    writer = Writer(path, label, role, int(token))
    writer.write(BEGIN)
    writer.write_on()


if __name__ == '__main__':
    main()
