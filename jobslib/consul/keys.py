"""Which keys of Consul a lock can have.

A lock has keys beside its own, see :mod:`jobslib.consul.names`.  None of them
may be the key of another lock: what is written there would be taken for an owner
record, and one of the two jobs would never run.
"""

from __future__ import annotations

import re

from jobslib.consul.connection import refuse_key
from jobslib.consul.names import HISTORY, PROGRESS
from jobslib.exceptions import ConfigError

__all__ = ['DEFAULT_PREFIX', 'refuse_lock_key']

#: What the keys of locks begin with, unless they are configured.
DEFAULT_PREFIX = 'jobs/'

# The control key of a lock, and those that "runjob check" makes for a moment.
BESIDE = re.compile(r'(?P<lock>.+)\.(control|check-[0-9a-f]{32})')


def refuse_lock_key(key: str, source: str = '') -> None:
    """Refuse a key that a lock cannot have.

    :param source: where the key comes from, if it was given.
    :raises ConfigError: Consul does not take it, or it is a key beside another
        lock.
    """
    refuse_key(key, source)
    shown = f'{key!r} from {source}' if source else repr(key)
    if key.endswith('/'):
        raise ConfigError(f'key: {shown} is not allowed: it is that of a folder; '
                          f'allowed: no slash at its end')
    other = _lock_beside(key)
    if other is not None:
        raise ConfigError(
            f'key: {shown} is not allowed: it is a key beside the lock '
            f'{other!r}, and one of the two jobs would never run; choose '
            f'another name for the task, or another key')


def _lock_beside(key: str) -> str | None:
    """Return the lock that would have *key* beside it, if there is one."""
    if match := BESIDE.fullmatch(key):
        return match['lock']
    if key == f'{DEFAULT_PREFIX}lock':
        # By default a task has the key PREFIX/NAME/lock.  The history of this
        # lock would be the lock of a task called "history".
        return f'{DEFAULT_PREFIX}{HISTORY}/lock'
    folder, _, name = key.rpartition('/')
    parent, _, last = folder.rpartition('/')
    if last in (HISTORY, PROGRESS) and key != f'{DEFAULT_PREFIX}{last}/lock':
        return f'{parent}/{name}' if parent else name
    return None
