"""The folder of a user's lock files, and the control files in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat

from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.oneinstance.control import Control

__all__ = ['ControlFile', 'default_folder', 'file_name',
           'make_private_folder', 'refuse_folder']

# How much of a control file is read, in bytes.
MAX_SIZE = 1 << 16
# The longest name that Linux allows, without the longest extension.
MAX_NAME = 255 - len('.control.new')


class ControlFile:
    """What operators ask of a job, in a file beside its lock.

    :param path: the path of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._known: tuple[object, Control] = None, Control()

    def read(self) -> Control:
        """Return what is asked; the file is read only when it has changed."""
        try:
            found = os.stat(self.path)
        except OSError:
            return Control()
        # Each write makes a new file.
        version = found.st_ino, found.st_mtime_ns
        if self._known[0] != version:
            self._known = version, Control.parse(self._load())
        return self._known[1]

    def write(self, control: Control, expected: Control) -> bool:
        """Write *control*, unless something else than *expected* is asked by now.

        :returns: whether it was written.
        :raises OSError: the folder does not exist, or cannot be written to.
        """
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        temporary = f'{self.path}.new'
        try:
            # One operator at a time may compare and write.
            fcntl.flock(folder, fcntl.LOCK_EX)
            if Control.parse(self._load()).export() != expected.export():
                return False
            with open(temporary, 'wb') as file:
                file.write(control.encode())
            os.replace(temporary, self.path)
        finally:
            os.close(folder)
        return True

    def _load(self) -> bytes | None:
        with contextlib.suppress(OSError), open(self.path, 'rb') as file:
            return file.read(MAX_SIZE)
        return None


def default_folder() -> str:
    """Return the folder of the lock files of this user."""
    uid = os.geteuid()
    runtime = os.environ.get('XDG_RUNTIME_DIR', '')
    if os.path.isabs(runtime) and runtime.rstrip('/') != f'/run/user/{uid}':
        return os.path.join(runtime, 'jobslib')
    if uid == 0:
        return '/run/jobslib'
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = os.path.expanduser('~')
    return os.path.join(home, '.local', 'state', 'jobslib')


def make_private_folder(folder: str) -> None:
    """Make *folder*, unless it exists.

    :raises LockUnavailableError: others could put a lock file into it.
    """
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
    except FileExistsError:
        # Something that is not a folder has this name; that is refused next.
        pass
    refuse_folder(folder)


def refuse_folder(folder: str) -> None:
    """Refuse a folder that others could tamper with.

    :raises LockUnavailableError: they could; the message says how.
    """
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        problem = 'it is not a folder'
    elif found.st_uid != os.geteuid():
        problem = f'it belongs to user {found.st_uid}'
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = 'others may write to it'
    else:
        return
    raise LockUnavailableError(
        f'folder {folder} cannot hold a lock: {problem}')


def file_name(task_name: str) -> str:
    """Return *task_name* as the name of a file, without an extension.

    :raises ConfigError: it is too long for one.
    """
    name = ''.join(
        c if c.isascii() and (c.isalnum() or c in '._-')
        else ''.join(f'%{byte:02X}' for byte in c.encode('utf-8', 'surrogatepass'))
        for c in task_name)
    if len(name) > MAX_NAME:
        raise ConfigError(
            f'name: {task_name!r} is not allowed; allowed for a lock file: at '
            f'most {MAX_NAME} characters, where each byte that is not an '
            f'ASCII letter, digit, dot, hyphen or underscore takes three')
    return name
