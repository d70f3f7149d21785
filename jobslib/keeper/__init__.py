"""The lease keeper: a small process that keeps the lease of another.

It exists because nothing that shares an interpreter with a task can be relied on.
A thread stands still while a C call keeps the interpreter, a signal handler runs
only when that call is over, and nobody can kill what he is part of.  So the lease
is kept by a process of its own, which

- renews the session of the lock service, and watches the lock;
- knows until when the lease is certainly ours: the last renewal that succeeded,
  counted from when it was *sent*, plus the window;
- interrupts the run when the lease is lost or that moment comes near, and kills it
  with all that it started when it does not stop;
- gives up the lock when its ward is gone, after ending what that left.

The *ward* is the process that the lease belongs to: a supervisor, whose run is
below it, or somebody's own program with a lock.

Who does what:

- :mod:`~jobslib.keeper.keeper` is the process: messages, signals, kills.
- :mod:`~jobslib.keeper.decisions` says when to interrupt, when to kill and what is
  lost: times and states in, actions out.
- :mod:`~jobslib.keeper.service` has the threads that speak with the lock service,
  through an :mod:`~jobslib.keeper.engine`; which one it is, the keeper does not
  know.  :mod:`~jobslib.keeper.notes` writes what stands beside the lock.
- :mod:`~jobslib.keeper.memory` is the memory that keeper, ward and run share.
- :mod:`~jobslib.keeper.guard` is a fork of the keeper that does nothing but wait. It
  ends the run when the keeper is stopped and nobody replaces it.
- :mod:`~jobslib.keeper.processes` finds and ends what a run has started, by the marks
  of :mod:`~jobslib.keeper.marks`; :mod:`~jobslib.keeper.proc` is what ``/proc`` says
  of a single process.
- :mod:`~jobslib.keeper.timings` is the arithmetic.

And on the ward's side:

- :mod:`~jobslib.keeper.lease` tells the keeper what the ward is about to do.
- :mod:`~jobslib.keeper.handle` is the way to the keeper's process: it starts another
  one when it dies or stands still, by :mod:`~jobslib.keeper.launch`.

All of it uses the standard library only, because the keeper may be started in a
fresh interpreter without installed packages.  What stays open: a keeper, a guard
and a ward that are all stopped in the same moment have nobody left to end the run.
"""
