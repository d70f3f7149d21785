"""What the two processes of a run share: memory, channel; threads and leftovers."""

import contextlib
import fcntl
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from support import DEADLINE, until

from jobslib import Terminate
from jobslib.keeper import proc, processes
from jobslib.run.channel import PACKET, Channel, fill_standard, pair, shed
from jobslib.run.leftovers import end_gently, left_below
from jobslib.run.memory import MAX_REASON, Memory
from jobslib.run.threads import begun_since, wait_for

# Memory


def test_memory_at_first() -> None:
    """Nothing is asked, held or finished."""
    memory = Memory()
    assert (memory.beat, memory.token, memory.held) == (0, None, False)
    assert (memory.interrupt, memory.stop_reason) == (None, None)
    assert memory.result(1) is None


def test_memory_of_numbers() -> None:
    """Numbers come back as they are, a token of 0 too."""
    memory = Memory()
    memory.beat = 1e9 + 0.123456789
    assert memory.beat == 1e9 + 0.123456789
    for held, token in ((True, 0), (True, 2 ** 62), (False, None), (True, 7)):
        memory.set_lock(held, token)
        assert (memory.held, memory.token) == (held, token)


def test_memory_of_requests() -> None:
    """What is asked of a request is forgotten when the next begins."""
    memory = Memory()
    memory.ask('Terminate', 'signal SIGTERM')
    memory.ask_to_stop('paused by ann')
    memory.finish(5, {'outcome': 'failed'})
    assert memory.interrupt == ('Terminate', 'signal SIGTERM')
    assert memory.stop_reason == 'paused by ann'
    assert memory.result(5) == {'outcome': 'failed'}
    assert memory.result(4) is memory.result(6) is None
    memory.set_lock(True, 7)
    memory.forget()
    assert [memory.interrupt, memory.stop_reason, memory.result(5)] == [
        None, None, None]
    assert (memory.held, memory.token) == (True, 7)


@pytest.mark.parametrize('text', ['x', '\U0001f600', '\0', '\ud800'],
                         ids=ascii)
def test_memory_of_long_texts(text: str) -> None:
    """No text runs into its neighbour; a reason is cut short."""
    memory = Memory()
    memory.beat = 5.0
    reason = text * 100_000
    result = {'traceback': text * 30_000, 'message': text * 10_000}
    memory.finish(1, result)
    memory.ask_to_stop(reason)
    memory.ask('OneInstanceWatchdogError', reason)
    assert memory.interrupt == (
        'OneInstanceWatchdogError', reason[:MAX_REASON])
    assert memory.stop_reason == reason[:MAX_REASON]
    assert memory.result(1) == result
    assert memory.beat == 5.0


def test_memory_that_is_full() -> None:
    """A result that does not fit is refused, and the one before stays."""
    memory = Memory()
    memory.finish(1, 'x' * (memory.MAX_RESULT - 2))
    with pytest.raises(ValueError, match='too large'):
        memory.finish(2, 'x' * (memory.MAX_RESULT - 1))
    assert memory.result(1) is not None and memory.result(2) is None


def test_memory_is_shared() -> None:
    """A forked child writes what the parent reads, without any descriptor."""
    memory = Memory()
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 1000)
        memory.finish(3, {'of': 'the child'})
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory.result(3) == {'of': 'the child'}


# Channel

