"""The supervisor: the process that people start, with the loop and the lock.

It runs no code of users, and has no threads when it forks.  How it works together
with the run's process is told in :mod:`jobslib.run`, with the lease keeper in
:mod:`jobslib.keeper`, and what it does with signals in :mod:`jobslib.interrupts`.

- :mod:`~jobslib.loop.supervisor` starts it all.
- :mod:`~jobslib.loop.runner` is the loop: wait, acquire, run, release or keep.
- :mod:`~jobslib.loop.demands` is asked by the loop what operators want: that the
  lock is released, that a run is stopped, that one begins beside the schedule.
- :mod:`~jobslib.loop.endings` tells what became of a run, and logs it.
- :mod:`~jobslib.loop.recording` keeps that beside the lock, in the history, and
  :mod:`~jobslib.loop.unrecorded` remembers what could not be written, until it is
  handed in.
- :mod:`~jobslib.loop.hooks` has the hooks of the task called.
- :mod:`~jobslib.loop.standby` says why this process does not run, and
  :mod:`~jobslib.loop.outages` for how long the lock's service did not answer.
"""
