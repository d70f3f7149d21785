"""What operators ask of a job: to pause, to move, to stop its run."""

from __future__ import annotations

import os

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ['Control', 'Restraint']

#: For how long, in seconds, who released the lock when asked to stands back
#: for others, and who a handover passes by, for the one that it is for.
PATIENCE = {'release': 10.0, 'handover': 30.0}

#: How many of the last pauses are remembered.
MAX_PAUSES = 10

#: How many of the slots that are skipped are remembered.
MAX_SKIPS = 5


class Control:
    """What is asked of a job, as kept beside its lock.

    A request is meant for one holder, the one with its fencing token, and is
    done with when somebody else has the lock; so it needs no clearing up.

    :param paused: ``by``, ``timestamp`` and more, while the job is paused;
        ``interrupt`` is true when a run is to be interrupted for it.
    :param request: ``do`` (``release`` or ``handover``), the ``token`` of the
        holder it is for, ``by``, ``timestamp``, and with a handover ``to``,
        the ``fqdn`` of the machine that is to have the lock, or ``None``.
    :param pauses: the last pauses that are over, from and to, UNIX times:
        slots that fell into them are skipped.
    :param stop: that the run that is under way is to end: the ``token`` of
        the holder it is for, ``by``, ``timestamp``.  The holder removes it
        when that is done.
    :param extra: a run that is wanted beside the schedule: ``id``, ``by``,
        ``timestamp``, ``slot``, which it is for, or ``None``, and ``tries``,
        how often a holder began it, ``token``, that of the last of them,
        ``began``, when that was.
        The holder removes it when the run has ended.
    :param skips: slots that are not to be run: ``slot``, a UNIX time, ``by``.
    :param handed_in: whether there is something to merge into the history; the
        holder removes it when it has done that.
    """

    def __init__(self, paused: dict[str, Any] | None = None,
                 request: dict[str, Any] | None = None,
                 pauses: Sequence[tuple[float, float]] = (),
                 stop: dict[str, Any] | None = None,
                 skips: Sequence[dict[str, Any]] = (),
                 extra: dict[str, Any] | None = None,
                 handed_in: bool = False) -> None:
        self.paused = paused
        self.request = request
        self.pauses = list(pauses)
        self.stop = stop
        self.skips = list(skips)
        self.extra = extra
        self.handed_in = handed_in

    def changed(self, **values: Any) -> Control:
        """Return the same with other *values*."""
        return Control(**{**vars(self), **values})

    @classmethod
    def parse(cls, data: bytes | None) -> Control:
        """Return what *data* asks for; nothing if it cannot be read."""
        from jobslib.oneinstance.record import parse
        asked = parse(data) or {}
        paused, request = asked.get('paused'), asked.get('request')
        if not (isinstance(request, dict)
                and str(request.get('do')) in PATIENCE):
            request = None
        stop = asked.get('stop')
        return cls(paused if isinstance(paused, dict) else None, request,
                   _parse_pauses(asked.get('pauses')),
                   stop if isinstance(stop, dict) else None,
                   _parse_skips(asked.get('skips')),
                   _parse_extra(asked.get('extra')),
                   asked.get('handed_in') is True)

    def export(self) -> dict[str, Any]:
        """Return it, fit for JSON."""
        pauses = {'pauses': self.pauses} if self.pauses else {}
        rare = {'stop': self.stop, 'skips': self.skips, 'extra': self.extra,
                'handed_in': self.handed_in}
        return {'paused': self.paused, 'request': self.request, **pauses,
                **{name: each for name, each in rare.items() if each}}

    def encode(self) -> bytes:
        """Return it as JSON, as short as can be: the page on which a lease
        keeper shows it to its holder is small."""
        import json
        return json.dumps(self.export(), ensure_ascii=False,
                          separators=(',', ':')).encode(
                              'utf-8', 'surrogatepass')

    @property
    def skipped(self) -> list[float]:
        """The slots that are not to be run."""
        return [each['slot'] for each in self.skips]

    def resumed(self, now: float) -> Control:
        """Return what is asked when the pause is over.

        :param now: UNIX time.
        """
        since = (self.paused or {}).get('timestamp')
        pauses = self.pauses
        if isinstance(since, int | float) and since < now:
            pauses = [*pauses, (round(since, 3), round(now, 3))]
        return self.changed(paused=None, pauses=pauses[-MAX_PAUSES:])

    def demand(self, token: int | None) -> str | None:
        """Say why the holder with *token* has to release the lock."""
        if self.paused is not None:
            by = self.paused.get('by', 'somebody')
            reason = ' '.join(str(self.paused.get('reason') or '').split())
            return f'paused by {by}: {reason}' if reason else f'paused by {by}'
        request = self.request
        if request is not None and request.get('token') == token:
            return f'{request["do"]} asked for by {request.get("by", "somebody")}'
        return None

    def stop_for(self, token: int | None) -> dict[str, Any] | None:
        """Return what asks the holder with *token* to end its run."""
        stop = self.stop
        return stop if stop and stop.get('token') == token else None

    def interrupts(self, token: int | None) -> bool:
        """Whether the run of the holder with *token* has to end now."""
        if self.paused is not None:
            return bool(self.paused.get('interrupt'))
        request = self.request
        return (request is not None and request.get('token') == token
                and bool(request.get('interrupt')))


def _parse_pauses(found: Any) -> list[tuple[float, float]]:
    if not isinstance(found, list):
        return []
    return [(each[0], each[1]) for each in found[-MAX_PAUSES:]
            if isinstance(each, list) and len(each) == 2
            and all(isinstance(at, int | float) for at in each)]


def _parse_skips(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        return []
    return [each for each in found[-MAX_SKIPS:] if isinstance(each, dict)
            and isinstance(each.get('slot'), int | float)]


def _parse_extra(found: Any) -> dict[str, Any] | None:
    ok = (isinstance(found, dict) and isinstance(found.get('id'), str)
          and isinstance(found.get('tries'), int)
          and isinstance(found.get('slot'), int | float | None))
    return found if ok else None


class Restraint:
    """Decides whether a process that is free to take the lock may do so.

    :param fqdn: of this machine.
    """

    def __init__(self, fqdn: str) -> None:
        self.fqdn = fqdn
        # The request that was seen last, and when it was first seen.
        self._seen: tuple[Any, float] | None = None

    def find(self, control: Control, record: dict[str, Any] | None,
             now: float) -> str | None:
        """Say why this process may not take the lock, ``None`` if it may.

        :param record: what the last holder left.
        :param now: seconds of a clock that does not jump.
        """
        if control.paused is not None:
            return control.demand(None)
        request, record = control.request, record or {}
        if request is None or request.get('token') is None or (
                record.get('token') != request['token']):
            self._seen = None
            return None
        if self._seen is None or self._seen[0] != request['token']:
            self._seen = request['token'], now
        if now >= self._seen[1] + PATIENCE[request['do']]:
            return None
        to = request.get('to')
        if to is not None and to != self.fqdn:
            return f'the lock is handed over to {to}'
        if (record.get('fqdn'), record.get('pid')) == (self.fqdn, os.getpid()):
            return 'the lock was given up for others'
        return None
