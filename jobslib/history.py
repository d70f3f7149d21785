"""What became of the newest runs of a job, kept beside its lock.

Only the holder of the lock writes the history, when it releases the lock or has
ended a run.  Two things cannot be written then, and are added later:

- *A holder vanished* and could not write what became of its run.  Its owner record
  tells that there was one.  The next holder copies that record into its own, in the
  transaction that takes the lock (``before``).  So everybody who reads history and
  record finds the run, until the new holder has written it into the history.
- *A holder was out of touch* with the lock service when its run ended.  When it gets
  through again, somebody else may hold the lock.  So it *hands in* what it knows,
  beside the history, and the holder merges it.  If the run was presumed to be
  killed, its true outcome takes the place of that.

A run is identified by its fencing token and its begin.  No number is used twice.
"""

from __future__ import annotations

from jobslib.owner import OwnerRecord
from jobslib.reading import count, mapping, mappings, number
from jobslib.runs import Outcome, Run
from jobslib.schedule.ledger import Ledger, Records, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobslib.documents import Document


__all__ = ['FAILURES', 'HandIn', 'History', 'encode', 'shortened',
           'written_ledger']

#: The most that a history may take, in bytes of JSON; the oldest runs go
#: first.  Consul refuses values of more than 512 KB, and each write of the
#: history goes through the log of every server.
MAX_SIZE = 48 * 1024

#: The outcomes of runs that did not succeed, which are counted apart.
FAILURES = (Outcome.FAILED.value, Outcome.KILLED.value,
            Outcome.INTERRUPTED.value)

#: The error of the run of a holder that vanished.
VANISHED = 'its holder vanished'


class HandIn:
    """What a process knows of one of its holds, and could not write in time.

    :param hold: when the lock was taken: the ``timestamp`` of the owner record.
    :param runs: the runs that are missing.  If there are none, no run of that
        hold had begun.
    """

    def __init__(self, hold: float, runs: Sequence[Run] = ()) -> None:
        self.hold = hold
        self.runs = list(runs)

    @property
    def name(self) -> str:
        """A name that no other has."""
        return str(int(self.hold * 1e6))

    @classmethod
    def parse(cls, found: object) -> HandIn:
        """Return what :meth:`export` has described, or one that says nothing if
        *found* is anything else."""
        found = mapping(found)
        return cls(number(found.get('hold')) or 0.0, _runs(found.get('runs')))

    def export(self) -> Document:
        """Return it as JSON takes it."""
        return {'hold': self.hold, 'runs': [run.export() for run in self.runs]}


