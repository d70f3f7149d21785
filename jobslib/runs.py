"""One run of a task, and how it ended."""

from __future__ import annotations

import enum

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['Outcome', 'Run']

#: The most that is kept of an error's first line, in characters.
MAX_ERROR = 200


class Outcome(enum.Enum):
    """How a run ended, or that it has not yet."""

    PENDING = 'pending'
    SUCCEEDED = 'succeeded'
    FAILED = 'failed'
    #: Told to stop: by a signal, by the loss of the lock, or as too long.
    INTERRUPTED = 'interrupted'
    #: Its process ended, or was killed, before the run did.
    KILLED = 'killed'


class Run:
    """One run of a task.

    :param number: counts the runs of the task; where the lock keeps no
        history, those of this process.
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
        #: The slot that it is for, as UNIX time; ``None`` if for none.
        self.slot: float | None = None
        #: The number of the run among those of its slot.
        self.attempt = 1
        #: Why the slot is run: ``due``, ``catch-up``, ``retry``, ``recovery``;
        #: ``asked``, by an operator.
        self.reason: str | None = None
        #: The operator's request that it obeys, by its id.
        self.asked: str | None = None

    def end(self, outcome: Outcome, duration: float,
            error: str | None = None) -> None:
        """The run ended after *duration* seconds.

        :param error: type and first line of what ended it.
        """
        self.outcome = outcome
        self.duration = duration
        self.error = None if error is None else error[:MAX_ERROR]

    def export(self) -> dict[str, Any]:
        """Return the run as the history keeps it; fit for JSON."""
        return {'run': self.number, 'token': self.token,
                'started': round(self.started, 3),
                'duration': (None if self.duration is None
                             else round(self.duration, 3)),
                'outcome': self.outcome.value, 'error': self.error,
                **({'asked': self.asked} if self.asked else {}),
                **self._export_slot()}

    def _export_slot(self) -> dict[str, Any]:
        if self.slot is None:
            return {}
        return {'slot': self.slot, 'attempt': self.attempt,
                'reason': self.reason}

    @classmethod
    def load(cls, exported: dict[str, Any]) -> Run:
        """Return the run that :meth:`export` described."""
        run = cls(exported['run'], exported['token'], exported['started'])
        run.outcome = Outcome(exported['outcome'])
        run.duration, run.error = exported['duration'], exported['error']
        run.slot = exported.get('slot')
        run.attempt = exported.get('attempt', 1)
        run.reason = exported.get('reason')
        run.asked = exported.get('asked')
        return run

    def log_fields(self, task: str) -> dict[str, Any]:
        """Return the fields that a log record about the run has.

        :param task: name of the task.
        """
        return {'task': task, 'run': self.number,
                'outcome': self.outcome.value,
                'duration': (None if self.duration is None
                             else round(self.duration, 3)),
                'fencing_token': self.token, 'error': self.error,
                **self._export_slot()}


def describe(error: BaseException) -> str:
    """Return type and message of *error*, the first line of it.

    It can be encoded, and nothing that the error does makes this fail.
    """
    name = type(error).__name__
    try:
        text = str(error).strip().splitlines()
    except BaseException:
        text = ['(the message cannot be shown)']
    return encodable(f'{name}: {text[0]}' if text else name)[:MAX_ERROR]


def encodable(text: str) -> str:
    """Return *text* with what no encoding has, lone surrogates, escaped.

    They come from names of files, for instance, that are no UTF-8.
    """
    return text.encode('utf-8', 'backslashreplace').decode()
