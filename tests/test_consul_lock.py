"""ConsulLock on a stand-in of Consul: what cannot be made to happen on demand."""

import contextlib
import gc
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import STEADY, PlainTask, make_context, until

from jobslib.consul.keys import refuse_lock_key
from jobslib.consul.names import history_key
from jobslib.consul.transport import TransportError
from jobslib.exceptions import (
    ConfigError,
    LockUnavailableError,
    OneInstanceWatchdogError,
)
from jobslib.history import HandIn
from jobslib.keeper import proc
from jobslib.keeper.handle import CHECK_INTERVAL, KeeperHandle
from jobslib.keeper.lease import Lease
from jobslib.keeper.memory import LeaseMemory
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.lease import INTERRUPT_SIGNAL
from jobslib.oneinstance.record import parse
from jobslib.oneinstance.requests import Extra, Pause
from jobslib.owner import OwnerRecord
from jobslib.runs import Outcome, Run
from jobslib.testing import ConsulStandIn, make_lock


@pytest.fixture
def consul() -> Iterator[ConsulStandIn]:
    """A stand-in of Consul."""
    with ConsulStandIn() as stand_in:
        yield stand_in


@pytest.mark.parametrize('name', [
    '/a', 'a//b', '../a', 'a/./b', 'a\nb', 'a\xa0b', 'a\udcff',
    '%2e./b', 'a/%2e%2E/b'])
def test_names_that_no_key_can_have(name: str) -> None:
    """A key that Consul has no URL for is refused before anything is asked."""
    task_cls = type('Task', (PlainTask,), {'name': name})
    context = make_context(
        {'ONE_INSTANCE': {'backend': 'jobslib.oneinstance.consul.ConsulLock'}},
        task_cls)
    with pytest.raises(ConfigError, match='^key: .* is not allowed'):
        print(context.one_instance_lock)


@pytest.mark.parametrize('key', [' a', 'a ', '%20a', 'a%20'])
def test_keys_that_newer_consul_refuses(key: str) -> None:
    """They are refused, with the versions that would take them."""
    with pytest.raises(ConfigError, match='Consul before 1.21.5 would take'):
        refuse_lock_key(key)


@pytest.mark.parametrize(('key', 'lock'), [
    ('jobs/orders/history/lock', 'jobs/orders/lock'),
    ('jobs/orders/progress/lock', 'jobs/orders/lock'),
    ('jobs/orders/lock.control', 'jobs/orders/lock'),
    (f'jobs/orders/lock.check-{"0a" * 16}', 'jobs/orders/lock'),
    ('history/orders', 'orders'), ('shop/progress/orders', 'shop/orders'),
    ('jobs/lock', 'jobs/history/lock'),
])
def test_key_beside_another_lock(key: str, lock: str) -> None:
    """No lock has a key that another one has beside it."""
    with pytest.raises(ConfigError, match=re.escape(
            f'it is a key beside the lock {lock!r}')):
        refuse_lock_key(key)


@pytest.mark.parametrize('name', [
    'history', 'progress', 'history/orders', 'orders/histories',
    'orders.control', 'control'])
def test_names_like_those_of_keys_beside(name: str) -> None:
    """A task may be named for what lies beside a lock, where no lock has
    that there."""
    refuse_lock_key(f'jobs/{name}/lock')


def test_many_jobs(consul: ConsulStandIn) -> None:
    """However many jobs there are, and however long their histories, all of
    them are found."""
    lock = make_lock(ConsulLock, 'many', **consul.options())
    client = lock.client
    run = {'run': 1, 'outcome': 'failed', 'error': 30_000 * 'x'}
    history = json.dumps({'runs': 3, 'newest': [run, {**run, 'run': 2}]}).encode()
    names = [f'job-{number:03}' for number in range(200)]
    for name in names:
        client.put(f'jobs/{name}/lock', json.dumps(
            {'task': name, 'pid': 1, 'schedule': {}}).encode())
        client.put(f'jobs/{name}/history/lock', history)
    # What a person made to see them as a folder.
    client.put('jobs/', b'')
    with pytest.raises(LockUnavailableError, match='longer than'):
        client.read_all(['jobs/'])
    found = ConsulLock.find_all(lock.context, lock.options)
    assert [*found] == [f'jobs/{name}/lock' for name in names]
    for state in found.values():
        assert state.history is not None
        assert [each['run'] for each in state.history['newest']] == [2]
    lock.close()


