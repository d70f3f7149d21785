"""The lock and the metrics as a task sees them, in the process of its run."""

import os
import pathlib
import threading
from typing import Any

import pytest
from support import Forked, run_job, write_module
from test_run_process import BEGUN, Ours

from jobslib import OneInstanceWatchdogError
from jobslib.exceptions import LockUnavailableError, SupervisedLockError
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.dummy import DummyLock
from jobslib.oneinstance.file import FileLock
from jobslib.run.channel import pair
from jobslib.run.link import Link
from jobslib.run.memory import Memory


class Task(Ours):
    """Has its lock at hand."""

    @property
    def lock(self) -> Any:
        """The lock as the task sees it."""
        return self.context.one_instance_lock


class OwnLock(BaseLock):
    """A lock of the user's own, written for one process."""

    _held = False
    alive = True
    refreshed = 0

    def __init__(self, context: Any, options: Any) -> None:
        super().__init__(context, options)
        self.prefix = 'shop'

    @property
    def held(self) -> bool:
        return self._held

    @property
    def fencing_token(self) -> int | None:
        return 42 if self._held else None

    def acquire(self) -> bool:
        self._held = True
        return True

    def release(self) -> bool:
        self._held = False
        return True

    def refresh(self) -> bool:
        self.refreshed += 1
        return self.alive

    def get_lock_owner_info(self) -> dict[str, Any] | None:
        return {'fqdn': 'here', 'pid': os.getpid()}

    def key_of(self, name: str) -> str:
        """Return the key for *name*: a method that only this lock has."""
        return f'{self.prefix}/{name}'


class StricterLock(DummyLock):
    """A lock that knows more than the one that it extends."""

    alive = True

    def refresh(self) -> bool:
        return super().refresh() and self.alive


OWN = {'backend': f'{__name__}.OwnLock'}
STRICTER = {'backend': f'{__name__}.StricterLock'}


def file_lock(folder: pathlib.Path) -> dict[str, Any]:
    """Return the option of a lock by a file in *folder*."""
    return {'backend': 'jobslib.oneinstance.file.FileLock',
            'options': {'folder': str(folder / 'locks')}}


@pytest.mark.parametrize(('call', 'what'), [
    (lambda lock: lock.acquire(), 'acquire it'),
    (lambda lock: lock.release(), 'release it'),
    (lambda lock: lock.wait(1), 'wait for it'),
    (lambda lock: lock.secure_outcome(True), 'write its history'),
    (lambda lock: lock.save_history(), 'write its history'),
    (lambda lock: lock.find_handed_in(), 'write its history'),
    (lambda lock: lock.hand_in(None), 'write its history'),
    (lambda lock: lock.watchdog.start(5), 'limit its runs'),
    (lambda lock: lock.watchdog.stopping(), 'limit its runs'),
    (lambda lock: lock.watchdog.stop(), 'limit its runs')],
    ids=['acquire', 'release', 'wait', 'outcome', 'history', 'handed-in', 'hand-in',
         'start', 'stopping', 'stop'])
@pytest.mark.parametrize('backend', ['dummy', 'file', 'own'])
def test_what_is_the_supervisors(
        call: Any, what: str, backend: str, tmp_path: pathlib.Path) -> None:
    """A task cannot do to its lock what runjob does; it is told so."""
    class Refused(Task):
        def task(self) -> None:
            with pytest.raises(SupervisedLockError) as caught:
                call(self.lock)
            self.tell(caught.value, self.lock.held)

    settings: dict[str, Any] = {
        'dummy': {}, 'own': {'ONE_INSTANCE': OWN},
        'file': {'ONE_INSTANCE': file_lock(tmp_path)}}[backend]
    with Forked(Refused, **settings) as forked:
        assert forked.run().message == (
            "the lock is the supervisor's: runjob acquires and releases it, "
            f'a task cannot {what} True')
        assert forked.lock.held


def test_close_in_a_task() -> None:
    """A task that closes its lock gives nothing up."""
    class Closing(Task):
        def task(self) -> None:
            self.lock.close()
            self.tell(self.lock.held, self.lock.refresh())
    with Forked(Closing) as forked:
        assert forked.run().message == 'True True'
        assert forked.lock.held


@pytest.mark.parametrize(('settings', 'lock_class'), [
    ({}, DummyLock), ({'ONE_INSTANCE': OWN}, OwnLock)], ids=['dummy', 'own'])
def test_class_of_the_lock(settings: Any, lock_class: type[BaseLock]) -> None:
    """The lock in a task is an instance of its class, and has its name."""
    class Showing(Task):
        def task(self) -> None:
            self.tell(isinstance(self.lock, lock_class),
                      type(self.lock).__name__, self.lock is self.lock)
    with Forked(Showing, **settings) as forked:
        assert forked.run().message == f'True {lock_class.__name__} True'


