"""Which keys of Consul a lock can have.

A lock has keys beside its own: what operators ask (``.control``), the history
of the runs and what is handed in for it (``history/``), how far a run is
(``progress/``).  None of them may be the key of another lock: what is written
there would be taken for an owner record, and one of the two jobs would never run.
"""

from __future__ import annotations

import re

from jobslib.consul.connection import refuse_key
from jobslib.exceptions import ConfigError

__all__ = ['DEFAULT_PREFIX', 'refuse_lock_key']

#: Where the keys of locks are, unless they are configured.
DEFAULT_PREFIX = 'jobs/'

FOLDERS = ('history', 'progress')
# Of the control key, and of those that "runjob check" makes for a moment.
BESIDE = re.compile(r'(?P<lock>.+)\.(control|check-[0-9a-f]{32})')


def refuse_lock_key(key: str, source: str = '') -> None:
    """Refuse a key that a lock cannot have.

    :param source: where it is from, if it was given.
    :raises ConfigError: Consul does not take it, or it is a key beside that
        of another lock.
    """
    refuse_key(key, source)
    other = _lock_beside(key)
    if other is not None:
        raise ConfigError(
            f'key: {f"{key!r} from {source}" if source else repr(key)} is not '
            f'allowed: it is a key beside the lock '
            f'{other!r}, and one of the two jobs would never run; choose '
            f'another name for the task, or another key')


def _lock_beside(key: str) -> str | None:
    """Return the lock that has *key* beside it, if one could have it."""
    if match := BESIDE.fullmatch(key):
        return match['lock']
    if key == f'{DEFAULT_PREFIX}lock':
        # The history of this one would be the lock of a task named so.
        return f'{DEFAULT_PREFIX}{FOLDERS[0]}/lock'
    folder, _, name = key.rpartition('/')
    parent, _, last = folder.rpartition('/')
    if last in FOLDERS and key != f'{DEFAULT_PREFIX}{last}/lock':
        return f'{parent}/{name}' if parent else name
    return None
