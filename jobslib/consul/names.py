"""The names of the keys that a lock has in Consul.

Beside its own key each lock has a control key, for what operators ask of its
job, a key for the history of the runs, with what was handed in for it, and one
for how far the run is.

Standard library only: the lease keeper uses it as well, see
:mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    T = TypeVar('T')

__all__ = ['HISTORY', 'PROGRESS', 'control_key', 'handed_in_key', 'handed_in_of',
           'history_key', 'progress_key', 'scratch_key']

#: The folders, beside the locks, of their histories and of how far runs are.
HISTORY, PROGRESS = 'history', 'progress'


def control_key(key: str) -> str:
    """Return the key of what operators ask of the job whose lock is *key*.

    It begins with *key*, so that one query for that prefix watches both.
    """
    return f'{key}.control'


def scratch_key(key: str, name: str) -> str:
    """Return the key that ``runjob check`` makes for a moment, by *name*."""
    return f'{key}.check-{name}'


def history_key(key: str) -> str:
    """Return the key of the history of the job whose lock is *key*."""
    return _beside(key, HISTORY)


def handed_in_key(key: str, name: str = '') -> str:
    """Return the key of what was handed in for that history by *name*.

    It begins with the key of the history, so that one read finds both.
    """
    return f'{history_key(key)}.handed.{name}'


def handed_in_of(key: str, values: Mapping[str, T]) -> dict[str, T]:
    """Return what was handed in for the history of the job, by name.

    :param key: the lock of the job.
    :param values: what was read, by keys.
    """
    prefix = handed_in_key(key)
    return {name[len(prefix):]: value for name, value in values.items()
            if name.startswith(prefix)}


def progress_key(key: str) -> str:
    """Return the key of how far the run is, for the job whose lock is *key*."""
    return _beside(key, PROGRESS)


def _beside(key: str, folder: str) -> str:
    # These keys must not begin with the key of the lock.  Whoever waits for the lock
    # watches all keys that do, and these change too often.
    parent, slash, name = key.rpartition('/')
    return f'{parent}{slash}{folder}/{name}'
