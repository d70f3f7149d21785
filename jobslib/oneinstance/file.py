"""A lock of this machine: a kernel lock on a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import struct
import time
import weakref

from jobslib.config import option
from jobslib.exceptions import LockUnavailableError
from jobslib.history import MAX_SIZE as MAX_HISTORY
from jobslib.history import shortened
from jobslib.keeper import marks, proc, processes
from jobslib.oneinstance import BaseLock, FoundLocks, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.lockfolder import (
    ControlFile,
    default_folder,
    file_name,
    make_private_folder,
)
from jobslib.oneinstance.record import find_unreadable, parse
from jobslib.reading import count, mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.oneinstance.diagnosis import Finding

__all__ = ['FileLock']

# How often a lock that is waited for is looked at, in seconds.
POLL_INTERVAL = 0.1
# What the mark of a holder's runs looks like.
MARKER = '[0-9a-f]{32}'
# A process id that no process has.
NOBODY = -1
# How much of a lock file is read, in bytes.
MAX_SIZE = 1 << 20

# struct flock of <fcntl.h>: l_type, l_whence, l_start, l_len, l_pid.
FLOCK = struct.Struct('hhqqi0q')


class FileLock(BaseLock):
    """One instance on this machine, with nothing to install.

    An open file description lock (``F_OFD_SETLK``) on a file named for the
    task.  The process of a run has the locked file as well, so that the
    kernel frees the lock when the last of them is gone, however they end.
    The file holds the owner record and the fencing token, as JSON.

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
            metavar='PATH', kind='the path of a folder',
            help='Folder of the lock files (default: see FileLock).')

        def validate(self) -> None:
            """Refuse what is only the name of a folder to a shell, or to nobody."""
            super().validate()
            folder = self.folder or ''
            if folder != folder.strip() or folder[:1] in ('~', '$') or '\0' in folder:
                raise self.error(
                    'folder', 'it would be taken as it is written; allowed: a path '
                    'without "~", variables, or spaces at the beginning or end')

    def __init__(self, context: BackendContext, options: Any) -> None:
        super().__init__(context, options)
        # Made absolute here, because a task may change the current folder.
        folder = os.path.abspath(options.folder or default_folder())
        name = file_name(context.config.task_name)
        self.path = os.path.join(folder, f'{name}.lock')
        self._control = ControlFile(os.path.join(folder, f'{name}.control'))
        self._record: dict[str, object] = {}
        self._progress: Mapping[str, object] | None = None
        self._fd: int | None = None
        self._token: int | None = None
        self._announced = False
        # In the run's process: the status of the file that is locked.
        self._locked: os.stat_result | None = None
        self._marker = os.urandom(16).hex()
        # A forked child does not hold the lock, and must not keep it locked when
        # its parent is gone.
        forget = weakref.WeakMethod(self._forget)
        os.register_at_fork(
            after_in_child=lambda: (method := forget()) and method())

    saves_for_nothing = True

    @property
    def held(self) -> bool:
        return self._fd is not None

    @property
    def fencing_token(self) -> int | None:
        return self._token

    @property
    def place(self) -> dict[str, str | None]:
        return super().place | {
            'address': f'this machine, {os.uname().nodename}',
            'key': self.path}

    @property
    def own_record(self) -> dict[str, object]:
        return self._record

    @property
    def control(self) -> Control:
        return self._control.read()

    def acquire(self) -> bool:
        self.refuse_if_held()
        self._announce()
        self.barred = None
        fd = self._open(os.O_RDWR | os.O_CREAT)
        try:
            if ((self._lock(fd) or self._end_orphans(_read(fd))
                 and self._lock(fd))
                    and self._may_take(record := _read(fd))):
                if self._inherit(record):
                    self._end_leftovers(record or {})
                    self._take(fd, record)
                    return True
        except BaseException:
            self._fd = self._token = None
            os.close(fd)
            raise
        os.close(fd)
        return False

    def release(self) -> bool:
        self.refuse_unless_held()
        try:
            ours = self._is_ours()
            if ours and self._fd is not None:
                self._progress = None
                record = self._record | {
                    'schedule': dict(self.schedule), 'released': time.time()}
                if self.history is not None:
                    # It has the runs of those who vanished.
                    record.pop('before', None)
                self._write(self._fd, record)
                # Closed alone, it would stay locked for as long as another
                # process has a copy of the descriptor.
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, FLOCK.pack(
                    fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
        finally:
            self._forget()
        return ours

    def refresh(self) -> bool:
        self.watchdog.beat()
        return self._is_ours()

    def handles(self) -> Sequence[int]:
        return () if self._fd is None else (self._fd,)

    def adopt_handles(self, descriptors: Sequence[int]) -> None:
        self._locked = os.fstat(descriptors[0])

    def refresh_in_run(self) -> bool | None:
        # The descriptor is not used, because the task may have closed it; the
        # status of the file is known.  A task that has changed its user or its
        # root folder may not see the file any more; then the supervisor is asked.
        return self._locked is None or _is_at(self.path, self._locked) or None

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        state = self.look()
        return state.record if state.held else None

    def wait(self, timeout: float) -> None:
        ends = time.monotonic() + timeout
        while (state := self.look()).held or self._find_restraint(
                state.control, state.record):
            if state.held:
                self._end_orphans(state.record)
            left = ends - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_INTERVAL))

    def secure_outcome(self, kept: bool) -> None:
        self.save_history()

    def save_history(self) -> None:
        # Written again with the next run, or on release, which reports it.
        with contextlib.suppress(LockUnavailableError):
            if self._fd is not None and self._is_ours():
                self._record['schedule'] = dict(self.schedule)
                self._write(self._fd, self._record)

    def report_progress(self, progress: Mapping[str, object]) -> None:
        self._progress = progress
        self.save_history()

    def look(self) -> LockState:
        try:
            return _state(self.path, self.control)
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def ask(self, control: Control, expected: Control) -> bool:
        try:
            make_private_folder(os.path.dirname(self.path))
            return self._control.write(control, expected)
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def force_release(self) -> None:
        raise NotImplementedError(
            'the lock of a process of this machine ends with the process: '
            'end that instead')

    @classmethod
    def find_all(cls, context: BackendContext, options: Any,
                 prefix: str | None = None) -> FoundLocks:
        folder = os.path.abspath(options.folder or default_folder())
        found = FoundLocks(f'folder {folder} of {os.uname().nodename}',
                           prefix or '')
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            return found
        except OSError as exc:
            raise LockUnavailableError(
                f'folder {folder}: {exc.strerror}') from exc
        for name in names:
            path, extension = os.path.splitext(os.path.join(folder, name))
            if extension == '.lock':
                try:
                    state = _state(f'{path}.lock',
                                   ControlFile(f'{path}.control').read())
                except PermissionError:
                    found.missing = (
                        f'some may be left out: the permission to read '
                        f'{path}.lock is missing')
                    continue
                except OSError:
                    # It is a folder or a link, and not the file of a lock.
                    continue
                task = state.owner.task
                if task is not None and task.startswith(prefix or ''):
                    found[f'{path}.lock'] = state
        return found

    def close(self) -> None:
        self._forget()

    def make_record(self) -> dict[str, object]:
        return super().make_record() | {
            'token': self._token, 'marker': self._marker,
            'namespace': _namespace()}

    @property
    def marker(self) -> str:
        return self._marker

    def machine(self) -> str:
        """Return the host name alone: the lock is of this machine."""
        return os.uname().nodename

    def _may_take(self, record: dict[str, object] | None) -> bool:
        self.barred = self._find_restraint(self.control, record)
        return self.barred is None

    def _inherit(self, record: Mapping[str, object] | None) -> bool:
        """Take over what the previous holder has left; return whether there is
        something to take the lock for."""
        left = dict(record or {})
        history = mapping(left.pop('history', None))
        left.pop('progress', None)
        self.history = self.previous_history = history or None
        return self.consider(None if record is None else left)

    def _end_orphans(self, record: Mapping[str, object] | None) -> bool:
        """End what keeps the file locked although its holder has died; return
        whether there was something.

        The kernel kills the run's process with its supervisor, unless the task has
        changed its user, or asked the kernel not to.  A copy of the descriptor may
        also be in a process that the task has started.
        """
        record = record or {}
        pid, namespace = count(record.get('pid')), _namespace()
        # In another namespace the process id would be that of somebody else.
        return (pid is not None and namespace > 0
                and record.get('namespace') == namespace
                and not proc.start_time(pid)
                and self._end_leftovers(record) > 0)

    def _end_leftovers(self, record: Mapping[str, object]) -> int:
        """End what a holder that vanished has left running; return how many
        processes that were.

        When its supervisor died, the kernel has killed the run's process, but
        not the processes that this one had started.
        """
        marker = record.get('marker')
        if ('released' in record or not isinstance(marker, str)
                or not re.fullmatch(MARKER, marker)
                # This process is itself one of those, and must not end them: a
                # run may have started it to take its place.
                or marks.is_marked(os.getpid(), marker)):
            return 0
        ended = processes.end(
            NOBODY, None, marker, set(), report=self.logger.warning)
        if ended:
            self.logger.warning('the last holder vanished; ended %d processes '
                                'that it left running', ended)
        return ended

    def _take(self, fd: int, record: dict[str, object] | None) -> None:
        """Become the holder, after the one that left *record*."""
        self._token = _next_token(record)
        self._progress = None
        self._record = self.make_record()
        self._write(fd, self._record)
        self._fd = fd

    @classmethod
    def diagnose(cls, context: BackendContext, options: Any) -> list[Finding]:
        from jobslib.oneinstance.filediagnosis import examine
        folder = options.folder or default_folder()
        if context.config.task_cls is None:
            return examine(folder, None)
        lock = cls(context, options)
        return examine(folder, lock, lock.path)

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self.logger.info('lock file %s: one instance on this machine '
                             'only', self.path)

    def _open(self, flags: int) -> int:
        try:
            if flags & os.O_CREAT:
                make_private_folder(os.path.dirname(self.path))
            return os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW,
                           0o600)
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: OSError) -> LockUnavailableError:
        return LockUnavailableError(f'lock file {self.path}: {exc.strerror}')

    def _lock(self, fd: int) -> bool:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK,
                        FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise self._unavailable(exc) from exc
        # The file may have been deleted since it was opened.  Then others lock
        # another file at this path, and this lock means nothing.
        return _same_file(fd, self.path)

    def _is_ours(self) -> bool:
        return self._fd is not None and _same_file(self._fd, self.path)

    def _write(self, fd: int, record: dict[str, object]) -> None:
        """Write *record*, and what stands beside it."""
        if self._progress is not None:
            record = record | {'progress': self._progress}
        if self.history is not None:
            record = record | {'history': self.history}
        data = json.dumps(record).encode() + b'\n'
        if self.history is not None and len(data) > MAX_HISTORY:
            # Only now it can be the history that is too long.
            record['history'] = shortened(self.history)
            data = json.dumps(record).encode() + b'\n'
        try:
            _reserve(fd, len(data))
            if os.pwrite(fd, data, 0) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(fd, len(data))
        except OSError as exc:
            raise self._unavailable(exc) from exc

    def _forget(self) -> None:
        fd, self._fd, self._token = self._fd, None, None
        if fd is not None:
            os.close(fd)


