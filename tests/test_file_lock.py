"""The lock of this machine, with real processes and real files."""

import calendar
import contextlib
import datetime
import json
import os
import pathlib
import re
import signal
import sys
import threading
import time
from typing import Any

import pytest
from support import DEADLINE, Process, environment, make_file_lock, until

from jobslib.exceptions import (
    ConfigError,
    LockAlreadyHeldError,
    LockNotHeldError,
    LockUnavailableError,
)
from jobslib.history import MAX_SIZE
from jobslib.keeper import proc
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.file import FileLock
from jobslib.oneinstance.lockfolder import MAX_NAME, default_folder
from jobslib.oneinstance.requests import Pause

HOLDER = '''
import pathlib, sys
sys.path.insert(0, {tests!r})
from support import make_file_lock
lock = make_file_lock(pathlib.Path({folder!r}))
print('acquired', lock.acquire(), lock.fencing_token, flush=True)
{more}
sys.stdin.readline()
'''

FORK = '''
import os
if os.fork() == 0:
    print('child holds', lock.held, lock.fencing_token, lock.refresh(),
          flush=True)
    sys.stdin.readline()
    os._exit(0)
'''

SUBPROCESS = '''
import subprocess
child = subprocess.Popen([sys.executable, '-c',
    'import sys; print("child runs", flush=True); sys.stdin.readline()'])
'''

RUBBISH = [b'', b'\0' * 4096, b'{"token": 1', b'[]', b'5', b'null', b'"x"',
           b'\xff\xfe\xfd', os.urandom(4096), b'[' * 100_000,
           b'{"token": null}', b'{"token": "x"}', b'{"token": 1e300}',
           b'{"token": -5}', b'{"token": true}', b'{"schedule": 5}',
           b'x' * (2 << 20)]


def holder(folder: pathlib.Path, more: str = '') -> Process:
    """Return a process that holds the lock in *folder* until it is told."""
    here = str(pathlib.Path(__file__).parent)
    return Process(folder.parent, '-c', HOLDER.format(
        tests=here, folder=str(folder), more=more))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of the lock file, which does not exist yet."""
    return tmp_path / 'locks'


def record_of(lock: FileLock) -> Any:
    """Return what stands in the file of *lock*."""
    return json.loads(pathlib.Path(lock.path).read_bytes())


def test_acquire_and_release(folder: pathlib.Path) -> None:
    """A lock is acquired and released as often as one likes."""
    lock = make_file_lock(folder)
    for _ in range(3):
        assert not lock.held
        assert lock.acquire() is True
        assert lock.held
        assert lock.refresh() is True
        assert lock.release() is True
    assert not lock.held


def test_misuse(folder: pathlib.Path) -> None:
    """Acquiring twice and releasing what is not held are errors."""
    lock = make_file_lock(folder)
    with pytest.raises(LockNotHeldError) as not_held:
        lock.release()
    assert str(not_held.value) == (
        'the lock of plain is not held by this process')
    lock.acquire()
    with pytest.raises(LockAlreadyHeldError) as held:
        lock.acquire()
    assert str(held.value) == (
        'the lock of plain is held by this process already')
    assert lock.held
    lock.release()
    with pytest.raises(LockNotHeldError):
        lock.release()


def test_refresh_of_a_free_lock(folder: pathlib.Path) -> None:
    """A lock that is not held is not ours at this moment."""
    assert make_file_lock(folder).refresh() is False


def test_refresh_is_the_heartbeat(folder: pathlib.Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh is the heartbeat of the run."""
    lock = make_file_lock(folder)
    beats = []
    monkeypatch.setattr(lock.watchdog, 'beat', lambda: beats.append(True))
    lock.acquire()
    lock.refresh()
    assert beats == [True]
    lock.close()


def test_watchdog_is_as_the_options_say(folder: pathlib.Path) -> None:
    """The options say how long a run may be silent, and stop for."""
    watchdog: Any = make_file_lock(folder).watchdog
    assert (watchdog.grace, watchdog.heartbeat) == (3, None)
    watchdog = make_file_lock(folder, grace=1, heartbeat=5).watchdog
    assert (watchdog.grace, watchdog.heartbeat) == (1, 5)


