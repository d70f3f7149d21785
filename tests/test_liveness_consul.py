"""The last success in a key of Consul, and how Consul is reached."""

import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import make_context

from jobslib.consul.services import ServiceClient
from jobslib.consul.connection import ConsulConnection
from jobslib.consul.transport import Endpoint
from jobslib.exceptions import ConfigError, LivenessError
from jobslib.liveness.consul import ConsulLiveness, parse
from jobslib.testing import ConsulStandIn

LIVENESS = 'jobslib.liveness.consul.ConsulLiveness'
LOCK = 'jobslib.oneinstance.consul.ConsulLock'


@pytest.fixture(scope='module')
def consul() -> Iterator[ConsulStandIn]:
    """A Consul that the tests share."""
    with ConsulStandIn() as running:
        yield running


def make_liveness(lock: dict[str, Any] | None = None,
                  **options: Any) -> ConsulLiveness:
    """Return a liveness with these options, beside a lock with those."""
    settings: dict[str, Any] = {
        'LIVENESS': {'backend': LIVENESS, 'options': options}}
    if lock is not None:
        settings['ONE_INSTANCE'] = {'backend': LOCK, 'options': lock}
    liveness = make_context(settings).liveness
    assert isinstance(liveness, ConsulLiveness)
    return liveness


def endpoint(lock: dict[str, Any] | None = None, **options: Any) -> Endpoint:
    """Return how such a liveness reaches Consul."""
    found = make_liveness(lock, **options)._endpoint
    assert isinstance(found, Endpoint)
    return found


# The key

def test_success_is_in_the_key(consul: ConsulStandIn) -> None:
    """Who reads the key finds who succeeded, and when."""
    writer, reader = (make_liveness(consul.options()) for _ in range(2))
    assert writer.key == 'jobs/plain/liveness'
    assert reader.read() is None
    before = time.time()
    writer.write()
    record = reader.read()
    assert record is not None
    assert before <= record['timestamp'] <= time.time()
    assert set(record) == {'fqdn', 'timestamp', 'time_utc', 'time_local'}
    assert reader.check(60)
    for each in (writer, reader):
        each.close()


@pytest.mark.parametrize(('first', 'second', 'kept'), [
    (-5.0, -100.0, -5.0), (-100.0, -50.0, -50.0), (-10.0, -1.0, -1.0)])
def test_late_success_does_not_win(
        consul: ConsulStandIn, first: float, second: float,
        kept: float) -> None:
    """What could only be written late leaves a newer success alone."""
    now = time.time()
    liveness = make_liveness(consul.options(), key=f'late/{first}{second}')
    liveness.write_at(now + first)
    liveness.write_at(now + second)
    record = liveness.read()
    assert record is not None and record['timestamp'] == now + kept
    liveness.close()


def test_prompt_success_is_one_request(consul: ConsulStandIn) -> None:
    """Noting a success that just was reads nothing."""
    liveness = make_liveness(consul.options(), key='prompt')
    before = len(consul.requests)
    liveness.write()
    assert [each.method for each in consul.requests[before:]] == ['PUT']
    liveness.close()


@pytest.mark.parametrize('version', ['1.8', '2.1'])
def test_key_that_may_not_be_read(version: str) -> None:
    """A success that the token may not read is not taken for none."""
    with ConsulStandIn(version=version) as denying:
        liveness = make_liveness(denying.options())
        liveness.write()
        with denying.hide('jobs/'), pytest.raises(
                LivenessError, match='jobs/plain/liveness'):
            liveness.read()
        assert liveness.read() is not None
        liveness.close()


def test_value_of_somebody_else(consul: ConsulStandIn) -> None:
    """What is in the key and no success is not taken for none; the next success
    takes its place."""
    liveness = make_liveness(consul.options(), key='of/others')
    assert liveness.read() is None
    liveness.client.put('of/others', b'DATABASE=db')
    with pytest.raises(LivenessError, match='its value is not that of a success'):
        liveness.read()
    liveness.write()
    assert liveness.read() is not None
    liveness.close()


@pytest.mark.parametrize('data', [
    b'', b'x', b'[]', b'{}', b'{"timestamp": true}', b'{"timestamp": "1"}',
    b'{"timestamp": NaN}', b'{"timestamp": Infinity}',
    b'{"timestamp": 1' + b'0' * 400 + b'}', b'[' * 100_000, b'\xff', None])
def test_strange_value(data: bytes | None) -> None:
    """What is no record is none, whatever it is."""
    assert parse(data) is None


def test_no_answer(consul: ConsulStandIn) -> None:
    """Without an answer it is a LivenessError, which says where."""
    liveness = make_liveness(
        consul.options(), timeout=0.2, retry_max_attempts=1)
    with consul.partition(refuse=True):
        for call in (liveness.write, liveness.read, lambda: liveness.check(1)):
            with pytest.raises(LivenessError, match='jobs/plain/liveness'):
                call()
    liveness.write()
    liveness.close()


def test_close_before_use() -> None:
    """What was never used can be closed, and does not load the client."""
    liveness = make_liveness()
    liveness.close()
    assert 'client' not in vars(liveness)


@pytest.mark.parametrize('key', ['/a', 'a//b', 'a/../b', './a', 'a\nb'])
def test_key_is_refused(key: str) -> None:
    """A key is a path as Consul has them."""
    with pytest.raises(ConfigError, match='key: '):
        make_liveness(key=key)


# How Consul is reached

