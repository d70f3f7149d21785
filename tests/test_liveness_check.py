"""The job as a service of Consul: what its check says, and when."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import PlainTask, make_context, until

from jobslib.background import Background
from jobslib.consul.client import KeyState
from jobslib.exceptions import ConfigError, LivenessError, LockUnavailableError
from jobslib.liveness import checkobserver
from jobslib.liveness.checkobserver import CheckObserver
from jobslib.liveness.consul_check import (
    ConsulCheckLiveness,
    ServiceCheck,
    service_name,
)
from jobslib.runs import Outcome, Run, describe

BACKEND = 'jobslib.liveness.consul_check.ConsulCheckLiveness'
LOGGER = logging.getLogger('check')


class FakeAgent:
    """The calls of the client, on an agent that is made up."""

    def __init__(self) -> None:
        #: Services by id: status and note.
        self.services: dict[str, tuple[str, str]] = {}
        self.names: dict[str, str] = {}
        self.expired: list[str] = []
        self.key: bytes | None = None
        self.reads = 0
        self.registrations = 0
        self.updates = 0
        self.down = False
        self.key_down = False
        self.key_denied = False
        self.may_go = threading.Event()
        self.may_go.set()

    def _answer(self) -> None:
        self.may_go.wait()
        if self.down:
            raise LockUnavailableError('no answer')

    def register_service(self, service: str, name: str, ttl: float,
                         status: str, remove_after: float) -> None:
        self._answer()
        self.registrations += 1
        self.services[service] = (status, '')
        self.names[service] = name

    def deregister_service(self, service: str) -> None:
        self._answer()
        self.services.pop(service, None)
        if service in self.expired:
            self.expired.remove(service)

    def expired_services(self, name: str) -> list[str]:
        self._answer()
        return list(self.expired)

    def update_check(self, check: str, status: str, note: str) -> bool:
        self._answer()
        service = check.removeprefix('service:')
        if service not in self.services:
            return False
        self.updates += 1
        self.services[service] = (status, note)
        return True

    def read(self, key: str) -> KeyState:
        self._answer()
        self.reads += 1
        if self.key_down:
            raise LockUnavailableError('no leader')
        return KeyState(1, self.key, None, 1)

    def put(self, key: str, value: bytes) -> None:
        self._answer()
        if self.key_denied:
            raise LockUnavailableError('denied')
        self.key = value

    def close(self) -> None:
        pass

    def says(self) -> tuple[str, str]:
        """Return status and note of the one service there is."""
        [said] = self.services.values()
        return said


def make_liveness(agent: FakeAgent, **options: Any) -> ConsulCheckLiveness:
    """Return a liveness on the fake agent."""
    liveness = make_context({'LIVENESS': {
        'backend': BACKEND, 'options': options}}).liveness
    assert isinstance(liveness, ConsulCheckLiveness)
    vars(liveness)['client'] = agent
    return liveness


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    """A fake agent, which answers at the latest when the test is over."""
    made = FakeAgent()
    yield made
    made.may_go.set()


@pytest.fixture(autouse=True)
def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses."""
    monkeypatch.setattr(checkobserver, 'PAUSE', 0.0)
    monkeypatch.setattr('jobslib.background.FIRST_PAUSE', 0.001)


def ended(outcome: Outcome, number: int = 7, age: float = 0.0,
          error: BaseException | None = None) -> Run:
    """Return a run that took 2 s and ended *age* seconds ago."""
    run = Run(number, None, time.time() - age - 2.0)
    run.end(outcome, 2.0, None if error is None else describe(error))
    return run


# What the observer says

def test_from_start_to_end(agent: FakeAgent) -> None:
    """The check follows what happens, and the service is gone at the end."""
    listening = make_liveness(agent).make_observer()
    assert isinstance(listening, CheckObserver)

    def says(status: str, note: str) -> None:
        until(lambda: agent.services and agent.says()[0] == status
              and note in agent.says()[1], f'for {note}')

    listening.started()
    says('passing', 'no run yet')
    listening.standby('the lock is held by beta')
    says('passing', 'standby: the lock is held by beta')
    listening.run_begins(Run(7, None, time.time()))
    says('passing', 'run 7 began at ')
    listening.run_ended(ended(
        Outcome.FAILED, error=RuntimeError('no disk\nsecond line')))
    says('warning', 'run 7 failed after 2.000 s at ')
    assert agent.says()[1].endswith(': RuntimeError: no disk')
    listening.run_begins(Run(8, None, time.time()))
    listening.run_ended(ended(Outcome.SUCCEEDED, 8))
    says('passing', 'run 8 succeeded after 2.000 s at ')
    assert agent.key is not None
    listening.closed()
    assert agent.services == {}


