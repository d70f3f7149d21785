"""The run's process: forked by the supervisor, with the task in it.

Everyday code breaks the process that it runs in: threads go on after it has
returned, forked children return as a second runner, libraries replace signal
handlers, ``os.wait()`` finds children of others, a descriptor is closed.  So
who decides runs no code of others.

- :mod:`~jobslib.run.handle` is the process as its supervisor sees it: it
  starts it, sends requests, interrupts and kills.
- :mod:`~jobslib.run.process` is the other side: it makes the task, runs it,
  calls its hooks.
- :mod:`~jobslib.run.channel` carries the requests, and
  :mod:`~jobslib.run.memory` what has to be there whatever the task does to
  its descriptors: the outcome, signs of life, and what is asked of the run.
- :mod:`~jobslib.run.link` is what a task sees of its lock, and
  :mod:`~jobslib.run.metrics` what it sees of its metrics.
- :mod:`~jobslib.run.signals`, :mod:`~jobslib.run.threads` and
  :mod:`~jobslib.run.leftovers` know what of a run may go on, and how it is
  interrupted.
- :mod:`~jobslib.run.prctl` ties the processes together: the run's process
  dies with its supervisor, and what loses its parent becomes a child of the
  supervisor, so that it can be found.
"""
