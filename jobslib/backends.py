"""What a lock, a liveness or metrics need of the context that makes them.

The context imports them.  They know it by this type only, so that the imports make
no circle.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ['BackendContext']


class BackendContext(Protocol):
    """The context of a task, as its backends see it.

    Each :class:`jobslib.Context` is one.
    """

    @property
    def config(self) -> Any:
        """The configuration of the job, with the options of the user's own."""

    @property
    def fqdn(self) -> str:
        """The full name of this machine."""