def test_reached_as_the_lock() -> None:
    """Without options of its own it reaches Consul as the lock does."""
    found = endpoint({'scheme': 'https', 'host': 'consul', 'port': 8501,
                      'dc': 'east', 'token': 'secret', 'timeout': 2.5,
                      'verify': False, 'ca_cert': '/ca'})
    assert (found.url, found.dc, found.token, found.timeout, found.verify,
            found.ca_cert) == (
        'https://consul:8501', 'east', 'secret', 2.5, False, '/ca')


def test_own_options_win() -> None:
    """An option of its own wins over the lock's; the others still count."""
    found = endpoint({'host': 'unix:///consul', 'timeout': 2.5, 'dc': 'east'},
                     timeout=1.0)
    assert (found.socket_path, found.timeout, found.dc) == (
        '/consul', 1.0, 'east')


def test_relative_files(tmp_path: pathlib.Path,
                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Files stay the same when the task changes its folder."""
    monkeypatch.chdir(tmp_path)
    found = endpoint(token_file='token', ca_cert='ca/cert', client_cert='a',
                     client_key='../b')
    assert (found.token_file, found.ca_cert) == (
        f'{tmp_path}/token', f'{tmp_path}/ca/cert')
    assert (found.client_cert, found.client_key) == (
        f'{tmp_path}/a', f'{tmp_path.parent}/b')
    assert endpoint(host='unix://run/socket').socket_path == (
        f'{tmp_path}/run/socket')


@pytest.mark.parametrize(('lock', 'own'), [
    ({'token': 'lock'}, {'token_file': '/own'}),
    ({'token_file': '/lock'}, {'token': 'own'}),
    ({'token': 'lock', 'token_file': '/lock'}, {'token_file': '/own'})])
def test_own_token_wins(lock: dict[str, Any], own: dict[str, Any]) -> None:
    """A token of its own is used, in a file or not, and not the lock's."""
    found = endpoint(lock, **own)
    assert found.token == own.get('token')
    assert found.token_file == own.get('token_file')


def test_own_host_is_all_its_own() -> None:
    """The lock's token goes to no other host than the lock's."""
    found = endpoint({'host': 'one', 'port': 1, 'token': 'secret'}, host='two')
    assert (found.host, found.port, found.token) == ('two', 8500, None)


def test_other_lock_says_nothing() -> None:
    """With another lock the defaults count."""
    assert endpoint().url == 'http://127.0.0.1:8500'


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables are its own, and those of Consul's tools count too."""
    monkeypatch.setenv('JOBSLIB_ONE_INSTANCE_CONSUL_HOST', 'lock')
    monkeypatch.setenv('JOBSLIB_ONE_INSTANCE_CONSUL_TOKEN', 'of-lock')
    assert endpoint({}).host == 'lock'
    assert endpoint({}).token == 'of-lock'
    monkeypatch.setenv('CONSUL_HTTP_ADDR', 'standard:1')
    assert endpoint({}).url == 'http://lock:8500'
    monkeypatch.setenv('JOBSLIB_LIVENESS_CONSUL_HOST', 'own')
    monkeypatch.setenv('CONSUL_HTTP_TOKEN', 'standard')
    found = endpoint({})
    assert (found.host, found.token) == ('own', 'standard')
    monkeypatch.setenv('JOBSLIB_LIVENESS_CONSUL_KEY', 'a/key')
    assert make_liveness().key == 'a/key'


def test_secrets_leave_the_environment(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Its token is used after its variable was taken away."""
    monkeypatch.setenv('JOBSLIB_LIVENESS_CONSUL_TOKEN', 'secret')
    context = make_context({
        'LIVENESS': {'backend': LIVENESS},
        'ONE_INSTANCE': {'backend': LOCK, 'options': {'token': 'of-lock'}}})
    context.config.hide_secrets()
    assert 'JOBSLIB_LIVENESS_CONSUL_TOKEN' not in os.environ
    liveness = context.liveness
    assert isinstance(liveness, ConsulLiveness)
    assert liveness._endpoint.token == 'secret'
    assert 'secret' not in repr(vars(liveness))


def test_half_a_certificate_is_refused() -> None:
    """A certificate without its key is refused here as for the lock."""
    with pytest.raises(ConfigError, match=r'^client_cert \(from .+\) is given '
                                          'without client_key; allowed: both'):
        make_liveness(client_cert='/cert')


def test_connection_of_a_group() -> None:
    """A group of its own has the options under its own variables."""
    class Shop(ConsulConnection, env='SHOP_'):
        pass
    assert Shop.declared()['token_file'].env == 'SHOP_TOKEN_FILE'
    assert ConsulConnection.declared()['host'].env is None
    assert Shop({'host': 'a'}, None).endpoint.host == 'a'


# The calls

def test_calls(consul: ConsulStandIn) -> None:
    """A check can be set to each status; one that is not there is told."""
    client = ServiceClient(endpoint(consul.options()), 1)
    client._calls.register_check('calls', 'a check', 60)
    for status, verb in (
            ('warning', 'warn'), ('critical', 'fail'), ('passing', 'pass')):
        assert client.update_check('calls', status, 'a note')
        asked = consul.requests[-1]
        assert asked.path == f'/v1/agent/check/{verb}/calls'
        assert asked.query == {'note': 'a note'}
    assert not client.update_check('nothing', 'passing', 'a note')
    client.put('calls', b'\x00value')
    assert consul.value('calls') == b'\x00value'
    client.close()


def test_record_is_json(consul: ConsulStandIn) -> None:
    """The value of the key is JSON, for programs in any language."""
    liveness = make_liveness(consul.options(), key='plain-json')
    liveness.write_at(1.5)
    record = json.loads(consul.value('plain-json') or b'')
    assert record['time_utc'] == '1970-01-01T00:00:01Z'
    liveness.close()