def test_methods_of_a_lock_of_the_user() -> None:
    """What only this lock has works in the task."""
    class Showing(Task):
        def task(self) -> None:
            self.tell(self.lock.key_of('x'), self.fencing_token,
                      self.lock.held, self.lock.get_lock_owner_info()['pid'])
    with Forked(Showing, ONE_INSTANCE=OWN) as forked:
        assert forked.run().message == f'shop/x 42 True {os.getpid()}'


class Extending(Task):
    """Says that it makes progress, and whether it may go on."""

    def task(self) -> None:
        try:
            self.extend_lock()
        except OneInstanceWatchdogError as exc:
            self.tell(exc)
        self.tell('goes on')


@pytest.mark.parametrize('settings', [
    {'ONE_INSTANCE': OWN}, {'ONE_INSTANCE': STRICTER}],
    ids=['own', 'stricter'])
def test_refresh_that_only_the_supervisor_knows(settings: Any) -> None:
    """A refresh() of the user's is asked of the supervisor, which has the lock.
    """
    with Forked(Extending, **settings) as forked:
        lock: Any = forked.lock
        assert forked.run().message == 'goes on'
        lock.alive = False
        assert forked.run().message == 'the lock is lost'


def test_refresh_of_the_dummy_lock() -> None:
    """It needs no supervisor, and is a sign of life."""
    class Silent(Extending):
        def task(self) -> None:
            self.begin()
            super().task()
    with Forked(Silent) as forked:
        forked.handle.questions.answers.clear()
        assert forked.run().message == 'goes on'
        assert forked.handle.beat != BEGUN


def test_refresh_without_the_lock() -> None:
    """Where the supervisor has no lock, the task has none."""
    with Forked(Extending) as forked:
        forked.lock.release()
        assert forked.run().message == 'the lock is lost'
        forked.lock.acquire()
        assert forked.run().message == 'goes on'


def test_refresh_of_a_file_lock(tmp_path: pathlib.Path) -> None:
    """A lock file that was removed is noticed in the task."""
    class Removing(Extending):
        def task(self) -> None:
            assert self.lock.refresh()
            os.unlink(self.lock.path)
            super().task()
    with Forked(Removing, ONE_INSTANCE=file_lock(tmp_path)) as forked:
        assert forked.run().message == 'the lock is lost'


@pytest.mark.skipif(os.getuid() != 0, reason='for root')
def test_refresh_of_a_file_lock_from_another_root(
        tmp_path: pathlib.Path) -> None:
    """A task that does not see the lock file any more has it asked for."""
    class Moving(Extending):
        def task(self) -> None:
            os.chroot(tmp_path)
            super().task()
    with Forked(Moving, ONE_INSTANCE=file_lock(tmp_path)) as forked:
        assert forked.run().message == 'goes on'


@pytest.mark.parametrize('early', [True, False])
def test_refresh_after_all_descriptors_were_closed(
        early: bool, tmp_path: pathlib.Path) -> None:
    """A task that closes that of the lock, and opens another, is not misled.

    Unless it has had a look at its lock before, there is nobody to ask.
    """
    class Closing(Extending):
        def task(self) -> None:
            if early:
                assert self.lock.held
            os.closerange(0, 1000)
            for _ in range(20):
                os.open(os.devnull, os.O_RDWR)
            try:
                super().task()
            except LockUnavailableError:
                self.tell('cannot know')
    with Forked(Closing, ONE_INSTANCE=file_lock(tmp_path)) as forked:
        assert forked.run().message == (
            'goes on' if early else 'cannot know')


def test_file_stays_locked_by_the_run(tmp_path: pathlib.Path) -> None:
    """The run has the locked file: the lock is nobody's while it lives."""
    class Waiting(Task):
        def task(self) -> None:
            self.lock.watchdog.beat()

    with Forked(Waiting, ONE_INSTANCE=file_lock(tmp_path)) as forked:
        forked.run()
        lock: Any = forked.lock
        assert lock._fd is not None
        # As if the supervisor had died.
        os.close(lock._fd)
        lock._fd = None
        context: Any = forked.config.make_context()
        other = context.one_instance_lock
        assert isinstance(other, FileLock)
        assert not other.acquire()
        forked.handle.kill()
        assert other.acquire()
        other.release()