def test_jobs_of_which_a_part_is_denied(consul: ConsulStandIn) -> None:
    """Nothing is said of a job whose requests or history may not be read; it is
    said that jobs may be missing."""
    lock = make_lock(ConsulLock, 'part', **consul.options())
    record = json.dumps({'task': 'x', 'pid': 1, 'schedule': {}}).encode()
    for name in 'one', 'two', 'three':
        lock.client.put(f'parts/{name}/lock', record)
    with consul.hide('parts/.jobslib', 'parts/one/lock.control', 'parts/two/history'):
        found = ConsulLock.find_all(lock.context, lock.options, 'parts/')
    assert [*found] == ['parts/three/lock'] and found.missing
    assert len(ConsulLock.find_all(lock.context, lock.options, 'parts/')) == 3
    lock.close()


def test_values_of_somebody_else(consul: ConsulStandIn) -> None:
    """What is beside the lock and is not of jobslib is named."""
    lock = make_lock(ConsulLock, 'others', **consul.options())
    assert lock.look().unreadable == []
    for name, value in [
            ('lock', b'[1]'), ('lock.control', b'DATABASE=db'),
            ('history/lock', b'{"runs": 1}'), ('progress/lock', b'')]:
        lock.client.put(f'jobs/others/{name}', value)
    assert lock.look().unreadable == ['the owner record', 'what operators ask']
    lock.close()


def lease_threads() -> set[threading.Thread]:
    """Return the threads that wait for the end of a keeper."""
    return {thread for thread in threading.enumerate()
            if thread.name == 'jobslib-lease'}


