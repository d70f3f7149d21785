"""What operators ask of a job: to pause, to release its lock, to move."""

from __future__ import annotations

import os

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['Control', 'Restraint']

#: For how long, in seconds, who released the lock when asked to stands back
#: for others, and who a handover passes by, for the one that it is for.
PATIENCE = {'release': 10.0, 'handover': 30.0}


class Control:
    """What is asked of a job, as kept beside its lock.

    A request is meant for one holder, the one with its fencing token, and is
    done with when somebody else has the lock; so it needs no clearing up.

    :param paused: ``by``, ``timestamp`` and more, while the job is paused.
    :param request: ``do`` (``release`` or ``handover``), the ``token`` of the
        holder it is for, ``by``, ``timestamp``, and with a handover ``to``,
        the ``fqdn`` of the machine that is to have the lock, or ``None``.
    """

    def __init__(self, paused: dict[str, Any] | None = None,
                 request: dict[str, Any] | None = None) -> None:
        self.paused = paused
        self.request = request

    @classmethod
    def parse(cls, data: bytes | None) -> Control:
        """Return what *data* asks for; nothing if it cannot be read."""
        from jobslib.oneinstance.record import parse
        asked = parse(data) or {}
        paused, request = asked.get('paused'), asked.get('request')
        if not (isinstance(request, dict)
                and str(request.get('do')) in PATIENCE):
            request = None
        return cls(paused if isinstance(paused, dict) else None, request)

    def export(self) -> dict[str, Any]:
        """Return it, fit for JSON."""
        return {'paused': self.paused, 'request': self.request}

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
