"""The run's process as its supervisor sees it, with real forks."""

import ctypes
import faulthandler
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from support import (
    DEADLINE,
    Forked,
    Job,
    Process,
    is_free,
    run_job,
    until,
    write_module,
)
from test_run_process import Ours, interrupt_at_begin

from jobslib import BaseTask, OneInstanceWatchdogError, Terminate
from jobslib.exceptions import LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.interrupts import Interrupts
from jobslib.keeper import proc
from jobslib.run.channel import Channel
from jobslib.run.handle import RunHandle
from jobslib.runs import Outcome


def crash() -> None:
    """Read what must not be read."""
    # Of the tests; it would write where this was.
    faulthandler.disable()
    ctypes.string_at(0)


def dying(how: Any) -> type[Ours]:
    """Return a task whose process *how* ends."""
    class Task(Ours):
        def task(self) -> None:
            how()
    return Task


@pytest.mark.parametrize(('how', 'text'), [
    (lambda: os.kill(os.getpid(), signal.SIGKILL), 'killed by SIGKILL'),
    (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 7),
     'killed by signal 41'),
    (lambda: signal.raise_signal(signal.SIGUSR1), 'killed by SIGUSR1'),
    (lambda: crash(), 'killed by SIGSEGV'),
    (lambda: os._exit(0), 'its process ended with exit code 0'),
    (lambda: os._exit(3), 'its process ended with exit code 3')],
    ids=['SIGKILL', 'real-time', 'SIGUSR1', 'SIGSEGV', '0', '3'])
def test_process_that_dies(how: Any, text: str) -> None:
    """It is told how it ended; the next run has a new one."""
    with Forked(dying(how)) as forked:
        for _ in range(2):
            result = forked.run()
            assert (result.outcome, result.error) == (Outcome.KILLED, text)
            assert not forked.handle.lives
            assert forked.handle.pid is None
            assert forked.handle.prepare() is None
            assert forked.handle.is_ready


