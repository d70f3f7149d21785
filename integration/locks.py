"""Locks and programs for tests of the library, without ``runjob``."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

from integration.agents import Api, wait_until
from jobslib import BaseTask, Config
from jobslib.oneinstance.consul import ConsulLock

BACKEND = 'jobslib.oneinstance.consul.ConsulLock'
DEADLINE = 30.0

#: The root of the checkout, for processes that import ``integration``.
ROOT = pathlib.Path(__file__).resolve().parents[1]


def make_lock(addr: tuple[str, int], key: str,
              lock_class: type[ConsulLock] = ConsulLock,
              **options: Any) -> ConsulLock:
    """A lock on the key, through the agent or proxy at the address."""
    task_cls = type('Task', (BaseTask,), {'name': 'lock-test'})
    context = Config(SimpleNamespace(), None, task_cls).make_context()
    given = {'host': addr[0], 'port': addr[1], 'key': key, **options}
    return lock_class(context, lock_class.OptionsConfig(given, None))


@contextmanager
def lock_on(addr: tuple[str, int], key: str,
            lock_class: type[ConsulLock] = ConsulLock,
            **options: Any) -> Iterator[ConsulLock]:
    """Such a lock, closed at the end of the block."""
    lock = make_lock(addr, key, lock_class, **options)
    try:
        yield lock
    finally:
        lock.close()


def held_record(**fields: Any) -> bytes:
    """What a holder leaves in the key when it vanishes."""
    return json.dumps({'fqdn': 'elsewhere', 'pid': 1, **fields}).encode()


def hold(api: Api, key: str, record: bytes, lock_delay: str = '15s',
         ttl: str = '60s') -> str:
    """Take the key as somebody else; returns the session."""
    session = api.create_session(TTL=ttl, Checks=[], LockDelay=lock_delay)
    assert api.put(f'kv/{key}', record, acquire=session).json() is True
    return session


def holder_of(api: Api, key: str) -> str | None:
    """The session that holds the key."""
    entry = api.kv(key)
    return entry.get('Session') if entry else None


def session_ids(api: Api) -> set[str]:
    """Ids of all sessions."""
    return {each['ID'] for each in api.sessions()}


def clean_environment(**extra: str) -> dict[str, str]:
    """An environment that sets nothing for jobslib or Consul but the extra."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(('JOBSLIB_', 'CONSUL_'))}
    return kept | {'PYTHONPATH': str(ROOT)} | extra


class Program:
    """A Python process in the background, killed at the end of its block."""

    def __init__(self, folder: pathlib.Path, *args: str, **extra: str) -> None:
        self.log = folder / f'log.{time.monotonic_ns()}'
        with self.log.open('wb') as log:
            self.popen = subprocess.Popen(
                [sys.executable, *args], cwd=folder,
                env=clean_environment(**extra), stdin=subprocess.PIPE,
                stdout=log, stderr=log, start_new_session=True)

    @classmethod
    def of(cls, folder: pathlib.Path, text: str, *args: str) -> Self:
        """A process that runs the text of a program."""
        script = folder / f'program-{time.monotonic_ns()}.py'
        script.write_text(textwrap.dedent(text))
        return cls(folder, str(script), *args)

    @classmethod
    def job(cls, folder: pathlib.Path, *args: str, **extra: str) -> Self:
        """``runjob`` with the arguments."""
        return cls(folder, '-m', 'jobslib', *args, **extra)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.popen.kill()
        self.popen.wait()
        if self.popen.stdin:
            self.popen.stdin.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self.popen.pid

    @property
    def output(self) -> str:
        """What the process wrote until now, errors and the keeper's included."""
        return self.log.read_text(errors='replace')

    def wait_for(self, text: str, times: int = 1, timeout: float = DEADLINE) -> None:
        """Wait until the process has written the text so many times."""
        def written() -> bool:
            ended = self.popen.poll() is not None
            count = self.output.count(text)
            assert count >= times or not ended, self.output
            return count >= times
        try:
            wait_until(written, timeout, f'{times} x {text!r}', pause=0.01)
        except TimeoutError as exc:
            raise TimeoutError(f'{exc}\n{self.output}') from None

    def send(self, signum: signal.Signals) -> None:
        """Send the signal to the process."""
        self.popen.send_signal(signum)

    def wait(self, timeout: float = DEADLINE) -> int:
        """The exit code."""
        return self.popen.wait(timeout)
