"""Jobs with the settings, variables and classes of jobslib 3.2.1."""

import json
import pathlib
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import pytest
from support import STEADY, PlainTask, run_job, write_module

from jobslib import BaseTask, Config, Context, argument
from jobslib.exceptions import ConfigError
from jobslib.legacy import describe
from jobslib.liveness.consul import ConsulLiveness
from jobslib.metrics.influxdb import InfluxDBMetrics
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.consuloptions import ConsulOptions
from jobslib.oneinstance.dummy import DummyLock
from jobslib.testing import ConsulStandIn, make_lock

LOCK = 'jobslib.oneinstance.consul.ConsulLock'
LIVENESS = 'jobslib.liveness.consul.ConsulLiveness'
METRICS = 'jobslib.metrics.influxdb.InfluxDBMetrics'
DEPRECATED = 'deprecated since jobslib 4: '

JOBS = '''
import os
from jobslib import BaseTask, Config, ConfigGroup, Context, argument, option

class AuthConfig(ConfigGroup):
    def initialize(self, *args, **kwargs):
        super().initialize(*args, **kwargs)
        self.prefix = 'http://'

    @option(required=True, attrtype=str)
    def uri(self):
        return self.prefix + self._settings['HOST']

class OwnConfig(Config):
    def initialize(self, *args, **kwargs):
        self.suffix = '!'

    @option
    def auth(self):
        return AuthConfig(self._settings.AUTH, self._args_parser)

    @option(attrtype=str)
    def greeting(self):
        return getattr(self._args_parser, 'greeting', '') + self.suffix

class OwnContext(Context):
    def initialize(self):
        self.opened = True

class Hello(BaseTask):
    name = 'hello'
    description = 'prints hello world'
    arguments = (
        argument('--greeting', action='store', default='hello'),
    )

    def initialize(self):
        config = self.context.config
        assert config.task_class is Hello
        assert config.context_class is OwnContext
        assert isinstance(self.context.one_instance_lock,
                          config.one_instance.backend)
        assert isinstance(self.context.liveness, config.liveness.backend)
        self.backend = config.metrics.backend

    def task(self):
        config = self.context.config
        self.extend_lock()
        self.context.metrics.push({'greetings': {'value': 1}})
        self.stdout.write(' '.join((
            config.greeting, config.auth.uri, self.backend.__name__)) + '\\n')
        self.stdout.flush()
'''

SETTINGS = '''
CONFIG_CLASS = 'jobs.OwnConfig'
CONTEXT_CLASS = 'jobs.OwnContext'
RUN_INTERVAL = 60
SLEEP_INTERVAL = 0
KEEP_LOCK = False
AUTH = {{'HOST': 'auth', 'TIMEOUT': 5}}
ONE_INSTANCE = {{
    'backend': 'jobslib.oneinstance.consul.ConsulLock',
    'options': {{
        'host': '127.0.0.1', 'port': {consul}, 'timeout': 1.0,
        'key': 'jobs/example/lock', 'ttl': 30, 'lock_delay': 15,
        'retry_max_attempts': 0, 'retry_wait_multiplier': 50,
    }},
}}
LIVENESS = {{
    'backend': 'jobslib.liveness.consul.ConsulLiveness',
    'options': {{
        'host': '127.0.0.1', 'port': {consul}, 'timeout': 1.0,
        'key': 'jobs/example/liveness',
        'retry_max_attempts': 10, 'retry_wait_multiplier': 50,
    }},
}}
METRICS = {{
    'backend': 'jobslib.metrics.influxdb.InfluxDBMetrics',
    'options': {{
        'host': '127.0.0.1', 'port': {influxdb},
        'username': 'root', 'password': 'root', 'database': 'dbname',
        'retry_max_attempts': 10, 'retry_wait_multiplier': 50,
    }},
}}
'''