def _namespace() -> int:
    """Return the number of the namespace in which this process has its id; 0 where
    the kernel does not tell."""
    try:
        return os.stat('/proc/self/ns/pid').st_ino
    except OSError:
        return 0


def _same_file(fd: int, path: str) -> bool:
    return _is_at(path, os.fstat(fd))


def _is_at(path: str, status: os.stat_result) -> bool:
    """Return whether the file with this status is the one at *path*."""
    try:
        return os.path.samestat(status, os.lstat(path))
    except OSError:
        # The file is missing, or cannot be reached at this path.
        return False


def _is_locked(fd: int) -> bool:
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _reserve(fd: int, size: int) -> None:
    """Make room for *size* bytes.

    Otherwise a write to a full disk would be cut short when a part of the old
    record is overwritten already.
    """
    if os.fstat(fd).st_size < size:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def _read(fd: int) -> dict[str, object] | None:
    """Return the record in the file, ``None`` if there is none to read."""
    return parse(_load(fd))


def _load(fd: int) -> bytes:
    # After the first line there may be the rest of a longer record, which the
    # writer has not cut off yet, or did not come to cut off.
    return os.pread(fd, MAX_SIZE, 0).partition(b'\n')[0]


def _state(path: str, control: Control) -> LockState:
    """Return what the lock file at *path* says."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return LockState(False, None, control=control)
    try:
        held, data = _is_locked(fd), _load(fd)
    finally:
        os.close(fd)
    record = parse(data) or {}
    history = mapping(record.pop('history', None))
    progress = mapping(record.pop('progress', None))
    found = LockState(held, record or None, history or None, control, progress)
    found.token = found.owner.token if held else None
    found.unreadable = find_unreadable({'the owner record and the history': data})
    return found


def _next_token(previous: Mapping[str, object] | None) -> int:
    # At least the microseconds of the wall clock, so that the token grows even
    # when the file with the last one was deleted or damaged.
    now = time.time_ns() // 1000
    last = count((previous or {}).get('token'))
    return now if last is None else max(now, last + 1)
