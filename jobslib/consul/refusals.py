"""What it means when Consul refuses a request.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import contextlib

from jobslib.consul import transactions
from jobslib.consul.transport import LIMIT, Response, TransportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ['BAD_TTL', 'ELSEWHERE', 'NO_NODE', 'UNKNOWN_FIELD', 'Refused',
           'refuse_failure']

# Texts of refusals of sessions, in lower case; those of transactions are in
# :mod:`.transactions`.
#: The node that the session is for is not in the catalog.
NO_NODE = ('missing node registration',)
#: What a session on the agent's own node leads to in another datacenter.
ELSEWHERE = NO_NODE + ('permission denied',)
#: The TTL is outside of what the servers allow.
BAD_TTL = ('invalid session ttl',)
#: There is a field in the request that this version of Consul does not know.
UNKNOWN_FIELD = ('unknown field', 'invalid keys')


class Refused(Exception):
    """An answer by which Consul, or something before it, refuses a request.

    A read that found nothing because the token may not see it counts as refused
    with 403: it does not tell whether the key exists.
    """

    def __init__(self, response: Response) -> None:
        self.status = 403 if _is_hidden(response) else response.status
        super().__init__(self.status)
        self.index = response.index
        self.text = ' '.join(_reason(response).split())
        self.origin = response.origin

    @property
    def is_denied(self) -> bool:
        """Whether the token is the reason: it lacks a right, or is unknown."""
        return (self.status in (401, 403)
                or self.says(transactions.MAY_NOT))

    @property
    def is_missing(self) -> bool:
        """Whether what was asked for does not exist."""
        # A 404 without an index comes from something before Consul.
        return self.status == 404 and bool(self.index)

    @property
    def reason(self) -> str:
        """Consul's words alone, where there are any."""
        return self.text[:200] or f'{self.origin}: status {self.status}'

    def says(self, phrases: Sequence[str]) -> bool:
        """Whether any of *phrases*, in lower case, is among Consul's words."""
        return any(phrase in self.text.lower() for phrase in phrases)

    def conflicts(self, phrases: Sequence[str]) -> bool:
        """Whether a transaction was refused for one of these reasons."""
        return self.status == 409 and self.says(phrases)

    def __str__(self) -> str:
        text = f'{self.origin}: {self.status} {self.text[:200]}'
        # This is how newer agents refuse a connection that is one too many;
        # older ones just end it.
        too_many = self.status == 429 and self.says(('concurrent connections',))
        return f'{text}; {LIMIT}' if too_many else text


def refuse_failure(response: Response) -> None:
    """Raise :class:`Refused` for each status but 200."""
    if response.status != 200:
        raise Refused(response)


def _is_hidden(response: Response) -> bool:
    """Whether nothing was found, and something was left out."""
    return response.status == 404 and response.is_filtered


def _reason(response: Response) -> str:
    """Return why the request was refused, in Consul's words."""
    if _is_hidden(response):
        return 'Permission denied: the token may not read it'
    if response.status == 409:
        # A transaction may have failed for several reasons.
        with contextlib.suppress(TransportError, LookupError, TypeError):
            return '; '.join(
                str(error['What']) for error in response.json()['Errors'])
    return response.text
