"""Finding and ending what a task started, with real processes."""

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE

from jobslib.keeper import marks, proc, processes

# Each prints the process id of the program that is to be found.
SLEEP = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'
PROGRAMS = {
    'a child': f'{SLEEP}',
    'a grandchild': (
        'import subprocess, sys; '
        f'subprocess.run([sys.executable, "-c", {SLEEP!r}])'),
    'of a group and session of its own': f'import os; os.setsid(); {SLEEP}',
    'a daemon': f'import os; os.fork() and os._exit(0); os.setsid(); {SLEEP}',
    'a daemon with a clean environment': (
        'import os, sys; os.fork() and os._exit(0); os.setsid(); '
        f'os.execve(sys.executable, [sys.executable, "-c", {SLEEP!r}], {{}})'),
    'without its first thread': (
        'import ctypes, threading\n'
        'def work():\n'
        '    import os, time\n'
        '    first = f"/proc/self/task/{os.getpid()}/stat"\n'
        '    while open(first).read().rpartition(")")[2].split()[0] != "Z":\n'
        '        time.sleep(0.01)\n'
        f'    {SLEEP}\n'
        'threading.Thread(target=work).start()\n'
        'ctypes.CDLL(None).pthread_exit(None)'),
}


@pytest.fixture
def marker() -> Iterator[str]:
    """Mark what is started, and end what is left in any case."""
    marker = secrets.token_hex(16)
    marks.mark(marker)
    yield marker
    marks.unmark()
    processes.end(os.getpid(), None, marker, set())