@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The two ends of a channel."""
    ours, theirs = pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages(ends: tuple[Channel, Channel]) -> None:
    """Messages go both ways, in their order."""
    ours, theirs = ends
    for number in range(3):
        ours.send({'number': number})
    theirs.send({'text': 'žluťoučký \ud800'})
    assert [theirs.receive() for _ in range(3)] == [
        ({'number': number}, []) for number in range(3)]
    assert ours.receive() == ({'text': 'žluťoučký \ud800'}, [])


@pytest.mark.parametrize('size', [
    PACKET - 12, PACKET - 11, PACKET - 10, 2 * PACKET, 30 * PACKET + 5])
def test_long_message(ends: tuple[Channel, Channel], size: int) -> None:
    """A message of any length is whole, and so is the next one."""
    ours, theirs = ends

    def send() -> None:
        ours.send({'text': 'x' * size}, [2])
        ours.send({'next': True})
    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    received = theirs.receive()
    assert received is not None
    message, descriptors = received
    assert message == {'text': 'x' * size}
    assert len(descriptors) == 1
    os.close(descriptors[0])
    assert theirs.receive() == ({'next': True}, [])
    sending.join(DEADLINE)


def test_descriptors(ends: tuple[Channel, Channel],
                     tmp_path: pathlib.Path) -> None:
    """Descriptors come as copies of their own, which children do not get."""
    ours, theirs = ends
    with (tmp_path / 'file').open('wb') as file:
        ours.send({}, [file.fileno(), file.fileno()])
    received = theirs.receive()
    assert received is not None
    first, second = received[1]
    for fd in (first, second):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.write(fd, b'x')
        os.close(fd)
    assert (tmp_path / 'file').read_bytes() == b'xx'


def test_other_end_is_gone(ends: tuple[Channel, Channel]) -> None:
    """What was said last is heard; then there is nobody."""
    ours, theirs = ends
    ours.send({'last': True})
    ours.close()
    assert theirs.receive() == ({'last': True}, [])
    assert theirs.receive() is None
    with pytest.raises(ConnectionError):
        theirs.send({})


def test_closed_descriptor(ends: tuple[Channel, Channel]) -> None:
    """A descriptor that somebody closed is noticed."""
    ours, _ = ends
    os.close(ours.fileno())
    assert not ours.is_intact
    assert ours.receive() is None
    with pytest.raises(ConnectionError, match='was closed'):
        ours.send({})


def test_other_end_is_gone_without_having_read(
        ends: tuple[Channel, Channel]) -> None:
    """What it had said is heard nevertheless."""
    ours, theirs = ends
    ours.send({'not': 'read'})
    theirs.send({'last': True})
    theirs.close()
    assert ours.receive() == ({'last': True}, [])
    assert ours.receive() is None


@pytest.mark.parametrize('garbage', [b'x', b'.x', b'.5', b'+x', b'.{}garbage'])
def test_what_is_no_message(
        garbage: bytes, ends: tuple[Channel, Channel]) -> None:
    """What a task writes to all of its descriptors ends the talk, no more."""
    ours, theirs = ends
    os.write(theirs.fileno(), garbage)
    theirs.send({'message': 1})
    assert ours.receive() is None


def test_reused_descriptor(ends: tuple[Channel, Channel],
                           tmp_path: pathlib.Path) -> None:
    """A file that has the number now is neither read, written nor closed."""
    ours, _ = ends
    path = tmp_path / 'file'
    path.write_bytes(b'theirs')
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, ours.fileno())
    os.close(opened)
    assert not ours.is_intact
    assert ours.receive() is None
    with pytest.raises(ConnectionError, match='was closed'):
        ours.send({'ours': True})
    ours.close()
    assert os.read(ours.fileno(), 100) == b'theirs'
    os.close(ours.fileno())
    assert path.read_bytes() == b'theirs'


def test_descriptor_reused_by_another_socket(
        ends: tuple[Channel, Channel]) -> None:
    """What others say to each other is left to them."""
    ours, _ = ends
    mine, others = socket.socketpair()
    with mine, others:
        mine.sendall(b'.{}')
        os.dup2(others.fileno(), ours.fileno())
        assert ours.receive() is None
        assert others.recv(10) == b'.{}'
    os.close(ours.fileno())


def test_descriptors_that_are_shed() -> None:
    """They lead nowhere, and their numbers are not free; others are kept."""
    read_fd, write_fd = os.pipe()
    first, second = socket.socketpair()
    with first, second:
        pid = os.fork()
        if pid == 0:
            shed({*range(3), write_fd})
            os.write(first.fileno(), b'x')
            os.write(write_fd, os.readlink(
                f'/proc/self/fd/{first.fileno()}').encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read_fd, 100).decode() == os.devnull
        with pytest.raises(BlockingIOError):
            second.recv(1, socket.MSG_DONTWAIT)
    os.close(read_fd)
    os.close(write_fd)


def test_standard_streams() -> None:
    """Those that are closed are open onto nothing, and no channel is one."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)
        fill_standard()
        ours, _ = pair()
        good = ours.fileno() > 2 and all(
            os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
            and os.get_inheritable(fd) for fd in range(3))
        os.write(write_fd, b'good' if good else b'bad')
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_fd, 10) == b'good'
    os.close(read_fd)
    os.close(write_fd)


