"""`runjob` in the background, with tasks that say on standard output what happens."""

import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from integration.locks import BACKEND, Program

CONSUL = 'JOBSLIB_ONE_INSTANCE_CONSUL_'

TASKS = '''
import os, time
from jobslib import BaseTask, TaskError, argument

def say(*words):
    print(*words, flush=True)

class Task(BaseTask):
    """Says when it begins and ends."""
    arguments = (
        argument('--seconds', type=float, default=0.1),
        argument('--fail', action='store_true'),
    )
    def task(self):
        try:
            say(f'BEGIN {os.getpid()} {time.time():.3f} {self.fencing_token}')
            time.sleep(self.args.seconds)
            if self.args.fail:
                raise RuntimeError('went wrong')
        finally:
            say(f'END {os.getpid()} {time.time():.3f} {self.fencing_token}')

class Child(Task):
    """Starts a program that sleeps."""
    def task(self):
        import subprocess
        child = subprocess.Popen(['sleep', '60'])
        say(f'CHILD {child.pid} .')
        super().task()

class Counting(Task):
    """Says how far it is."""
    def task(self):
        say('BEGIN')
        for done in range(10_000):
            self.progress(done, 10_000, 'counted')
            time.sleep(0.01)

class Stubborn(Task):
    """Ignores what should interrupt it."""
    def task(self):
        begun = False
        while True:
            try:
                if not begun:
                    begun = True
                    say('BEGIN')
                time.sleep(60)
            except BaseException:
                say('IGNORED')
'''


@dataclass(frozen=True)
class Moment:
    """A begin or end that a task said: UNIX time and fencing token."""

    at: float
    token: int


def moments(program: Program, word: str) -> list[Moment]:
    """The begins (BEGIN) or ends (END) until now."""
    lines = [line.split() for line in program.output.splitlines()]
    return [Moment(float(line[2]), int(line[3])) for line in lines
            if len(line) == 4 and line[0] == word]


def lock_environment(addr: tuple[str, int] | None, key: str,
                     **options: object) -> dict[str, str]:
    """The environment that configures the lock."""
    given = {'key': key, 'ttl': 10, 'lock_delay': 10, **options}
    if addr is not None:
        given = {'host': addr[0], 'port': addr[1], **given}
    return {'JOBSLIB_ONE_INSTANCE_BACKEND': BACKEND} | {
        CONSUL + name.upper(): str(value) for name, value in given.items()}


@contextmanager
def job(folder: pathlib.Path, addr: tuple[str, int] | None, key: str, *args: str,
        env: dict[str, str] | None = None, **options: object) -> Iterator[Program]:
    """Run a job in the folder; the arguments begin with runjob's own options.

    Without a name of a task among the arguments it is `tasks.Task`.
    """
    if not (module := folder / 'tasks.py').exists():
        # Written once, and whole: another job may be importing it.
        module.with_suffix('.new').write_text(TASKS)
        module.with_suffix('.new').replace(module)
    if not any(each.startswith('tasks.') for each in args):
        args = (*args, 'tasks.Task')
    with Program.job(folder, *args, **lock_environment(addr, key, **options),
                     **(env or {})) as program:
        yield program