def test_two_locks_in_one_process(folder: pathlib.Path) -> None:
    """Two locks of one name exclude each other in one process as well."""
    first, second = make_file_lock(folder), make_file_lock(folder)
    assert first.acquire()
    assert second.acquire() is False
    assert not second.held
    assert first.refresh()
    assert first.release()
    assert second.acquire()
    assert first.acquire() is False
    second.close()


def test_failed_acquire_does_not_free(folder: pathlib.Path) -> None:
    """Who did not get the lock takes nothing from who has it."""
    first = make_file_lock(folder)
    first.acquire()
    for _ in range(3):
        assert not make_file_lock(folder).acquire()
    info = first.get_lock_owner_info()
    assert info is not None
    assert info['token'] == first.fencing_token
    first.close()


def test_names_do_not_exclude(folder: pathlib.Path) -> None:
    """Locks of two names have nothing to do with each other."""
    locks = [make_file_lock(folder, name)
             for name in ('a', 'a.b', 'a/b', 'a%2Fb', '..', '../a', 'A', 'ä')]
    assert len({lock.path for lock in locks}) == len(locks)
    for lock in locks:
        assert lock.acquire()
        assert os.path.dirname(os.path.realpath(lock.path)) == str(folder)
        assert os.listdir(folder).count(os.path.basename(lock.path)) == 1
    for lock in locks:
        lock.close()


def test_close(folder: pathlib.Path) -> None:
    """Closing frees the lock, held or not, and as often as one likes."""
    lock = make_file_lock(folder)
    lock.close()
    lock.acquire()
    lock.close()
    lock.close()
    assert not lock.held
    assert lock.fencing_token is None
    other = make_file_lock(folder)
    assert other.acquire()
    other.close()


def test_open_files(folder: pathlib.Path) -> None:
    """Whatever becomes of it, a lock leaves no file open."""
    before = os.listdir('/proc/self/fd')
    first, second = make_file_lock(folder), make_file_lock(folder)
    for _ in range(3):
        first.acquire()
        second.acquire()
        second.get_lock_owner_info()
        second.wait(0)
        first.release()
    assert os.listdir('/proc/self/fd') == before


def test_excludes_other_processes(folder: pathlib.Path) -> None:
    """While a process holds the lock no other gets it."""
    lock = make_file_lock(folder)
    with holder(folder) as process:
        process.wait_for('acquired True')
        assert lock.acquire() is False
        with holder(folder) as second:
            second.wait_for('acquired False None')
        process.stdin.write(b'\n')
        process.stdin.flush()
        process.wait()
        assert lock.acquire() is True
        lock.release()


@pytest.mark.parametrize('signum', [signal.SIGKILL, signal.SIGSEGV])
def test_death_frees(folder: pathlib.Path, signum: signal.Signals) -> None:
    """A process that dies, however it dies, frees its lock."""
    lock = make_file_lock(folder)
    with holder(folder) as process:
        process.wait_for('acquired True')
        process.send(signum)
        process.wait()
        assert lock.acquire() is True
        lock.release()


def test_a_stopped_process_keeps_its_lock(folder: pathlib.Path) -> None:
    """A process that is stopped still holds its lock."""
    lock = make_file_lock(folder)
    with holder(folder) as process:
        process.wait_for('acquired True')
        process.send(signal.SIGSTOP)
        assert lock.acquire() is False


def test_forked_child_does_not_hold(folder: pathlib.Path) -> None:
    """A forked child does not hold the lock, and keeps it for nobody."""
    lock = make_file_lock(folder)
    with holder(folder, FORK) as process:
        process.wait_for('child holds False None False')
        assert lock.acquire() is False
        process.send(signal.SIGKILL)
        process.wait()
        assert lock.acquire() is True
        lock.release()


def test_started_child_does_not_keep(folder: pathlib.Path) -> None:
    """A process that the holder started keeps its lock for nobody."""
    lock = make_file_lock(folder)
    with holder(folder, SUBPROCESS) as process:
        process.wait_for('child runs')
        process.send(signal.SIGKILL)
        process.wait()
        assert lock.acquire() is True
        lock.release()


