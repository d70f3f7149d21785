"""One run of a task, how far it is, and how it ended."""

from __future__ import annotations

import enum

from jobslib.reading import count, mapping, member, number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from jobslib.documents import Document

__all__ = ['Outcome', 'ProgressReport', 'Run']

#: The most that is kept of an error's first line, and of what a report of
#: progress says, in characters.
MAX_ERROR = 200
MAX_MESSAGE = 200

# Larger whole numbers are not exact in every program that reads JSON.
LARGEST = 2.0 ** 53

# Times that differ by less than this are the same, since they are exported in whole
# milliseconds.
SAME = 0.001


class Outcome(enum.Enum):
    """How a run ended, or that it has not yet."""

    PENDING = 'pending'
    SUCCEEDED = 'succeeded'
    FAILED = 'failed'
    #: It was told to stop: by a signal, because the lock was lost, because it took
    #: too long, or by an operator.
    INTERRUPTED = 'interrupted'
    #: Its process ended, or was killed, before the run did.
    KILLED = 'killed'


class Run:
    """One run of a task.

    :param number: counts the runs of the task or, where the lock keeps no
        history, those of this process; 0 if the run has no number yet.
    :param token: the fencing token, ``None`` when the lock has none.
    :param started: UNIX time.
    """

    def __init__(self, number: int, token: int | None, started: float) -> None:
        self.number = number
        self.token = token
        self.started = started
        self.outcome = Outcome.PENDING
        #: How long it took, in seconds; ``None`` while it is pending.
        self.duration: float | None = None
        #: The error's first line, ``None`` when there was none.
        self.error: str | None = None
        #: The slot that it is for, as UNIX time; ``None`` if it is for none.
        self.slot: float | None = None
        #: The number of the run among those of its slot.
        self.attempt = 1
        #: Why the slot is run: ``due``, ``catch-up``, ``retry``, ``recovery``;
        #: ``asked``, by an operator.
        self.reason: str | None = None
        #: The operator's request that it obeys, by its id.
        self.asked: str | None = None
        #: The machine and the process that had the lock for it.
        self.fqdn: str | None = None
        self.pid: int | None = None
        #: When its holder took the lock, if the holder vanished and nobody
        #: knows what became of the run; else ``None``.
        self.presumed: float | None = None

    def end(self, outcome: Outcome, duration: float | None,
            error: str | None = None) -> None:
        """The run has ended.

        :param duration: how long it took, in seconds; ``None`` if nobody knows.
        :param error: type and first line of what ended it.
        """
        self.outcome = outcome
        self.duration = duration
        self.error = None if error is None else error[:MAX_ERROR]

    def export(self) -> Document:
        """Return the run in the form in which the history keeps it."""
        return {'run': self.number or None, 'token': self.token,
                'started': round(self.started, 3),
                'duration': (None if self.duration is None
                             else round(self.duration, 3)),
                'outcome': self.outcome.value, 'error': self.error,
                **({'asked': self.asked} if self.asked else {}),
                **({} if self.presumed is None
                   else {'presumed': self.presumed}),
                **self._export_slot(), 'fqdn': self.fqdn, 'pid': self.pid}

    def _export_slot(self) -> Document:
        if self.slot is None and self.asked is None:
            return {}
        return {'slot': self.slot, 'attempt': self.attempt,
                'reason': self.reason}

    @classmethod
    def load(cls, exported: Document) -> Run:
        """Return the run that :meth:`export` described."""
        run = cls.parse(exported)
        assert run is not None
        return run

    @classmethod
    def parse(cls, found: object) -> Run | None:
        """Return the run that :meth:`export` described, or ``None`` if
        *found* is anything else.
        """
        found = mapping(found)
        outcome = member(Outcome, found.get('outcome'))
        if outcome is None:
            return None
        run = cls(count(found.get('run')) or 0, count(found.get('token')),
                  number(found.get('started')) or 0.0)
        run.outcome = outcome
        run.duration = number(found.get('duration'))
        run.error = text(found.get('error'))
        run.slot = number(found.get('slot'))
        run.attempt = count(found.get('attempt')) or 1
        run.reason = text(found.get('reason'))
        run.asked = text(found.get('asked'))
        run.fqdn, run.pid = text(found.get('fqdn')), count(found.get('pid'))
        run.presumed = number(found.get('presumed'))
        return run

    def is_same(self, other: Run) -> bool:
        """Return whether *other* is about the same run.

        No two runs have both the fencing token and the begin in common.  A run that
        was asked for may be known from the request, which has a moment shortly
        before the run began; so it is known by that request and its attempt.
        """
        if self.token != other.token:
            return False
        is_asked = self.asked is not None and (
            (self.asked, self.attempt) == (other.asked, other.attempt))
        return is_asked or abs(self.started - other.started) < SAME

    def log_fields(self, task: str) -> Document:
        """Return the fields that a log record about the run has.

        :param task: name of the task.
        """
        return {'task': task, 'run': self.number,
                'outcome': self.outcome.value,
                'duration': (None if self.duration is None
                             else round(self.duration, 3)),
                'fencing_token': self.token, 'error': self.error,
                **self._export_slot()}


