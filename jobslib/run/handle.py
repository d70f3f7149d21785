"""The run's process, as its supervisor sees it."""

from __future__ import annotations

import os
import select
import signal
import time
import warnings

from jobslib.clock import now
from jobslib.exceptions import LockError, Terminate
from jobslib.keeper import processes
from jobslib.run import leftovers
from jobslib.run.channel import descriptors, pair, shed
from jobslib.run.memory import Memory
from jobslib.run.prctl import die_with_parent
from jobslib.run.signals import INTERRUPT_SIGNAL
from jobslib.runs import Outcome, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobslib.documents import Document
    from jobslib.exceptions import Interrupt
    from jobslib.interrupts import Interrupts
    from jobslib.oneinstance import BaseLock
    from jobslib.run.channel import Channel
    from jobslib.runs import Run

    #: What the child does; it is given its ends and never returns.
    Body = Callable[[Channel, Channel, Memory], None]

__all__ = ['Result', 'RunHandle', 'concerns', 'describe_end']

#: The longest wait between two looks at what is to be done meanwhile.
LOOK = 0.25
# From a signal to the kill, in seconds, before there is a lock.
FIRST_GRACE = 3.0
# When the task has closed the descriptor of the channel.
POLL = 0.02
# How long the kernel may take to end a thread, in seconds.
THREAD_ENDS = 0.1
# So many are answered at once, however fast others come.
MOST_QUESTIONS = 1000


class Result:
    """How a request to the run's process ended.

    :param outcome: of the run, or of the hook.
    :param error: type and first line of what was raised, or how the process
        ended.
    :param message: the whole message of what was raised.
    :param traceback: ``None`` where the message explains the failure.
    :param closed: whether the process can be asked nothing any more.
    """

    def __init__(self, outcome: str, error: str | None = None,
                 message: str = '', traceback: str | None = None,
                 closed: bool = False) -> None:
        self.outcome = Outcome(outcome)
        self.error = error
        self.message = message
        self.traceback = traceback
        self.closed = closed


