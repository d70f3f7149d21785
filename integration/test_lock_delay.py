"""The lock-delay: what a holder that vanished has, and who respects it.

Consul checks the delay when a request arrives, and the request then waits
behind the end of the holder's session. So a contender that asks for a key which
it last saw held can get it inside the delay; one that first reads the key free
cannot.
"""

import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from integration.agents import Agent, Api
from integration.locks import held_record, hold, holder_of, lock_on, make_lock
from integration.report import allowed
from integration.stamps import now

TRIES = 40
# The naive one's luck depends on the disk.
MOST_TRIES = 200
LOCK_DELAY = 2.0

# How long after its loss a key is watched. The leak shows within milliseconds.
WATCHED = 0.15
#: Beside the noise.
AT_ONCE = 0.25


@pytest.fixture(scope='module')
def disk(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server that keeps its data on disk, which makes the leak wide."""
    with Agent(binary=consul_bin, on_disk=True) as agent:
        yield agent


def took_over_early(agent: Agent, key: str, record: bytes,
                    contend: Callable[[], bool]) -> bool:
    """Whether `contend`, called over and over, got the key inside the delay."""
    session = hold(agent.api, key, record)
    done = threading.Event()
    early: list[bool] = []

    def poll() -> None:
        while not done.is_set():
            if contend():
                early.append(not done.is_set())
                break
    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.05)  # in the middle of its polling
    agent.api.destroy_session(session)
    done.wait(WATCHED)
    done.set()
    thread.join(20)
    assert not thread.is_alive()
    return early == [True]


def test_naive_contender_gets_in_early(disk: Agent) -> None:
    """A contender that does not read first is granted a key in its lock-delay."""
    early = tries = 0
    while tries < TRIES or (not early and tries < MOST_TRIES):
        tries += 1
        key = f'naive/{tries}'
        api = Api(disk.url)
        session = api.create_session(TTL='60s', Checks=[])

        def contend() -> bool:
            return api.put(f'kv/{key}', '', acquire=session).json() is True
        early += took_over_early(disk, key, b'', contend)
        api.destroy_session(session)
        api.close()
    print(f'naive contender: early in {early} of {tries} tries')
    assert early


def test_reading_first_keeps_out(disk: Agent) -> None:
    """Our contender is not, even with a record that tells it not to wait."""
    early = 0
    for number in range(TRIES):
        key = f'reading/{number}'
        lock = make_lock(disk.http_addr, key)

        def contend() -> bool:
            lock.wait(WATCHED)
            return lock.acquire()
        early += took_over_early(disk, key, held_record(released=1), contend)
        lock.close()
    print(f'our contender: early in {early} of {TRIES} tries')
    assert early == 0


def test_delay_of_a_vanished_holder_is_waited_out(agent: Agent) -> None:
    """A record that says held stands for a delay, whatever Consul does."""
    key = 'delay/vanished'
    # Consul's own delay is none: what is waited out is what the record says.
    session = hold(agent.api, key, held_record(lock_delay=LOCK_DELAY), '0s')
    with lock_on(agent.http_addr, key) as lock:
        assert not lock.acquire()
        started = now()
        agent.api.destroy_session(session)
        lock.wait(10)
        assert lock.acquire()
        took = now() - started
        assert LOCK_DELAY < took < allowed(LOCK_DELAY + AT_ONCE, since=started)
        assert (lock.previous_record or {})['fqdn'] == 'elsewhere'


def test_delay_of_consul_is_waited_out(agent: Agent) -> None:
    """A key that Consul keeps in its delay is not free, and is had after it."""
    key = 'delay/consul'
    session = hold(agent.api, key, held_record(released=1), f'{LOCK_DELAY}s')
    with lock_on(agent.http_addr, key) as lock:
        started = now()
        agent.api.destroy_session(session)
        assert not lock.acquire()
        while not lock.acquire():
            lock.wait(10)
        took = now() - started
        assert LOCK_DELAY < took < allowed(LOCK_DELAY + 0.5 + AT_ONCE, since=started)


def test_no_delay_after_a_release(agent: Agent) -> None:
    """A released lock is had at once, though its session ends in the same moment."""
    with lock_on(agent.http_addr, 'delay/released') as lock:
        for _ in range(5):
            holder = make_lock(agent.http_addr, 'delay/released')
            assert holder.acquire()
            holder.close()
            started = now()
            lock.wait(10)
            assert lock.acquire() and now() - started < allowed(AT_ONCE, since=started)
            lock.release()


def test_delay_is_counted_once(agent: Agent) -> None:
    """A contender that saw the key come free does not start over each time."""
    key = 'delay/once'
    session = hold(agent.api, key, held_record(lock_delay=LOCK_DELAY), '0s')
    with lock_on(agent.http_addr, key) as lock:
        started = now()
        agent.api.destroy_session(session)
        lock.wait(10)
        time.sleep(LOCK_DELAY / 2)
        assert lock.acquire()
        assert now() - started < allowed(LOCK_DELAY + AT_ONCE, since=started)


def test_taken_by_another_in_the_delay(agent: Agent) -> None:
    """A key that was taken while its delay was waited out is held."""
    key = 'delay/taken'
    session = hold(agent.api, key, held_record(lock_delay=LOCK_DELAY), '0s')
    agent.api.destroy_session(session)
    taken: list[str] = []
    timer = threading.Timer(LOCK_DELAY / 8, lambda: taken.append(
        hold(agent.new_api(), key, held_record(), '0s')))
    timer.start()
    with lock_on(agent.http_addr, key) as lock:
        assert not lock.acquire()
    timer.join()
    assert holder_of(agent.api, key) == taken[0]
    agent.api.destroy_session(taken[0])


def test_record_of_the_holder_survives_it(agent: Agent) -> None:
    """What the holder wrote stays in the key when its session ends."""
    key = 'delay/record'
    with lock_on(agent.http_addr, key) as lock:
        assert lock.acquire() and lock.lease is not None
        entry = agent.api.kv(key)
        assert entry and 'released' not in json.loads(entry['Value'])
        lock.release()
        entry = agent.api.kv(key)
        assert entry and json.loads(entry['Value'])['released'] > 0
