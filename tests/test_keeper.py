"""The keeper, with a lock service in memory and a ward that can be killed."""

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from support import until

from jobslib.clock import now
from jobslib.keeper import keeper as keeper_module
from jobslib.keeper import service
from jobslib.keeper.engine import (
    ANOTHERS,
    ENDED,
    GONE,
    NOBODYS,
    OURS,
    RENEWED,
    UNKNOWN,
    Chore,
    Engine,
    Sight,
)
from jobslib.keeper.keeper import Keeper
from jobslib.keeper.memory import LeaseMemory
from jobslib.keeper.proc import start_time
from jobslib.logs import make_handler
from jobslib.machine import fqdn

#: Of the lease, in seconds: short, and yet longer than a machine is busy.
TIMES = {'ttl': 10.0, 'window': 3.0, 'renew_interval': 0.3, 'grace': 0.6,
         'kill': 0.4}
SIGNAL = signal.SIGRTMIN + 5
RECORD = {'pid': 7}
RUN = {'run': 5}

# Says what it is told, and goes on.
WARD = '''
import signal, sys
def told(signum, frame):
    print("told", flush=True)
signal.signal(int(sys.argv[1]), told)
print("ready", flush=True)
while True:
    signal.pause()
'''


class Memory(Engine):
    """A lock service in memory; what it answers is up to the test."""

    protects_after_end = 3.0

    def __init__(self) -> None:
        self.answer: Callable[[float | None], str] = lambda timeout: RENEWED
        self.holder = OURS
        self.control = b''
        self.refuses = 0
        self.calls: list[str] = []
        self.released: list[dict[str, Any]] = []
        self.notes: dict[str, str] = {}
        self.writes = True
        self.news = threading.Event()
        self.resting = True

    def renew(self, timeout: float | None = None) -> str:
        self.calls.append('renew')
        return self.answer(timeout)

    def watch(self, mark: int) -> Sight:
        self.calls.append('watch')
        if mark:
            self.news.wait(10)
            self.news.clear()
        return Sight(self.holder, self.control, 1)

    def look_away(self) -> None:
        self.calls.append('look away')

    def write(self, key: str, value: str, token: int) -> bool:
        self.calls.append('write')
        if self.writes:
            self.notes[key] = f'{value} by {token}'
        return self.writes

    def release(self, record: dict[str, Any], notes: dict[str, str],
                token: int | None) -> bool:
        self.calls.append('release')
        if self.refuses:
            self.refuses -= 1
            return False
        self.released.append(record)
        self.notes |= notes
        return True

    def end(self) -> bool:
        self.calls.append('end')
        return True

    def clear_up(self) -> None:
        self.calls.append('clear up')

    def rest(self, resting: bool) -> None:
        self.resting = resting

    def see(self, holder: str) -> None:
        """Let the keeper see that the lock is *holder*."""
        self.holder = holder
        self.news.set()


class Kept:
    """A ward and its keeper, which works in a thread of the test."""

    def __init__(self, engine: Memory, **config: Any) -> None:
        self.engine = engine
        self.ward = subprocess.Popen(
            [sys.executable, '-I', '-S', '-c', WARD, str(int(SIGNAL))],
            stdout=subprocess.PIPE, text=True)
        self.pidfd = os.pidfd_open(self.ward.pid)
        self.control, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(15)
        memory_fd = os.memfd_create('memory')
        os.ftruncate(memory_fd, LeaseMemory.SIZE)
        self.memory = LeaseMemory(memory_fd)
        os.close(memory_fd)
        self.hears('ready')
        self.keeper = Keeper(theirs, self.memory, {
            'pid': self.ward.pid, 'marker': secrets.token_hex(16),
            'since': start_time(self.ward.pid), 'supervised': False,
            'renewed': now(), 'record': None, **TIMES, **config,
        }, engine, self.pidfd)
        self.thread = threading.Thread(target=self.keeper.run)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ward.kill()
        self.engine.see(NOBODYS)
        self.ward.communicate()
        self.thread.join()
        self.control.close()
        self.keeper.messages.close()
        os.close(self.pidfd)

    def hears(self, word: str) -> None:
        """Assert that the ward says *word* next."""
        assert self.ward.stdout is not None
        assert self.ward.stdout.readline().strip() == word

    def tell(self, do: str, **fields: Any) -> None:
        """Send a message that has no reply."""
        self.control.send(json.dumps(
            {'do': do, 'number': 1, **fields}).encode())

    def ask(self, do: str, **fields: Any) -> None:
        """Send a message, and wait for the reply."""
        self.tell(do, **fields)
        assert json.loads(self.control.recv(1 << 12)) == {'number': 1}

    def hold(self, proof: float | None = None) -> float:
        """Take the lock, in a request sent at *proof*."""
        proof = now() if proof is None else proof
        self.ask('hold', proof=proof, record=RECORD, token=7,
                 signum=int(SIGNAL))
        return proof

    def run(self, max_run_time: float | None = None) -> None:
        """Begin a run."""
        self.ask('run', max_run_time=max_run_time, heartbeat=None, run=RUN,
                 elapsed=0.0)

    def is_killed(self) -> float:
        """Wait until the ward is killed; return when."""
        assert self.ward.wait(15) == -signal.SIGKILL
        return now()

    def is_over(self) -> None:
        """Wait until the keeper has ended."""
        self.thread.join(15)
        assert not self.thread.is_alive()


