"""The supervisor: the process that people start, with the loop and the lock.

It runs no code of a task.  :mod:`~jobslib.loop.supervisor` starts it,
:mod:`~jobslib.loop.runner` is the loop, :mod:`~jobslib.loop.hooks` has the hooks of
the task called, and :mod:`~jobslib.loop.outages` says that the lock's service does
not answer.
"""
