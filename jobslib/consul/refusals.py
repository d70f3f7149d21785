"""Answers of Consul that are not the ones hoped for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from jobslib.consul import transactions
from jobslib.consul.transport import LIMIT, Response, TransportError

__all__ = ['Refused']


class Refused(Exception):
    """An answer that is not the one hoped for.

    A read that found nothing because the token may not see it is refused with
    403: it does not tell whether there is a key.
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
        """Whether what was asked for is not there."""
        # A 404 without an index is not Consul's.
        return self.status == 404 and bool(self.index)

    @property
    def reason(self) -> str:
        """Consul's words alone, where there are any."""
        return self.text[:200] or f'{self.origin}: status {self.status}'

    def says(self, phrases: Sequence[str]) -> bool:
        """Whether any of *phrases*, in lower case, is among Consul's words."""
        return any(phrase in self.text.lower() for phrase in phrases)

    def __str__(self) -> str:
        text = f'{self.origin}: {self.status} {self.text[:200]}'
        # So newer agents refuse a connection; older ones just end it.
        too_many = self.status == 429 and self.says(('concurrent connections',))
        return f'{text}; {LIMIT}' if too_many else text


def _is_hidden(response: Response) -> bool:
    """Whether nothing was found and something was left out.

    From 1.11 on Consul says so; before, the two look the same.
    """
    return (response.status == 404
            and response.header('X-Consul-Results-Filtered-By-ACLs') == 'true')


def _reason(response: Response) -> str:
    """Why, in Consul's words."""
    if _is_hidden(response):
        return 'Permission denied: the token may not read it'
    if response.status == 409:
        with contextlib.suppress(TransportError, LookupError, TypeError):
            return transactions.reasons(response.json())
    return response.text
