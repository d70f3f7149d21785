"""The marks by which is found what a run has started.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

import os

from jobslib.keeper import proc

__all__ = ['is_marked', 'limit_of', 'mark', 'unmark']

#: The environment variable by which what a run has started is recognized.
MARKER_VARIABLE = 'JOBSLIB_LEASE'

# The limit of file locks, which means nothing to any Linux since 2.4.25.  It is
# inherited whatever else a process sheds (environment, parent, session), and
# its value can be a mark.
RLIMIT_LOCKS = 10


def mark(marker: str) -> None:
    """Mark what this process starts from here on with *marker*."""
    os.environ[MARKER_VARIABLE] = marker
    _limit_locks(_number(marker))


def unmark() -> None:
    """Mark no more."""
    os.environ.pop(MARKER_VARIABLE, None)
    _limit_locks(None)


def is_marked(pid: int, marker: str) -> bool:
    """Return whether *pid* has inherited *marker*."""
    # Environment and memory map are looked at as well, because the limits are
    # neither shown nor set everywhere.
    return (limit_of(marker) in proc.read(pid, 'limits')
            or any(marker.encode() in proc.read(pid, name)
                   for name in ('environ', 'maps')))


def limit_of(marker: str) -> bytes:
    """Return what stands in the limits of processes that have *marker*."""
    return b' %d ' % _number(marker)


def _number(marker: str) -> int:
    """Return the limit that stands for *marker*."""
    # So large that no limit set for a purpose is the same, and smaller than
    # "unlimited".
    return int(marker[:15], 16) | 1 << 60


def _limit_locks(number: int | None) -> None:
    # Imported here, because the keeper, which marks nothing, does not need it.
    import resource
    hard = resource.getrlimit(RLIMIT_LOCKS)[1]
    try:
        resource.setrlimit(
            RLIMIT_LOCKS, (hard if number is None else number, hard))
    except (ValueError, OSError):
        # Somebody has set a lower hard limit; then the other marks have to do.
        pass