class InfluxDB(HTTPServer):
    """An InfluxDB 1 that remembers what was written to it."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str | None, str]] = []
        super().__init__(('127.0.0.1', 0), _Write)


class _Write(BaseHTTPRequestHandler):
    server: InfluxDB

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.server.writes.append(
            (self.path, self.headers['Authorization'], body.decode()))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope='module')
def consul() -> Iterator[ConsulStandIn]:
    """A Consul that the tests share."""
    with ConsulStandIn() as running:
        yield running


@pytest.fixture(scope='module')
def influxdb() -> Iterator[InfluxDB]:
    """An InfluxDB that the tests share."""
    with InfluxDB() as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: pathlib.Path, consul: ConsulStandIn,
           influxdb: InfluxDB) -> pathlib.Path:
    """A folder with a job as it was written for 3.2.1."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'settings', SETTINGS.format(
        consul=consul.address[1], influxdb=influxdb.server_address[1]))
    (tmp_path / 'run').mkdir()
    return tmp_path


def warnings(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of the log about what is deprecated."""
    return [line for line in done.stderr.splitlines() if DEPRECATED in line]


# Whole jobs

def test_settings(folder: pathlib.Path, consul: ConsulStandIn,
                  influxdb: InfluxDB) -> None:
    """A job with all settings of 3.2.1 runs, and is told what to change."""
    done = run_job(folder, '-s', 'settings', '--run-once', 'jobs.Hello',
                   '--greeting', 'ahoy')
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'ahoy! http://auth InfluxDBMetrics\n'
    assert json.loads(consul.value('jobs/example/lock') or b'')['fqdn']
    assert json.loads(consul.value('jobs/example/liveness') or b'')['fqdn']
    path, login, body = influxdb.writes[-1]
    assert (path, login) == ('/write?db=dbname', 'Basic cm9vdDpyb290')
    assert any('greetings value=1' in each[2] for each in influxdb.writes)
    told = warnings(done)
    assert len(told) == 8 == len(set(told))
    assert all('WARNING' in line for line in told)
    for name, instead in (
            ("retry_max_attempts 0 from settings, ONE_INSTANCE['options']",
             'it counts as 1; write 1'),
            ("retry_wait_multiplier from settings, LIVENESS['options']",
             'the pauses between the attempts are 0.1 s and double up to 1 s'),
            ("host from settings, METRICS['options']['host']", 'write url'),
            ("username from settings, METRICS['options']", 'write user')):
        assert any(name in line and instead in line for line in told), name


def test_check_tells_too(folder: pathlib.Path) -> None:
    """``runjob check`` says what is deprecated, beside its report."""
    done = run_job(folder, '-s', 'settings', 'check', 'jobs.Hello', '--json')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['ok'] is True
    assert len(warnings(done)) == 8 == len(done.stderr.splitlines())
    assert all(line.startswith('runjob: warning: ') for line in warnings(done))


def test_variables(folder: pathlib.Path, consul: ConsulStandIn,
                   influxdb: InfluxDB) -> None:
    """A job that has all of it from 3.2.1's variables runs as well."""
    one, live, metrics = ('JOBSLIB_ONE_INSTANCE_CONSUL_',
                          'JOBSLIB_LIVENESS_CONSUL_',
                          'JOBSLIB_METRICS_INFLUXDB_')
    shared = {'HOST': '127.0.0.1', 'PORT': str(consul.address[1]),
              'TIMEOUT': '1.5', 'RETRY_MAX_ATTEMPTS': '0',
              'RETRY_WAIT_MULTIPLIER': '50'}
    write_module(folder, 'bare', '''
        CONFIG_CLASS, CONTEXT_CLASS = 'jobs.OwnConfig', 'jobs.OwnContext'
        AUTH = {'HOST': 'auth'}
        ''')
    done = run_job(folder, 'jobs.Hello', **{
        'JOBSLIB_SETTINGS_MODULE': 'bare', 'JOBSLIB_RUN_ONCE': '1',
        'JOBSLIB_SLEEP_INTERVAL': '0', 'JOBSLIB_RUN_INTERVAL': '0',
        'JOBSLIB_KEEP_LOCK': '0', 'JOBSLIB_RELEASE_ON_ERROR': '0',
        'JOBSLIB_LOGGING': '{"version": 1}',
        'JOBSLIB_ONE_INSTANCE_BACKEND': LOCK,
        'JOBSLIB_LIVENESS_BACKEND': LIVENESS,
        'JOBSLIB_METRICS_BACKEND': METRICS,
        **{one + name: value for name, value in shared.items()},
        **{live + name: value for name, value in shared.items()},
        f'{one}KEY': 'vars/lock', f'{one}TTL': '30', f'{one}LOCK_DELAY': '5',
        f'{live}KEY': 'vars/liveness',
        f'{metrics}HOST': '127.0.0.1',
        f'{metrics}PORT': str(influxdb.server_address[1]),
        f'{metrics}USERNAME': 'ann', f'{metrics}PASSWORD': 'hunter2',
        f'{metrics}DBNAME': 'vars', f'{metrics}RETRY_MAX_ATTEMPTS': '10',
        f'{metrics}RETRY_WAIT_MULTIPLIER': '50'})
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'hello! http://auth InfluxDBMetrics\n'
    assert consul.value('vars/lock') and consul.value('vars/liveness')
    path, login, _ = influxdb.writes[-1]
    assert (path, login) == ('/write?db=vars', 'Basic YW5uOmh1bnRlcjI=')
    assert 'hunter2' not in done.stderr


def test_check_liveness_as_a_task(folder: pathlib.Path,
                                  consul: ConsulStandIn) -> None:
    """The task CheckLiveness is the command, with one line that says so."""
    with SettingsOf(consul, 'probe/liveness') as liveness:
        def probe(name: str) -> subprocess.CompletedProcess[str]:
            return run_job(folder, '-s', 'settings', name, '--max-age', '60',
                           JOBSLIB_LIVENESS_CONSUL_KEY='probe/liveness')
        done = probe('jobslib.liveness.CheckLiveness')
        assert done.returncode == 1 and done.stdout.startswith('FAIL')
        assert done.stderr == (
            f'runjob: warning: {DEPRECATED}the task '
            f'jobslib.liveness.CheckLiveness: write check-liveness\n')
        liveness.write()
        done = probe('jobslib.liveness.CheckLiveness')
        assert done.returncode == 0 and done.stdout.startswith('PASS')
        done = probe('check-liveness')
        assert (done.returncode, done.stderr) == (0, '')


class SettingsOf:
    """A liveness on *consul* with *key*, closed at the end of its block."""

    def __init__(self, consul: ConsulStandIn, key: str) -> None:
        config = make(LIVENESS={'backend': LIVENESS, 'options': {
            'host': consul.address[0], 'port': consul.address[1], 'key': key}})
        self.liveness = Context(config).liveness

    def __enter__(self) -> Any:
        return self.liveness

    def __exit__(self, *exc_info: object) -> None:
        self.liveness.close()


def test_name_of_the_old_task_as_an_argument(folder: pathlib.Path) -> None:
    """The name of CheckLiveness is nothing special behind another task."""
    # Its interval has no part in this: the slot may have been run before.
    done = run_job(folder, '-s', 'settings', '--run-once', 'jobs.Hello',
                   '--sleep-interval', '0',
                   '--greeting', 'jobslib.liveness.CheckLiveness')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('jobslib.liveness.CheckLiveness! ')


def test_check_liveness_without_task_or_key(folder: pathlib.Path) -> None:
    """Without a key of its own, whose liveness is meant has to be said."""
    write_module(folder, 'nokey', f'''
        LIVENESS = {{'backend': {LIVENESS!r}}}
        ''')
    done = run_job(folder, '-s', 'nokey', 'check-liveness', '--max-age', '60')
    assert done.returncode == 2 and 'name a task' in done.stderr


# Beside processes of 3.2.1

RECORD = {'fqdn': 'old', 'timestamp': 1795965574,
          'time_utc': '2026-11-29 15:19:34', 'time_local': '2026-11-29 15:19:34'}


def put(consul: ConsulStandIn, path: str, body: object = None) -> Any:
    """Return what Consul answers to a PUT, as 3.2.1 does it."""
    data = b'' if body is None else json.dumps(body).encode()
    with urlopen(Request(f'{consul.url}/v1/{path}', data, method='PUT'),
                 timeout=5) as answer:
        return json.loads(answer.read())


def test_old_and_new_exclude_each_other(consul: ConsulStandIn) -> None:
    """A process of 3.2.1 and one of today do not have one key at once."""
    old = put(consul, 'session/create', {'TTL': '30s', 'LockDelay': '1s'})['ID']
    lock = make_lock(ConsulLock, 'plain', **consul.options(
        **STEADY, key='mixed/lock'))
    try:
        assert put(consul, f'kv/mixed/lock?acquire={old}', RECORD) is True
        assert lock.acquire() is False
        owner = lock.get_lock_owner_info()
        assert owner is not None and owner['fqdn'] == 'old'
        assert put(consul, f'kv/mixed/lock?release={old}') is True
        assert lock.acquire() is True
        assert put(consul, f'kv/mixed/lock?acquire={old}', RECORD) is False
        assert lock.refresh() is True and lock.release() is True
        assert put(consul, f'kv/mixed/lock?acquire={old}', RECORD) is True
    finally:
        lock.close()


def test_success_of_an_old_process(consul: ConsulStandIn) -> None:
    """A success that 3.2.1 noted is one."""
    with SettingsOf(consul, 'mixed/liveness') as liveness:
        put(consul, 'kv/mixed/liveness', RECORD | {'timestamp': time.time()})
        assert liveness.check(60) is True
        assert liveness.read()['fqdn'] == 'old'


# Configurations

def make(**settings: Any) -> Config:
    """Return a configuration with these settings."""
    return Config(SimpleNamespace(**settings), None, PlainTask)


def test_classes() -> None:
    """What the configuration calls a class is one."""
    config = make(
        ONE_INSTANCE={'backend': LOCK}, LIVENESS={'backend': LIVENESS},
        METRICS={'backend': METRICS, 'options': {'database': 'x'}})
    assert config.task_class is PlainTask
    assert config.context_class is Context
    assert config.one_instance.backend is ConsulLock
    assert config.liveness.backend is ConsulLiveness
    assert config.metrics.backend is InfluxDBMetrics
    assert config.metrics.as_kwargs['backend'] is InfluxDBMetrics
    assert config.one_instance.raw_value('backend') == LOCK
    nothing = make()
    assert nothing.liveness.backend is None is nothing.metrics.backend


def test_class_of_a_disabled_lock() -> None:
    """--disable-one-instance replaces the class of the lock."""
    config = Config(SimpleNamespace(ONE_INSTANCE={'backend': LOCK}),
                    SimpleNamespace(disable_one_instance=True), PlainTask)
    assert config.one_instance.backend is DummyLock


def test_class_is_imported_late() -> None:
    """Reading the configuration does not import the context's class."""
    config = make(CONTEXT_CLASS='no.Such')
    with pytest.raises(ConfigError, match='context_class'):
        config.context_class


def test_initialize_comes_first() -> None:
    """What initialize() sets can be used by the options."""
    class Own(Config):
        def initialize(self) -> None:
            super().initialize()
            self.before = self._settings.RUN_ONCE

        def validate(self) -> None:
            assert self.before is True

    assert Own(SimpleNamespace(RUN_ONCE=True), None, PlainTask).before


def test_argument() -> None:
    """An argument equals the pair that it was, and is unpacked like it."""
    declared = argument('-f', '--file', dest='filename')
    args, kwargs = declared
    assert (args, kwargs) == (declared.args, declared.kwargs)
    assert declared == (('-f', '--file'), {'dest': 'filename'})


def test_arguments_as_pairs() -> None:
    """A task may give the pairs themselves."""
    from jobslib.cmdlineparser import build_parser

    class Task(BaseTask):
        arguments = ((('--word',), {'default': 'x'}),)

    assert build_parser(Task).parse_args(['a.Task']).word == 'x'


def test_state_of_liveness() -> None:
    """What is noted can be had by the name that it had."""
    state = Context(make()).liveness.get_state()
    assert abs(state['timestamp'] - time.time()) < 60 and state['fqdn']


@pytest.mark.parametrize(('variable', 'value', 'name', 'expected', 'now'), [
    ('JOBSLIB_ONE_INSTANCE_OPTIONS_KEY', 'a/b', 'key', 'a/b',
     'JOBSLIB_ONE_INSTANCE_CONSUL_KEY'),
    ('JOBSLIB_ONE_INSTANCE_OPTIONS_TTL', '20', 'ttl', 20,
     'JOBSLIB_ONE_INSTANCE_CONSUL_TTL'),
    ('JOBSLIB_ONE_INSTANCE_LOCK_DELAY', '9', 'lock_delay', 9,
     'JOBSLIB_ONE_INSTANCE_CONSUL_LOCK_DELAY'),
])
def test_variables_of_jobslib_2(
        variable: str, value: str, name: str, expected: object, now: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest names count before the settings, after the present names."""
    monkeypatch.setenv(variable, value)
    options = ConsulOptions({name: 'c' if name == 'key' else 30}, None)
    assert getattr(options, name) == expected
    assert list(describe(options)) == [
        f'the environment variable {variable}: set {now}']
    assert ConsulOptions.declared()[name].variables == (now, variable)
    monkeypatch.setenv(now, '12')
    options = ConsulOptions({}, None)
    assert str(getattr(options, name)).startswith('12')
    assert list(describe(options)) == []


def test_nothing_old_is_nothing_to_say() -> None:
    """Settings of today give no warning."""
    assert list(describe(make(
        ONE_INSTANCE={'backend': LOCK, 'options': {'retry_max_attempts': 1}},
        METRICS={'backend': METRICS, 'options': {
            'url': 'http://x', 'database': 'y', 'user': 'ann',
            'password': 'z'}}))) == []


@pytest.mark.parametrize(('options', 'expected'), [
    ({}, 'http://127.0.0.1:8086'),
    ({'host': 'x'}, 'http://x:8086'),
    ({'port': 1}, 'http://localhost:1'),
    ({'host': '::1', 'port': 1}, 'http://[::1]:1'),
])
def test_url_of_influxdb(options: dict[str, Any], expected: str) -> None:
    """Host and port are the URL, with the defaults that they had."""
    group = InfluxDBMetrics.OptionsConfig({'database': 'x', **options}, None)
    assert group.url == expected


# What is refused

@pytest.mark.parametrize(('options', 'says'), [
    ({'url': 'http://a', 'host': 'b'}, "host: 'b' from settings, host: url"),
    ({'user': 'a', 'username': 'b', 'password': 'c'}, 'give user alone'),
    ({'username': 'a'}, 'user and password go together'),
])
def test_old_and_new(options: dict[str, Any], says: str) -> None:
    """The old name and the new one together are refused."""
    with pytest.raises(ConfigError) as caught:
        InfluxDBMetrics.OptionsConfig({'database': 'x', **options}, None)
    assert says in str(caught.value)


@pytest.mark.parametrize('lock_delay', [0, 1])
def test_lock_delay_of_jobslib_3(lock_delay: int) -> None:
    """With a lock-delay of a second no lease is safe; what to write is said.
    """
    with pytest.raises(ConfigError) as caught:
        ConsulOptions({'lock_delay': lock_delay}, None)
    assert str(caught.value).endswith('write 15 or leave it out')
    with pytest.raises(ConfigError) as caught:
        ConsulOptions({'ttl': 11, 'lock_delay': 3, 'grace': 3}, None)
    assert 'jobslib 3' not in str(caught.value)


def test_two_intervals() -> None:
    """Of two intervals 3.2.1 took the pause in silence; this asks which."""
    with pytest.raises(ConfigError, match='give one of them'):
        make(SLEEP_INTERVAL=5, RUN_INTERVAL=60)


def test_names_that_settings_and_tasks_import(tmp_path: pathlib.Path) -> None:
    """BASE_LOGGING, times as text and the watchdog's error are where they
    were."""
    write_module(tmp_path, 'settings', '''
        from jobslib.logging import BASE_LOGGING
        LOGGING = BASE_LOGGING
        RUN_ONCE = True
    ''')
    write_module(tmp_path, 'jobs', '''
        from jobslib import BaseTask
        from jobslib.oneinstance import OneInstanceWatchdogError
        from jobslib.time import get_current_time, to_local, to_utc

        class Tell(BaseTask):
            def task(self):
                print(to_utc(0), to_local(0), get_current_time() > 0)
    ''')
    done = run_job(tmp_path, '-s', 'settings', 'jobs.Tell', TZ='UTC')
    assert done.stdout == '1970-01-01 00:00:00 1970-01-01 00:00:00 True\n'
    assert ' jobslib INFO run succeeded' in done.stderr


def test_mixin_that_is_gone(tmp_path: pathlib.Path) -> None:
    """It is refused with what to write in its place."""
    write_module(tmp_path, 'settings',
                 'from jobslib.config import RetryConfigMixin')
    done = run_job(tmp_path, '-s', 'settings', 'jobs.Tell')
    assert done.returncode == 2
    assert 'RetryConfigMixin is gone since jobslib 4; declare' in done.stderr