@pytest.fixture
def engine() -> Memory:
    """A lock service."""
    return Memory()


@pytest.fixture
def kept(engine: Memory) -> Iterator[Kept]:
    """A ward and its keeper."""
    with Kept(engine) as kept:
        yield kept


def test_held_for_longer_than_the_window(kept: Kept) -> None:
    """A lease that is renewed lasts."""
    proof = kept.hold()
    until(lambda: kept.memory.until > proof + TIMES['window'] + 1, 'renewals')
    assert kept.memory.state == LeaseMemory.FINE
    assert kept.memory.is_valid()
    assert kept.ward.poll() is None
    assert not kept.engine.resting


def test_short_run_costs_nothing(
    engine: Memory, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was proven a moment ago is neither renewed nor looked at."""
    monkeypatch.setattr(service, 'WATCH_DELAY', 1.0)
    with Kept(engine, renew_interval=1.0) as kept:
        for _ in range(5):
            kept.hold()
            assert not engine.resting
            kept.run()
            kept.ask('end', stopped=False, spared=[])
            kept.ask('release', record=RECORD, notes={})
            kept.tell('released')
        until(lambda: engine.resting, 'rest')
        # By when a hold that went on would have been renewed and looked at.
        until(lambda: 'look away' in engine.calls, 'the end of the wait')
        kept.hold()
        until(lambda: 'renew' in engine.calls and 'watch' in engine.calls,
              'a renewal')
        assert engine.calls.index('look away') == 0


def test_session_of_unknown_age_is_renewed_at_once(engine: Memory) -> None:
    """A keeper that takes the place of another one renews first."""
    with Kept(engine, renewed=0.0):
        until(lambda: engine.calls == ['renew'], 'a renewal')


def test_idle_session_is_renewed_in_its_ttl(engine: Memory) -> None:
    """With nothing held, the TTL is what counts."""
    with Kept(engine, ttl=0.5):
        began = time.monotonic()
        until(lambda: len(engine.calls) >= 4, 'renewals')
        assert time.monotonic() - began > 3 * 0.5 * service.IDLE_SHARE


def test_taken_slowly(kept: Kept) -> None:
    """A proof that leaves no time is renewed before the hold begins."""
    kept.hold(now() - TIMES['window'])
    assert kept.engine.calls[0] == 'renew'
    assert kept.memory.is_valid()


def test_renewals_fail(kept: Kept) -> None:
    """The run is told, then killed before the lease ends; the lock is left."""
    kept.engine.answer = lambda timeout: UNKNOWN
    proof = kept.hold()
    kept.run()
    kept.hears('told')
    assert kept.memory.state == LeaseMemory.LOST
    stop_at = proof + TIMES['window'] - TIMES['grace'] - TIMES['kill']
    assert now() >= stop_at
    killed = kept.is_killed()
    assert killed >= stop_at + TIMES['grace']
    kept.is_over()
    [record] = kept.engine.released
    assert record['pid'] == 7
    assert record['killed']['run'] == 5
    assert record['killed']['error'] == 'the lease could not be renewed in time'
    assert kept.engine.calls[-3:] == ['release', 'end', 'clear up']


def test_renewal_hangs(kept: Kept) -> None:
    """While a renewal gets no answer, short ones beside it keep the lease."""
    over = threading.Event()

    def hang(timeout: float | None) -> str:
        if timeout is None:
            over.wait(20)
            return UNKNOWN
        return RENEWED

    kept.engine.answer = hang
    try:
        proof = kept.hold()
        until(lambda: kept.memory.until > proof + TIMES['window'] + 1,
              'short renewals')
        assert kept.memory.state == LeaseMemory.FINE
    finally:
        over.set()


def test_session_ends_while_held(kept: Kept) -> None:
    """The run is told, and can stop; then the lease is not used again."""
    kept.hold()
    kept.run()
    kept.engine.answer = lambda timeout: ENDED
    kept.hears('told')
    assert kept.memory.reason == 'the session has ended'
    kept.ask('end', stopped=True, spared=[])
    assert not kept.memory.held
    assert not kept.memory.is_valid()
    kept.tell('quit')
    kept.is_over()
    assert kept.ward.poll() is None
    assert 'killed' not in kept.engine.released[0]


def test_session_ends_while_idle(engine: Memory) -> None:
    """The process sees that it needs another session."""
    engine.answer = lambda timeout: ENDED
    with Kept(engine, renewed=0.0) as kept:
        until(lambda: kept.memory.state == LeaseMemory.LOST, 'the loss')
        assert kept.memory.reason == 'the session has ended'
        kept.tell('quit')
        kept.is_over()
        assert not engine.released


@pytest.mark.parametrize(('holder', 'reason', 'grace'), [
    (GONE, 'the key was deleted', 0.2),
    (ANOTHERS, 'another session holds the key', 0.2),
    (NOBODYS, 'the session does not hold the key any more', 0.6)])
def test_lock_is_seen_to_be_lost(
    kept: Kept, holder: str, reason: str, grace: float,
) -> None:
    """How long a run may take to stop depends on who may have the lock."""
    kept.hold()
    until(lambda: 'watch' in kept.engine.calls, 'a look')
    seen = now()
    kept.engine.see(holder)
    kept.hears('told')
    assert kept.memory.reason == reason
    assert kept.is_killed() - seen >= grace


@pytest.mark.parametrize('protected', [True, False])
def test_service_without_protection(kept: Kept, protected: bool) -> None:
    """Where nothing keeps others from the lock, a loss leaves no time."""
    kept.engine.protects_after_end = 3.0 if protected else 0.0
    kept.hold()
    kept.engine.answer = lambda timeout: ENDED
    kept.hears('told')
    loss = kept.keeper.service.loss
    assert loss is not None
    assert loss.protected is protected


def test_unknown_sight_is_no_loss(kept: Kept) -> None:
    """A look without an answer is not taken for a loss."""
    kept.hold()
    kept.engine.see(UNKNOWN)
    until(lambda: kept.engine.calls.count('watch') >= 3, 'looks')
    assert kept.memory.state == LeaseMemory.FINE


def test_run_takes_too_long(kept: Kept) -> None:
    """A run that is told to stop and does leaves the lock in place."""
    kept.hold()
    kept.run(0.2)
    kept.hears('told')
    assert kept.memory.state == LeaseMemory.STOPPING
    assert kept.memory.reason == 'the run took longer than 0.2 s'
    kept.ask('end', stopped=True, spared=[])
    assert kept.memory.state == LeaseMemory.FINE
    assert kept.memory.is_valid()


def test_told_and_does_not_stop(kept: Kept) -> None:
    """A run that its process told to stop is killed after the grace time."""
    kept.hold()
    kept.run()
    told = now()
    kept.tell('stopping')
    assert kept.is_killed() - told >= TIMES['grace']
    kept.is_over()
    assert kept.engine.released[0]['killed']['error'] == (
        'the run did not stop when told to')


def test_ward_is_gone(kept: Kept) -> None:
    """A lock whose process dies is released, and were it the third try."""
    kept.hold()
    kept.run()
    kept.engine.refuses = 2
    kept.ward.kill()
    kept.is_over()
    [record] = kept.engine.released
    assert record['killed']['error'] == 'its process ended'
    assert kept.engine.calls[-2:] == ['end', 'clear up']


def test_gone_in_the_middle_of_taking(kept: Kept) -> None:
    """A lock that the process may have taken is released."""
    kept.ask('claim', record=RECORD)
    kept.ward.kill()
    kept.is_over()
    assert kept.engine.released[0]['pid'] == 7


def test_quit_with_nothing_held(kept: Kept) -> None:
    """What is not held is not released; the session ends."""
    kept.tell('quit')
    kept.is_over()
    assert kept.engine.calls == ['end', 'clear up']


def test_what_operators_ask(kept: Kept) -> None:
    """What was seen of it stands in the memory."""
    kept.engine.control = b'{"paused": {}}'
    kept.hold()
    until(lambda: kept.memory.version, 'a look')
    assert kept.memory.read_control()[1] == b'{"paused": {}}'


def test_looks_end_with_the_hold(kept: Kept) -> None:
    """Nobody looks at a lock that is not held."""
    kept.hold()
    until(lambda: 'watch' in kept.engine.calls, 'a look')
    kept.ask('release', record=RECORD, notes={})
    kept.engine.news.set()
    until(lambda: kept.engine.calls[-1] == 'look away', 'the end of it')


def test_notes(kept: Kept) -> None:
    """Notes are written; those that were not yet go with the release."""
    kept.hold()
    kept.tell('note', key='history', value='one', token=9)
    until(lambda: kept.engine.notes == {'history': 'one by 9'}, 'the note')
    kept.engine.writes = False
    kept.tell('note', key='history', value='two', token=9)
    kept.tell('quit')
    kept.is_over()
    assert kept.engine.notes == {'history': 'two'}


def test_outcome_of_a_process_that_dies(kept: Kept) -> None:
    """What it would leave is left; a run that has an outcome is not killed."""
    kept.hold()
    kept.run()
    kept.tell('leave', record={**RECORD, 'schedule': {'due': 5}},
              notes={'history': 'one'})
    kept.ward.kill()
    kept.is_over()
    [record] = kept.engine.released
    assert record['schedule'] == {'due': 5}
    assert 'killed' not in record
    assert kept.engine.notes == {'history': 'one'}


def test_note_is_newer_than_the_last_outcome(kept: Kept) -> None:
    """A run that is killed leaves the history as it was saved last."""
    kept.hold()
    kept.tell('leave', record=RECORD, notes={'history': 'one'})
    kept.tell('note', key='history', value='two', token=9)
    until(lambda: kept.engine.notes == {'history': 'two by 9'}, 'the note')
    kept.run()
    kept.ward.kill()
    kept.is_over()
    assert kept.engine.released[0]['killed']['run'] == 5
    assert kept.engine.notes == {'history': 'two'}


def test_next_hold_leaves_nothing_of_the_last(kept: Kept) -> None:
    """What one hold would leave is not left by another."""
    kept.hold()
    kept.tell('leave', record={'pid': 8}, notes={'history': 'one'})
    kept.hold()
    kept.ward.kill()
    kept.is_over()
    assert kept.engine.released[0]['pid'] == 7
    assert kept.engine.notes == {}


def test_process_that_does_not_wait_for_the_reply(kept: Kept) -> None:
    """What a process said last is heard, although it has closed the line and a
    reply cannot be sent any more."""
    kept.hold()
    closed = threading.Event()

    def heard() -> None:
        closed.wait(15)
    kept.keeper.decisions.heard = heard  # type: ignore[method-assign]
    kept.tell('claim', record={'pid': 8})
    kept.tell('quit')
    kept.control.close()
    closed.set()
    kept.is_over()
    [record] = kept.engine.released
    assert record['pid'] == 8


def test_ends_in_the_middle_of_a_release(kept: Kept) -> None:
    """What the process was about to leave is left in its place."""
    kept.hold()
    kept.engine.writes = False
    kept.tell('note', key='history', value='one', token=9)
    kept.ask('release', record={'pid': 8}, notes={'history': 'two'})
    kept.tell('quit')
    kept.is_over()
    [record] = kept.engine.released
    assert record['pid'] == 8
    assert kept.engine.notes == {'history': 'two'}


def test_chores(engine: Memory) -> None:
    """What else the service wants is done again and again."""
    done: list[float] = []
    engine.chores = Chore(0.1, lambda: done.append(time.monotonic())),
    with Kept(engine):
        until(lambda: len(done) >= 4, 'chores')
    assert done[3] - done[0] >= 0.3


# What it logs.

@pytest.mark.parametrize('log_format', ['text', 'json'])
def test_line_of_the_log(monkeypatch: pytest.MonkeyPatch,
                         log_format: str) -> None:
    """A line of the keeper is like that of a logger of its job."""
    monkeypatch.setattr(keeper_module, '_about', {
        'task': 'orders', 'fqdn': fqdn(), 'format': log_format})
    record = logging.makeLogRecord({
        'name': 'jobslib.keeper', 'levelname': 'WARNING', 'task': 'orders',
        'msg': 'killing' if log_format == 'json' else 'killing (orders)'})
    record.created, record.msecs = 1.7e9 + 0.25, 250.0
    handler = make_handler(log_format)
    assert handler.formatter is not None
    line = keeper_module._format('killing', record.created)
    expected = handler.formatter.format(record)
    if log_format == 'json':
        assert json.loads(line) == json.loads(expected)
    else:
        assert line == expected


def test_line_of_the_log_of_a_lock_alone(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses a keeper without a job has lines without its name."""
    monkeypatch.setattr(keeper_module, '_about', {})
    assert keeper_module._format('killing', 1.7e9).endswith(
        ',000 WARNING jobslib.keeper: killing')