def test_lost_in_the_instant_of_acquiring(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock that is lost before acquire() returns was not acquired."""
    hold = Lease.hold

    def lose(lease: Lease, *args: Any) -> None:
        hold(lease, *args)
        lease.memory.set_state(LeaseMemory.LOST, 'lost at once')

    lock = make_lock(ConsulLock, 'instant', **consul.options(**STEADY))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Lease, 'hold', lose)
            assert lock.acquire() is False
        assert not lock.held
        assert lock.fencing_token is None
    finally:
        lock.close()


def test_closed_by_another_thread(consul: ConsulStandIn) -> None:
    """A lock can be closed by a thread that may handle no signals."""
    lock = make_lock(ConsulLock, 'thread', **consul.options(**STEADY))
    assert lock.acquire()
    errors: list[BaseException] = []

    def close() -> None:
        try:
            lock.close()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert errors == []
    lock.close()


def test_control_of_a_new_hold(tmp_path: pathlib.Path) -> None:
    """What was asked in an earlier hold is not taken for what is asked now."""
    with (tmp_path / 'memory').open('w+b') as file:
        file.truncate(LeaseMemory.SIZE)
        memory = LeaseMemory(file.fileno())
        assert memory.version == 0
        memory.write_control(b'first')
        assert memory.read_control() == (1, b'first')
        memory.forget_control()
        assert memory.version == 0
        memory.forget_control()
        memory.write_control(b'second')
        # Never the version that something else had.
        assert memory.read_control() == (2, b'second')
        memory.write_control(b'second')
        assert memory.version == 2
        memory.write_control(b'x' * 2 * LeaseMemory.SIZE)
        assert memory.version == 3
        memory.set_state(LeaseMemory.STOPPING, 'r' * 2 * LeaseMemory.SIZE)
        assert memory.read_control()[1] == b'x' * (LeaseMemory.SIZE - 512 - 1)


def test_keeper_without_tls(consul: ConsulStandIn) -> None:
    """A keeper that needs no TLS does not load it."""
    lock = make_lock(ConsulLock, 'plain', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        assert lock.lease is not None
        keeper = pathlib.Path(f'/proc/{lock.lease.keeper_pid}')
        assert 'libssl' not in (keeper / 'maps').read_text()
    finally:
        lock.close()


def test_keeper_that_ends_at_once(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock is closed without an error, however fast its keeper ends."""
    exchange = KeeperHandle._exchange
    before = lease_threads()

    def exchange_slowly(
        keeper: KeeperHandle, message: dict[str, Any], *args: Any, **kwargs: Any,
    ) -> bool:
        told = exchange(keeper, message, *args, **kwargs)
        if message['do'] == 'quit':
            until(lambda: lease_threads() <= before)
        return told

    monkeypatch.setattr(KeeperHandle, '_exchange', exchange_slowly)
    lock = make_lock(ConsulLock, 'fast', **consul.options(**STEADY))
    assert lock.acquire()
    lock.close()


@pytest.mark.parametrize('closed', [False, True])
def test_pause_in_the_instant_after_acquiring(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch, closed: bool,
) -> None:
    """What is asked is news in each hold, whatever was read in one before."""
    hold = Lease.hold

    def pause(lease: Lease, *args: Any) -> None:
        assert lock.ask(Control(Pause('ann')), Control())
        hold(lease, *args)

    lock = make_lock(ConsulLock, 'paused', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        assert lock.lease is not None
        memory = lock.lease.memory
        until(lambda: memory.version, 'for a first look at the key')
        assert lock.control.paused is None
        if closed:
            lock.close()
            until(lambda: lock.get_lock_owner_info() is None,
                  'for the keeper')
        else:
            lock.release()
        with monkeypatch.context() as patch:
            patch.setattr(Lease, 'hold', pause)
            assert lock.acquire()
        until(lambda: lock.control.paused, 'for the pause')
    finally:
        lock.close()


def test_pause_while_the_keeper_is_replaced(consul: ConsulStandIn) -> None:
    """What is asked while there is no keeper is known to the next."""
    lock = make_lock(ConsulLock, 'replaced', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        lease = lock.lease
        assert lease is not None
        until(lambda: lease.memory.version, 'for a first look at the key')
        assert lock.control.paused is None
        keeper = lease.keeper_pid
        os.kill(keeper, signal.SIGSTOP)
        assert lock.ask(Control(Pause('ann')), Control())
        os.kill(keeper, signal.SIGKILL)
        until(lambda: lock.control.paused, 'for the pause')
        assert lease.keeper_pid != keeper
    finally:
        lock.close()


def test_interrupted_in_the_instant_of_acquiring(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who interrupts acquire() and goes on is not locked out by itself."""
    def interrupt(data: bytes | None) -> dict[str, Any] | None:
        if data == b'{}':
            raise KeyboardInterrupt
        return parse(data)

    lock = make_lock(ConsulLock, 'interrupted', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        lock.release()
        lock.client.put(history_key(lock.key), b'{}')
        with monkeypatch.context() as patch:
            patch.setattr('jobslib.oneinstance.consul.parse', interrupt)
            with pytest.raises(KeyboardInterrupt):
                lock.acquire()
        assert not lock.held
        until(lock.acquire, 'for the lock')
    finally:
        lock.close()


def test_history_of_an_earlier_hold(consul: ConsulStandIn) -> None:
    """A history that this process left before is not written once more."""
    lock = make_lock(ConsulLock, 'again', **consul.options(**STEADY))
    try:
        for runs in (5, None, 7, None):
            assert lock.acquire()
            if runs is not None:
                lock.history = {'runs': runs}
            else:
                lock.client.put(history_key(lock.key), b'{"runs": 6}')
            lock.release()
            left = lock.look().history
            assert left is not None and left['runs'] == (runs or 6)
    finally:
        lock.close()


def test_who_is_ready(consul: ConsulStandIn) -> None:
    """Who is ready are those of this lock; not known where not all are seen."""
    locks = [make_lock(ConsulLock, 'ready', **consul.options(key=key, **STEADY))
             for key in ('some', 'some', 'some job')]
    one, two, three = locks
    try:
        assert one.acquire()
        for lock in two, three:
            lock.wait(0)
        assert one.look().others == [
            {'fqdn': one.machine(), 'pid': os.getpid()}]
        sessions = one.client.sessions()
        one.client.sessions = lambda: {  # type: ignore[method-assign]
            session: name for session, name in sessions.items()
            if one.lease is not None and session != one.lease.session}
        # With the right to read the sessions of some nodes only.
        assert one.look().others is None
    finally:
        for lock in locks:
            lock.close()


def test_wait_while_paused(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pause is waited out with one query, and its end is seen at once."""
    monkeypatch.setattr('jobslib.oneinstance.consul.BARRED_WAIT', 0.1)
    lock = make_lock(ConsulLock, 'waiting', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        lock.release()
        paused = Control(Pause('ann'))
        assert lock.ask(paused, Control())
        assert lock.acquire() is False

        def reads() -> int:
            return sum(request.method == 'GET'
                       for request in consul.requests)

        before = reads()
        operator = make_lock(ConsulLock, 'waiting', **consul.options(**STEADY))
        resume = threading.Timer(1, operator.ask, (Control(), paused))
        resume.start()
        lock.wait(20)
        resume.join()
        assert reads() - before <= 5
        assert lock.acquire()
    finally:
        lock.close()


def is_left(lock: ConsulLock, runs: int) -> bool:
    """Return whether a lock is free, which it never is without its history."""
    state = lock.look()
    assert state.held or (state.history or {}).get('runs') == runs
    return not state.held


def test_history_of_a_release_that_failed(consul: ConsulStandIn) -> None:
    """What the keeper releases in place of its process is left complete."""
    options = consul.options(retry_max_attempts=1, **STEADY)
    lock = make_lock(ConsulLock, 'failed', **options)
    try:
        assert lock.acquire()
        token = lock.fencing_token
        lock.history = {'runs': 5}
        lock.schedule = {'origin': 1.0, 'due': 2.0}
        with consul.partition(refuse=True):
            with pytest.raises(LockUnavailableError):
                lock.release()
        until(lambda: is_left(lock, 5), 'for the release')
        record = lock.look().record or {}
        assert record['token'] == token
        assert record['schedule'] == {'origin': 1.0, 'due': 2.0}
    finally:
        lock.close()


def test_history_that_was_not_written_yet(consul: ConsulStandIn) -> None:
    """A note that is under way when the process ends is not lost."""
    lock = make_lock(ConsulLock, 'under-way', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        with consul.partition(refuse=True):
            lock.history = {'runs': 5}
            lock.save_history()
            lock.close()
        until(lambda: is_left(lock, 5), 'for the release')
    finally:
        lock.close()


#: A record of a holder that vanished, and need not be waited for.
VANISHED = {'fqdn': 'there', 'pid': 1, 'task': 'lost', 'timestamp': 5.0,
            'schedule': {}, 'lock_delay': 0}


def test_lost_run_is_in_the_record_of_the_next(consul: ConsulStandIn) -> None:
    """Who takes over from a holder that vanished says so in the same write, with
    the fencing token if it has seen the lock held, until its history is there."""
    lock = make_lock(ConsulLock, 'lost', **consul.options(**STEADY))
    try:
        session = lock.client.create_session('other', 10.0, 0.0)
        held = lock.client.acquire(
            lock.key, json.dumps(VANISHED).encode(), session,
            lock.client.read(lock.key))
        lock.supervised = True
        assert held is not None and not lock.acquire()
        consul.lose_lock()
        assert lock.acquire()
        found = OwnerRecord(json.loads(consul.value(lock.key) or b''))
        assert [(each.token, each.timestamp) for each in found.before] == [
            (held.token, 5.0)]
        lock.history = {'runs': 1}
        assert lock.release()
        assert b'"before"' not in (consul.value(lock.key) or b'')
    finally:
        lock.close()


def test_what_a_holder_has_noted(consul: ConsulStandIn) -> None:
    """What a holder has asked itself it knows at once."""
    lock = make_lock(ConsulLock, 'noted', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        begun = Control(extra=Extra('x1', tries=1))
        assert lock.ask(begun, lock.control)
        assert lock.control.export() == begun.export()
        assert lock.ask(Control(), lock.control)
        assert lock.release()
    finally:
        lock.close()


def test_acquisition_that_is_denied(
        consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was taken then, and nobody tries to give it back."""
    lock = make_lock(ConsulLock, 'denied', **consul.options(**STEADY))
    acquire = lock.client.acquire
    asked: list[int] = []
    with contextlib.ExitStack() as stack:
        def denied(*args: Any) -> Any:
            stack.enter_context(consul.hide(lock.key))
            try:
                return acquire(*args)
            finally:
                asked.append(len(consul.requests))
        monkeypatch.setattr(lock.client, 'acquire', denied)
        with pytest.raises(LockUnavailableError, match='Permission denied'):
            lock.acquire()
        until(lambda: not consul.sessions, 'for the end of the session')
        [request] = consul.requests[asked[0]:]
        assert '/session/destroy/' in request.path
    lock.close()


def test_acquisition_that_nobody_heard_of(consul: ConsulStandIn) -> None:
    """What may be in the key without its process's knowing is known to it, and
    tells on of those who vanished before."""
    lock = make_lock(ConsulLock, 'unheard', **consul.options(**STEADY))
    try:
        lock.client.put(lock.key, json.dumps(VANISHED).encode())
        lock.supervised = True
        transact = lock.client._transact

        def carry_out(*args: Any) -> None:
            transact(*args)
            lock.client._doubtful.add(args[1])
            raise TransportError('no answer', sent=True)
        lock.client._transact = carry_out  # type: ignore[assignment]
        lock.client._attempts = 1
        with pytest.raises(LockUnavailableError):
            lock.acquire()
        assert lock.unheard is not None and lock.unheard['timestamp'] > 5.0
        until(lambda: consul.holder(lock.key) is None, 'for the release')
        left = OwnerRecord(json.loads(consul.value(lock.key) or b''))
        assert left.timestamp == lock.unheard['timestamp'] and left.released
        assert [each.timestamp for each in left.before] == [5.0]
    finally:
        lock.close()


def test_what_is_handed_in(consul: ConsulStandIn) -> None:
    """What is handed in is for the next holder, and goes with its history; who
    has the lock at that time is told."""
    holder, other = (make_lock(ConsulLock, 'handed', **consul.options(**STEADY))
                     for _ in range(2))
    run = Run(3, 7, 150.0)
    run.end(Outcome.SUCCEEDED, 5.0)
    try:
        assert holder.acquire()
        for hold in 150.0, 160.0, 150.0:
            assert other.hand_in(HandIn(hold, [run]))
        until(lambda: holder.control.handed_in, 'for the news')
        found = holder.find_handed_in()
        assert sorted(each.hold for each in found.values()) == [150.0, 160.0]
        assert {each.runs[0].number for each in found.values()} == {3}
        assert other.look().handed_in.keys() == found.keys()
        holder.history = {'runs': 1}
        assert holder.release()
        assert not other.look().handed_in
        assert other.ask(Control(), Control(handed_in=True))
        assert other.hand_in(HandIn(170.0))
        assert not other.look().control.handed_in
        assert holder.acquire() and list(holder.handed_in) == ['170000000']
    finally:
        holder.close()
        other.close()


def test_late_hand_in(consul: ConsulStandIn) -> None:
    """What is handed in late, or once more, is not there a second time."""
    lock = make_lock(ConsulLock, 'late', **consul.options(**STEADY))
    name, value = '150000000', b'{"hold": 150.0}'
    try:
        assert lock.acquire()
        before = lock.client.read(lock.key)
        assert lock.client.hand_in(lock.key, name, value, before, None)
        assert lock.client.hand_in(lock.key, name, value, before, None)
        assert lock.find_handed_in()
        lock.history = {'runs': 1}
        assert lock.release()
        assert not lock.client.hand_in(lock.key, name, value, before, None)
        assert not lock.look().handed_in
    finally:
        lock.close()


def test_lease_lost_while_waiting(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits on without a session makes another, by which it is seen."""
    holder, standby = (
        make_lock(ConsulLock, 'seen', **consul.options(key='seen', **STEADY))
        for _ in range(2))
    read = standby._read
    ended: list[str] = []

    def lose_lease(*args: Any) -> Any:
        lease = standby.lease
        if lease is not None and not ended:
            ended.append(lease.session)
            with monkeypatch.context() as patch:
                patch.setattr(sys, 'executable', '/nowhere/python')
                os.kill(lease.keeper_pid, signal.SIGKILL)
                until(lambda: lease.has_ended, 'for the end of the lease')
            # Nothing has woken the blocking query.
            return read()
        return read(*args)

    try:
        assert holder.acquire()
        monkeypatch.setattr(standby, '_read', lose_lease)
        standby.wait(2)
        assert ended and standby.lease is not None
        assert standby.lease.session not in ended
        assert standby.lease.session in consul.sessions
    finally:
        standby.close()
        holder.close()


def test_killed_in_the_middle_of_a_release(consul: ConsulStandIn) -> None:
    """The keeper leaves what its process was about to leave."""
    with start_holder(consul, 'middle', '''
            def release(*args):
                os.kill(os.getpid(), signal.SIGKILL)
            lock.client.release = release
            lock.history = {'runs': 5}
            lock.schedule = {'origin': 1.0, 'due': 2.0}
            lock.release()
            ''') as holder:
        assert holder.wait() == -signal.SIGKILL
    lock = make_lock(ConsulLock, 'middle', **consul.options())
    try:
        until(lambda: is_left(lock, 5), 'for the release')
        record = lock.look().record or {}
        assert record['schedule'] == {'origin': 1.0, 'due': 2.0}
    finally:
        lock.close()


def start_holder(consul: ConsulStandIn, name: str,
                 program: str) -> subprocess.Popen[str]:
    """Start a process that takes a lock and then does what *program* says."""
    return subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(f'''
            import os, signal, time
            from jobslib.oneinstance.consul import ConsulLock
            from jobslib.testing import make_lock
            lock = make_lock(ConsulLock, {name!r}, **{consul.options()!r})
            assert lock.acquire()
            lease = lock.lease
            ''') + textwrap.dedent(program)],
        stdout=subprocess.PIPE, text=True)


def test_killed_with_an_answer_unread(consul: ConsulStandIn) -> None:
    """A process that dies before it has read an answer frees the lock."""
    with start_holder(consul, 'unread', '''
            import json, select
            lease._keeper._messages.send(json.dumps({
                'do': 'run', 'number': 0, 'max_run_time': None,
                'heartbeat': None, 'run': None, 'elapsed': 0.0}).encode())
            select.select([lease._keeper._messages], [], [])
            os.kill(os.getpid(), signal.SIGKILL)
            ''') as holder:
        assert holder.wait() == -signal.SIGKILL
    lock = make_lock(ConsulLock, 'unread', **consul.options())
    try:
        until(lock.acquire, 'for the lock')
    finally:
        lock.close()


# The guard sees the end of the keeper before the process starts another.
DELAY = '''import socket
            pair = socket.socketpair
            socket.socketpair = lambda *args: time.sleep(0.2) or pair(*args)'''


def test_no_keeper_comes_to_work(consul: ConsulStandIn) -> None:
    """The guard stays until another keeper is at work."""
    with start_holder(consul, 'slow', f'''
            {DELAY}
            spawn = os.posix_spawn
            os.posix_spawn = lambda path, args, *rest, **more: spawn(
                '/bin/sleep', ['sleep', '5'], *rest, **more)
            os.kill(lease.keeper_pid, signal.SIGKILL)
            time.sleep(5)
            ''') as holder:
        assert holder.wait() == -signal.SIGKILL


def test_no_thread_can_be_started(consul: ConsulStandIn) -> None:
    """Without a keeper the process ends, and were it with its last thread."""
    with start_holder(consul, 'threads', f'''
            {DELAY}
            import sys, threading
            os.close(2)
            sys.executable = '/nowhere/python'
            def refuse(*args):
                raise RuntimeError("can't start new thread")
            threading.Thread.start = refuse
            os.kill(lease.keeper_pid, signal.SIGKILL)
            time.sleep(3)
            ''') as holder:
        assert holder.wait() == -signal.SIGKILL


def test_keeper_that_cannot_be_replaced(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left without a keeper while idle, a lock makes itself another lease."""
    lock = make_lock(ConsulLock, 'abandoned', **consul.options())
    try:
        assert lock.acquire()
        assert lock.release()
        lease = lock.lease
        assert lease is not None
        with monkeypatch.context() as patch:
            patch.setattr(sys, 'executable', '/nowhere/python')
            os.kill(lease.keeper_pid, signal.SIGKILL)
            until(lambda: lease.has_ended, 'for the end of the lease')
        assert lock.acquire()
        assert lock.lease is not lease
        assert lock.lease is not None
        assert consul.sessions == [lock.lease.session]
        assert lock.release()
    finally:
        lock.close()


def test_keeper_that_cannot_be_started(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attempt to start a keeper leaves no file open."""
    lock = make_lock(ConsulLock, 'none', **consul.options())
    monkeypatch.setattr(sys, 'executable', '/nowhere/python')
    opened = []
    try:
        for _ in range(7):
            with pytest.raises(LockUnavailableError, match='/nowhere/python'):
                lock.acquire()
            gc.collect()
            opened.append(len(os.listdir('/proc/self/fd')))
    finally:
        lock.close()
    # The stand-in, and what earlier tests have left, open and close files
    # meanwhile, but not one for each attempt.
    assert opened[-1] < opened[1] + 3


def test_keeper_stopped_while_idle(consul: ConsulStandIn) -> None:
    """Stopped while nothing was held, a keeper is replaced when it is needed."""
    lock = make_lock(ConsulLock, 'idle', **consul.options(lock_delay=10.0))
    assert lock.acquire()
    assert lock.release()
    lease = lock.lease
    assert lease is not None
    keeper = lease.keeper_pid
    # The thread that sees to the keeper looks once more.
    time.sleep(CHECK_INTERVAL + 0.1)
    os.kill(keeper, signal.SIGSTOP)
    try:
        assert lock.acquire()
        assert lease.keeper_pid != keeper
        assert lock.release()
    finally:
        lock.close()


def test_killed_while_the_keeper_is_replaced(consul: ConsulStandIn) -> None:
    """What a process had is freed by a keeper that never saw it live."""
    with start_holder(consul, 'both', '''
            import threading
            spawn = os.posix_spawn
            def spawn_and_die(path, args, *rest, **more):
                script = 'sleep 0.3; exec "$@"'
                spawn('/bin/sh', ['sh', '-c', script, 'sh', *args], *rest, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            os.posix_spawn = spawn_and_die
            os.kill(lease.keeper_pid, signal.SIGKILL)
            time.sleep(5)
            ''') as holder:
        assert holder.wait() == -signal.SIGKILL
    key = make_lock(ConsulLock, 'both', **consul.options()).key
    until(lambda: not consul.sessions, 'for the end of the session')
    value = consul.value(key)
    assert value is not None
    assert 'released' in json.loads(value)


@pytest.mark.parametrize('lost', ['first', 'second'])
def test_two_locks_in_one_process(consul: ConsulStandIn, lost: str) -> None:
    """The loss of each interrupts, whichever was made first, or closed first."""
    def sleep() -> None:
        # A signal that comes in the instant before a sleep does not end it.
        for _ in range(500):
            time.sleep(0.01)

    previous = signal.getsignal(INTERRUPT_SIGNAL)
    locks = {name: make_lock(ConsulLock, name, **consul.options())
             for name in ('first', 'second')}
    try:
        for lock in locks.values():
            assert lock.acquire()
        with pytest.raises(OneInstanceWatchdogError):
            consul.lose_lock(locks[lost].key)
            sleep()
        assert locks[lost].release() is False
        locks[lost].close()
        [other] = [lock for lock in locks.values() if lock.held]
        with pytest.raises(OneInstanceWatchdogError):
            consul.lose_lock(other.key)
            sleep()
        assert other.release() is False
    finally:
        for lock in reversed(locks.values()):
            lock.close()
    assert signal.getsignal(INTERRUPT_SIGNAL) == previous


def test_run_that_closed_all_descriptors(consul: ConsulStandIn) -> None:
    """A process that cannot reach its keeper any more ends, and frees the lock."""
    with start_holder(consul, 'descriptors', '''
            os.closerange(3, 256)
            lease.end_run()
            ''') as holder:
        try:
            assert holder.wait(20) == -signal.SIGKILL
        finally:
            holder.kill()
    until(lambda: not consul.sessions, 'for the end of the session')


def test_keeper_that_dies_at_once(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock that no keeper can keep is never taken."""
    spawn = os.posix_spawn

    def spawn_false(path: str, args: list[str], *rest: Any,
                    **more: Any) -> int:
        return spawn('/bin/false', ['false'], *rest, **more)

    monkeypatch.setattr(os, 'posix_spawn', spawn_false)
    lock = make_lock(ConsulLock, 'dies', **consul.options())
    try:
        with pytest.raises(LockUnavailableError, match='again and again'):
            lock.acquire()
        assert not any(request.path.startswith('/v1/txn')
                       and b'"lock"' in request.body
                       for request in consul.requests)
        # This process cleared up itself.
        assert not consul.sessions
    finally:
        lock.close()


def start_frozen(consul: ConsulStandIn, name: str,
                 program: str) -> subprocess.Popen[str]:
    """Start a holder in a program that has no interpreter."""
    return subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(f'''
            import os, signal, sys, threading, time
            sys.frozen = True
            sys.executable = '/nowhere/job'
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            from jobslib.keeper import processes
            from jobslib.oneinstance.consul import ConsulLock
            from jobslib.testing import make_lock
            signal.signal(signal.SIGTERM, lambda *args: print('told', flush=True))
            lock = make_lock(ConsulLock, {name!r},
                             **{consul.options(grace=0.5)!r})
            assert lock.acquire()
            lease = lock.lease
            keeper = lease.keeper_pid
            ''') + textwrap.dedent(program)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_frozen_program(consul: ConsulStandIn) -> None:
    """Without an interpreter, the keeper is a copy that minds its own work."""
    with start_frozen(consul, 'frozen', '''
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(keeper, signum)
            print(sorted(os.listdir(f'/proc/{keeper}/fd'))[:3])
            print(processes.children(os.getpid()))
            until = lease.memory.until
            while lease.memory.until == until:
                time.sleep(0.05)
            print('released', lock.release())
            lock.close()
            ''') as holder:
        out, err = holder.communicate(timeout=30)
    assert out.splitlines() == [
        "['0', '1', '2']", 'set()', 'released True'], err
    until(lambda: not consul.sessions, 'for the end of the session')


def test_frozen_program_that_ignores_its_loss(consul: ConsulStandIn) -> None:
    """A forked keeper kills, another one takes its place, and clears up."""
    with start_frozen(consul, 'frozen-lost', '''
            import subprocess
            os.kill(keeper, signal.SIGKILL)
            while lease.keeper_pid == keeper:
                time.sleep(0.01)
            child = subprocess.Popen(['sleep', '60'])
            print(child.pid, flush=True)
            lock.watchdog.start(0.1)
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
            ''') as holder:
        out, err = holder.communicate(timeout=30)
    assert holder.returncode == -signal.SIGKILL
    assert 'keeper: killing process' in err
    until(lambda: not consul.sessions, 'for the end of the session')
    assert not proc.start_time(int(out))
