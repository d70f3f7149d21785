"""When a job is due, and what became of its slots.

A *slot* is an instant at which a job is due.  Which slots there are is said by
a rhythm (:mod:`~jobslib.schedule.rhythms`, :mod:`~jobslib.schedule.calendars`);
what became of them is in the ledger (:mod:`~jobslib.schedule.ledger`), which
is kept with the job's lock; what is to be done now follows from the two
(:mod:`~jobslib.schedule.decisions`).  Nothing here waits, reads a clock or
speaks with a lock: times and a ledger go in, a decision comes out.

All times are UNIX times in seconds, by the wall clock of the machine that
decides, unless a name or a docstring says otherwise.
"""

from __future__ import annotations

__all__: list[str] = []