@pytest.fixture
def start(marker: str) -> Callable[[str], int]:
    """Start a program; returns the process id that it prints."""
    def start(program: str) -> int:
        with subprocess.Popen([sys.executable, '-c', program],
                              stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.stdout.close()
            process.returncode = 0
        return int(line)
    return start


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie, or one with other threads."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            fields = file.read().rpartition(')')[2].split()
    except FileNotFoundError:
        return False
    return fields[0] != 'Z' or int(fields[17]) > 1


@pytest.mark.parametrize('kind', PROGRAMS)
def test_found_and_ended(
    kind: str, marker: str, start: Callable[[str], int],
) -> None:
    """Whatever it did to get away, what was started is found, and then gone."""
    pid = start(PROGRAMS[kind])
    found = processes.find(os.getpid(), marker, set())
    assert pid in {found_pid for found_pid, _ in found}
    assert processes.end(os.getpid(), None, marker, set()) >= 1
    assert not is_running(pid)
    assert not processes.find(os.getpid(), marker, set())


def test_others_are_spared(marker: str) -> None:
    """Neither this process nor one that nobody marked is found."""
    marks.unmark()
    outsider = subprocess.Popen(
        [sys.executable, '-c', SLEEP], stdout=subprocess.PIPE)
    try:
        assert outsider.stdout is not None
        outsider.stdout.readline()
        found = processes.find(1 << 22, marker, set())
        assert not found & {(pid, start) for pid, start in found
                            if pid in (outsider.pid, os.getpid())}
        assert processes.end(1 << 22, None, marker, set()) == 0
        assert is_running(outsider.pid)
    finally:
        outsider.kill()
        outsider.communicate()


def test_keepers_are_spared(
    marker: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A keeper ends on its own."""
    monkeypatch.setenv(proc.KEEPER_VARIABLE, '1')
    keeper = subprocess.Popen(
        [sys.executable, '-c', SLEEP], stdout=subprocess.PIPE)
    try:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        assert keeper.pid not in {
            pid for pid, _ in processes.find(os.getpid(), marker, set())}
    finally:
        keeper.kill()
        keeper.communicate()


def test_known_processes(
    start: Callable[[str], int],
) -> None:
    """One seen before is found by id and start time, not by its id alone."""
    marks.unmark()
    marker = secrets.token_hex(16)
    pid = start(PROGRAMS['a daemon with a clean environment'])
    try:
        with open(f'/proc/{pid}/stat') as file:
            begun = int(file.read().rpartition(')')[2].split()[19])
        assert (pid, begun) in processes.find(
            1 << 22, marker, {(pid, begun)})
        assert not processes.find(1 << 22, marker, {(pid, begun - 1)})
        assert processes.still_there(
            {(pid, begun), (pid, begun - 1), (1 << 22, 1)}) == {(pid, begun)}
    finally:
        os.kill(pid, signal.SIGKILL)


def test_root_is_ended(marker: str) -> None:
    """With its pidfd the root is killed too, what it started first found."""
    program = (
        'import subprocess, sys; '
        f'child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}]); '
        'child.wait()')
    root = subprocess.Popen([sys.executable, '-c', program],
                            stdout=subprocess.PIPE)
    # Whoever is marked, and not the root, would be ended.
    marks.unmark()
    assert root.stdout is not None
    child = int(root.stdout.readline())
    pidfd = os.pidfd_open(root.pid)
    try:
        assert processes.end(root.pid, pidfd, marker, set()) == 1
        assert not is_running(child)
        assert root.wait(5) == -signal.SIGKILL
    finally:
        os.close(pidfd)
        root.stdout.close()


def test_children_are_seen(
    marker: str, start: Callable[[str], int],
) -> None:
    """What descends from a process is listed at little cost."""
    program = PROGRAMS['a grandchild']
    pid = start(program)
    ends = time.monotonic() + 5
    while pid not in {found for found, _ in processes.children(os.getpid())}:
        assert time.monotonic() < ends


def test_older_processes_are_not_looked_at(
    marker: str, start: Callable[[str], int],
) -> None:
    """What is older than the root is not found by its marks."""
    pid = start(PROGRAMS['a daemon'])
    marks.unmark()
    begun = proc.start_time(pid)
    assert begun > 0
    nobody = 1 << 22
    found = processes.find(nobody, marker, set(), begun)
    assert pid in {found_pid for found_pid, _ in found}
    assert not processes.find(nobody, marker, set(), begun + 1)
    assert processes.end(nobody, None, marker, set()) == 1
    assert proc.start_time(pid) == 0


# What a program starts beside its processes, as far as it can be seen.
HELPERS = {
    'resource_tracker': (
        'from multiprocessing import resource_tracker; '
        'resource_tracker.ensure_running(); '
        'print(resource_tracker._resource_tracker._pid, flush=True); '),
    'forkserver': (
        'from multiprocessing import forkserver; '
        'forkserver.ensure_running(); '
        'print(forkserver._forkserver._forkserver_pid, flush=True); '),
}


@pytest.mark.parametrize('kind', HELPERS)
def test_helpers_of_a_spared_process(kind: str) -> None:
    """The helpers of a process that is spared are, too; a child is not."""
    program = HELPERS[kind] + (
        'import subprocess, sys; '
        f'subprocess.run([sys.executable, "-c", {SLEEP!r}]); {SLEEP}')
    run = subprocess.Popen([sys.executable, '-c', program],
                           stdout=subprocess.PIPE)
    marker = secrets.token_hex(16)
    spared = frozenset({run.pid})
    try:
        assert run.stdout is not None
        helper, child = (int(run.stdout.readline()) for _ in range(2))
        left = processes.leftovers(os.getpid(), spared)
        assert {pid for pid, _ in left} == {child}
        assert left.popitem()[1].startswith(sys.executable[:60])
        assert processes.end(
            os.getpid(), None, marker, set(), spared=spared) == 1
        assert is_running(helper)
        assert not is_running(child)
    finally:
        processes.end(os.getpid(), None, marker, set())
        run.communicate()


# Each ends by what it is told, or does not.
OBEYS = SLEEP
IGNORES = f'import signal; signal.signal(15, signal.SIG_IGN); {SLEEP}'


@pytest.mark.parametrize('program', [OBEYS, IGNORES])
def test_ended_gently(
    marker: str, start: Callable[[str], int], program: str,
) -> None:
    """What is left is told, then killed, and named."""
    pid = start(program)
    named = processes.end_gently(
        os.getpid(), marker, set(), frozenset(),
        20 if program is OBEYS else 0.2)
    assert [number for number, _ in named] == [pid]
    assert named[0][1].startswith(sys.executable[:60])
    assert not is_running(pid)


def test_nothing_to_end_gently(marker: str) -> None:
    """Where nothing is left, nothing is named."""
    assert processes.end_gently(
        os.getpid(), marker, set(), frozenset(), 20) == []


def test_refused_kill_is_reported(
    marker: str, start: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What may not be killed is named, again after a while."""
    pid = start(SLEEP)
    said: list[str] = []
    refuse = signal.pidfd_send_signal

    def send(pidfd: int, signum: int) -> None:
        if len(said) < 2:
            raise PermissionError
        refuse(pidfd, signum)

    monkeypatch.setattr(signal, 'pidfd_send_signal', send)
    monkeypatch.setattr(processes, 'RESCAN', processes.TICK)
    monkeypatch.setattr(processes, 'SAY_AGAIN', 1.0)
    began = time.monotonic()
    processes.end(os.getpid(), None, marker, set(), report=said.append)
    assert time.monotonic() - began > 1.0
    assert not is_running(pid)
    assert len(said) == 2
    assert said[0].startswith(
        'waiting for processes of other users, which may not be killed: ')
    assert f'{pid} ({sys.executable[:60]}' in said[0]


def test_process_that_does_not_end_is_reported(
    marker: str, start: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was killed and does not end is named, too."""
    pid = start(SLEEP)
    said: list[str] = []
    kill = signal.pidfd_send_signal
    monkeypatch.setattr(
        signal, 'pidfd_send_signal',
        lambda pidfd, signum: said and kill(pidfd, signum))
    monkeypatch.setattr(processes, 'RESCAN', processes.TICK)
    processes.end(os.getpid(), None, marker, set(), report=said.append)
    assert not is_running(pid)
    assert said[0].startswith(
        'waiting for processes that were killed and do not end: ')
    assert f'{pid} ({sys.executable[:60]}' in said[0]


def test_kernel_that_lists_no_children(
    start: Callable[[str], int], marker: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its list of children, all processes are looked at."""
    pid = start(PROGRAMS['a child'])
    monkeypatch.setattr(proc, '_children', lambda pid: [])
    monkeypatch.setattr(os.path, 'exists', lambda path: False)
    # Its parent is this process, which has not waited for it.
    assert pid in {found for found, _ in processes.leftovers(os.getpid())}


def test_named_keeper_is_spared(marker: str) -> None:
    """A keeper that was forked is known by its name, from the first moment."""
    before = proc.rename(proc.KEEPER_NAME)
    try:
        keeper = os.fork()
        if keeper == 0:
            time.sleep(60)
            os._exit(0)
    finally:
        assert proc.rename(before) == proc.KEEPER_NAME
    try:
        # Of earlier tests there may be something to be ended.
        processes.end(os.getpid(), None, marker, set())
        assert not processes.leftovers(os.getpid())
        assert is_running(keeper)
    finally:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)


CHAIN = (
    'import os, time; print(os.getpid(), flush=True); os.setsid()\n'
    'ends = time.monotonic() + 60\n'
    'while time.monotonic() < ends:\n'
    '    os.fork() and os._exit(0)\n'
    '    time.sleep(0.005)')


@pytest.mark.parametrize('load', [proc.LOAD, '/proc/not-shown'])
def test_chain_of_forks_is_ended(
        marker: str, monkeypatch: pytest.MonkeyPatch, load: str) -> None:
    """A process that forks and ends, again and again, is caught."""
    monkeypatch.setattr(proc, 'LOAD', load)
    for _ in range(5):
        with subprocess.Popen([sys.executable, '-c', CHAIN],
                              stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            processes.end(os.getpid(), None, marker, set())
            # At its end when nobody has it open any more.
            assert select.select([process.stdout], [], [], DEADLINE)[0]
            assert process.stdout.read() == b''


def test_trackers_of_multiprocessing_clear_up(marker: str) -> None:
    """Semaphores of what is killed do not outlive it."""
    program = (
        'import multiprocessing, time\n'
        'semaphore = multiprocessing.get_context("spawn").Semaphore()\n'
        'print(semaphore._semlock.name, flush=True)\n'
        'time.sleep(60)')
    with subprocess.Popen([sys.executable, '-c', program],
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip().removeprefix('/')
        path = f'/dev/shm/sem.{name}'
        assert os.path.exists(path)
        processes.end(os.getpid(), None, marker, set())
        assert not os.path.exists(path)
        assert processes.find(os.getpid(), marker, set()) == set()


def test_ended_before_it_is_waited_for(
    start: Callable[[str], int], marker: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What ends in the instant before it would be waited for is not waited for."""
    start(PROGRAMS['a child'])
    find = processes.leftovers

    def find_late(*args: Any) -> dict[tuple[int, int], str]:
        found = find(*args)
        for pid, began in found:
            os.kill(pid, signal.SIGKILL)
            while proc.start_time(pid) == began:
                time.sleep(0.01)
        return found

    monkeypatch.setattr(processes, 'leftovers', find_late)
    monkeypatch.setattr(processes, 'TICK', 30.0)
    began = time.monotonic()
    processes.end_gently(os.getpid(), marker, set(), frozenset({os.getpid()}), 30.0)
    assert time.monotonic() - began < 15.0