def test_process_that_dies_takes_what_it_started_along() -> None:
    """What it has started is nobody's any more, and is ended."""
    read_fd, write_fd = os.pipe()

    def how() -> None:
        child = subprocess.Popen(
            [sys.executable, '-c', 'import time; time.sleep(3600)'],
            start_new_session=True)
        os.write(write_fd, str(child.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    with Forked(dying(how)) as forked:
        assert forked.run().outcome is Outcome.KILLED
        child = int(os.read(read_fd, 100))
        until(lambda: proc.start_time(child) == 0)
    os.close(read_fd)
    os.close(write_fd)


def test_process_whose_code_raises() -> None:
    """It ends; it does not go on as a second supervisor."""
    def body(*_: object) -> None:
        raise OSError('whatever')
    handle = RunHandle(body, Interrupts())
    handle.start()
    assert handle.first_word() == {'exit': 1}


def test_task_is_asked_for_in_advance() -> None:
    """A new process need not wait for its supervisor before it makes the task."""
    def body(channel: Channel, *_: object) -> None:
        asked = bool(select.select([channel], [], [], DEADLINE)[0])
        channel.send({'config': {}})
        channel.send({'made': asked, 'hooks': []})
        while received := channel.receive():
            if received[0] == {'do': 'end'}:
                os._exit(0)
    handle = RunHandle(body, Interrupts())
    assert handle.prepare() is None
    assert handle.finish(DEADLINE) == 0


def test_descriptors_of_the_supervisor_are_not_the_task_s() -> None:
    """A later process has none that was opened since the start."""
    class Task(Ours):
        def task(self) -> None:
            self.tell(os.readlink(f'/proc/self/fd/{fd}'))

    fd = 0
    with Forked(Task) as forked, socket.socket() as opened:
        fd = opened.fileno()
        forked.handle.kill()
        assert forked.handle.prepare() is None
        assert forked.run().message == os.devnull


def close_all() -> None:
    """Close all descriptors, as a daemon does."""
    os.closerange(0, os.sysconf('SC_OPEN_MAX'))


class Closing(Ours):
    """Closes all descriptors, and opens others with their numbers."""

    def task(self) -> None:
        close_all()
        for _ in range(20):
            os.open(os.devnull, os.O_RDWR)
        self.end()

    def end(self) -> None:
        """Fail."""
        self.tell('its own end')


def test_task_that_closes_all_descriptors() -> None:
    """Its outcome is known all the same; the next run has a new process."""
    with Forked(Closing) as forked:
        for _ in range(2):
            pid = forked.handle.pid
            assert forked.run().message == 'its own end'
            # Nothing can be asked of it any more.
            assert forked.handle.prepare() is None
            assert forked.handle.pid != pid


def test_task_that_closes_all_descriptors_and_succeeds() -> None:
    """So is its success."""
    class Task(Closing):
        def end(self) -> None:
            pass
    with Forked(Task) as forked:
        assert forked.run().outcome is Outcome.SUCCEEDED


def test_task_that_closes_all_descriptors_is_interrupted() -> None:
    """A signal needs none."""
    class Task(Closing):
        def end(self) -> None:
            try:
                self.begin()
                until(lambda: False)
            except BaseException as exc:
                self.tell(type(exc).__name__, exc)
    with Forked(Task) as forked:
        interrupt_at_begin(forked, OneInstanceWatchdogError('enough'))
        assert forked.run().message == 'OneInstanceWatchdogError enough'


class Deaf(Ours):
    """Minds no interrupt."""

    def task(self) -> None:
        self.begin()
        ends = time.monotonic() + DEADLINE
        while time.monotonic() < ends:
            try:
                time.sleep(0.01)
            except BaseException:
                pass


@pytest.mark.parametrize('kind', [Terminate, OneInstanceWatchdogError])
def test_grace_time(kind: Any) -> None:
    """A run that does not stop in its grace time is killed, and that is said."""
    with Forked(Deaf, grace=0.5) as forked:
        interrupt_at_begin(forked, kind('enough'))
        began = time.monotonic()
        result = forked.run()
        assert time.monotonic() - began >= 0.5
        assert (result.outcome, result.error) == (
            Outcome.KILLED, 'enough; killed by SIGKILL')
        assert not forked.handle.lives


def test_grace_time_of_one_run_is_not_that_of_the_next() -> None:
    """A run that stopped in its grace time leaves no kill behind."""
    class Task(Ours):
        def task(self) -> None:
            self.begin()
            try:
                until(lambda: False)
            except Terminate:
                pass
            time.sleep(0.4 if self.__dict__.get('second') else 0)
            self.__dict__['second'] = True

    with Forked(Task, grace=0.8) as forked:
        for _ in range(2):
            interrupt_at_begin(forked, Terminate('enough'))
            assert forked.run().outcome is Outcome.SUCCEEDED
            forked.interrupts.pending = None


def test_interrupt_outside_of_a_request() -> None:
    """Nobody is interrupted between two runs."""
    class Task(Ours):
        def task(self) -> None:
            self.tell('undisturbed')
    with Forked(Task) as forked:
        forked.handle.interrupt(Terminate('too early'))
        assert forked.run().message == 'undisturbed'


class WithHook(Ours):
    """Has a hook."""

    def task(self) -> None:
        pass

    def on_released(self) -> None:
        os._exit(4)


def test_process_that_dies_in_a_hook() -> None:
    """A hook that ends its process is told as such."""
    with Forked(WithHook) as forked:
        assert forked.run().outcome is Outcome.SUCCEEDED
        result = forked.call_hook('on_released')
        assert (result.outcome, result.error) == (
            Outcome.KILLED, 'its process ended with exit code 4')
        assert forked.handle.hooks == ['on_released']
        assert not forked.handle.lives


def test_process_that_dies_between_runs() -> None:
    """It is seen; it is not asked, and another one is made."""
    with Forked(WithHook) as forked:
        assert forked.handle.pid is not None
        os.kill(forked.handle.pid, signal.SIGKILL)
        until(lambda: not forked.handle.lives)
        assert not forked.handle.is_ready
        assert forked.handle.prepare() is None
        assert forked.run().outcome is Outcome.SUCCEEDED


def test_finish() -> None:
    """A process ends properly when it is told to, and only once."""
    with Forked(WithHook) as forked:
        pid = forked.handle.pid
        assert pid is not None
        assert forked.handle.finish() == 0
        assert proc.start_time(pid) == 0
        assert not forked.handle.lives
        assert forked.handle.finish() == 0


def test_finish_that_takes_too_long(tmp_path: pathlib.Path) -> None:
    """A process that does not end in time is killed."""
    write_module(tmp_path, 'slow', '''
        import time
        from jobslib import Context
        class Slow(Context):
            def close(self):
                time.sleep(3600)
    ''')
    sys.path.insert(0, str(tmp_path))
    try:
        with Forked(WithHook, CONTEXT_CLASS='slow.Slow') as forked:
            began = time.monotonic()
            assert forked.handle.finish(0.3) == -signal.SIGKILL
            assert 0.3 <= time.monotonic() - began < DEADLINE
    finally:
        sys.path.remove(str(tmp_path))


def test_questions() -> None:
    """What a task asks is answered; what it tells is heard before its end."""
    heard: list[Any] = []

    class Task(Ours):
        def task(self) -> None:
            link = self.context.config.link
            link.tell('note', 'first')
            answer = link.ask('double', 21)
            for number in range(50):
                link.tell('note', number)
            self.tell(answer)

    with Forked(Task) as forked:
        forked.handle.questions.answers |= {
            'note': heard.append, 'double': lambda number: 2 * number}
        assert forked.run().message == '42'
        assert heard == ['first', *range(50)]


def test_what_a_process_told_before_it_died_is_heard() -> None:
    """It was told, so it counts."""
    heard: list[Any] = []

    class Task(Ours):
        def task(self) -> None:
            self.context.config.link.tell('note', 'last')
            os._exit(1)

    with Forked(Task) as forked:
        forked.handle.questions.answers['note'] = heard.append
        assert forked.run().outcome is Outcome.KILLED
        assert heard == ['last']


@pytest.mark.parametrize(('answer', 'error'), [
    (LockUnavailableError('gone'), 'gone'), (NotImplementedError('no'), 'no'),
    (ZeroDivisionError('of the lock'), 'ZeroDivisionError: of the lock'),
    (object(), 'TypeError: Object of type object is not JSON serializable')],
    ids=['lock', 'missing', 'mistake', 'no JSON'])
def test_question_that_has_no_answer(answer: Any, error: str) -> None:
    """A lock that fails fails who asked, and not the supervisor."""
    class Task(Ours):
        def task(self) -> None:
            try:
                self.context.config.link.ask('question')
            except LockUnavailableError as exc:
                self.tell(exc)

    def give() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer
    with Forked(Task) as forked:
        forked.handle.questions.answers['question'] = give
        for _ in range(2):
            assert forked.run().message == error


def test_thread_that_asks_between_runs() -> None:
    """A daemon that a run has left is answered when the loop looks."""
    class Task(Ours):
        def task(self) -> None:
            import threading
            link = self.context.config.link
            go_on = self.__dict__.setdefault('go_on', threading.Event())
            if 'thread' not in self.__dict__:
                def work() -> None:
                    go_on.wait(0.2)
                    link.tell('note', link.ask('answer'))
                thread = threading.Thread(target=work, daemon=True)
                self.__dict__['thread'] = thread
                thread.start()

    heard: list[Any] = []
    with Forked(Task) as forked:
        forked.handle.questions.answers |= {'note': heard.append, 'answer': lambda: 5}
        assert forked.run().outcome is Outcome.SUCCEEDED

        def look() -> bool:
            forked.handle.questions.answer_all()
            return bool(heard)
        until(look)
        assert heard == [5]


def test_stop_request() -> None:
    """A run can see that it is asked to return, and the next is not asked."""
    class Task(Ours):
        def task(self) -> None:
            memory = self.context.config.link.memory
            if 'second' in self.__dict__:
                self.tell(memory.stop_reason)
            self.__dict__['second'] = True
            until(lambda: memory.stop_reason)
            self.tell(memory.stop_reason)

    with Forked(Task) as forked:
        def tick() -> float:
            forked.handle.ask_to_stop('paused by ann')
            return 0.01
        forked.handle.tick = tick
        assert forked.run().message == 'paused by ann'
        forked.handle.tick = lambda: 0.01
        assert forked.run().message == 'None'


def test_sign_of_life() -> None:
    """A request begins with one, and the run's own are seen while it runs."""
    seen: list[float] = []

    class Task(Ours):
        def task(self) -> None:
            ends = time.monotonic() + 0.3
            while time.monotonic() < ends:
                self.extend_lock()
                time.sleep(0.01)

    with Forked(Task) as forked:
        def tick() -> float:
            seen.append(forked.handle.beat)
            return 0.05
        forked.handle.tick = tick
        assert forked.run().outcome is Outcome.SUCCEEDED
    assert abs(seen[0] - time.clock_gettime(time.CLOCK_BOOTTIME)) < DEADLINE
    assert seen == sorted(seen) and len(set(seen)) > 2


def test_no_process_can_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is why there is none, and it may be otherwise the next time."""
    def fork() -> int:
        raise BlockingIOError(11, 'Resource temporarily unavailable')

    class Task(BaseTask):
        name = 'task'

    forked = Forked(Task)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fork', fork)
        assert forked.handle.prepare() == (
            'there is no process for the task: [Errno 11] Resource '
            'temporarily unavailable')
    with forked:
        assert forked.handle.is_ready


def test_nothing_to_end() -> None:
    """Without a process there is nothing to be asked, interrupted or ended."""
    handle = RunHandle(lambda *_: None, Interrupts())
    handle.interrupt(Terminate('nobody'))
    assert not handle.lives and not handle.is_ready
    assert handle.finish() == 0
    handle.questions.answer_all()


# In whole jobs

JOBS = '''
import ctypes, os, subprocess, sys, time
from jobslib import BaseTask

class Crash(BaseTask):
    name = 'job'
    def task(self):
        print('process', os.getpid(), flush=True)
        ctypes.string_at(0)
    def on_failure(self, run):
        print('hook', flush=True)

class Closing(BaseTask):
    name = 'job'
    def task(self):
        os.closerange(0, 1000)

class Leaving(BaseTask):
    name = 'job'
    def task(self):
        subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'],
                         start_new_session=True, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)

class LeavingForEver(Leaving):
    def task(self):
        super().task()
        print('left', flush=True)
        time.sleep(99)

class LeavingAndDying(Leaving):
    def task(self):
        super().task()
        os.kill(os.getpid(), 9)
'''


def test_job_of_which_runs_crash(tmp_path: pathlib.Path) -> None:
    """The job goes on, with a new process for each run; hooks are named."""
    write_module(tmp_path, 'jobs', JOBS)
    with Job(tmp_path, '--sleep-interval', '0.01', 'jobs.Crash') as job:
        job.wait_for('killed by SIGSEGV', 3)
        job.wait_for('hook on_failure is not called: the process of the run '
                     'has ended', 2)
        assert 'hook\n' not in job.output
        pids = re.findall(r'process (\d+)', job.output)
        assert len(set(pids)) == len(pids) >= 3
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED


def test_exit_code_of_a_crash(tmp_path: pathlib.Path) -> None:
    """With --run-once a crash is a failure."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '--run-once', 'jobs.Crash')
    assert done.returncode == ExitCode.TASK_FAILED
    assert 'ERROR jobslib: run killed after' in done.stderr


def test_process_that_dies_while_the_task_is_imported(
        tmp_path: pathlib.Path) -> None:
    """It is said how, and the job has failed."""
    write_module(tmp_path, 'jobs', 'import os; os.kill(os.getpid(), 9)')
    done = run_job(tmp_path, '--run-once', 'jobs.Task')
    assert done.returncode == ExitCode.TASK_FAILED
    assert done.stderr == ('runjob: error: the task, or the settings, '
                           'cannot be imported: killed by SIGKILL\n')


def test_job_that_closes_its_descriptors(tmp_path: pathlib.Path) -> None:
    """Such a run succeeds, and so does the next."""
    write_module(tmp_path, 'jobs', JOBS)
    with Job(tmp_path, '--sleep-interval', '0.01', 'jobs.Closing') as job:
        job.wait_for('run succeeded', 3)


def test_job_that_leaves_a_process(tmp_path: pathlib.Path) -> None:
    """What a run has left is ended before the lock goes, and named."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '--run-once', 'jobs.Leaving')
    assert done.returncode == ExitCode.DONE, done.stderr
    found = re.search(r'ended what a run had left running: .*'
                      r'time\.sleep\(99\) \(pid (\d+)\)', done.stderr)
    assert found, done.stderr
    assert proc.start_time(int(found[1])) == 0


def test_interrupted_job_that_leaves_a_process(tmp_path: pathlib.Path) -> None:
    """What goes on when a run was interrupted is ended, and named as well."""
    write_module(tmp_path, 'jobs', JOBS)
    with Job(tmp_path, 'jobs.LeavingForEver') as job:
        job.wait_for('left')
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED
        found = re.search(r'ended what a run had left running: .*'
                          r'time\.sleep\(99\) \(pid (\d+)\)', job.output)
        assert found, job.output
        assert proc.start_time(int(found[1])) == 0


def test_killed_run_that_leaves_a_process(tmp_path: pathlib.Path) -> None:
    """What goes on when a run was killed is ended, and named once."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '--run-once', 'jobs.LeavingAndDying')
    assert done.returncode == ExitCode.TASK_FAILED
    [pid] = re.findall(r'ended what a run had left running: .*\(pid (\d+)\)',
                       done.stderr)
    assert proc.start_time(int(pid)) == 0


def test_orphans_that_end_in_a_wait() -> None:
    """They do not stay zombies until it is over, and it is no shorter."""
    def end() -> int:
        if (pid := os.fork()) == 0:
            os._exit(0)
        return pid

    def is_zombie(pid: int) -> bool:
        try:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG
                             | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def wait() -> None:
        until(lambda: not is_zombie(before))
        during.append(end())
        before_sleep = time.monotonic()
        time.sleep(0.1)
        assert time.monotonic() - before_sleep >= 0.1
        until(lambda: not os.path.exists(f'/proc/{during[0]}'))

    def fail() -> None:
        raise ZeroDivisionError

    during: list[int] = []
    with Forked(Ours) as forked:
        handler = signal.getsignal(signal.SIGCHLD)
        before = end()
        until(lambda: is_zombie(before))
        forked.handle.reap_while(wait)
        assert during and forked.handle.lives
        assert signal.getsignal(signal.SIGCHLD) == handler
        with pytest.raises(ZeroDivisionError):
            forked.handle.reap_while(fail)
        assert signal.getsignal(signal.SIGCHLD) == handler


FOREIGN = """
import subprocess, time
from jobslib import BaseTask

class Foreign(BaseTask):
    def task(self):
        # Until its input is at its end.
        subprocess.Popen(['cat'], user=65534, extra_groups=[])
        print('started', flush=True)
        time.sleep(3600)
"""
# PR_CAPBSET_DROP, CAP_KILL: root may then kill its own processes alone.
WITHOUT_KILL = """
import ctypes, os, sys
assert not ctypes.CDLL(None).prctl(24, 5, 0, 0, 0)
os.execv(sys.executable, [sys.executable, '-m', 'jobslib', *sys.argv[1:]])
"""


@pytest.mark.skipif(os.getuid() != 0, reason='for root')
def test_child_of_another_user(tmp_path: pathlib.Path) -> None:
    """One that may not be killed is waited for with the lock, and named."""
    write_module(tmp_path, 'jobs', FOREIGN)
    with Process(tmp_path, '-c', WITHOUT_KILL, '--run-once', 'jobs.Foreign',
                 JOBSLIB_ONE_INSTANCE_GRACE='0.5') as job:
        job.wait_for('started')
        job.send(signal.SIGTERM)
        job.wait_for('waiting for processes of other users, which may not be '
                     'killed: ')
        assert re.search(r'killed: \d+ \(cat\)', job.output)
        assert not is_free(tmp_path, 'jobs.Foreign')
        job.stdin.close()
        assert job.wait() == ExitCode.TERMINATED
        assert is_free(tmp_path, 'jobs.Foreign')
