"""The runs of this process that may be missing in the history.

Only the holder of the lock writes the history.  A process that was out of touch with
the lock service when its run ended may have lost the lock before it could write.  So
it remembers its runs until it knows that they are written, and hands in those that
are missing when it gets through again.
"""

from __future__ import annotations

from jobslib.history import HandIn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobslib.history import History
    from jobslib.owner import OwnerRecord
    from jobslib.runs import Run

__all__ = ['Unrecorded']

#: How many holds are remembered, and how many runs of each, the newest.
MAX_HOLDS = 10
MAX_RUNS = 50


class Unrecorded:
    """What is to be handed in, for each hold.

    A hold is identified by the ``timestamp`` of its owner record.
    """

    def __init__(self) -> None:
        self._holds: dict[float, list[Run]] = {}

    def __bool__(self) -> bool:
        return bool(self._holds)

    def __iter__(self) -> Iterator[HandIn]:
        return iter([HandIn(hold, runs)
                     for hold, runs in self._holds.items()])

    @property
    def runs(self) -> list[Run]:
        """All runs that are remembered."""
        return [run for runs in self._holds.values() for run in runs]

    def begin(self, hold: float | None) -> None:
        """The lock was taken, or may have been, and no run has ended yet."""
        if hold is not None:
            self._holds.setdefault(hold, [])
            for old in list(self._holds)[:-MAX_HOLDS]:
                del self._holds[old]

    def add(self, hold: float | None, run: Run) -> None:
        """A run has ended."""
        if hold is not None:
            self.begin(hold)
            self._holds[hold] = [*self._holds[hold], run][-MAX_RUNS:]

    def forget(self, hold: float) -> None:
        """Forget a hold, since all that is known of it is written or handed in."""
        self._holds.pop(hold, None)

    def forget_all(self) -> None:
        """Forget all, since the history is written with all of it."""
        self._holds.clear()

    def missing(self, history: History,
                record: OwnerRecord | None) -> list[HandIn]:
        """Return what the history lacks, and forget the rest.

        :param history: as it is now.
        :param record: the owner record as it is now.
        """
        holds = [] if record is None else [
            each.timestamp for each in [*record.before, record]
            if not each.released]
        found = []
        for handed_in in self:
            runs = [run for run in handed_in.runs if not (
                history.knows(run) or history.has_forgotten(run))]
            hold = handed_in.hold
            if runs or history.presumes(hold) or hold in holds:
                found.append(HandIn(hold, runs))
            else:
                self.forget(hold)
        return found