class ProgressReport:
    """How far a run is, as its task has reported.

    What is wrong is left out: something that is not a number, a number that is
    negative or not finite, a total of 0 or below what is done.

    :param done: how much is done; ``None`` if it is not known.
    :param total: how much there is to do; ``None`` if it is not known.
    :param message: one line for people.
    :param time: the UNIX time of the report; ``None`` if it is not known.
    :param token: the fencing token of the holder, if it is kept with it.
    """

    def __init__(self, done: object, total: object, message: object,
                 time: float | None, token: int | None = None) -> None:
        self.done = _amount(done)
        self.total = _amount(total)
        if not self.total or self.total < (self.done or 0):
            self.total = None
        self.message = _line(message)
        self.time = time
        self.token = token

    @property
    def is_complete(self) -> bool:
        """Whether all is done."""
        return self.total is not None and self.done == self.total

    def export(self) -> Document:
        """Return the report as JSON takes it."""
        return {'done': self.done, 'total': self.total,
                'message': self.message, 'time': self.time,
                **({} if self.token is None else {'token': self.token})}

    @classmethod
    def parse(cls, found: object) -> ProgressReport | None:
        """Return the report that :meth:`export` described, or ``None`` if
        there is none in *found*.
        """
        found = mapping(found)
        if not found:
            return None
        return cls(found.get('done'), found.get('total'), found.get('message'),
                   number(found.get('time')), count(found.get('token')))


def _amount(value: Any) -> float | None:
    """Return *value* if it is a number that can be right."""
    if isinstance(value, str | bytes):
        return None
    try:
        found = float(value)
    except Exception:
        return None
    if not 0 <= found <= LARGEST:
        return None
    return int(found) if found.is_integer() else found


def _line(value: object) -> str:
    """Return *value* as one line without control characters."""
    try:
        shown = '' if value is None else str(value)
    except Exception:
        return ''
    line = ' '.join(shown[:10 * MAX_MESSAGE].split())[:MAX_MESSAGE]
    return ''.join(c for c in line if c.isprintable())


def describe(error: BaseException) -> str:
    """Return the type of *error* and the first line of its message.

    The text can be encoded, and nothing that the error does makes this fail.
    """
    name = type(error).__name__
    try:
        text = str(error).strip().splitlines()
    except BaseException:
        text = ['(the message cannot be shown)']
    return encodable(f'{name}: {text[0]}' if text else name)[:MAX_ERROR]


def encodable(text: str) -> str:
    """Return *text* with lone surrogates escaped, which cannot be encoded.

    They come for instance from file names that are not UTF-8.
    """
    return text.encode('utf-8', 'backslashreplace').decode()
