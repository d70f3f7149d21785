"""`ConsulLock` alone, in somebody's program that is not run by ``runjob``."""

import pathlib
import signal
import tempfile
from collections.abc import Callable

import pytest

from integration.agents import Agent, wait_until
from integration.locks import (
    Program,
    held_record,
    hold,
    holder_of,
    lock_on,
    session_ids,
)
from integration.report import COMPANY, allowed
from integration.stamps import now
from integration.together import together
from integration.workers import children, is_alive

#: Window 10: grace 2 s, kill 0.5 s.
TIMES = 'ttl=10, lock_delay=10'

HEAD = '''
import sys, threading, time
from integration.locks import make_lock
from jobslib import OneInstanceWatchdogError
lock = make_lock(("127.0.0.1", int(sys.argv[1])), sys.argv[2], ttl=10,
                 lock_delay=10)
def say(*words):
    print(*words, flush=True)
def work(seconds=60):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(0.01)
'''

OBEYS = HEAD + '''
assert lock.acquire()
try:
    say('acquired', lock.fencing_token, lock.lease.session, lock.lease.keeper_pid)
    work()
except OneInstanceWatchdogError as exc:
    say('lost:', exc)
say('refresh', lock.refresh())
say('release', lock.release())
work(3)
say('lives, held', lock.held)
lock.close()
'''

IGNORES = HEAD + '''
import subprocess
assert lock.acquire()
child = subprocess.Popen(['sleep', '60'])
begun = False
while True:
    try:
        if not begun:
            begun = True
            say('acquired', lock.fencing_token, lock.lease.session, child.pid)
        work()
    except OneInstanceWatchdogError as exc:
        say('lost:', exc)
'''

IN_A_THREAD = HEAD + '''
def use():
    assert lock.acquire()
    say('acquired', lock.fencing_token, lock.lease.session)
    work()
thread = threading.Thread(target=use)
thread.start()
try:
    thread.join()
except OneInstanceWatchdogError:
    say('interrupted')
'''


def start(folder: pathlib.Path, agent: Agent, text: str,
          key: str) -> tuple[Program, list[str]]:
    """Start the program; returns it with what it said when it had the lock."""
    program = Program.of(folder, text, str(agent.ports.http), key)
    try:
        program.wait_for('acquired')
        wait_until(lambda: program.output.endswith('\n'), 5, 'a whole line')
    except BaseException:
        program.__exit__()
        raise
    return program, program.output.split()


def destroy(agent: Agent, key: str, session: str) -> None:
    """Destroy the holder's session."""
    agent.api.destroy_session(session)


def delete(agent: Agent, key: str, session: str) -> None:
    """Delete the key."""
    assert agent.api.delete(f'kv/{key}').ok


def steal(agent: Agent, key: str, session: str) -> None:
    """Delete the key and take it, in one transaction."""
    thief = agent.api.create_session(TTL='10s', LockDelay='0s')
    assert agent.api.put('txn', [
        {'KV': {'Verb': 'delete', 'Key': key}},
        {'KV': {'Verb': 'lock', 'Key': key, 'Value': '', 'Session': thief}}]).ok


@pytest.mark.parametrize('lose, reason', [
    (destroy, 'the session'), (delete, 'the key was deleted'),
    (steal, 'another session holds the key')], ids=['destroy', 'delete', 'steal'])
def test_loss_is_raised_in_the_main_thread(
    agent: Agent, tmp_path: pathlib.Path,
    lose: Callable[[Agent, str, str], None], reason: str,
) -> None:
    """A loss interrupts the program, which lives on when it releases in time."""
    key = f'alone/{lose.__name__}'
    program, words = start(tmp_path, agent, OBEYS, key)
    with program:
        lost = now()
        lose(agent, key, words[2])
        program.wait_for('lost:')
        assert now() - lost < allowed(0.25, since=lost)
        assert program.wait() == 0
        assert reason in program.output
        assert '\nrefresh False\n' in program.output
        assert '\nthe lock was lost: ' in program.output
        assert '\nrelease False\n' in program.output
        assert 'lives, held False' in program.output


@together
def test_ignoring_the_loss_kills(agent: Agent) -> None:
    """Who ignores the interrupt is killed after the grace time, with its child."""
    with tempfile.TemporaryDirectory(prefix='jobslib-') as folder:
        ignore_the_loss(agent, pathlib.Path(folder))


def ignore_the_loss(agent: Agent, folder: pathlib.Path) -> None:
    """Take the lock from a program that ignores what it is told."""
    program, words = start(folder, agent, IGNORES, 'alone/ignored')
    with program, lock_on(agent.http_addr, 'alone/ignored') as contender:
        lost = now()
        agent.api.destroy_session(words[2])
        program.wait_for('lost:')
        assert program.wait() == -signal.SIGKILL
        assert 1.9 < now() - lost < allowed(2.0, COMPANY, since=lost)
        # Killed in the same moment, but one is gone before the other.
        wait_until(lambda: not is_alive(int(words[3])), 5, 'its child gone')
        assert not contender.acquire() or now() - lost > 9.9
        wait_until(lambda: 'keeper: killing process' in program.output, 5,
                   'the word of the keeper')


def test_loss_in_a_thread_kills(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A lock that a thread acquired interrupts nobody; the loss kills in time."""
    program, words = start(tmp_path, agent, IN_A_THREAD, 'alone/thread')
    with program:
        lost = now()
        agent.api.destroy_session(words[2])
        assert program.wait() == -signal.SIGKILL
        assert now() - lost < allowed(2.75, since=lost)
        assert 'interrupted' not in program.output


@pytest.mark.parametrize('text', [OBEYS, IGNORES, IN_A_THREAD],
                         ids=['main', 'with-child', 'thread'])
def test_death_frees_the_lock(
    agent: Agent, tmp_path: pathlib.Path, text: str,
) -> None:
    """A program that is killed frees the lock in 0.2 s, and leaves no session."""
    program, words = start(tmp_path, agent, text, 'alone/death')
    with program, lock_on(agent.http_addr, 'alone/death') as contender:
        assert not contender.acquire()
        contender.wait(0.1)
        program.send(signal.SIGKILL)
        killed = now()
        contender.wait(10)
        assert contender.acquire()
        assert now() - killed < allowed(0.2, since=killed)
        wait_until(lambda: words[2] not in session_ids(agent.api), 20, 'session gone')


def test_exit_frees_the_lock(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A program that ends without a release frees the lock as well."""
    key = 'alone/exit'
    text = HEAD + '''
assert lock.acquire()
say('acquired')
'''
    with (Program.of(tmp_path, text, str(agent.ports.http), key) as program,
          lock_on(agent.http_addr, key) as contender):
        assert program.wait() == 0
        contender.wait(10)
        assert contender.acquire()


def test_waiting_program_can_be_interrupted(
    agent: Agent, tmp_path: pathlib.Path,
) -> None:
    """A program that waits for the lock ends by SIGTERM, and leaves no session."""
    key = 'alone/waiting'
    text = HEAD + '''
say('acquired', lock.acquire())
lock.wait(60)
'''
    holder = hold(agent.api, key, held_record(), '0s')
    before = session_ids(agent.api)
    program, _ = start(tmp_path, agent, text, key)
    with program:
        wait_until(lambda: children(program.pid), 20, 'a keeper')
        wait_until(lambda: session_ids(agent.api) - before, 20, 'a session')
        program.send(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM
    wait_until(lambda: not session_ids(agent.api) - before, 20, 'no session left')
    assert holder_of(agent.api, key) == holder
    agent.api.destroy_session(holder)
