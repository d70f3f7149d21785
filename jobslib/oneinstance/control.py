"""What operators ask of a job: to pause, to move, to stop its run."""

from __future__ import annotations

import os

from jobslib.oneinstance.requests import (
    PATIENCE,
    Extra,
    Pause,
    Request,
    Skip,
    Stop,
)
from jobslib.reading import mapping, mappings, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobslib.documents import Document
    from jobslib.owner import OwnerRecord

__all__ = ['Control', 'Restraint']

#: How many of the last pauses are remembered.
MAX_PAUSES = 10

#: How many of the slots that are skipped are remembered.
MAX_SKIPS = 5


class Control:
    """What is asked of a job, kept beside its lock.

    A request is meant for one holder, the one with the fencing token in it.  When
    somebody else holds the lock it has no effect any more, so nobody has to
    remove it.

    :param paused: the pause, while the job is paused.
    :param request: asks the holder to give up the lock.
    :param pauses: the last pauses that are over, each with its begin and its
        end as UNIX times; slots that fell into them are skipped.
    :param stop: asks the holder to end the run that is under way.  The holder
        removes it when that is done.
    :param skips: the slots that are not to be run.
    :param extra: asks for a run beside the schedule.  The holder removes it when
        that run has ended.
    :param handed_in: whether something was handed in for the history.  The
        holder removes it when it has merged that.
    """

    def __init__(self, paused: Pause | None = None,
                 request: Request | None = None,
                 pauses: Sequence[tuple[float, float]] = (),
                 stop: Stop | None = None, skips: Sequence[Skip] = (),
                 extra: Extra | None = None,
                 handed_in: bool = False) -> None:
        self.paused = paused
        self.request = request
        self.pauses = list(pauses)
        self.stop = stop
        self.skips = list(skips)
        self.extra = extra
        self.handed_in = handed_in

    def changed(self, **values: object) -> Control:
        """Return a copy with these *values* replaced."""
        return Control(**{**vars(self), **values})

    @classmethod
    def parse(cls, data: bytes | None) -> Control:
        """Return what *data* asks for, which is nothing if it cannot be read."""
        from jobslib.oneinstance.record import parse
        return cls.load(parse(data))

    @classmethod
    def load(cls, exported: Document | None) -> Control:
        """Return the control that :meth:`export` has described."""
        asked = mapping(exported)
        skips = [Skip.parse(each) for each in mappings(asked.get('skips'))]
        return cls(
            Pause.parse(asked.get('paused')),
            Request.parse(asked.get('request')),
            _parse_pauses(asked.get('pauses')),
            Stop.parse(asked.get('stop')),
            [each for each in skips if each is not None][-MAX_SKIPS:],
            Extra.parse(asked.get('extra')), asked.get('handed_in') is True)

    def export(self) -> Document:
        """Return it as JSON takes it; what is rare is left out when it is not
        there."""
        rare = {
            'pauses': self.pauses, 'stop': self.stop and self.stop.export(),
            'skips': [skip.export() for skip in self.skips],
            'extra': self.extra and self.extra.export(),
            'handed_in': self.handed_in}
        return {'paused': self.paused and self.paused.export(),
                'request': self.request and self.request.export(),
                **{name: each for name, each in rare.items() if each}}

    def encode(self) -> bytes:
        """Return it as JSON, as short as possible, because the memory by which a
        lease keeper shows it to the holder is small."""
        import json
        return json.dumps(self.export(), ensure_ascii=False,
                          separators=(',', ':')).encode(
                              'utf-8', 'surrogatepass')

    @property
    def skipped(self) -> list[float]:
        """The slots that are not to be run."""
        return [each.slot for each in self.skips]

    def resumed(self, now: float) -> Control:
        """Return what is asked when the pause is over.

        :param now: UNIX time.
        """
        since = None if self.paused is None else self.paused.timestamp
        pauses = self.pauses
        if since is not None and since < now:
            pauses = [*pauses, (round(since, 3), round(now, 3))]
        return self.changed(paused=None, pauses=pauses[-MAX_PAUSES:])

    def demand(self, token: int | None) -> str | None:
        """Return why the holder with *token* has to release the lock, ``None`` if
        it need not."""
        if self.paused is not None:
            reason = ' '.join(self.paused.reason.split())
            said = f'paused by {self.paused.who}'
            return f'{said}: {reason}' if reason else said
        request = self.request
        if request is not None and request.token == token:
            return f'{request.do} asked for by {request.who}'
        return None

    def stop_for(self, token: int | None) -> Stop | None:
        """Return what asks the holder with *token* to end its run."""
        stop = self.stop
        return stop if stop and stop.token == token else None

    def interrupts(self, token: int | None) -> bool:
        """Whether the run of the holder with *token* has to end now."""
        if self.paused is not None:
            return self.paused.interrupt
        request = self.request
        return (request is not None and request.token == token
                and request.interrupt)


def _parse_pauses(found: object) -> list[tuple[float, float]]:
    pauses = []
    for each in (found if isinstance(found, list) else [])[-MAX_PAUSES:]:
        times = [number(at) for at in each] if isinstance(
            each, list | tuple) else []
        if len(times) == 2 and times[0] is not None and times[1] is not None:
            pauses.append((times[0], times[1]))
    return pauses


class Restraint:
    """Decides whether this process may take a lock that is free.

    :param fqdn: the name of this machine.
    """

    def __init__(self, fqdn: str) -> None:
        self.fqdn = fqdn
        # The last request: the fencing token of the holder that it was meant
        # for, and when it was seen first.
        self._seen: tuple[int, float] | None = None

    def find(self, control: Control, record: OwnerRecord | None,
             now: float) -> str | None:
        """Return why this process may not take the lock, ``None`` if it may.

        :param record: the owner record of the last holder.
        :param now: seconds of a clock that does not jump.
        """
        if control.paused is not None:
            return control.demand(None)
        request = control.request
        if request is None or request.token is None or record is None or (
                record.token != request.token):
            self._seen = None
            return None
        if self._seen is None or self._seen[0] != request.token:
            self._seen = request.token, now
        if now >= self._seen[1] + PATIENCE[request.do]:
            return None
        if request.to is not None and request.to != self.fqdn:
            return f'the lock is handed over to {request.to}'
        if (record.fqdn, record.pid) == (self.fqdn, os.getpid()):
            return 'the lock was given up for others'
        return None
