"""The name of this machine."""

from __future__ import annotations

import functools

__all__ = ['fqdn']


@functools.cache
def fqdn() -> str:
    """Return the full name of this machine, as it was first found."""
    # Imported late: it loads sockets and threads, and records of a log need
    # the name too.
    from jobslib.resolver import machine_name
    return machine_name()