def test_note_that_cannot_be_encoded(agent: FakeAgent) -> None:
    """Whatever the reason of a pause is, the agent can be told of it."""
    liveness = make_liveness(agent)
    liveness.update(('passing', 'standby: paused by me: \udcff'))
    assert agent.says()[1] == r'standby: paused by me: \udcff'


def test_outcome_stays_while_the_next_run_goes_on(agent: FakeAgent) -> None:
    """A run that begins does not make up for one that failed."""
    listening = make_liveness(agent).make_observer()
    listening.run_ended(ended(Outcome.INTERRUPTED))
    listening.run_begins(Run(8, None, time.time()))
    until(lambda: agent.services and agent.says()[0] == 'warning')
    listening.closed()


def test_standby_is_no_failure(agent: FakeAgent) -> None:
    """Who failed and is a standby now is healthy."""
    listening = make_liveness(agent).make_observer()
    listening.run_ended(ended(Outcome.FAILED))
    until(lambda: agent.services and agent.says()[0] == 'warning')
    listening.standby('the lock is held by beta')
    until(lambda: agent.says()[0] == 'passing')
    listening.run_begins(Run(8, None, time.time()))
    until(lambda: agent.says()[1].startswith('run 8 began at '))
    listening.closed()


def test_it_speaks_without_news(
        agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is passed on, three times in a TTL."""
    liveness = make_liveness(agent)
    monkeypatch.setitem(liveness.options._values, 'ttl', 0.03)
    listening = liveness.make_observer()
    listening.started()
    until(lambda: agent.updates >= 4)
    listening.closed()


def test_outage_disturbs_nothing(
        agent: FakeAgent, caplog: pytest.LogCaptureFixture) -> None:
    """An agent that is down is logged once, and told everything later."""
    caplog.set_level(logging.INFO)
    agent.down = True
    listening = make_liveness(agent).make_observer()
    listening.started()
    listening.run_ended(ended(Outcome.FAILED))
    until(lambda: 'updating the check fails' in caplog.text)
    agent.down = False
    until(lambda: agent.services and agent.says()[0] == 'warning')
    listening.closed()
    assert [record.getMessage() for record in caplog.records] == [
        'updating the check fails, and is tried again: '
        'LivenessError: no answer', 'updating the check works again']


def test_end_waits_once(
        agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that hangs keeps the process for one timeout, not for two."""
    monkeypatch.setattr(checkobserver, 'CLOSE_TIMEOUT', 0.2)
    listening = make_liveness(agent).make_observer()
    listening.started()
    until(lambda: agent.services)
    agent.may_go.clear()
    listening.run_ended(ended(Outcome.SUCCEEDED))
    waits: list[float] = []
    closing = Background.close

    def close(self: Any, timeout: float) -> bool:
        waits.append(timeout)
        return closing(self, timeout)
    monkeypatch.setattr(Background, 'close', close)
    listening.closed()
    assert sum(waits) <= 0.2 + 1e-9
    agent.may_go.set()


# The age of the last success

def record(age: float) -> bytes:
    """Return what another machine left so many seconds ago."""
    return json.dumps({'timestamp': time.time() - age, 'fqdn': 'beta',
                       'time_local': 'then'}).encode()


def test_nobody_succeeded(agent: FakeAgent) -> None:
    """A standby is critical when the last success, whose ever, is too old."""
    liveness = make_liveness(agent, max_age=60)
    agent.key = record(100)
    liveness.update(('passing', 'standby: held'))
    assert agent.says() == ('critical', (
        'nobody succeeded for 60 s, the last success was at then on beta; '
        'standby: held'))
    agent.key = record(10)
    liveness.update(('passing', 'standby: held'))
    assert agent.says() == ('passing', 'standby: held')


def test_key_is_read_when_it_matters(agent: FakeAgent) -> None:
    """While a success that is known is young the key is not read."""
    liveness = make_liveness(agent, max_age=60)
    agent.key = record(10)
    for _ in range(3):
        liveness.update(('passing', 'standby'))
    assert agent.reads == 1
    without = make_liveness(agent)
    without.update(('passing', 'standby'))
    assert agent.reads == 1


def test_own_success_counts(agent: FakeAgent) -> None:
    """A success here counts at once, whatever the key says."""
    liveness = make_liveness(agent, max_age=60)
    agent.key = record(100)
    liveness.update(('passing', 'x'))
    assert agent.says()[0] == 'critical'
    liveness.succeeded(time.time())
    liveness.update(('passing', 'x'))
    assert agent.says()[0] == 'passing'


def test_observed_success_counts(agent: FakeAgent) -> None:
    """A run that succeeded ends the alarm, even if the key is not written."""
    agent.key_denied = True
    agent.key = record(100)
    listening = make_liveness(agent, max_age=60).make_observer()
    listening.started()
    until(lambda: agent.services and agent.says()[0] == 'critical')
    listening.run_ended(ended(Outcome.SUCCEEDED))
    until(lambda: agent.says()[0] == 'passing')
    listening.closed()


def test_first_success_has_its_time(
        agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that never succeeded has max_age from its start."""
    liveness = make_liveness(agent, max_age=60)
    liveness.update(('passing', 'x'))
    assert agent.says()[0] == 'passing'
    started = time.time()
    monkeypatch.setattr('time.time', lambda: started + 61)
    liveness.update(('passing', 'x'))
    assert agent.says() == ('critical', (
        'nobody succeeded for 60 s, there was none since this process '
        'started; x'))


def test_age_is_not_known(agent: FakeAgent) -> None:
    """A key that cannot be read is a warning, and the check goes on."""
    liveness = make_liveness(agent, max_age=60)
    agent.key_down = True
    liveness.update(('passing', 'x'))
    assert agent.says() == (
        'warning', 'x; the last success is not known: no leader')


# The service

def test_forgotten_service_is_registered_again(
        agent: FakeAgent, caplog: pytest.LogCaptureFixture) -> None:
    """An agent that started afresh gets the service again, and a log line."""
    caplog.set_level(logging.INFO)
    check = ServiceCheck('tick', 30, 3600, LOGGER)
    check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    assert agent.registrations == 1 and not caplog.records
    agent.services.clear()
    check.update(agent, 'warning', 'y')  # type: ignore[arg-type]
    assert agent.says() == ('warning', 'y')
    assert agent.registrations == 2
    [line] = caplog.records
    assert 'forgotten the service tick' in line.getMessage()


def test_agent_is_given_a_new_token(
        agent: FakeAgent, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    """The service is registered again now and then, without a word."""
    caplog.set_level(logging.INFO)
    check = ServiceCheck('tick', 30, 3600, LOGGER)
    check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    now = time.monotonic()
    monkeypatch.setattr('time.monotonic', lambda: now + 601)
    for _ in range(2):
        check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    assert agent.registrations == 2
    assert agent.says() == ('passing', 'x')
    assert not caplog.records


def test_dead_processes_are_cleared_away(
        agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts takes the place of who died, also of those dying then."""
    now = time.monotonic()
    check = ServiceCheck('tick', 30, 3600, LOGGER)
    agent.expired = ['long-dead']
    check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    assert agent.expired == []
    agent.expired = ['just-died']
    check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    assert agent.expired == ['just-died']
    monkeypatch.setattr('time.monotonic', lambda: now + 100)
    check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    assert agent.expired == []
    # One that dies later is a failure that is to be seen.
    agent.expired = ['another']
    check.update(agent, 'passing', 'x')  # type: ignore[arg-type]
    assert agent.expired == ['another']


def test_ids_differ() -> None:
    """Two processes of a job have two services of one name."""
    first, second = (ServiceCheck('tick', 30, 3600, LOGGER) for _ in range(2))
    assert first.id != second.id
    assert first.id.startswith(f'tick-{os.getpid()}-')


def test_what_was_never_registered_is_not_removed(agent: FakeAgent) -> None:
    """A process that never reached the agent leaves it alone."""
    agent.down = True
    make_liveness(agent).update(None)
    with pytest.raises(LivenessError, match='no answer'):
        make_liveness(agent).update(('passing', 'x'))


@pytest.mark.parametrize(('task', 'service'), [
    ('tick', 'tick'), ('jobs.tick.Tick', 'jobs-tick-Tick'),
    ('_a b/ç_', 'a-b'), ('x' * 100, 'x' * 63)])
def test_service_name(task: str, service: str) -> None:
    """The name of the task becomes one that DNS knows."""
    assert service_name(task) == service


def test_name_of_nothing() -> None:
    """Where nothing is left of the name one has to be given."""
    with pytest.raises(ConfigError, match='service: required'):
        service_name('???')


@pytest.mark.parametrize('options', [
    {'service': 'a.b'}, {'service': '-a'}, {'service': 'x' * 64},
    {'ttl': 1}, {'remove_after': 10}, {'max_age': 0}])
def test_options_are_refused(
        agent: FakeAgent, options: dict[str, Any]) -> None:
    """What Consul or DNS would not take is refused at the start."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_liveness(agent, **options)


def test_service_of_the_options(agent: FakeAgent) -> None:
    """The service may have a name of its own."""
    liveness = make_liveness(agent, service='shop-tick')
    liveness.update(('passing', 'x'))
    assert set(agent.names.values()) == {'shop-tick'}
    other = make_liveness(FakeAgent())
    assert other.service_check.name == PlainTask.name
