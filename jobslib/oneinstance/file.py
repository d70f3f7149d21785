"""A lock of this machine: a kernel lock on a file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import stat
import struct
import time
import weakref

from jobslib.config import option
from jobslib.exceptions import LockUnavailableError
from jobslib.oneinstance import BaseLock

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from jobslib.context import Context
    from jobslib.oneinstance.diagnosis import Finding

__all__ = ['FileLock']

POLL_INTERVAL = 0.1

# struct flock of <fcntl.h>: l_type, l_whence, l_start, l_len, l_pid.
FLOCK = struct.Struct('hhqqi0q')


class FileLock(BaseLock):
    """One instance on this machine, with nothing to install.

    An open file description lock (``F_OFD_SETLK``) on a file named for the
    task.  The kernel frees it when the process ends, however it ends;
    children do not inherit it.  The file holds the owner record and the
    fencing token, as JSON.

    The folder is, unless the option says otherwise, ``jobslib`` in
    ``$XDG_RUNTIME_DIR``, or in ``/run`` for root, or in ``~/.local/state``
    for others.  It has to belong to the user, and nobody else may write to
    it.  ``/run/user/<uid>`` is not used although it is the usual
    ``$XDG_RUNTIME_DIR``: it is absent for services, and removed with all
    locks in it when the user logs out.
    """

    class OptionsConfig(BaseLock.OptionsConfig):
        """Options of :class:`FileLock`."""

        folder = option(
            attrtype=str, env='JOBSLIB_ONE_INSTANCE_FILE_FOLDER',
            metavar='PATH',
            help='Folder of the lock files (default: see FileLock).')

    def __init__(self, context: Context, options: Any) -> None:
        super().__init__(context, options)
        folder = options.folder or default_folder()
        name = _file_name(context.config.task_name)
        self.path = os.path.join(folder, f'{name}.lock')
        self._fd: int | None = None
        self._token: int | None = None
        self._announced = False
        # A forked child must neither keep the lock alive nor hold it.
        forget = weakref.WeakMethod(self._forget)
        os.register_at_fork(
            after_in_child=lambda: (method := forget()) and method())

    @property
    def held(self) -> bool:
        return self._fd is not None

    @property
    def fencing_token(self) -> int | None:
        return self._token

    def acquire(self) -> bool:
        self._refuse_if_held()
        self._announce()
        fd = self._open(os.O_RDWR | os.O_CREAT)
        try:
            if self._lock(fd):
                self.previous_record = _read(fd)
                self._token = _next_token(self.previous_record)
                self._write(fd, self.make_record())
                self._fd = fd
                return True
        except BaseException:
            self._fd = self._token = None
            os.close(fd)
            raise
        os.close(fd)
        return False

    def release(self) -> bool:
        self._refuse_unless_held()
        try:
            ours = self._is_ours()
            if ours and self._fd is not None:
                self._write(self._fd,
                            self.make_record() | {'released': time.time()})
        finally:
            self._forget()
        return ours

    def refresh(self) -> bool:
        self.watchdog.beat()
        return self._is_ours()

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        return self._look()[1]

    def wait(self, timeout: float) -> None:
        ends = time.monotonic() + timeout
        while self._look()[0]:
            left = ends - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_INTERVAL))

    def close(self) -> None:
        self._forget()

    def make_record(self) -> dict[str, Any]:
        return super().make_record() | {'token': self._token}

    def machine(self) -> str:
        """Return the host name alone: the lock is of this machine."""
        return os.uname().nodename

    @classmethod
    def diagnose(cls, context: Context, options: Any) -> list[Finding]:
        from jobslib.oneinstance.filediagnosis import examine
        named = context.config.task_cls is not None
        return examine(options.folder or default_folder(),
                       cls(context, options) if named else None)

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self.logger.info('lock file %s: one instance on this machine '
                             'only', self.path)

    def _open(self, flags: int) -> int:
        try:
            if flags & os.O_CREAT:
                _make_private_folder(os.path.dirname(self.path))
            return os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW,
                           0o600)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise LockUnavailableError(
                f'lock file {self.path}: {exc.strerror}') from exc

    def _look(self) -> tuple[bool, dict[str, Any] | None]:
        """Return whether anybody has the lock, and the record of who."""
        try:
            fd = self._open(os.O_RDONLY)
        except FileNotFoundError:
            return False, None
        try:
            return (True, _read(fd)) if _is_locked(fd) else (False, None)
        finally:
            os.close(fd)

    def _lock(self, fd: int) -> bool:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK,
                        FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise LockUnavailableError(
                f'lock file {self.path}: {exc.strerror}') from exc
        # The file may have been deleted since it was opened; then the lock
        # is one of a file that nobody else will ever open.
        return _same_file(fd, self.path)

    def _is_ours(self) -> bool:
        return self._fd is not None and _same_file(self._fd, self.path)

    def _write(self, fd: int, record: dict[str, Any]) -> None:
        data = json.dumps(record).encode() + b'\n'
        try:
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
        except OSError as exc:
            raise LockUnavailableError(
                f'lock file {self.path}: {exc.strerror}') from exc

    def _forget(self) -> None:
        fd, self._fd, self._token = self._fd, None, None
        if fd is not None:
            os.close(fd)


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


def _make_private_folder(folder: str) -> None:
    os.makedirs(folder, 0o700, exist_ok=True)
    refuse_folder(folder)


def refuse_folder(folder: str) -> None:
    """Refuse a folder that others could tamper with.

    :raises LockUnavailableError: it is such a one.
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


def _file_name(task_name: str) -> str:
    return ''.join(
        c if c.isascii() and (c.isalnum() or c in '._-')
        else ''.join(f'%{byte:02X}' for byte in c.encode())
        for c in task_name)


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _is_locked(fd: int) -> bool:
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _read(fd: int) -> dict[str, Any] | None:
    """Return the record in the file, ``None`` if there is none to read."""
    try:
        record = json.loads(os.pread(fd, 1 << 20, 0))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _next_token(previous: dict[str, Any] | None) -> int:
    # Microseconds of the wall clock as the least value: the token grows
    # even over a file that was deleted or damaged.
    now = time.time_ns() // 1000
    last = (previous or {}).get('token')
    return max(now, last + 1) if isinstance(last, int) else now
