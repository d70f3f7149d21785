"""One of the tasks of `integration.cases` on trial: started, disturbed, judged."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

from integration import stamps, workers
from integration.agents import Agent, wait_until
from integration.cases.base import HELPER
from integration.stamps import Stamp, now
from integration.timeline import Timeline
from integration.workers import ROOT, Worker

FILE, CONSUL = 'file', 'consul'
LOCKS = (FILE, CONSUL)
#: Seconds from the interrupt to the kill, and from the session's end to the next.
GRACE = 1.0
LOCK_DELAY = 5.0
#: How long is waited for what takes no time, in seconds: a busy machine's worst.
DEADLINE = 60.0
#: How long two holders are watched, in seconds: what goes on shows itself.
WATCHED = 0.4
_numbers = itertools.count(1)


class Trial:
    """Workers of one task and one key: `a`, and `b`, which waits for the lock."""

    def __init__(
        self, task: str, lock: str, agent: Agent,
        options: Sequence[str] = ('--keep-lock',), env: Mapping[str, str] | None = None,
    ) -> None:
        self.task = f'integration.cases.{task}'
        self.options = options
        self.agent = agent
        self._closed = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix='jobslib-cases-')
        self.folder = pathlib.Path(self._folder.name)
        (self.folder / 'stamps').touch()
        self.key = f'cases/{os.getpid()}-{next(_numbers)}'
        self.timeline = Timeline(self.folder / 'stamps')
        self.workers: list[Worker] = []
        self._env = {**environment(lock, self.folder), **(env or {})}
        workers.LIVE.append(self)

    def start(self, label: str = 'a', *, through: Sequence[str] = ()) -> Worker:
        """Start a worker."""
        worker = Worker(
            label, self.task, self.folder, self.key, self.agent.http_addr,
            options=self.options, env=self._env, through=through)
        self.workers.append(worker)
        return worker

    def start_standby(self) -> Worker:
        """Start `b`, and wait until it waits for the lock."""
        worker = self.start('b')
        worker.wait_for_log('the lock is held by', DEADLINE)
        return worker

    def wait_for(self, role: str, event: str, label: str = 'a',
                 after: float = 0.0) -> Stamp:
        """The first stamp of a role, an event and a worker after a time."""
        try:
            return self.timeline.wait_for(
                lambda stamp: stamp.at >= after
                and (role_of(stamp), stamp.event, stamp.label) == (role, event, label),
                DEADLINE, f'{role} of {label}: {event}')
        except TimeoutError as exc:
            raise TimeoutError(f'{exc}\n{self.logs()}') from None

    def begins(self, label: str = 'a') -> list[Stamp]:
        """The stamps of the beginnings of runs until now."""
        self.timeline.update()
        return [stamp for stamp in self.timeline.stamps if stamp.label == label
                and role_of(stamp) == 'main' and stamp.event == stamps.BEGIN]

    def wait_for_runs(self, count: int) -> list[Stamp]:
        """The beginnings of runs of `a`, once there are so many."""
        def enough() -> list[Stamp] | None:
            begins = self.begins()
            if len(begins) < count and self.workers[0].process.poll() is not None:
                raise AssertionError(f'the job has ended\n{self.logs()}')
            return begins if len(begins) >= count else None
        try:
            return wait_until(enough, DEADLINE, f'{count} runs')
        except TimeoutError as exc:
            raise TimeoutError(f'{exc}\n{self.timeline}\n{self.logs()}') from None

    def lose_lock(self) -> float:
        """Destroy the session that holds the key; when."""
        entry = self.agent.api.kv(self.key) or {}
        at = now()
        self.agent.api.destroy_session(entry['Session'])
        return at

    def command(self, *words: str) -> bytes:
        """What a command of `runjob` says of the job."""
        done = subprocess.run(
            [sys.executable, '-m', 'jobslib', *words, self.task],
            cwd=ROOT, env=self.workers[0].env, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=DEADLINE, check=False)
        assert done.returncode == 0, f'{done.stderr.decode()}\n{self.logs()}'
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `runjob status` says of the job."""
        status: dict[str, Any] = json.loads(self.command('status', '--json'))
        return status

    def history(self) -> list[dict[str, Any]]:
        """The runs that the job remembers, the oldest first."""
        history: list[dict[str, Any]] = self.status()['history']
        return history

    def watch(self, seconds: float = WATCHED) -> None:
        """Let those who run go on for a while, so that all of them show."""
        if self._closed.wait(seconds):
            raise RuntimeError('the trial was closed')

    def assert_apart(self) -> None:
        """No two holders at once, nor two runs."""
        self.timeline.update()
        about = f'{self.timeline}\n{self.logs()}'
        overlap = self.timeline.overlap()
        assert overlap == 0.0, f'two holders at once for {overlap:.3f} s\n{about}'
        overlap = self.timeline.overlap_of_runs(apart=(HELPER,))
        assert overlap == 0.0, f'two runs at once for {overlap:.3f} s\n{about}'

    def assert_ends(self, worker: Worker | None = None,
                    signum: signal.Signals = signal.SIGTERM) -> None:
        """The worker ends when it is told to, and says so."""
        worker = worker or self.workers[0]
        worker.send(signum)
        self.assert_ended(worker)

    def assert_ended(self, worker: Worker, signum: str = 'SIG') -> None:
        """The worker, which was told to, ends as it should."""
        try:
            code = worker.wait(DEADLINE)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f'{exc}\n{self.logs()}') from None
        assert code == 143, f'exit code {code}\n{self.logs()}'
        if worker.log_text():
            assert f'ended by signal {signum}' in worker.log_text(), self.logs()

    def logs(self) -> str:
        """What the workers logged, for messages."""
        return '\n'.join(f'--- {worker.label}\n{worker.log_text()[-4000:]}'
                         for worker in self.workers)

    def close(self) -> None:
        """Clear the workers away; waits in other threads end."""
        self._closed.set()
        self.timeline.closed = True
        for worker in self.workers:
            worker.close()
        with contextlib.suppress(ValueError):
            workers.LIVE.remove(self)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def role_of(stamp: Stamp) -> str:
    """The role of a stamp, without its run."""
    return stamp.role.partition(':')[0]


def environment(lock: str, folder: pathlib.Path) -> dict[str, str]:
    """The settings of a lock of a kind."""
    name = 'JOBSLIB_ONE_INSTANCE_'
    if lock == CONSUL:
        return {f'{name}CONSUL_GRACE': f'{GRACE:g}',
                f'{name}CONSUL_LOCK_DELAY': f'{LOCK_DELAY:g}'}
    return {f'{name}BACKEND': 'jobslib.oneinstance.file.FileLock',
            f'{name}FILE_FOLDER': str(folder), f'{name}GRACE': f'{GRACE:g}'}
