"""What operators can ask of a job: values that say who asks, and when.

``parse()`` makes one from JSON that was read, or returns ``None`` if it is not
one; ``export()`` returns it as JSON takes it.
"""

from __future__ import annotations

import time

from jobslib.reading import count, mapping, number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from jobslib.documents import Document

__all__ = ['PATIENCE', 'Extra', 'Pause', 'Request', 'Skip', 'Stop']

#: For how long a request keeps processes from a lock that is free, in seconds:
#: after a release the one that has released it, and during a handover all but
#: those of the machine that is to have it.
PATIENCE = {'release': 10.0, 'handover': 30.0}


class Asked:
    """The base of all that can be asked.

    :param by: who asks, for people.
    :param timestamp: when, as UNIX time.
    """

    def __init__(self, by: str | None = None,
                 timestamp: float | None = None) -> None:
        self.by = by
        self.timestamp = timestamp

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.export()!r})'

    @property
    def who(self) -> str:
        """Who asks; ``somebody`` if that is not known."""
        return self.by or 'somebody'

    def export(self) -> Document:
        """Return it as JSON takes it."""
        found: dict[str, object] = {}
        if self.by is not None:
            found['by'] = self.by
        if self.timestamp is None:
            return found
        at = time.gmtime(self.timestamp)
        return {**found, 'timestamp': self.timestamp,
                'time_utc': time.strftime('%Y-%m-%dT%H:%M:%SZ', at)}


class Pause(Asked):
    """The job is paused.

    :param reason: why, for people.
    :param interrupt: whether a run that is under way has to end.
    """

    def __init__(self, by: str | None = None, timestamp: float | None = None,
                 reason: str = '', interrupt: bool = False) -> None:
        super().__init__(by, timestamp)
        self.reason = reason
        self.interrupt = interrupt

    @classmethod
    def parse(cls, found: object) -> Self | None:
        """Return the pause that *found* describes."""
        known = mapping(found)
        return None if found is not known else cls(
            text(known.get('by')), number(known.get('timestamp')),
            text(known.get('reason')) or '', bool(known.get('interrupt')))

    def export(self) -> Document:
        return {**super().export(), **_if_true(interrupt=self.interrupt),
                'reason': self.reason}


class Request(Asked):
    """Asks the holder to give up the lock.

    :param do: ``release`` or ``handover``.
    :param token: the fencing token of the holder.
    :param to: the machine that is to have the lock after a handover, ``None``
        for any.
    :param interrupt: whether a run that is under way has to end.
    """

    def __init__(self, do: str, token: int | None, by: str | None = None,
                 timestamp: float | None = None, to: str | None = None,
                 interrupt: bool = False) -> None:
        super().__init__(by, timestamp)
        self.do = do
        self.token = token
        self.to = to
        self.interrupt = interrupt

    @classmethod
    def parse(cls, found: object) -> Self | None:
        """Return the request that *found* describes."""
        known = mapping(found)
        do = text(known.get('do'))
        return None if do not in PATIENCE else cls(
            do, count(known.get('token')), text(known.get('by')),
            number(known.get('timestamp')), text(known.get('to')),
            bool(known.get('interrupt')))

    def export(self) -> Document:
        return {**super().export(), **_if_true(interrupt=self.interrupt),
                'do': self.do, 'token': self.token, 'to': self.to}


class Stop(Asked):
    """Asks the holder to end the run that is under way.

    :param token: the fencing token of the holder.
    """

    def __init__(self, token: int | None, by: str | None = None,
                 timestamp: float | None = None) -> None:
        super().__init__(by, timestamp)
        self.token = token

    @classmethod
    def parse(cls, found: object) -> Self | None:
        """Return the request that *found* describes."""
        known = mapping(found)
        token = count(known.get('token'))
        return None if token is None else cls(
            token, text(known.get('by')), number(known.get('timestamp')))

    def export(self) -> Document:
        return {**super().export(), 'token': self.token}


class Extra(Asked):
    """Asks for a run beside the schedule.

    :param id: tells the request from others.
    :param slot: the slot that the run is for, a UNIX time, or ``None``.
    :param tries: how often a holder has begun the run.
    :param token: the fencing token of the last holder that did.
    :param began: when that holder began it, as UNIX time.
    """

    def __init__(self, id: str, by: str | None = None,
                 timestamp: float | None = None, slot: float | None = None,
                 tries: int = 0, token: int | None = None,
                 began: float | None = None) -> None:
        super().__init__(by, timestamp)
        self.id = id
        self.slot = slot
        self.tries = tries
        self.token = token
        self.began = began

    @classmethod
    def parse(cls, found: object) -> Self | None:
        """Return the request that *found* describes."""
        known = mapping(found)
        name, tries = text(known.get('id')), count(known.get('tries'))
        return None if name is None or tries is None else cls(
            name, text(known.get('by')), number(known.get('timestamp')),
            number(known.get('slot')), tries, count(known.get('token')),
            number(known.get('began')))

    def begun(self, token: int | None, began: float) -> Self:
        """Return the request when the holder with *token* begins the run."""
        return type(self)(self.id, self.by, self.timestamp, self.slot,
                          self.tries + 1, token, began)

    def export(self) -> Document:
        began = {} if self.began is None else {'began': self.began}
        return {'id': self.id, **super().export(), 'slot': self.slot,
                'tries': self.tries, 'token': self.token, **began}


class Skip(Asked):
    """Asks that a slot is not run.

    :param slot: the slot, a UNIX time.
    """

    def __init__(self, slot: float, by: str | None = None,
                 timestamp: float | None = None) -> None:
        super().__init__(by, timestamp)
        self.slot = slot

    @classmethod
    def parse(cls, found: object) -> Self | None:
        """Return the request that *found* describes."""
        known = mapping(found)
        slot = number(known.get('slot'))
        return None if slot is None else cls(
            slot, text(known.get('by')), number(known.get('timestamp')))

    def export(self) -> Document:
        return {'slot': self.slot, **super().export()}


def _if_true(**flags: bool) -> dict[str, bool]:
    return {name: True for name, flag in flags.items() if flag}