def test_what_a_task_asks(tmp_path: pathlib.Path) -> None:
    """The lock says in the task what it says to the supervisor."""
    class Asking(Task):
        def task(self) -> None:
            lock = self.lock
            self.tell(lock.own_record['token'],
                      lock.get_lock_owner_info()['token'],
                      lock.control.paused, lock.lease_left(),
                      lock.fencing_token)
    with Forked(Asking, ONE_INSTANCE=file_lock(tmp_path)) as forked:
        token = forked.lock.fencing_token
        left = forked.lock.lease_left()
        assert forked.run().message == f'{token} {token} None {left} {token}'


def test_questions_of_many_threads() -> None:
    """Each of them gets the answer to its own question."""
    class Asking(Task):
        def task(self) -> None:
            link = self.context.config.link
            wrong: list[int] = []

            def ask(number: int) -> None:
                for each in range(number, number + 20):
                    if link.ask('double', each) != 2 * each:
                        wrong.append(each)
            threads = [threading.Thread(target=ask, args=[100 * number])
                       for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.tell(wrong)

    with Forked(Asking) as forked:
        forked.handle.questions.answers['double'] = lambda number: 2 * number
        assert forked.run().message == '[]'


def make_link() -> tuple[Link, Any]:
    """Return a link of this process, and the other end of it."""
    ours, theirs = pair()
    return Link(ours, Memory()), theirs


def test_supervisor_that_does_not_answer(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, but not for ever; a late answer is nobody's."""
    monkeypatch.setattr('jobslib.run.link.ANSWER_TIMEOUT', 0.1)
    link, other = make_link()
    with pytest.raises(LockUnavailableError, match='does not answer'):
        link.ask('question')
    monkeypatch.setattr('jobslib.run.link.ANSWER_TIMEOUT', 15.0)
    late, _ = other.receive()
    other.send({'id': late['id'], 'value': 'late'})

    def answer() -> None:
        question, _ = other.receive()
        other.send({'id': question['id'], 'value': 'in time'})
    answering = threading.Thread(target=answer)
    answering.start()
    assert link.ask('question') == 'in time'
    answering.join()


def test_supervisor_that_is_gone() -> None:
    """Who asks is told so; who only tells goes on."""
    link, other = make_link()
    other.close()
    with pytest.raises(LockUnavailableError, match='cannot be asked|is gone'):
        link.ask('question')
    link.tell('note')


def test_link_whose_descriptor_was_closed() -> None:
    """The same holds for a task that has closed all descriptors."""
    link, other = make_link()
    os.close(link.channel.fileno())
    with pytest.raises(LockUnavailableError, match='was closed'):
        link.ask('question')
    link.tell('note')
    other.close()


def test_link_of_a_forked_child() -> None:
    """A child neither asks nor tells."""
    link, other = make_link()
    link.pid += 1
    with pytest.raises(LockUnavailableError, match='a forked child'):
        link.ask('question')
    link.tell('note')
    link.pid -= 1
    link.tell('of the run')
    assert other.receive()[0]['method'] == 'of the run'


def test_handles_are_those_of_the_run(tmp_path: pathlib.Path) -> None:
    """Descriptors of the run before are closed, but not what has their number.
    """
    link, _ = make_link()
    first = os.open(os.devnull, os.O_RDONLY)
    second = os.open(tmp_path, os.O_RDONLY)
    link.adopt([first, second])
    os.dup2(second, first)
    link.adopt([])
    os.fstat(first)
    with pytest.raises(OSError):
        os.fstat(second)
    os.close(first)


# Metrics

BACKEND = '''
import json
from jobslib import BaseTask
from jobslib.metrics import BaseMetrics

class Pushing(BaseTask):
    def initialize(self):
        self.context.metrics.push({'made': {'value': 1}})
    def task(self):
        for number in range(2000):
            self.context.metrics.push({'own': {'value': number}})
        for wrong in ({'own': 5}, {'own': {'value': 'text'}}):
            try:
                self.context.metrics.push(wrong)
            except ValueError as exc:
                print('refused', exc, flush=True)

class Printing(BaseMetrics):
    def push(self, metrics):
        print('PUSH', json.dumps(metrics), flush=True)
'''


def test_metrics_of_a_task(tmp_path: pathlib.Path) -> None:
    """They arrive, the last ones too; what is wrong is refused where it is.
    """
    write_module(tmp_path, 'job', BACKEND)
    done = run_job(tmp_path, '--run-once', 'job.Pushing',
                   JOBSLIB_METRICS_BACKEND='job.Printing')
    assert done.returncode == ExitCode.DONE, done.stderr
    assert '"made": {"value": 1.0' in done.stdout
    assert '"own": {"value": 1999.0' in done.stdout
    assert done.stdout.count('refused metric') == 2