# Threads

@contextlib.contextmanager
def waiting(before: set[threading.Thread]) -> Iterator[threading.Thread]:
    """Have a thread wait for those that are not among *before*.

    It does not wait for itself, nor for who watches it.
    """
    thread = threading.Thread(
        target=lambda: wait_for(before | set(watchers)), daemon=True)
    watchers = [thread]
    thread.start()
    yield thread
    thread.join(DEADLINE)
    assert not thread.is_alive(), 'it is waited for ever'


def is_waited_for(thread: threading.Thread) -> bool:
    """Return whether *thread* still waits after a while."""
    thread.join(0.3)
    return thread.is_alive()


def test_plain_thread() -> None:
    """A thread is waited for, and the threads that it starts."""
    before = set(threading.enumerate())
    first, second = threading.Event(), threading.Event()

    def start() -> None:
        first.wait()
        threading.Thread(target=second.wait).start()
    started = threading.Thread(target=start)
    started.start()
    assert begun_since(before) == [started]
    with waiting(before) as waits:
        assert is_waited_for(waits)
        first.set()
        assert is_waited_for(waits)
        second.set()
    assert begun_since(before) == []


def test_thread_from_before() -> None:
    """A thread that was there before is none of the run."""
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    wait_for(set(threading.enumerate()))
    assert thread.is_alive()
    go_on.set()
    thread.join()


def test_daemon() -> None:
    """A daemon is not waited for."""
    before = set(threading.enumerate())
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, daemon=True)
    thread.start()
    wait_for(before)
    assert thread.is_alive() and begun_since(before) == [thread]
    go_on.set()
    thread.join()


def test_idle_worker() -> None:
    """A worker of an executor that has nothing to do is left alone."""
    before = set(threading.enumerate())
    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(abs, range(-9, 0))) == list(range(9, 0, -1))
        wait_for(before)
        assert len(begun_since(before)) >= 1
        # It still works.
        assert executor.submit(abs, -5).result(DEADLINE) == 5


def test_idle_processes() -> None:
    """An executor of processes that has nothing to do is left alone."""
    before = set(threading.enumerate())
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(abs, -5).result(DEADLINE) == 5
        with waiting(before):
            pass
        assert len(begun_since(before)) >= 1
        # It still works.
        assert executor.submit(abs, -6).result(DEADLINE) == 6


def test_busy_processes() -> None:
    """An executor of processes is waited for until its work is done."""
    before = set(threading.enumerate())
    context = multiprocessing.get_context('spawn')
    with context.Manager() as manager, ProcessPoolExecutor(
            1, mp_context=context) as executor:
        event = manager.Event()
        executor.submit(event.wait)
        try:
            with waiting(before) as waits:
                assert is_waited_for(waits)
                event.set()
        finally:
            event.set()


def test_busy_worker() -> None:
    """A worker is waited for until its work is done, and what is queued."""
    before = set(threading.enumerate())
    events = [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(1) as executor:
        for event in events:
            executor.submit(event.wait)
        with waiting(before) as waits:
            for event in events:
                assert is_waited_for(waits)
                event.set()


def test_worker_that_comes_to_work_late() -> None:
    """A worker whose work lies in a function of Python is busy, whatever."""
    before = set(threading.enumerate())
    done = []

    def work() -> None:
        time.sleep(0.5)
        done.append(True)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(work)
        wait_for(before)
        assert done == [True]


@pytest.mark.parametrize('pooled', [False, True])
def test_wait_that_is_interrupted(pooled: bool) -> None:
    """An exception of a signal handler ends the wait."""
    before = set(threading.enumerate())
    go_on = threading.Event()

    def interrupt(*args: object) -> None:
        raise Terminate('enough')
    previous = signal.signal(signal.SIGALRM, interrupt)
    executor = ThreadPoolExecutor(1)
    try:
        if pooled:
            executor.submit(go_on.wait)
        else:
            threading.Thread(target=go_on.wait).start()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Terminate):
            wait_for(before)
        assert len(begun_since(before)) == 1
    finally:
        signal.signal(signal.SIGALRM, previous)
        go_on.set()
        executor.shutdown()
        wait_for(before)


# Leftovers

