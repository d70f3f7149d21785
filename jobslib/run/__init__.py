"""The run's process: forked by the supervisor, with the task in it.

Why it is a process of its own.  Everyday code breaks the process that it runs
in: threads go on after it has returned, forked children return as a second
runner, libraries replace signal handlers, ``os.wait()`` takes the exit status of
somebody else's child, a descriptor is closed.  A loop in the same process could
rely on nothing.  So the process that decides, the supervisor, runs no code of
users, and the process that runs it decides nothing.

Which processes there are.  The supervisor (:mod:`jobslib.loop`) forks the run's
process before it has anything that could break.  That one imports the task, reads
the command line, and makes the task once.  It stays from run to run, as long as
its runs end by themselves.  A run that was interrupted always ends its process,
because nobody knows what it has left half done; the next run gets a new one.

Who tells whom what.

- The supervisor sends requests by a *channel*: make the task, run it, call a
  hook, end.  The process answers how each of them ended.
- The task asks for its lock by a second channel: how long the lease still lasts,
  who owns the lock.  The supervisor answers while it waits for the run.
- A task may close any descriptor, the channels' as well.  What has to arrive all
  the same is in *memory* that the two share: the outcome of a request, signs of
  life, whether the lock is held, and what is asked of the run.
- A signal by itself says nothing.  The supervisor writes into the memory which
  interrupt it asks for, and then sends a signal, whose handler raises it in the
  main thread.  A signal that comes from elsewhere is passed on to the supervisor.

What does not work, and why.  A run cannot be interrupted by a message, because
nobody reads messages while the task runs.  An exception that is raised from a
signal handler can be lost, in a finalizer for instance, so it is raised again
until somebody has seen it.  A C call can hold up the handler for as long as it
likes, so the supervisor kills the process when the grace time is over.  A child of
the task cannot be kept from leaving its session or its parent, so what a run has
started is found by several marks (:mod:`jobslib.keeper.processes`).

What is still open.  A process that another service starts for the task, such as a
container by its daemon, is not below it and has no mark, so it is not ended with
the run.

The files:

- :mod:`~jobslib.run.handle` is the process as its supervisor sees it: it
  starts it, sends requests, interrupts and kills;
  :mod:`~jobslib.run.result` is how a request ended.
- :mod:`~jobslib.run.process` is the other side: it makes the task, runs it,
  calls its hooks; :mod:`~jobslib.run.program` is the task of ``runjob exec``.
- :mod:`~jobslib.run.channel` carries messages, :mod:`~jobslib.run.memory` is
  the shared memory.
- :mod:`~jobslib.run.link` has the lock as the task sees it,
  :mod:`~jobslib.run.metrics` its metrics, and
  :mod:`~jobslib.run.questions` is where its supervisor answers.
- :mod:`~jobslib.run.signals` has the signal handlers,
  :mod:`~jobslib.run.threads` knows when the threads of a run are over, and
  :mod:`~jobslib.run.leftovers` ends what a run has left running.
- :mod:`~jobslib.run.prctl` ties the processes together: the run's process
  dies with its supervisor, and a process that loses its parent becomes a child
  of the supervisor, so that it can be found.
"""
