"""When a job is due, and what became of its slots.

A *slot* is an instant at which a job is due.

- A *rhythm* says which slots there are (:mod:`~jobslib.schedule.rhythms`,
  :mod:`~jobslib.schedule.calendars`, :mod:`~jobslib.schedule.zones`).
- The *plan* is the rhythm and what is done about slots that go wrong
  (:mod:`~jobslib.schedule.plans`).
- The *ledger*, which is kept with the job's lock, says what became of the slots
  (:mod:`~jobslib.schedule.ledger`).
- What is to be done now follows from plan and ledger
  (:mod:`~jobslib.schedule.decisions`), after it was decided how far a ledger
  that another process has left can be believed (:mod:`~jobslib.schedule.belief`).

None of these waits, reads a clock or speaks with a lock: times and a ledger go in,
a decision comes out.  The *agenda* (:mod:`~jobslib.schedule.agenda`) has the clock,
asks for decisions and remembers them for one process.

All times are UNIX times in seconds, by the wall clock of the machine that
decides, unless a name or a docstring says otherwise.
"""

from __future__ import annotations

__all__: list[str] = []
