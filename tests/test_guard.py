"""What ends a process whose lease keeper was killed."""

import os
import signal
import subprocess

from jobslib.clock import now
from jobslib.keeper.guard import Guard
from jobslib.keeper.memory import LeaseMemory
from jobslib.keeper.proc import start_time


def test_keeper_that_is_gone_already() -> None:
    """A guard that comes to work after the keeper's end still guards."""
    memory_fd = os.memfd_create('memory')
    os.ftruncate(memory_fd, LeaseMemory.SIZE)
    memory = LeaseMemory(memory_fd)
    memory.held, memory.until = True, now() + 0.5
    keeper = subprocess.Popen(['true'])
    keeper_fd = os.pidfd_open(keeper.pid)
    keeper.wait()
    with subprocess.Popen(['sleep', '60']) as holder:
        pidfd = os.pidfd_open(holder.pid)
        Guard(memory, keeper_fd, pidfd, holder.pid, 'f' * 32,
              start_time(holder.pid), 0.5).run()
        assert holder.wait(5) == -signal.SIGKILL
    for fd in (memory_fd, keeper_fd, pidfd):
        os.close(fd)


def test_supervisor_whose_run_was_killed_is_spared() -> None:
    """The keeper has ended the run: nothing is left for the guard to end."""
    memory_fd = os.memfd_create('memory')
    os.ftruncate(memory_fd, LeaseMemory.SIZE)
    memory = LeaseMemory(memory_fd)
    memory.held, memory.until, memory.cleared = True, now() - 1, True
    with subprocess.Popen(['sleep', '60']) as holder:
        pidfd = os.pidfd_open(holder.pid)
        guard = Guard(memory, pidfd, pidfd, holder.pid, 'f' * 32,
                      start_time(holder.pid), 0.5)
        assert not guard._end_if_due()
        assert holder.poll() is None
        # The next run begins.
        memory.cleared = False
        assert guard._end_if_due()
        assert holder.wait(5) == -signal.SIGKILL
    for fd in (memory_fd, pidfd):
        os.close(fd)
