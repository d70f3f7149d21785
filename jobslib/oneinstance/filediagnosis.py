"""Whether a folder can hold lock files, and who holds one of these locks."""

from __future__ import annotations

import os

from jobslib.exceptions import LockUnavailableError
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.diagnosis import (
    DENIED,
    FAILED,
    NOT_TRIED,
    OK,
    Finding,
)
from jobslib.oneinstance.lockfolder import refuse_folder

__all__ = ['examine']


def examine(folder: str, lock: BaseLock | None,
            path: str = '') -> list[Finding]:
    """Return the findings about *folder*, and about *path*, the file of *lock*."""
    found = [_examine_folder(folder)]
    if lock is None:
        found.append(Finding('read the lock file', NOT_TRIED,
                             'no task is named, so the file is not known'))
    elif os.path.lexists(path):
        found.append(_examine_file(lock, path))
    else:
        found.append(Finding(f'read {path}', OK,
                             'nobody has held it yet'))
    return found


def _examine_folder(folder: str) -> Finding:
    what = f'use the folder {folder}'
    if os.path.lexists(folder):
        try:
            refuse_folder(folder)
        except (LockUnavailableError, OSError) as exc:
            return Finding(what, FAILED, str(exc))
        return _examine_access(what, folder)
    parent = os.path.abspath(folder)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    finding = _examine_access(what, parent)
    return (finding._replace(detail='it will be made')
            if finding.result == OK else finding)


def _examine_access(what: str, folder: str) -> Finding:
    if not os.path.isdir(folder):
        return Finding(what, FAILED, f'{folder} is not a folder')
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(what, DENIED, f'{folder} may not be written to',
                       f'write access to {folder}')
    return Finding(what, OK)


def _examine_file(lock: BaseLock, path: str) -> Finding:
    what = f'read {path}'
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding(what, DENIED, 'it may not be read and written',
                       f'read and write access to {path}')
    try:
        state = lock.look()
    except (LockUnavailableError, OSError) as exc:
        return Finding(what, FAILED, str(exc))
    if not state.held:
        return Finding(what, OK, 'free')
    about = state.record or {}
    return Finding(what, OK, f'held by process {about.get("pid")}, since '
                             f'{about.get("time_local")}')
