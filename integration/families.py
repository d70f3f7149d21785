"""The processes of a job, and their connections, as /proc has them."""

import os
import pathlib
from contextlib import suppress

__all__ = ['connections', 'family']

ESTABLISHED = '01'


def family(pid: int) -> list[int]:
    """A process and all below it."""
    tasks = pathlib.Path(f'/proc/{pid}/task').glob('*/children')
    below = [int(child) for task in tasks for child in task.read_text().split()]
    return [pid, *(each for child in below for each in family(child))]


def connections(port: int, pid: int) -> int:
    """How many connections to a port a process has."""
    table = pathlib.Path(f'/proc/{pid}/net/tcp').read_text().splitlines()[1:]
    fields = [line.split() for line in table]
    there = {each[9] for each in fields
             if each[3] == ESTABLISHED and each[2].endswith(f':{port:04X}')}
    found = 0
    for descriptor in pathlib.Path(f'/proc/{pid}/fd').iterdir():
        with suppress(OSError):
            inode = os.readlink(descriptor).removeprefix('socket:[')[:-1]
            found += inode in there
    return found
