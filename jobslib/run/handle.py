"""The run's process, as its supervisor sees it."""

from __future__ import annotations

import os
import select
import signal
import time
import warnings

from jobslib.clock import now
from jobslib.exceptions import Terminate
from jobslib.keeper import proc
from jobslib.run import leftovers
from jobslib.run.channel import descriptors, pair, shed
from jobslib.run.memory import Memory
from jobslib.run.prctl import die_with_parent
from jobslib.run.questions import Questions
from jobslib.run.result import Result, describe_end
from jobslib.run.signals import INTERRUPT_SIGNAL
from jobslib.runs import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jobslib.documents import Document
    from jobslib.exceptions import Interrupt
    from jobslib.interrupts import Interrupts
    from jobslib.oneinstance import BaseLock
    from jobslib.run.channel import Channel
    from jobslib.runs import Run

    #: What the child does: it is given its ends of the channels for requests and
    #: for questions, and the memory.  It never returns.
    Body = Callable[[Channel, Channel, Memory], None]

__all__ = ['LATE_HOOKS', 'RunHandle', 'concerns']

#: The longest wait until the supervisor looks what else it has to do, in seconds.
LOOK = 0.25
#: The hooks that are called when the lock is not held any more.
LATE_HOOKS = frozenset({'on_released', 'on_lost'})
# From a signal to the kill, in seconds, while there is no lock yet that names it.
FIRST_GRACE = 3.0
# For how long the process may take to end before it is said that it is waited for,
# in seconds.
SAY_AFTER = 3.0
# How often the memory is looked at when the task has closed the descriptor of the
# channel, in seconds.
POLL = 0.02
# How long the kernel may take to end a thread, in seconds.
THREAD_ENDS = 0.1