def test_child_does_not_take_from_its_parent(folder: pathlib.Path) -> None:
    """A forked child that closes the lock leaves the parent's alone."""
    lock = make_file_lock(folder)
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        lock.close()
        os._exit(0 if not lock.held else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert lock.refresh()
    assert not make_file_lock(folder).acquire()
    lock.close()


def test_a_lock_that_is_gone_is_left_alone_at_a_fork(
        folder: pathlib.Path) -> None:
    """Locks that are not used any more do not stay for the next fork."""
    lock = make_file_lock(folder)
    lock.acquire()
    path = lock.path
    lock.close()
    del lock
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.path.exists(path)


def test_owner_info(folder: pathlib.Path) -> None:
    """The owner record says who holds the lock, since when, and its token."""
    lock, other = make_file_lock(folder), make_file_lock(folder)
    lock.schedule = {'origin': 1.5, 'due': 2.5}
    before = time.time()
    lock.acquire()
    info = other.get_lock_owner_info()
    assert info is not None
    assert before <= info.pop('timestamp') <= time.time()
    utc = time.strptime(info.pop('time_utc'), '%Y-%m-%dT%H:%M:%SZ')
    assert 0 <= calendar.timegm(utc) - int(before) <= 1 + DEADLINE
    local = datetime.datetime.fromisoformat(info.pop('time_local'))
    assert local.timestamp() == calendar.timegm(utc)
    assert info == {
        'fqdn': os.uname().nodename, 'pid': os.getpid(), 'task': 'plain',
        'schedule': {'origin': 1.5, 'due': 2.5},
        'token': lock.fencing_token, 'marker': lock.marker,
        'namespace': os.stat('/proc/self/ns/pid').st_ino}
    lock.close()


def test_owner_info_of_another_process(folder: pathlib.Path) -> None:
    """The owner record of another process is read without disturbing it."""
    lock = make_file_lock(folder)
    with holder(folder) as process:
        process.wait_for('acquired True')
        for _ in range(2):
            info = lock.get_lock_owner_info()
            assert info is not None
            assert info['pid'] == process.popen.pid
        assert not lock.acquire()


def test_no_owner_info_when_free(folder: pathlib.Path) -> None:
    """Nobody holds a lock that is new, was released, or whose holder died."""
    lock = make_file_lock(folder)
    assert lock.get_lock_owner_info() is None
    lock.acquire()
    lock.release()
    assert lock.get_lock_owner_info() is None
    lock.acquire()
    lock.close()
    assert lock.get_lock_owner_info() is None


def test_asking_creates_nothing(folder: pathlib.Path) -> None:
    """Asking for the owner creates neither folder nor file."""
    make_file_lock(folder).get_lock_owner_info()
    make_file_lock(folder).wait(0)
    assert not folder.exists()


def test_previous_record(folder: pathlib.Path) -> None:
    """The lock shows what the last holder left, and whether it released."""
    lock = make_file_lock(folder)
    lock.acquire()
    assert lock.previous_record is None
    token = lock.fencing_token
    lock.schedule = {'due': 5.0}
    before = time.time()
    lock.release()
    lock.acquire()
    assert lock.previous_record is not None
    assert lock.previous_record['token'] == token
    assert lock.previous_record['schedule'] == {'due': 5.0}
    assert before <= lock.previous_record['released'] <= time.time()
    lock.close()
    lock.acquire()
    assert 'released' not in lock.previous_record
    lock.close()


def test_release_keeps_the_file(folder: pathlib.Path) -> None:
    """The file stays, private, for the next holder to lock."""
    lock = make_file_lock(folder)
    lock.acquire()
    inode = os.stat(lock.path).st_ino
    lock.release()
    found = os.stat(lock.path)
    assert (found.st_ino, found.st_mode & 0o777) == (inode, 0o600)
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_token_grows(folder: pathlib.Path) -> None:
    """The token grows with each acquisition, and is gone without the lock."""
    lock = make_file_lock(folder)
    last = 0
    for _ in range(50):
        assert lock.fencing_token is None
        lock.acquire()
        assert lock.fencing_token is not None
        assert lock.fencing_token > last
        last = lock.fencing_token
        lock.release()


def test_token_grows_by_the_file(folder: pathlib.Path) -> None:
    """The token grows over one in the file that a clock was ahead for."""
    lock = make_file_lock(folder)
    lock.acquire()
    ahead = time.time_ns() // 1000 + 10 ** 12
    pathlib.Path(lock.path).write_text(json.dumps({'token': ahead}))
    lock.close()
    lock.acquire()
    assert lock.fencing_token == ahead + 1
    lock.close()


@pytest.mark.parametrize('content', RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish(folder: pathlib.Path, content: bytes) -> None:
    """A file of rubbish is locked, and the token grows all the same."""
    lock = make_file_lock(folder)
    lock.acquire()
    last = lock.fencing_token
    lock.release()
    pathlib.Path(lock.path).write_bytes(content)
    assert lock.get_lock_owner_info() is None
    assert lock.acquire()
    assert last is not None
    assert lock.fencing_token is not None
    assert lock.fencing_token > last
    assert record_of(lock)['token'] == lock.fencing_token
    assert not make_file_lock(folder).acquire()
    assert lock.release()
    assert 'released' in record_of(lock)


@pytest.mark.parametrize('content', RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_while_held(folder: pathlib.Path, content: bytes) -> None:
    """A file that is damaged while its lock is held stays locked."""
    lock, other = make_file_lock(folder), make_file_lock(folder)
    lock.acquire()
    pathlib.Path(lock.path).write_bytes(content)
    other.get_lock_owner_info()
    assert not other.acquire()
    assert lock.refresh()
    assert lock.release()
    assert other.acquire()
    other.close()


def test_wait_for_a_holder_that_cannot_be_read(folder: pathlib.Path) -> None:
    """A lock whose record is damaged is waited for as any other."""
    lock, other = make_file_lock(folder), make_file_lock(folder)
    lock.acquire()
    pathlib.Path(lock.path).write_bytes(b'')
    assert other.get_lock_owner_info() is None
    started = time.monotonic()
    other.wait(0.05)
    assert time.monotonic() - started >= 0.05
    lock.close()


def test_rest_of_a_longer_record(folder: pathlib.Path) -> None:
    """A writer that was killed before it cut the file has left a record."""
    lock, other = make_file_lock(folder), make_file_lock(folder)
    lock.acquire()
    lock.history = {'runs': 7, 'newest': []}
    lock.release()
    with open(lock.path, 'ab') as file:
        file.write(b'": "the rest of a longer one"}\n')
    assert other.look().history == {'runs': 7, 'newest': []}
    assert other.acquire()
    assert other.previous_history == {'runs': 7, 'newest': []}
    assert other.previous_record is not None
    other.close()


def test_every_cut_of_the_file(folder: pathlib.Path) -> None:
    """A file that is cut short anywhere is locked and written anew."""
    lock = make_file_lock(folder)
    lock.acquire()
    lock.close()
    content = pathlib.Path(lock.path).read_bytes()
    last = json.loads(content)['token']
    for length in range(len(content)):
        pathlib.Path(lock.path).write_bytes(content[:length])
        assert lock.acquire()
        assert lock.fencing_token is not None
        assert lock.fencing_token > last
        last = lock.fencing_token
        assert record_of(lock)['token'] == last
        lock.close()


def test_deleted_file_is_noticed(folder: pathlib.Path) -> None:
    """A holder whose file was deleted notices, and has nothing to release."""
    lock, other = make_file_lock(folder), make_file_lock(folder)
    lock.acquire()
    token = lock.fencing_token
    os.unlink(lock.path)
    assert lock.refresh() is False
    assert other.acquire()
    assert token is not None
    assert other.fencing_token is not None
    assert other.fencing_token > token
    assert lock.refresh() is False
    assert lock.release() is False
    assert not lock.held
    assert other.refresh()
    assert record_of(other)['token'] == other.fencing_token
    assert 'released' not in record_of(other)
    other.close()


def test_deleted_folder_is_noticed(folder: pathlib.Path) -> None:
    """A holder whose folder was moved away notices."""
    lock = make_file_lock(folder)
    lock.acquire()
    os.rename(folder, folder.parent / 'away')
    assert lock.refresh() is False
    lock.close()
    assert lock.acquire()
    lock.close()


def test_folder_that_became_a_file(folder: pathlib.Path) -> None:
    """A lock whose place is none any more is lost, without an error."""
    lock = make_file_lock(folder)
    assert lock.acquire()
    folder.rename(folder.with_name('moved'))
    folder.write_text('')
    assert not lock.refresh()
    assert not lock.release()


def test_other_things_in_the_folder(folder: pathlib.Path) -> None:
    """What is called like a lock file and is none hides no other."""
    lock = make_file_lock(folder)
    assert lock.acquire()
    (folder / 'folder.lock').mkdir()
    (folder / 'link.lock').symlink_to('/nowhere')
    assert list(FileLock.find_all(lock.context, lock.options)) == [lock.path]
    lock.close()


def test_deleted_between_open_and_lock(
        folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is deleted while it is being locked is not held."""
    lock = make_file_lock(folder)
    opened = lock._open

    def open_and_delete(flags: int) -> int:
        fd = opened(flags)
        os.unlink(lock.path)
        return fd

    before = os.listdir('/proc/self/fd')
    with monkeypatch.context() as patch:
        patch.setattr(lock, '_open', open_and_delete)
        assert lock.acquire() is False
    assert not lock.held
    assert os.listdir('/proc/self/fd') == before
    assert lock.acquire()
    lock.close()


def test_error_in_the_record(folder: pathlib.Path) -> None:
    """An error while the record is made leaves nothing locked or open."""
    class Broken(FileLock):
        def make_record(self) -> dict[str, Any]:
            raise ZeroDivisionError

    good = make_file_lock(folder)
    before = os.listdir('/proc/self/fd')
    lock = Broken(good.context, good.options)
    with pytest.raises(ZeroDivisionError):
        lock.acquire()
    assert not lock.held
    assert lock.fencing_token is None
    assert os.listdir('/proc/self/fd') == before
    assert good.acquire()
    good.close()


def test_error_at_release(folder: pathlib.Path) -> None:
    """A release that cannot write its record frees the lock all the same."""
    class Full(FileLock):
        full = False

        def _write(self, fd: int, record: dict[str, Any]) -> None:
            if self.full:
                raise LockUnavailableError('no space left')
            super()._write(fd, record)

    good = make_file_lock(folder)
    lock = Full(good.context, good.options)
    lock.acquire()
    lock.full = True
    with pytest.raises(LockUnavailableError):
        lock.release()
    assert not lock.held
    assert good.acquire()
    good.close()


FULL = '''
import resource
lock.release()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    lock.acquire()
except Exception as exc:
    import os
    os.write(1, f'{type(exc).__name__}: {exc}; held: {lock.held}\\n'.encode())
'''


def test_no_space(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A file that cannot be written is an error, and nothing is locked."""
    reader, writer = os.pipe()
    here = str(pathlib.Path(__file__).parent)
    script = HOLDER.format(tests=here, folder=str(folder), more=FULL)
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execve(sys.executable, [sys.executable, '-c', script],
                  environment(tmp_path))
    os.close(writer)
    with open(reader, encoding='utf-8') as output:
        text = output.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert text.splitlines()[1] == (
        f'LockUnavailableError: lock file {folder}/plain.lock: '
        f'File too large; held: False')


NO_ROOM = '''
import os, resource
lock.history = {'runs': 5, 'newest': [{'run': 5}]}
lock.save_history()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
lock.history = {'runs': 90, 'newest': [{'error': 'x' * 200}] * 90}
lock.save_history()
try:
    lock.release()
except Exception as exc:
    print(f'{type(exc).__name__}: {exc}; held: {lock.held}', flush=True)
'''


def test_no_space_for_a_longer_record(folder: pathlib.Path) -> None:
    """What stands in the file stays there when there is no room for more."""
    with holder(folder, NO_ROOM) as process:
        process.wait_for('File too large; held: False')
    lock = make_file_lock(folder)
    assert lock.acquire()
    assert lock.previous_history == {'runs': 5, 'newest': [{'run': 5}]}
    assert lock.release()


def test_size_of_the_history_is_bounded(folder: pathlib.Path) -> None:
    """Of a history that is too long the oldest runs are left out."""
    lock = make_file_lock(folder)
    assert lock.acquire()
    runs = [{'run': number, 'error': 'x' * 200} for number in range(1000)]
    lock.history = {'runs': 1000, 'newest': runs}
    assert lock.release()
    assert MAX_SIZE / 2 < (folder / 'plain.lock').stat().st_size < MAX_SIZE * 1.1
    state = lock.look()
    assert state.history is not None
    newest = state.history['newest']
    assert state.history['runs'] == 1000 and newest == runs[-len(newest):]


def test_wait_for_a_free_lock(folder: pathlib.Path) -> None:
    """Waiting for a free lock takes no time."""
    lock = make_file_lock(folder)
    lock.wait(60)
    lock.acquire()
    lock.release()
    started = time.monotonic()
    lock.wait(60)
    assert time.monotonic() - started < 5


def test_wait_ends(folder: pathlib.Path) -> None:
    """Waiting for a lock that stays held ends after the timeout."""
    lock, other = make_file_lock(folder), make_file_lock(folder)
    lock.acquire()
    started = time.monotonic()
    other.wait(0.15)
    assert 0.15 <= time.monotonic() - started < 5
    lock.close()


def test_wait_returns_on_release(folder: pathlib.Path) -> None:
    """Waiting for a held lock ends when it is released."""
    lock, other = make_file_lock(folder), make_file_lock(folder)
    lock.acquire()
    waiter = threading.Thread(target=other.wait, args=(60,), daemon=True)
    waiter.start()
    waiter.join(0.15)
    assert waiter.is_alive()
    lock.release()
    waiter.join(5)
    assert not waiter.is_alive()


def test_wait_returns_on_death(folder: pathlib.Path) -> None:
    """Waiting for a held lock ends when its process dies."""
    lock = make_file_lock(folder)
    with holder(folder) as process:
        process.wait_for('acquired True')
        waiter = threading.Thread(target=lock.wait, args=(60,), daemon=True)
        waiter.start()
        process.send(signal.SIGKILL)
        waiter.join(5)
        assert not waiter.is_alive()


def refused(lock: FileLock) -> str:
    """Return why *lock* cannot be acquired."""
    with pytest.raises(LockUnavailableError) as caught:
        lock.acquire()
    assert not lock.held
    return str(caught.value)


def test_folder_that_is_a_link(folder: pathlib.Path,
                               tmp_path: pathlib.Path) -> None:
    """A folder that somebody planted as a symbolic link is refused."""
    (tmp_path / 'elsewhere').mkdir(0o700)
    folder.symlink_to(tmp_path / 'elsewhere')
    assert refused(make_file_lock(folder)) == (
        f'folder {folder} cannot hold a lock: it is not a folder')
    assert os.listdir(tmp_path / 'elsewhere') == []


def test_folder_of_another_user(folder: pathlib.Path) -> None:
    """A folder that another user planted is refused."""
    if os.geteuid() == 0:
        folder.mkdir(0o700)
        os.chown(folder, 65534, -1)
        owner = 65534
    else:
        folder, owner = pathlib.Path('/usr'), 0
    assert refused(make_file_lock(folder)) == (
        f'folder {folder} cannot hold a lock: it belongs to user {owner}')


@pytest.mark.parametrize('mode', [0o720, 0o702, 0o777, 0o1777])
def test_folder_that_others_may_write_to(folder: pathlib.Path,
                                         mode: int) -> None:
    """A folder that others may write to is refused."""
    folder.mkdir()
    folder.chmod(mode)
    assert refused(make_file_lock(folder)) == (
        f'folder {folder} cannot hold a lock: others may write to it')


def test_folder_that_others_may_read(folder: pathlib.Path) -> None:
    """A folder that others may only read is good enough."""
    folder.mkdir()
    folder.chmod(0o755)
    lock = make_file_lock(folder)
    assert lock.acquire()
    lock.close()


def test_folder_that_is_a_file(folder: pathlib.Path) -> None:
    """A folder that is a file is refused."""
    folder.write_text('')
    assert str(folder) in refused(make_file_lock(folder))


def test_file_that_is_a_link(folder: pathlib.Path,
                             tmp_path: pathlib.Path) -> None:
    """A lock file that is a symbolic link is refused, its target kept."""
    folder.mkdir(0o700)
    target = tmp_path / 'target'
    target.write_text('precious')
    lock = make_file_lock(folder)
    os.symlink(target, lock.path)
    assert refused(lock).startswith(f'lock file {lock.path}: ')
    assert target.read_text() == 'precious'


def test_file_that_is_a_folder(folder: pathlib.Path) -> None:
    """A lock file that is a folder is refused."""
    lock = make_file_lock(folder)
    os.makedirs(lock.path, 0o700)
    assert refused(lock) == f'lock file {lock.path}: Is a directory'


def test_names_that_no_file_can_have(folder: pathlib.Path) -> None:
    """A name that is too long is refused; others are escaped."""
    longest = 'x' * MAX_NAME
    for name in longest, 'no \udcff', 'ä' * 40:
        lock = make_file_lock(folder, name)
        assert lock.ask(Control(Pause('me')), Control())
        assert not lock.acquire()
        assert lock.ask(Control(), Control(Pause('me')))
        assert lock.acquire() and lock.release()
    for name in f'{longest}x', 'ä' * 41:
        with pytest.raises(ConfigError) as caught:
            make_file_lock(folder, name)
        assert str(caught.value).startswith(f'name: {name!r} is not allowed')


def test_relative_folder(tmp_path: pathlib.Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock stays where it is when the task changes its folder."""
    monkeypatch.chdir(tmp_path)
    lock = make_file_lock(pathlib.Path('locks'))
    assert lock.acquire()
    os.chdir('/')
    assert lock.refresh()
    assert lock.release()
    assert (tmp_path / 'locks' / 'plain.lock').exists()


def test_announced_once(folder: pathlib.Path,
                        caplog: pytest.LogCaptureFixture) -> None:
    """The log says once how far the lock reaches."""
    caplog.set_level('INFO')
    lock = make_file_lock(folder)
    for _ in range(2):
        lock.acquire()
        lock.release()
    assert caplog.messages == [
        f'lock file {lock.path}: one instance on this machine only']


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is in the runtime folder, or in one that outlives logins."""
    uid = os.geteuid()
    monkeypatch.setenv('XDG_RUNTIME_DIR', '/x')
    assert default_folder() == '/x/jobslib'
    lasting = []
    for unfit in '', 'relative', f'/run/user/{uid}', f'/run/user/{uid}/':
        monkeypatch.setenv('XDG_RUNTIME_DIR', unfit)
        lasting.append(default_folder())
    monkeypatch.delenv('XDG_RUNTIME_DIR')
    assert set(lasting) == {default_folder()}
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    assert default_folder() == '/run/jobslib'


def test_default_folder_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a user that is not root is in the user's home."""
    monkeypatch.delenv('XDG_RUNTIME_DIR', raising=False)
    monkeypatch.setenv('HOME', '/x')
    monkeypatch.setattr(os, 'geteuid', lambda: 2 ** 32 - 2)
    assert default_folder() == '/x/.local/state/jobslib'
    import pwd
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid)
    monkeypatch.setattr(os, 'geteuid', lambda: user.pw_uid)
    assert default_folder() == f'{user.pw_dir}/.local/state/jobslib'


def test_default_is_used(tmp_path: pathlib.Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option the lock file lies in the default folder."""
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(tmp_path))
    good = make_file_lock(tmp_path)
    options = FileLock.OptionsConfig({}, None)
    lock = FileLock(good.context, options)
    assert lock.path == f'{tmp_path}/jobslib/plain.lock'
    assert lock.acquire()
    lock.close()


def test_many_processes(folder: pathlib.Path) -> None:
    """Of many processes that want the lock at once one gets it."""
    processes = [holder(folder) for _ in range(4)]
    entered = []
    try:
        for process in processes:
            entered.append(process.__enter__())
        until(lambda: all('acquired' in one.output for one in entered))
        outputs = ''.join(one.output for one in entered)
        assert outputs.count('acquired True') == 1
        assert outputs.count('acquired False') == 3
    finally:
        for process in entered:
            process.__exit__()


LEAVING = """
import subprocess
from jobslib.history import MAX_SIZE
from jobslib.keeper import marks
marks.mark(lock.marker)
child = subprocess.Popen(['sleep', '3600'], start_new_session=True, env={})
print(f'left {child.pid}.', flush=True)
"""


@pytest.mark.parametrize('released', [False, True])
def test_what_the_last_holder_has_left(
        released: bool, tmp_path: pathlib.Path,
        caplog: pytest.LogCaptureFixture) -> None:
    """It is ended by the next one if the holder vanished, and not else."""
    more = LEAVING + 'lock.release()\n' * released
    with holder(tmp_path, f'{more}print("done", flush=True)') as process:
        process.wait_for('done')
        found = re.search(r'left (\d+)\.', process.output)
        assert found is not None
        pid = int(found[1])
        process.send(signal.SIGKILL)
        process.wait()
        try:
            lock = make_file_lock(tmp_path)
            assert lock.acquire()
            assert bool(proc.start_time(pid)) == released
            assert (('the last holder vanished; ended 1 processes that it left '
                     'running') in caplog.messages) != released
            assert lock.release()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# What goes on has a copy of the locked descriptor.
KEEPING = """
import os, subprocess
from jobslib.keeper import marks
marks.mark(lock.marker)
copy = os.dup(*lock.handles())
child = subprocess.Popen(['sleep', '3600'], start_new_session=True, env={},
                         pass_fds=[copy])
os.close(copy)
print(f'left {child.pid}.', flush=True)
"""


def test_kernel_that_tells_no_namespace(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is taken all the same, and nothing that keeps it is ended."""
    def refuse(path: Any, **more: Any) -> os.stat_result:
        if path == '/proc/self/ns/pid':
            raise FileNotFoundError(path)
        return stat(path, **more)

    stat = os.stat
    monkeypatch.setattr(os, 'stat', refuse)
    lock, other = make_file_lock(tmp_path), make_file_lock(tmp_path)
    assert lock.acquire()
    # As if the holder had died.
    lock._record['pid'] = 1 << 22
    lock.save_history()
    assert not other.acquire()
    assert lock.release()


@pytest.mark.parametrize('waits', [False, True])
@pytest.mark.parametrize(('more', 'ends'), [
    # Of a holder in another namespace nothing is known.
    ('', True), ('lock._record["namespace"] = 1\nlock.save_history()\n', False)])
def test_what_keeps_the_file_locked(
        waits: bool, more: str, ends: bool, tmp_path: pathlib.Path) -> None:
    """What a holder that died has left cannot keep the lock: it is ended by whoever
    asks for the lock, or waits for it."""
    program = f'{KEEPING}{more}print("done", flush=True)'
    with holder(tmp_path, program) as process:
        process.wait_for('done')
        found = re.search(r'left (\d+)\.', process.output)
        assert found is not None
        pid = int(found[1])
        lock = make_file_lock(tmp_path)
        try:
            assert not lock.acquire()
            lock.wait(0.2)
            # While its holder lives, it is left alone.
            assert proc.start_time(pid)
            process.send(signal.SIGKILL)
            process.wait()
            if waits:
                lock.wait(DEADLINE if ends else 0.3)
                assert bool(proc.start_time(pid)) != ends
            assert lock.acquire() == ends
            assert bool(proc.start_time(pid)) != ends
        finally:
            lock.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize('marker', [None, 5, '', 'x' * 32, '0' * 31])
def test_record_with_no_marker(marker: Any, tmp_path: pathlib.Path) -> None:
    """Nothing is ended for what is no mark."""
    (tmp_path / 'plain.lock').write_text(json.dumps({'marker': marker}))
    lock = make_file_lock(tmp_path)
    assert lock.acquire()
    assert lock.release()