class History:
    """The newest runs, and how many there were.

    :param limit: how many runs are kept; with 0 there is no history.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: How many runs there were, and how many of them did not succeed, for
        #: whatever reason.
        self.runs = 0
        self.failures = 0
        #: How many of these had each outcome, as far as that is known; older
        #: versions did not distinguish the outcomes.
        self.outcomes = dict.fromkeys(FAILURES, 0)
        #: The last number that was given to a run.
        self.number = 0
        #: UNIX time of the end of the last run that succeeded.
        self.succeeded: float | None = None
        #: The newest runs, the newest last.
        self.newest: list[Run] = []
        #: The hold in which the last of them ran, and the hold in which this
        #: history was written, each by the ``timestamp`` of its owner record.
        self.acquired: float | None = None
        self.hold: float | None = None
        #: The names of what was handed in and is merged.
        self.merged: set[str] = set()
        #: The run of the last holder that ended because its process did.
        self.unfinished: Run | None = None
        #: When the next run was due, as UNIX time, and the ledger, by the holder
        #: that wrote this; the ledger is there if that holder kept the lock, and
        #: no later holder has a newer one.
        self.due: float | None = None
        self.ledger: Ledger | None = None
        # The same ledger, whatever a later holder has.
        self._written: Ledger | None = None
        self._token: int | None = None

    @classmethod
    def read(cls, document: Mapping[str, object] | None,
             record: OwnerRecord | None, now: float, limit: int = 1000, *,
             held: bool = False,
             handed_in: Mapping[str, HandIn] | None = None) -> History:
        """Return the history in *document*, with the runs that it lacks.

        :param document: what :meth:`export` returned, or whatever was found
            in its place.
        :param record: the owner record of the last or the present holder.
        :param now: the UNIX time.
        :param held: whether the holder of that record holds the lock now.
        :param handed_in: what was handed in, by name.
        """
        history = cls(limit)
        history.ledger = written_ledger(document, record)
        if not limit:
            return history
        history._load(mapping(document))
        holds = [] if record is None else [*record.before, record]
        known = [each.timestamp for each in holds]
        if history.hold is not None and history.hold in known:
            # The history was written in this hold, so it has all earlier ones.
            holds = holds[known.index(history.hold):]
        for each in holds[:-1] if held else holds:
            history._add_unfinished(each, now)
        history.merge_all(handed_in or {}, with_numbers=not held)
        return history

    def _load(self, document: Document) -> None:
        self.newest = _runs(document.get('newest'))
        self.runs = count(document.get('runs')) or 0
        self.failures = count(document.get('failures')) or 0
        outcomes = [run.outcome.value for run in self.newest]
        for outcome in FAILURES:
            # At least as many as among the newest runs, which are all here.
            self.outcomes[outcome] = max(
                count(document.get(outcome)) or 0, outcomes.count(outcome))
        self.newest = self.newest[-self.limit:]
        given = count(document.get('number'))
        self.number = self.runs if given is None else given
        self.succeeded = number(document.get('succeeded'))
        self.acquired = number(document.get('acquired'))
        hold = number(document.get('hold'))
        self.hold = self.acquired if hold is None else hold
        merged = document.get('merged')
        self.merged = set(map(str, merged if isinstance(merged, list) else ()))
        self._token = count(document.get('token'))
        self._written = Ledger.parse(mapping(document.get('ledger')))
        self.due = number(document.get('due'))

    def _add_unfinished(self, record: OwnerRecord, now: float) -> None:
        run = record.killed
        if run is None and not record.released:
            run = self._presume(record, now)
        if run is not None and not self.knows(run):
            run.number = max(run.number, self.number + 1)
            self.unfinished = run
            self._add(run)

    def _presume(self, record: OwnerRecord, now: float) -> Run | None:
        """Return the run that a holder had under way when it vanished, as far as
        anybody can know; ``None`` if it had none."""
        is_writer = record.timestamp == self.hold
        ledger = record.ledger
        if is_writer and self._written is not None:
            # This ledger is newer than the one of the record.
            ledger = self._written
        elif ledger is not None and self.ledger is not None and (
                not ledger.agrees(self.ledger)):
            # So it is here: the holder took the lock with a ledger that was out of
            # date, and decided anew.  What it did then, nobody can know.
            return None
        is_begun = ledger is not None and ledger.state is State.BEGUN
        if ledger is not None and (
                ledger.records is Records.BEGINS
                or is_begun and ledger is self._written):
            began = ledger.began if is_begun else None
        else:
            began = self._guess_begin(record, now)
        if began is None:
            return None
        token = record.token
        if token is None and is_writer:
            token = self._token
        run = Run(0, token, began)
        run.end(Outcome.KILLED, None, VANISHED)
        run.fqdn, run.pid = record.fqdn, record.pid
        run.presumed = record.timestamp
        if ledger is not None and is_begun:
            run.slot, run.attempt = ledger.slot, ledger.attempt
        return run

    def _guess_begin(self, record: OwnerRecord, now: float) -> float | None:
        """Return when a holder began its first run, where begins are not
        recorded; ``None`` if it had none, or has ended one."""
        if record.timestamp == self.acquired and self.acquired is not None:
            # It has ended a run, and nobody knows whether another one began.
            return None
        taken, due = record.timestamp or 0.0, record.due or 0.0
        # A run that came due only after the end of its lease has not begun.
        return max(taken, due) if (
            due <= max(taken, now - (record.lock_delay or 0.0))) else None

    def knows(self, run: Run) -> bool:
        """Return whether what became of *run* is among the newest runs."""
        return any(each.is_same(run) and each.presumed is None
                   for each in self.newest)

    def has_ended(self, asked: str) -> bool:
        """Return whether the run that was asked for has succeeded or failed.

        :param asked: the id of the request.
        """
        return any(each.asked == asked and each.outcome in (
            Outcome.SUCCEEDED, Outcome.FAILED) for each in self.newest)

    def has_forgotten(self, run: Run) -> bool:
        """Return whether *run* is older than all runs that are kept, so that it may
        have been dropped."""
        return (len(self.newest) < self.runs and bool(self.newest)
                and run.started < self.newest[0].started)

    def add(self, run: Run, hold: float | None) -> None:
        """Add a run that has ended.

        :param hold: the ``timestamp`` of the owner record of its holder.
        """
        if self.limit:
            self.acquired = hold
            self._add(run)

    def merge_all(self, handed_in: Mapping[str, HandIn], *,
                  with_numbers: bool = True) -> bool:
        """Merge what was handed in and is not merged yet.

        :param with_numbers: whether the runs get numbers; while the lock is held,
            only its holder gives numbers.
        :returns: whether there was anything to merge.
        """
        new = sorted(set(handed_in) - self.merged)
        for name in new:
            self.merge(handed_in[name], with_numbers=with_numbers)
        self.merged = set(handed_in)
        return bool(new)

    def merge(self, handed_in: HandIn, *, with_numbers: bool = True) -> None:
        """Add the runs of a hold that are not known yet.

        They take the place of the run that was presumed for that hold.
        """
        presumed = next((each for each in self.newest
                         if each.presumed == handed_in.hold), None)
        if presumed is not None:
            self._remove(presumed)
        for run in handed_in.runs:
            if self.knows(run):
                continue
            if presumed is not None:
                run.number, presumed = presumed.number, None
            elif not with_numbers:
                run.number = 0
            elif run.number <= self.number:
                # Another run has this number by now.
                run.number = self.number + 1
            self._add(run, late=True)

    def presumes(self, hold: float) -> bool:
        """Return whether a run of this hold is presumed."""
        return any(each.presumed == hold for each in self.newest)

    def _add(self, run: Run, late: bool = False) -> None:
        """Add a run as the newest one or, if it is *late*, in its place by time."""
        self.runs += 1
        self.number = max(self.number, run.number)
        if run.outcome is Outcome.SUCCEEDED:
            ended = run.started + (run.duration or 0.0)
            self.succeeded = max(self.succeeded or 0.0, ended) if late else ended
        else:
            self.failures += 1
            if run.outcome.value in self.outcomes:
                self.outcomes[run.outcome.value] += 1
        place = len(self.newest)
        while late and place and self.newest[place - 1].started > run.started:
            place -= 1
        self.newest = [*self.newest[:place], run,
                       *self.newest[place:]][-self.limit:]

    def _remove(self, run: Run) -> None:
        self.newest = [each for each in self.newest if each is not run]
        if self.unfinished is run:
            self.unfinished = None
        self.runs -= 1
        self.failures -= 1
        self.outcomes[run.outcome.value] -= 1

    def export(self, token: int | None,
               due: float | None = None) -> Document | None:
        """Return the history as JSON takes it; ``None`` when none is kept.

        :param token: the fencing token of the holder that writes it.
        :param due: UNIX time at which the next run is due.
        """
        if not self.limit:
            return None
        merged = {'merged': sorted(self.merged)} if self.merged else {}
        return {'token': token, 'runs': self.runs, 'failures': self.failures,
                **self.outcomes, 'number': self.number, 'succeeded': self.succeeded,
                'acquired': self.acquired, 'hold': self.hold, 'due': due,
                **merged, 'newest': [run.export() for run in self.newest]}


def written_ledger(document: Mapping[str, object] | None,
                   record: OwnerRecord | None) -> Ledger | None:
    """Return the ledger in the history *document*, ``None`` if the one of *record*
    is newer, or if there is none.

    A holder that keeps the lock writes its ledger there.  When it vanishes, its record
    still has the ledger from when it took the lock.  From that the next holder makes
    the ledger with which it takes the lock, before it sees what is written in the
    history.  So either the history or the record of a later holder may be newer, and
    what became of the slots has to tell.
    """
    written = Ledger.parse(mapping(document).get('ledger'))
    found = None if record is None else record.ledger
    if written is None or record is None or found is None:
        return written
    if number(mapping(document).get('hold')) == record.timestamp:
        return written
    if found.schedule != written.schedule:
        # All holders after the one of the record have its schedule.
        return None
    if found.settled != written.settled:
        return written if written.settled > found.settled else None
    if written.slot is not None and written.state is State.DONE:
        # A slot that is done is not begun again, unless by somebody who did not know.
        return written
    return written if (written.began or 0.0) >= (found.began or 0.0) else None


def shortened(document: Document) -> Document:
    """Return *document* without the oldest runs, if it is too long."""
    import json
    newest = document['newest'] if document.get('newest') else []
    while newest and len(json.dumps(newest)) > MAX_SIZE:
        newest = newest[max(1, len(newest) // 10):]
    return {**document, 'newest': newest}


def encode(document: Document) -> bytes:
    """Return *document* as JSON, without the oldest runs if it is too long."""
    import json
    data = json.dumps(document, separators=(',', ':')).encode()
    if len(data) > MAX_SIZE:
        data = json.dumps(shortened(document), separators=(',', ':')).encode()
    return data


def _runs(found: object) -> list[Run]:
    runs = [Run.parse(each) for each in mappings(found)]
    return [run for run in runs if run is not None]