class RunHandle:
    """Starts the run's process, asks it, interrupts and ends it.

    :param body: what the child does.
    :param interrupts: the signals of the supervisor.
    """

    def __init__(self, body: Body, interrupts: Interrupts) -> None:
        self._body = body
        self._interrupts = interrupts
        #: What a question of the task is answered with, by method.
        self.answers: dict[str, Callable[..., object]] = {}
        #: Called again and again while a request is waited for; returns
        #: after how many seconds it wants to be called again at the latest.
        self.tick: Callable[[], float] = _nothing
        #: From an interrupt to the kill, in seconds; the lock knows better.
        self.grace = FIRST_GRACE
        self.pid: int | None = None
        #: The hooks that the task overrides.
        self.hooks: list[str] = []
        #: Until when something of an interrupted run that goes on may live.
        self.deadline: float | None = None
        self._made = False
        # Those that it had when it had made the task.
        self._first_threads: set[str] = set()
        self._pidfd = -1
        self._channel: Channel | None = None
        self._questions: Channel | None = None
        self._memory = Memory()
        self._numbers = 0
        self._busy = False
        self._kill_at: float | None = None
        self._interrupt: Interrupt | None = None
        self._marker = os.urandom(16).hex()
        self._since = processes.start_time(os.getpid())
        # What is not ours: it was open when we were started.
        self._given = set(descriptors())
        # Wakes the wait when a signal handler has something to do.
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    # The process.

    def start(self) -> None:
        """Start the process."""
        channel, theirs = pair()
        questions, answers = pair()
        memory = Memory()
        parent = os.getpid()
        blocked = signal.pthread_sigmask(
            signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            with warnings.catch_warnings():
                # That there are threads here: none of them has anything that
                # the child uses.
                warnings.simplefilter('ignore', DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                try:
                    die_with_parent(parent)
                    shed(self._given | {theirs.fileno(), answers.fileno()})
                    self._interrupts.leave_all()
                    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
                    self._body(theirs, answers, memory)
                finally:
                    # Whatever was raised, by a hook of the interpreter that
                    # the task has replaced, say: what returned from here
                    # would go on as a second supervisor.
                    os._exit(1)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        answers.close()
        self.pid, self._pidfd = pid, os.pidfd_open(pid)
        self._channel, self._questions = channel, questions
        self._memory = memory

    @property
    def lives(self) -> bool:
        """Whether there is a process that can be asked something."""
        if self.pid is None:
            return False
        if _has_ended(self._pidfd):
            self._reap()
            return False
        return self._channel is not None

    @property
    def is_ready(self) -> bool:
        """Whether there is a process that has made the task."""
        return self.lives and self._made

    def prepare(self) -> str | None:
        """Have a process with a task in it; return why there is none."""
        if self.is_ready:
            return None
        if self.pid is not None and self._channel is None:
            # It ends by itself.
            self.finish(self.grace)
        self._busy = True
        self._kill_at = None
        try:
            is_new = not self.lives
            if is_new:
                self.start()
            # It goes on to that by itself when it has read its options.
            self.begin_making()
            if is_new:
                told = self.first_word()
                if 'exit' in told:
                    return ('there is no process for the task: '
                            f'{describe_end(told["exit"])}')
            told = self.end_making()
        except OSError as exc:
            return f'there is no process for the task: {exc}'
        finally:
            self._busy = False
            self._kill_at = None
        if not self._made:
            self.finish(self.grace)
            if 'exit' in told:
                return f'the task cannot be made: {describe_end(told["exit"])}'
            return 'the task cannot be made' + ''.join(
                f': {told[each]}' for each in ('refused', 'error')
                if each in told)
        return None

    def begin_making(self) -> None:
        """Have the process make the task."""
        assert self._channel is not None
        self._memory.forget()
        try:
            self._channel.send({'do': 'make'})
        except ConnectionError:
            # It has ended meanwhile, as will be seen.
            pass

    def end_making(self) -> Document:
        """Wait until the task is made; return what is said of it.

        ``made`` is whether it is, ``refused`` and ``error`` say why not,
        ``exit`` is the exit code of a process that ended meanwhile.
        """
        self._busy = True
        try:
            if self._interrupts.pending is not None:
                self.interrupt(self._interrupts.pending)
            told = self.first_word()
        finally:
            self._busy = False
            self._kill_at = None
        self._made = bool(told.get('made'))
        self._first_threads = self._threads()
        self.hooks = told.get('hooks', [])
        return told

    def first_word(self) -> Document:
        """Wait for what the process says of itself; ``exit`` is how it ended
        instead, as an exit code."""
        told: dict[str, object] = {}

        def heard(message: Mapping[str, object]) -> bool:
            told.update(message)
            return True

        status = self._listen(heard)
        return told if status is None else {
            'exit': os.waitstatus_to_exitcode(status)}

    def finish(self, limit: float | None = None) -> int:
        """Have the process end properly; return its exit code.

        :param limit: seconds after which it is killed.  Without a limit, a
            signal leaves it the grace time.
        """
        if self.pid is None:
            return 0
        if self._channel is not None:
            try:
                self._channel.send({'do': 'end'})
            except ConnectionError:
                pass
        self._kill_at = (self.deadline if self.deadline is not None
                         else None if limit is None else now() + limit)
        with self._interrupts.interruptible(self._hurry):
            status = self._listen(lambda message: False)
        assert status is not None
        return os.waitstatus_to_exitcode(status)

    def _hurry(self, interrupt: Interrupt) -> None:
        """Called in a signal handler while the process ends."""
        if self._kill_at is None:
            self.limit(self.grace)

    def kill(self) -> None:
        """Kill the process, and everything that it has started."""
        self._end_all()
        if self.pid is not None and _has_ended(self._pidfd):
            self._reap()

    def leaves_processes(self) -> bool:
        """Return whether runs have left processes running."""
        return leftovers.remain(os.getpid(), self._kept(), self._look)

    def leaves_threads(self) -> bool:
        """Return whether runs or hooks have left threads running."""
        return bool(self._threads() - self._first_threads)

    def end_leftovers(self) -> list[str]:
        """End what runs have left running, but not the process itself.

        :returns: what was ended.
        """
        return leftovers.end_gently(os.getpid(), self._marker, self._kept(),
                                    self.grace, self._look, self._report)

    def _kept(self) -> tuple[int, ...]:
        return () if self.pid is None else (self.pid,)

    def reap_orphans(self) -> None:
        """Take leave of processes that have lost their parents to us."""
        while True:
            try:
                ended = os.waitid(
                    os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid == self.pid:
                return
            try:
                # Without a wait: a signal handler may have been faster.
                os.waitpid(ended.si_pid, os.WNOHANG)
            except ChildProcessError:
                pass

    def reap_while(self, wait: Callable[[], None]) -> None:
        """Call *wait*, and take leave of orphans that end meanwhile at once.

        A signal handler does it, so that whatever is waited for need not be
        asked again for their sake.
        """
        previous = signal.getsignal(signal.SIGCHLD)
        try:
            signal.signal(signal.SIGCHLD, lambda *_: self.reap_orphans())
            self.reap_orphans()
            wait()
        finally:
            # None: a handler that was not installed by Python.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if previous is None
                          else previous)

    # Requests.

    def run(self, run: Run, lock: BaseLock) -> Result:
        """Have the task run, and wait until the run is over."""
        self._marker = lock.marker or self._marker
        return self._ask('run', lock, {
            'run': run.export(), 'marker': self._marker},
            lock.handles())

    def call_hook(self, name: str, args: Sequence[object], lock: BaseLock,
                  with_lock: bool = True) -> Result:
        """Call a hook of the task, and wait until it has returned.

        :param with_lock: whether it counts on the lock: then an interrupt
            that is pending when it begins interrupts it.
        """
        return self._ask('hook' if with_lock else 'free hook', lock, {
            'name': name, 'args': list(args), 'token': lock.fencing_token})

    def interrupt(self, interrupt: Interrupt) -> None:
        """Interrupt what the process does; may be called by a handler.

        If it does not end within the grace time, it is killed.
        """
        if not self._busy:
            return
        self._interrupt = interrupt
        self._memory.ask(type(interrupt).__name__, str(interrupt))
        signum = (self._interrupts.signum or signal.SIGTERM
                  if isinstance(interrupt, Terminate) else INTERRUPT_SIGNAL)
        self._memory.ask_to_stop(str(interrupt))
        self._limit(now() + self.grace)
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except OSError:
            # It has ended in this instant.
            pass
        os.eventfd_write(self._wake_fd, 1)

    def limit(self, seconds: float) -> None:
        """Kill the process if what it does, or is about to be asked, is not
        over within *seconds*; may be called by a handler."""
        self._limit(now() + seconds)
        os.eventfd_write(self._wake_fd, 1)

    def ask_to_stop(self, reason: str) -> None:
        """Ask the run to return by itself."""
        if self._memory.stop_reason != reason:
            self._memory.ask_to_stop(reason)

    @property
    def beat(self) -> float:
        """When the run gave its last sign of life."""
        return self._memory.beat

    def show_lock(self, lock: BaseLock) -> None:
        """Let the task see the state of *lock*."""
        self._memory.set_lock(lock.held, lock.fencing_token)

    def _ask(self, do: str, lock: BaseLock, message: dict[str, object],
             descriptors: Sequence[int] = ()) -> Result:
        assert self._channel is not None
        self._numbers += 1
        number = self._numbers
        self._interrupt = None
        if self.deadline is not None:
            self._limit(self.deadline)
        self._memory.forget()
        self._memory.beat = now()
        self.show_lock(lock)
        threads = self._threads()
        self._busy = True
        try:
            pending = self._interrupts.pending
            try:
                self._channel.send(
                    {'do': do, 'number': number} | message, descriptors)
            except ConnectionError:
                # It has ended meanwhile, or will.
                pass
            if pending is not None and concerns(pending, do):
                self.interrupt(pending)
            result = self._await(number)
            # What the task has told before its end counts.
            self.answer_questions()
            if result.closed and self._channel is not None:
                self._lose_channel()
            if (self._interrupt or result.outcome is Outcome.INTERRUPTED) and (
                    self._goes_on(threads)):
                self.deadline = (now() + self.grace if self._kill_at is None
                                 else self._kill_at)
            return result
        finally:
            self._busy = False
            self._kill_at = None

    def _goes_on(self, threads: set[str]) -> bool:
        """Return whether a thread that is not among *threads*, or a process,
        goes on.

        The process itself is not asked: it does not see what has lost its
        parent, nor threads that Python knows nothing of, and what it could
        look with may be replaced or shut off by the task.
        """
        if leftovers.left_below(os.getpid(), self._kept()):
            return True
        # Python takes a thread for ended a moment before the kernel does.
        ends = now() + THREAD_ENDS
        while self._threads() - threads:
            if now() >= ends:
                return True
            self._look()
            time.sleep(THREAD_ENDS / 20)
        return False

    def _threads(self) -> set[str]:
        """Return the ids of the threads of the process."""
        try:
            return set(os.listdir(f'/proc/{self.pid}/task'))
        except OSError:
            return set()

    def _await(self, number: int) -> Result:
        memory = self._memory
        status = self._listen(lambda _: memory.result(number) is not None,
                              lambda: memory.result(number) is not None)
        result = memory.result(number)
        # What it told before, metrics say, would wait for the next run.
        self.answer_questions()
        if result is not None:
            return Result(**result)
        assert status is not None
        # What it has started is nobody's any more.
        self.kill()
        return Result(Outcome.KILLED.value, _describe(status, self._interrupt))

    def _listen(self, heard: Callable[[Mapping[str, object]], bool],
                seen: Callable[[], bool] = bool) -> int | None:
        """Deal with what the process says, until *heard* or *seen*.

        :returns: ``None``, or the status with which the process ended.
        """
        while True:
            if seen():
                return None
            if self._kill_at is not None and now() >= self._kill_at:
                self._kill_at = None
                status = self._kill_process()
                return None if seen() else status
            ready = self._poll(self._look())
            if self._channel is not None and self._channel.fileno() in ready:
                received = self._channel.receive()
                if received is None:
                    self._lose_channel()
                elif 'signal' in received[0]:
                    self._interrupts.terminate(received[0]['signal'])
                elif heard(received[0]):
                    return None
            elif self._pidfd in ready:
                status = self._reap()
                return None if seen() else status
            if (self._questions is not None
                    and self._questions.fileno() in ready):
                self._answer()

    def _kill_process(self) -> int:
        self._end_all()
        return self._reap()

    def _end_all(self) -> None:
        known = frozenset({os.getpid()} if self.pid is None
                          else {os.getpid(), self.pid})
        left = processes.leftovers(os.getpid(), known)
        processes.end(os.getpid(), None, self._marker, set(), self._look,
                      self._since, report=self._report)
        for (pid, _), name in sorted(left.items()):
            self._report(f'ended what a run had left running: {name} '
                         f'(pid {pid})')

    def _poll(self, timeout: float) -> list[int]:
        poller = select.poll()
        for each in (self._channel, self._questions, self._pidfd,
                     self._wake_fd):
            if each is not None:
                poller.register(each, select.POLLIN)
        if self._channel is None:
            timeout = min(timeout, POLL)
        if self._kill_at is not None:
            timeout = min(timeout, max(self._kill_at - now(), 0))
        ready = [fd for fd, _ in poller.poll(timeout * 1000)]
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
        return ready

    def _report(self, text: str) -> None:
        import logging
        logging.getLogger('jobslib').warning('%s', text)

    def _look(self) -> float:
        self.reap_orphans()
        return max(self.tick(), 0)

    def _answer(self) -> None:
        """Answer a question of the task."""
        assert self._questions is not None
        received = self._questions.receive()
        if received is None:
            self._questions.close()
            self._questions = None
            return
        question = received[0]
        answer = self._find_answer(question)
        if question['id']:
            try:
                self._questions.send({'id': question['id']} | answer)
            except ConnectionError:
                pass

    def _find_answer(self, question: Document) -> Document:
        """Return the ``value`` that was asked for, or the ``error``."""
        try:
            value = self.answers[question['method']](*question['args'])
            if question['id']:
                import json
                json.dumps(value)
            return {'value': value}
        except (LockError, NotImplementedError) as exc:
            return {'error': str(exc)}
        except Exception as exc:
            # A lock of the user's, say, with a mistake in it.
            return {'error': describe(exc)}

    def answer_questions(self) -> None:
        """Answer what is asked while no request is waited for.

        Threads that a run has left may ask something at any time.
        """
        for _ in range(MOST_QUESTIONS):
            if (self._questions is None
                    or not select.select([self._questions], [], [], 0)[0]):
                return
            self._answer()

    def _limit(self, kill_at: float) -> None:
        if self._kill_at is None or kill_at < self._kill_at:
            self._kill_at = kill_at

    def _lose_channel(self) -> None:
        """The task has closed it; what it leaves in the memory counts."""
        assert self._channel is not None
        self._channel.close()
        self._channel = None

    def _reap(self) -> int:
        """Take leave of the process, which has ended; return its status."""
        assert self.pid is not None
        _, status = os.waitpid(self.pid, 0)
        # What it told at last.
        self.answer_questions()
        os.close(self._pidfd)
        for each in (self._channel, self._questions):
            if each is not None:
                each.close()
        self.pid = self._channel = self._questions = None
        self._pidfd = -1
        self._made = False
        self.deadline = None
        return status


def concerns(interrupt: Interrupt, do: str) -> bool:
    """Return whether what is pending interrupts what is to be done."""
    return do == 'run' or (
        do == 'hook' and not isinstance(interrupt, Terminate))


def _describe(status: int, interrupt: Interrupt | None) -> str:
    """Say how the process of a run ended."""
    text = describe_end(os.waitstatus_to_exitcode(status))
    return text if interrupt is None else f'{interrupt}; {text}'


def describe_end(code: int) -> str:
    """Say how a process ended.

    :param code: its exit code, a signal as a negative number.
    """
    if code >= 0:
        return f'its process ended with exit code {code}'
    try:
        return f'killed by {signal.Signals(-code).name}'
    except ValueError:
        return f'killed by signal {-code}'


def _has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _nothing() -> float:
    return LOOK
