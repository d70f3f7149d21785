"""The name of this machine."""

from __future__ import annotations

import functools

__all__ = ['fqdn']


@functools.cache
def fqdn() -> str:
    """Return the full name of this machine; it is looked up once."""
    # Imported here, because it loads sockets and threads, which a process that
    # never needs the name does not.
    from jobslib.resolver import machine_name
    return machine_name()
