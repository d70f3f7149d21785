"""What the key says of its holder, and what it may say instead."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.agents import Agent
from integration.locks import held_record, hold, lock_on
from integration.report import allowed
from integration.stamps import now

RUBBISH = [b'', b'{', b'[]', b'"text"', b'null', b'\xff\xfe', b'[' * 100_000,
           b'{"lock_delay": "long"}', b'{"lock_delay": NaN}']


def test_owner_record(agent: Agent) -> None:
    """Anybody can read who holds the lock, where and since when."""
    with (lock_on(agent.http_addr, 'owner/lock', ttl=11, lock_delay=9) as lock,
          lock_on(agent.http_addr, 'owner/lock') as other):
        before = time.time()
        assert lock.acquire()
        record = other.get_lock_owner_info()
        assert record is not None
        assert record['fqdn'] == lock.context.fqdn
        assert record['pid'] == os.getpid()
        assert record['task'] == 'lock-test'
        assert before <= record['timestamp'] <= time.time()
        when = time.gmtime(record['timestamp'])
        assert record['time_utc'] == time.strftime('%Y-%m-%dT%H:%M:%SZ', when)
        assert record['time_local'].startswith(
            time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(record['timestamp'])))
        assert (record['ttl'], record['lock_delay']) == (11, 9)
        assert lock.get_lock_owner_info() == record
        lock.release()
        assert other.get_lock_owner_info() is None


def test_no_owner(agent: Agent) -> None:
    """There is no owner of a key that never was, or that nobody holds."""
    with lock_on(agent.http_addr, 'owner/none') as lock:
        assert lock.get_lock_owner_info() is None
        assert agent.api.put('kv/owner/none', held_record()).ok
        assert lock.get_lock_owner_info() is None


@pytest.mark.parametrize('rubbish', RUBBISH[:-2], ids=range(len(RUBBISH) - 2))
def test_rubbish_in_the_key_of_a_holder(agent: Agent, rubbish: bytes) -> None:
    """A record that cannot be read is no record; the key is held all the same."""
    with lock_on(agent.http_addr, 'owner/rubbish') as lock:
        session = hold(agent.api, 'owner/rubbish', rubbish, '0s')
        try:
            assert lock.get_lock_owner_info() is None
            assert not lock.acquire()
        finally:
            agent.api.destroy_session(session)
            agent.api.delete('kv/owner/rubbish')


def test_rubbish_in_a_free_key(agent: Agent) -> None:
    """Rubbish counts as the record of a holder that vanished."""
    def time_it(number: int) -> float:
        key = f'rubbish/{number}'
        assert agent.new_api().put(f'kv/{key}', RUBBISH[number]).ok
        with lock_on(agent.http_addr, key, lock_delay=2) as lock:
            started = now()
            assert lock.acquire()
            assert not lock.previous_record or 'lock_delay' in lock.previous_record
            return now() - started
    begun = now()
    with ThreadPoolExecutor(len(RUBBISH)) as threads:
        empty, *others = threads.map(time_it, range(len(RUBBISH)))
    # An empty value is what a client that knows of no records leaves.
    assert empty < allowed(0.75, since=begun)
    assert min(others) > 1.9 and max(others) < allowed(3.75, since=begun)


def test_previous_record(agent: Agent) -> None:
    """Who acquires the lock has the record, and the schedule, of the one before."""
    with (lock_on(agent.http_addr, 'previous/lock') as first,
          lock_on(agent.http_addr, 'previous/lock') as second):
        assert first.acquire() and first.previous_record is None
        first.schedule = {'origin': 1.0, 'due': 2.0}
        first.release()
        assert second.acquire() and second.previous_record is not None
        assert second.previous_record['schedule'] == {'origin': 1.0, 'due': 2.0}
        assert second.previous_record['released'] == pytest.approx(time.time(), abs=5)