class RunHandle:
    """Starts the run's process, sends it requests, interrupts and ends it.

    :param body: what the child does.
    :param interrupts: the signals of the supervisor.
    """

    def __init__(self, body: Body, interrupts: Interrupts) -> None:
        self._body = body
        self._interrupts = interrupts
        #: What the task asks.
        self.questions = Questions()
        #: Called again and again while a request is waited for; it returns
        #: after how many seconds it wants to be called again at the latest.
        self.tick: Callable[[], float] = _nothing
        #: From an interrupt to the kill, in seconds; the lock's own grace time
        #: takes its place when there is a lock.
        self.grace = FIRST_GRACE
        self.pid: int | None = None
        #: The hooks that the task overrides.
        self.hooks: list[str] = []
        #: When an interrupted run has ended and something that it has started
        #: goes on: until when that may live.
        self.deadline: float | None = None
        self._made = False
        # Whether runs or hooks have registered functions that it calls at its end.
        self._exits = False
        # The threads of the process when it had made the task.
        self._first_threads: set[str] = set()
        self._pidfd = -1
        self._channel: Channel | None = None
        self._memory = Memory()
        self._numbers = 0
        self._busy = False
        self._kill_at: float | None = None
        self._interrupt: Interrupt | None = None
        self._marker = os.urandom(16).hex()
        self._since = proc.start_time(os.getpid())
        # The descriptors that were open when the supervisor was started; they
        # are the user's, and the run inherits them.
        self._given = set(descriptors())
        # Ends the wait in poll() when a signal handler has something to do.
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
                # Python warns of a fork in a process with threads.  None of the
                # threads here holds a lock that the child needs.
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
                    # Whatever is raised, for instance by a hook of the
                    # interpreter that the task has replaced: the child must
                    # never return from here, or it would go on as a second
                    # supervisor.
                    os._exit(1)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        answers.close()
        self.pid, self._pidfd = pid, os.pidfd_open(pid)
        self._channel, self.questions.channel = channel, questions
        self._memory = memory

    @property
    def lives(self) -> bool:
        """Whether there is a process that can be asked something."""
        if self.pid is None:
            return False
        if proc.has_ended(self._pidfd):
            self._reap()
            return False
        return self._channel is not None

    @property
    def is_ready(self) -> bool:
        """Whether there is a process that has made the task."""
        return self.lives and self._made

    def prepare(self) -> str | None:
        """Make sure that there is a process that has made the task.

        :returns: why there is none; ``None`` if there is.
        """
        if self.is_ready:
            return None
        if self.pid is not None and self._channel is None:
            # A process that has lost its channel ends by itself.
            self.finish(self.grace)
        self._busy = True
        self._kill_at = None
        try:
            is_new = not self.lives
            if is_new:
                self.start()
            # Asked in advance: it makes the task as soon as it has read its options,
            # without waiting for this process in between.
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
        """Ask the process to make the task; :meth:`end_making` waits for it."""
        assert self._channel is not None
        self._memory.forget()
        try:
            self._channel.send({'do': 'make'})
        except ConnectionError:
            # The process has ended meanwhile, which end_making() will see.
            pass

    def end_making(self) -> Document:
        """Wait until the task is made; return what the process says of it.

        ``made`` tells whether it is made, ``refused`` or ``error`` why not, and
        ``exit`` is the exit code if the process ended meanwhile.
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
        """Wait for a message of the process.

        If it ended instead, the message has its exit code, as ``exit``.
        """
        told: dict[str, object] = {}

        def heard(message: Mapping[str, object]) -> bool:
            told.update(message)
            return True

        status = self._listen(heard)
        return told if status is None else {
            'exit': os.waitstatus_to_exitcode(status)}

    def finish(self, limit: float | None = None) -> int:
        """Let the process end properly; return its exit code.

        :param limit: seconds after which it is killed.  Without one it is
            killed only after a signal, when the grace time has passed.
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
        say_at = now() + SAY_AFTER

        def say() -> bool:
            nonlocal say_at
            if now() >= say_at:
                say_at = float('inf')
                self._report(
                    f'waiting for the process of the task (pid {self.pid}) to end: '
                    f'its context is being closed, or a thread or what is called at '
                    f'the exit goes on' + ('' if self._kill_at is None else
                                           '; it is killed in '
                                           f'{max(self._kill_at - now(), 0):.0f} s'))
            return False

        with self._interrupts.interruptible(self._hurry):
            status = self._listen(lambda message: False, say)
        assert status is not None
        return os.waitstatus_to_exitcode(status)

    def _hurry(self, interrupt: Interrupt) -> None:
        """Called in a signal handler while the process ends."""
        if self._kill_at is None:
            self.limit(self.grace)

    def kill(self) -> None:
        """Kill the process, and everything that it has started."""
        self._end_all()
        if self.pid is not None and proc.has_ended(self._pidfd):
            self._reap()

    def leaves_processes(self) -> bool:
        """Return whether runs have left processes running."""
        return leftovers.remain(os.getpid(), self._kept(), self._look)

    def leaves_code(self) -> bool:
        """Return whether runs or hooks have left threads running, or functions that
        are called when the process ends."""
        return self._exits or bool(self._threads() - self._first_threads)

    def end_leftovers(self) -> None:
        """End what runs have left running, but not the process itself."""
        self._report_ended(leftovers.end_gently(
            os.getpid(), self._marker, self._kept(), self.grace, self._look,
            self._report))

    def _kept(self) -> tuple[int, ...]:
        return () if self.pid is None else (self.pid,)

    def reap_orphans(self) -> None:
        """Wait for orphans that have ended, so that none stays as a zombie.

        What runs have started and what has lost its parent is a child of the
        supervisor.
        """
        while True:
            try:
                ended = os.waitid(
                    os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid == self.pid:
                return
            try:
                # It does not wait: a signal handler may have been faster, and
                # then there is nothing left to be waited for.
                os.waitpid(ended.si_pid, os.WNOHANG)
            except ChildProcessError:
                pass

    def reap_while(self, wait: Callable[[], None]) -> None:
        """Call *wait*, and reap orphans while it waits.

        A signal handler does it, so that *wait* does not have to return, and to
        ask a service again, each time that one of them has ended.
        """
        previous = signal.getsignal(signal.SIGCHLD)
        try:
            signal.signal(signal.SIGCHLD, lambda *_: self.reap_orphans())
            self.reap_orphans()
            wait()
        finally:
            # It is None when the handler before was not installed by Python.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if previous is None
                          else previous)

    # Requests.

    def run(self, run: Run, lock: BaseLock) -> Result:
        """Let the task run, and wait until the run is over."""
        self._marker = lock.marker or self._marker
        return self._ask('run', lock, {
            'run': run.export(), 'marker': self._marker},
            lock.handles())

    def call_hook(self, name: str, args: Sequence[object], lock: BaseLock,
                  with_lock: bool = True) -> Result:
        """Call a hook of the task, and wait until it has returned.

        :param with_lock: whether the hook relies on the lock.  If so, the loss
            of the lock interrupts it, also when that is pending already.
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
            # The process has ended in this instant.
            pass
        os.eventfd_write(self._wake_fd, 1)

    def limit(self, seconds: float) -> None:
        """Kill the process if the current request, or the next one if there is
        none, is not done within *seconds*; may be called by a handler."""
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
                # The process has ended, or is about to, which _await() will see.
                pass
            if pending is not None and concerns(pending, do):
                self.interrupt(pending)
            result = self._await(number)
            # What the task has told before its end, such as metrics, counts.
            self.questions.answer_all()
            if result.closed and self._channel is not None:
                self._lose_channel()
            self._exits = result.exits
            if (self._interrupt or result.outcome is Outcome.INTERRUPTED) and (
                    self._calls_at_exit() or self._goes_on(threads)):
                self.deadline = (now() + self.grace if self._kill_at is None
                                 else self._kill_at)
            return result
        finally:
            self._busy = False
            self._kill_at = None

    def _calls_at_exit(self) -> bool:
        """Return whether the process is to end before the release, since it calls
        functions at its end that runs have registered.

        It is not if a hook is to be called in it after the release.
        """
        return self._exits and LATE_HOOKS.isdisjoint(self.hooks)

    def _goes_on(self, threads: set[str]) -> bool:
        """Return whether a thread that is not among *threads*, or a process that
        the run has started, goes on.

        The run's process is not asked.  It sees neither processes that have
        lost their parents nor threads that were not started by Python, and the
        task may have replaced whatever it would look with.
        """
        if leftovers.left_below(os.getpid(), self._kept()):
            return True
        # For Python a thread has ended a moment earlier than for the kernel.
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
        # Answered now; otherwise what the task has told last, such as metrics,
        # would lie there until the next run.
        self.questions.answer_all()
        if result is not None:
            return Result(**result)
        assert status is not None
        # The process is gone, and what it has started must not go on.
        self.kill()
        return Result.killed(status, self._interrupt)

    def _listen(self, heard: Callable[[Mapping[str, object]], bool],
                seen: Callable[[], bool] = bool) -> int | None:
        """Deal with what the process says until *heard* accepts a message, *seen*
        returns true, or the process ends.

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
            if (self.questions.channel is not None
                    and self.questions.channel.fileno() in ready):
                self.questions.answer()

    def _kill_process(self) -> int:
        self._end_all()
        return self._reap()

    def _end_all(self) -> None:
        """End the process, and all that runs have left running."""
        self._report_ended(leftovers.end_with(
            os.getpid(), self._marker, self._kept(), self._since, self._look,
            self._report))

    def _poll(self, timeout: float) -> list[int]:
        poller = select.poll()
        for each in (self._channel, self.questions.channel, self._pidfd,
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

    def _report_ended(self, ended: Iterable[str]) -> None:
        for each in ended:
            self._report(f'ended what a run had left running: {each}')

    def _report(self, text: str) -> None:
        import logging
        logging.getLogger('jobslib').warning('%s', text)

    def _look(self) -> float:
        self.reap_orphans()
        return max(self.tick(), 0)

    def _limit(self, kill_at: float) -> None:
        if self._kill_at is None or kill_at < self._kill_at:
            self._kill_at = kill_at

    def _lose_channel(self) -> None:
        """Close what is left of a channel that the task has closed; from here on
        only the memory tells how requests end."""
        assert self._channel is not None
        self._channel.close()
        self._channel = None

    def _reap(self) -> int:
        """Close all that belongs to the process, which has ended; return its
        exit status."""
        assert self.pid is not None
        _, status = os.waitpid(self.pid, 0)
        # It may have told something before its end.
        self.questions.answer_all()
        os.close(self._pidfd)
        self.questions.close()
        if self._channel is not None:
            self._lose_channel()
        self.pid = None
        self._pidfd = -1
        self._made = self._exits = False
        self.deadline = None
        return status


def concerns(interrupt: Interrupt, do: str) -> bool:
    """Return whether a pending interrupt interrupts a request of the kind *do*."""
    return do == 'run' or (
        do == 'hook' and not isinstance(interrupt, Terminate))


def _nothing() -> float:
    return LOOK
