"""What became of the newest runs of a job, as kept beside its lock."""

from __future__ import annotations

from jobslib.runs import Outcome

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from jobslib.runs import Run

__all__ = ['FAILURES', 'History', 'encode', 'shortened']

#: The most that a history may take, in bytes of JSON; the oldest runs go
#: first.  Consul refuses values of more than 512 KB, and each write of the
#: history goes through the log of every server.
MAX_SIZE = 48 * 1024

#: The outcomes of runs that did not succeed, which are counted apart.
FAILURES = (Outcome.FAILED.value, Outcome.KILLED.value,
            Outcome.INTERRUPTED.value)

# No count of runs is as large; sums with numbers as large are inexact.
MAX_COUNT = 1 << 50


class History:
    """The newest runs, and how many there were.

    :param limit: how many runs are kept; with 0 there is no history.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: How many runs there were, and how many of them failed: did not
        #: succeed, whatever the reason.
        self.runs = 0
        self.failures = 0
        #: How many of those had each outcome, as far as that is known: older
        #: versions did not count them apart.
        self.outcomes = dict.fromkeys(FAILURES, 0)
        #: UNIX time of the end of the last run that succeeded.
        self.succeeded: float | None = None
        #: The newest runs, the newest last; see :meth:`jobslib.runs.Run.export`.
        self.newest: list[dict[str, Any]] = []
        #: The acquisition of the lock in which the last of them ran, by the
        #: ``timestamp`` of its owner record.
        self.acquired: float | None = None
        #: The run that the last holder did not end: it ended with its
        #: process.
        self.unfinished: dict[str, Any] | None = None

    @classmethod
    def read(cls, document: dict[str, Any] | None,
             record: dict[str, Any] | None, now: float,
             limit: int = 1000) -> History:
        """Return the history in *document*, with the run that the last
        holder did not end.

        :param document: what :meth:`export` returned, or whatever was found
            in its place.
        :param record: the owner record of the last holder, if it is not the
            holder any more.
        :param now: UNIX time.
        """
        history = cls(limit)
        if limit and isinstance(document, dict):
            history._load(document)
        if limit and record is not None:
            history._add_unfinished(record, now)
        return history

    def _load(self, document: dict[str, Any]) -> None:
        newest = document.get('newest')
        if isinstance(newest, list):
            self.newest = [run for run in newest if isinstance(run, dict)]
        for outcome in FAILURES:
            # Of the newest runs it is known from themselves.
            self.outcomes[outcome] = max(
                _count(document.get(outcome)),
                sum(run.get('outcome') == outcome for run in self.newest))
        self.newest = self.newest[-self.limit:]
        self.runs = _count(document.get('runs'))
        self.failures = _count(document.get('failures'))
        self.succeeded = _number(document.get('succeeded'))
        self.acquired = _number(document.get('acquired'))

    def _add_unfinished(self, record: dict[str, Any], now: float) -> None:
        killed = record.get('killed')
        if isinstance(killed, dict):
            # The lease keeper saw the run end with its process.
            if _count(killed.get('run')) > self.runs:
                self.unfinished = {**_who(record), **killed}
        elif ('released' not in record
              and record.get('timestamp') != self.acquired
              and (began := _begin(record)) <= now):
            # Its holder vanished, and ended no run since it had the lock.
            self.unfinished = {
                'run': self.runs + 1, 'token': record.get('token'),
                'started': began, 'duration': None,
                'outcome': Outcome.KILLED.value,
                'error': 'its holder vanished', **_who(record)}
        if self.unfinished is not None:
            self._add(self.unfinished)

    def add(self, run: Run, record: dict[str, Any]) -> None:
        """Add a run that has ended.

        :param record: the owner record of the holder that ran it.
        """
        if self.limit:
            self.acquired = _number(record.get('timestamp'))
            self._add({**run.export(), **_who(record)})

    def _add(self, run: dict[str, Any]) -> None:
        self.runs += 1
        if run.get('outcome') == Outcome.SUCCEEDED.value:
            self.succeeded = (_number(run.get('started')) or 0.0) + (
                _number(run.get('duration')) or 0.0)
        else:
            self.failures += 1
            outcome = str(run.get('outcome'))
            if outcome in self.outcomes:
                self.outcomes[outcome] += 1
        self.newest = [*self.newest, run][-self.limit:]

    def export(self, token: int | None,
               due: float | None = None) -> dict[str, Any] | None:
        """Return the history, fit for JSON; ``None`` when none is kept.

        :param token: the fencing token of the holder that writes it.
        :param due: UNIX time at which the next run is due.
        """
        if not self.limit:
            return None
        return {'token': token, 'runs': self.runs, 'failures': self.failures,
                **self.outcomes, 'succeeded': self.succeeded,
                'acquired': self.acquired, 'due': due,
                'newest': list(self.newest)}


def shortened(document: dict[str, Any]) -> dict[str, Any]:
    """Return *document* without the oldest runs, if it is too long."""
    import json
    newest = document['newest'] if document.get('newest') else []
    while newest and len(json.dumps(newest)) > MAX_SIZE:
        newest = newest[max(1, len(newest) // 10):]
    return {**document, 'newest': newest}


def encode(document: dict[str, Any]) -> bytes:
    """Return *document* as JSON, without the oldest runs if it is too long."""
    import json
    return json.dumps(shortened(document), separators=(',', ':')).encode()


def _who(record: dict[str, Any]) -> dict[str, Any]:
    return {'fqdn': record.get('fqdn'), 'pid': record.get('pid')}


def _begin(record: dict[str, Any]) -> float:
    """Return when the first run of this holder began, or was to begin."""
    schedule = record.get('schedule')
    due = schedule.get('due') if isinstance(schedule, dict) else None
    return max(_number(record.get('timestamp')) or 0.0, _number(due) or 0.0)


def _count(value: Any) -> int:
    ok = isinstance(value, int) and 0 <= value < MAX_COUNT
    return int(value) if ok else 0


def _number(value: Any) -> float | None:
    ok = isinstance(value, int | float) and 0 <= value < MAX_COUNT
    return float(value) if ok else None