#: Ends by SIGTERM, or does not.
POLITE = 'import time; print("ready", flush=True); time.sleep(3600)'
DEAF = ('import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); '
        + POLITE)
PARENT = ('import subprocess, sys; subprocess.run([sys.executable, "-c", '
          f'{POLITE!r}])')

Start = Callable[..., 'subprocess.Popen[str]']


@pytest.fixture
def start() -> Iterator[Start]:
    """A starter of Python processes that are ready, and gone at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *args: str) -> 'subprocess.Popen[str]':
        popen = subprocess.Popen([sys.executable, '-c', code, *args],
                                 stdout=subprocess.PIPE, text=True)
        started.append(popen)
        assert popen.stdout is not None
        assert popen.stdout.readline() == 'ready\n'
        return popen

    yield start
    for popen in started:
        for pid, _ in processes.children(popen.pid):
            os.kill(pid, signal.SIGKILL)
        popen.kill()
        popen.wait()
        assert popen.stdout is not None
        popen.stdout.close()


@pytest.fixture
def others() -> set[int]:
    """What is below this process before the test."""
    return {pid for pid, _ in left_below(os.getpid())}


MARKER = '0' * 32


def never() -> None:
    """Do nothing."""


def test_leftovers_end_politely(start: Start, others: set[int]) -> None:
    """What SIGTERM ends is ended by it, and named."""
    popen = start(POLITE, 'an argument')
    began = time.monotonic()
    [name] = end_gently(os.getpid(), MARKER, others, DEADLINE, never)
    assert popen.wait(DEADLINE) == -signal.SIGTERM
    assert time.monotonic() - began < DEADLINE / 2
    assert name.startswith(f'{sys.executable} -c import time')
    assert name.endswith(f' (pid {popen.pid})')


def test_leftovers_are_killed(start: Start, others: set[int]) -> None:
    """What minds no SIGTERM is killed when the grace time is over."""
    popen = start(DEAF)
    ticks: list[bool] = []
    began = time.monotonic()
    assert len(end_gently(
        os.getpid(), MARKER, others, 0.6, lambda: ticks.append(True))) == 1
    assert time.monotonic() - began >= 0.6
    assert popen.wait(DEADLINE) == -signal.SIGKILL
    assert len(ticks) >= 3


def test_leftovers_of_leftovers(start: Start, others: set[int]) -> None:
    """What they have started ends, too, as each is a leftover itself."""
    popen = start(PARENT)
    [child] = [pid for pid, _ in processes.children(popen.pid)]
    assert len(end_gently(os.getpid(), MARKER, others, DEADLINE, never)) == 2
    until(lambda: proc.start_time(child) == 0)


def test_kept_process(start: Start, others: set[int]) -> None:
    """A process that is kept lives on; what is below it does not."""
    popen = start(PARENT)
    [child] = [pid for pid, _ in processes.children(popen.pid)]
    [name] = end_gently(
        os.getpid(), MARKER, others | {popen.pid}, DEADLINE, never)
    assert name.endswith(f'(pid {child})')


def test_nothing_left(others: set[int]) -> None:
    """Where nothing is left, nothing is waited for."""
    assert end_gently(os.getpid(), MARKER, others, DEADLINE, never) == []


def test_helpers_of_multiprocessing(start: Start, others: set[int]) -> None:
    """They end by themselves, and lose what they keep when they are ended."""
    names = ['multiprocessing.resource_tracker', 'multiprocessing.forkserver']
    helpers = [start(POLITE, f'from {name} import main') for name in names]
    assert end_gently(os.getpid(), MARKER, others, 0.1, never) == []
    assert [each.poll() for each in helpers] == [None, None]


def test_real_helper(start: Start, others: set[int]) -> None:
    """The resource tracker of a pool is one of them."""
    popen = start(
        'import multiprocessing, time\n'
        'from multiprocessing import resource_tracker\n'
        'resource_tracker.ensure_running()\n'
        'print("ready", flush=True)\n'
        'time.sleep(3600)')
    assert len(processes.children(popen.pid)) == 1

    assert popen.pid in {pid for pid, _ in left_below(os.getpid(), others)}
    # Not at once: what the helper is it shows once it has been executed.
    until(lambda: not left_below(os.getpid(), others | {popen.pid}))
