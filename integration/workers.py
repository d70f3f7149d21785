"""`runjob` as processes: started, disturbed, watched and always cleared away."""

import contextlib
import itertools
import os
import pathlib
import re
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

from integration import jobs, stamps
from integration.agents import Api, wait_until
from integration.stamps import now
from integration.timeline import Timeline

__all__ = ['LOCK_DELAY', 'TTL', 'Pair', 'Timeline', 'Worker', 'process_state']

TTL = 10.0
LOCK_DELAY = 10.0
#: How long is waited for what takes no time, in seconds: a busy machine's worst.
DEADLINE = 20.0
ROOT = pathlib.Path(__file__).resolve().parent.parent
# Date, time and level of a line that logging wrote; date and time of a keeper's.
LOG_PREFIX = re.compile(r'^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d+)? ')
ENDED = (b'Z', b'X')  # the states of a process that has ended
LIVE: list['Closing'] = []  # pairs and trials not closed yet
_keys = itertools.count(1)


class Closing(Protocol):
    """Workers that are to be cleared away."""

    def close(self) -> None:
        """Clear them away."""


class Worker:
    """One `runjob` in a session of its own, with its log in a file.

    `task` is the name of a class in `integration.jobs`, or a dotted path;
    `http_addr` is where its Consul is, `through` a program that becomes runjob.
    Clears away, at the end, whatever it and its task started.
    """

    def __init__(
        self, label: str, task: str, folder: pathlib.Path, key: str,
        http_addr: tuple[str, int], *, options: Sequence[str] = ('--keep-lock',),
        env: Mapping[str, str] | None = None, through: Sequence[str] = (),
    ) -> None:
        self.label = label
        self.stamps = folder / 'stamps'
        self.log = folder / f'{label}.log'
        prefix = 'JOBSLIB_ONE_INSTANCE_CONSUL_'
        settings = {
            'JOBSLIB_ONE_INSTANCE_BACKEND': 'jobslib.oneinstance.consul.ConsulLock',
            f'{prefix}HOST': http_addr[0], f'{prefix}PORT': str(http_addr[1]),
            f'{prefix}KEY': key, f'{prefix}TTL': f'{TTL:g}',
            f'{prefix}LOCK_DELAY': f'{LOCK_DELAY:g}',
            jobs.STAMPS_VARIABLE: str(self.stamps), jobs.LABEL_VARIABLE: label,
        }
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(('CONSUL_', 'JOBSLIB_', 'FAULTS_'))}
        self.env |= {**settings, **(env or {})}
        path = task if '.' in task else f'{jobs.__name__}.{task}'
        command = [*through, sys.executable, '-m', 'jobslib', *options, path]
        with self.log.open('ab') as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)
        self.pid = self.process.pid
        self._watchers: list[threading.Thread] = []
        self.watch(self.pid)

    def watch(self, pid: int) -> None:
        """Have a stamp written when a process ends, which cannot do so itself."""
        watcher = threading.Thread(
            target=self._watch, args=(pid, os.pidfd_open(pid)), daemon=True)
        watcher.start()
        self._watchers.append(watcher)

    def _watch(self, pid: int, pidfd: int) -> None:
        with contextlib.closing(
                stamps.Writer(str(self.stamps), self.label, 'task', 0)) as writer:
            select.select([pidfd], [], [])
            writer.write(stamps.GONE, pid)
        os.close(pidfd)

    # Signals; each returns when it was sent.

    def send(self, signum: signal.Signals) -> float:
        """Send a signal to the process alone."""
        sent = now()
        self.process.send_signal(signum)
        return sent

    def terminate(self) -> float:
        """SIGTERM to the process."""
        return self.send(signal.SIGTERM)

    def kill(self) -> float:
        """SIGKILL to the process."""
        return self.send(signal.SIGKILL)

    def stop(self) -> float:
        """SIGSTOP to the process; it has stopped when this returns."""
        sent = self.send(signal.SIGSTOP)
        wait_until(lambda: process_state(self.pid) == 'T', 5, f'{self.label} stopped')
        return sent

    def cont(self) -> float:
        """SIGCONT to the process."""
        return self.send(signal.SIGCONT)

    def signal_keeper(self, signum: signal.Signals) -> float:
        """Send a signal to the keeper alone."""
        keeper, sent = self.keeper(), now()
        os.kill(keeper, signum)
        return sent

    def signal_all(self, signum: signal.Signals) -> float:
        """Send a signal to the process, its keeper and what runs in its group."""
        keepers = [pid for pid in all_pids() if session_of(pid) == self.pid
                   and (is_keeper(pid) or is_guard(pid))]
        sent = now()
        for pid in keepers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        self.signal_group(signum)
        return sent

    def signal_group(self, signum: signal.Signals) -> float:
        """Send a signal to the process group, which the keeper has left."""
        sent = now()
        os.killpg(self.pid, signum)
        return sent

    # What there is to see.

    def keeper(self) -> int:
        """Process id of the keeper."""
        if keeper := self._find_keeper():
            return keeper
        raise LookupError(f'{self.label} has no keeper')

    def _find_keeper(self, other_than: int = 0) -> int | None:
        for pid in children(self.pid):
            if pid != other_than and is_keeper(pid):
                return pid
        return None

    def run_process(self) -> int:
        """Process id of the run's process."""
        # The first: what lost its parent may be a child of the supervisor, too.
        for pid in sorted(children(self.pid)):
            if not is_keeper(pid) and not is_guard(pid):
                return pid
        raise LookupError(f'{self.label} has no process for its runs')

    def wait_for_keeper(self, timeout: float = DEADLINE, other_than: int = 0) -> int:
        """Process id of the keeper, once there is one."""
        return wait_until(lambda: self._find_keeper(other_than), timeout,
                          f'a keeper of {self.label}')

    def wait(self, timeout: float = DEADLINE) -> int:
        """Wait until the process has ended, with a stamp of it; its exit code."""
        code = self.process.wait(timeout)
        self._watchers[0].join()
        return code

    def log_text(self) -> str:
        """What the worker and its keepers logged so far."""
        return self.log.read_text(errors='replace')

    def wait_for_log(self, text: str, timeout: float = DEADLINE) -> None:
        """Wait until the log has a text in it."""
        try:
            wait_until(lambda: text in self.log_text(), timeout, repr(text))
        except TimeoutError as exc:
            raise TimeoutError(f'{exc} in the log:\n{self.log_text()}') from exc

    def says(self) -> str:
        """The log without times: what is a warning or comes from a keeper."""
        lines = [LOG_PREFIX.sub('', line) for line in self.log_text().splitlines()]
        return '; '.join(line for line in lines if not line.startswith('INFO '))

    def close(self) -> None:
        """Kill the process and all that it and its task started."""
        while pids := self._family():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.pid in pids:
                self.process.wait(10)
            wait_until(lambda: not any(map(is_alive, pids)), 10, f'{pids} gone')
        self.process.wait(10)
        for watcher in self._watchers:
            watcher.join(10)

    def _family(self) -> list[int]:
        """Who is of the worker's session or knows the stamps and its label."""
        return [pid for pid in all_pids() if pid != os.getpid() and is_alive(pid) and (
            session_of(pid) == self.pid or self._knows(pid))]

    def _knows(self, pid: int) -> bool:
        about = read_proc(pid, 'environ') + b'\0' + read_proc(pid, 'cmdline')
        words = about.split(b'\0')
        path, label = str(self.stamps).encode(), self.label.encode()
        return (path in words and label in words) or (
            f'{jobs.STAMPS_VARIABLE}='.encode() + path in words
            and f'{jobs.LABEL_VARIABLE}='.encode() + label in words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Pair:
    """Two workers of one key: `a` runs the task, `b` is its hot standby.

    `addrs` says where the Consul of each is; `env` and `options` are for both.
    """

    def __init__(
        self, addrs: Sequence[tuple[str, int]], task: str = 'Stamping', *,
        standby_task: str | None = None, env: Mapping[str, str] | None = None,
        options: Sequence[str] = ('--keep-lock',), begins: str = 'task',
    ) -> None:
        self._closed = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix='jobslib-faults-')
        folder = pathlib.Path(self._folder.name)
        self.database = folder / 'database'
        self.key = f'faults/{os.getpid()}-{next(_keys)}'
        self.timeline = Timeline(folder / 'stamps')
        self.workers: list[Worker] = []
        LIVE.append(self)
        env = {jobs.DATABASE_VARIABLE: str(self.database), **(env or {})}
        try:
            self.a = self._start('a', task, folder, addrs[0], options, env)
            self.timeline.wait_for_begin('a', role=begins)
            self.b = self._start(
                'b', standby_task or task, folder, addrs[-1], options, env)
            self.b.wait_for_log('the lock is held by')
            self.a.wait_for_keeper()
            self.b.wait_for_keeper()
        except BaseException:
            self.close()
            raise
        self.token = self.timeline.of('a')[0].token

    def _start(self, label: str, task: str, folder: pathlib.Path,
               addr: tuple[str, int], options: Sequence[str],
               env: Mapping[str, str]) -> Worker:
        worker = Worker(label, task, folder, self.key, addr, options=options, env=env)
        self.workers.append(worker)
        return worker

    def session(self, api: Api) -> str | None:
        """The session that holds the key."""
        entry = api.kv(self.key) or {}
        session: str | None = entry.get('Session')
        return session

    def writes(self) -> list[int]:
        """The tokens of the writes that the database accepted, in their order."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            rows = database.execute('SELECT token FROM writes ORDER BY id')
            return [token for token, in rows]

    def pass_time(self, seconds: float) -> None:
        """Let some seconds pass; the time of the fault itself, not of a wait."""
        if self._closed.wait(seconds):
            raise RuntimeError('the pair was closed')

    def close(self) -> None:
        """Clear both workers away; waits in other threads end."""
        self._closed.set()
        self.timeline.closed = True
        for worker in self.workers:
            worker.close()
        self._folder.cleanup()
        if self in LIVE:
            LIVE.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def all_pids() -> Iterator[int]:
    """The ids of all processes."""
    return (int(name) for name in os.listdir('/proc') if name.isdigit())


def is_keeper(pid: int) -> bool:
    """Whether a process is a keeper, started or forked, and no guard of one."""
    name = read_proc(pid, 'comm').strip()
    return name == b'jobslib-keeper' or (
        not is_guard(pid) and b'JOBSLIB_KEEPER=' in read_proc(pid, 'environ'))


def is_guard(pid: int) -> bool:
    """Whether a process is the guard of a keeper."""
    return read_proc(pid, 'comm').strip() == b'jobslib-guard'


def read_proc(pid: int, name: str) -> bytes:
    """A file of /proc, empty when the process has ended."""
    try:
        return pathlib.Path(f'/proc/{pid}/{name}').read_bytes()
    except OSError:
        return b''


def children(pid: int) -> list[int]:
    """The ids of the children of a process that have not ended."""
    # Each is read once: it can end at any moment.
    found = ((child, _stat(child)) for child in all_pids())
    return [child for child, fields in found
            if fields and not _has_ended(fields) and int(fields[1]) == pid]


def process_state(pid: int) -> str:
    """The state of a process as /proc shows it (T: stopped), '' without one."""
    fields = _stat(pid)
    return fields[0].decode() if fields else ''


def is_alive(pid: int) -> bool:
    """Whether the process is there and has not ended."""
    fields = _stat(pid)
    return bool(fields) and not _has_ended(fields)


def _has_ended(fields: list[bytes]) -> bool:
    # When the first thread has ended, the process looks ended; the others count.
    return fields[0] in ENDED and int(fields[17]) < 2


def session_of(pid: int) -> int:
    """The id of the session of a process, 0 without one."""
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    # The name, in parentheses, may have any character in it.
    return read_proc(pid, 'stat').rpartition(b')')[2].split()


def close_all() -> None:
    """Clear away whatever this process has left."""
    for pair in list(LIVE):
        pair.close()
