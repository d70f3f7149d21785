"""``runjob check``: options, the sums of the lease, and the lock."""

import json
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest
from support import STEADY, PlainTask, make_file_lock, run_job, write_module

from jobslib import BaseTask, Config, ConfigGroup, option
from jobslib.backends import BackendContext
from jobslib.commands import check
from jobslib.commands.lease import handovers, sums
from jobslib.commands.listing import list_options
from jobslib.consul.transport import Transport
from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.keeper.timings import Timings
from jobslib.masking import MASK, mask
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.diagnosis import (
    DENIED,
    DOUBTFUL,
    FAILED,
    NOT_TRIED,
    OK,
    Finding,
)
from jobslib.oneinstance.dummy import DummyLock
from jobslib.testing import ConsulStandIn, make_lock
from jobslib.testing.consul_api import Answer, Request

CONSUL_LOCK = 'jobslib.oneinstance.consul.ConsulLock'
KEY = 'jobs/plain/lock'
SECRET = 'a1b2c3-secret'


@pytest.fixture
def consul() -> Iterator[ConsulStandIn]:
    """A stand-in of the test's own."""
    with ConsulStandIn() as running:
        yield running


def configure(task_cls: type[BaseTask] | None = PlainTask,
              config_class: type[Config] = Config,
              **settings: Any) -> Config:
    """Return a configuration from these settings."""
    args = SimpleNamespace(task_cls='jobs.Plain', json=False)
    return config_class(SimpleNamespace(**settings), args, task_cls)


def on(consul: ConsulStandIn, task_cls: type[BaseTask] | None = PlainTask,
       **options: Any) -> check.Report:
    """Return what is found of a lock in *consul*."""
    return check.examine(configure(
        task_cls, ONE_INSTANCE=consul.one_instance(**options)))


def results(report: check.Report) -> dict[str, str]:
    """Return the result of each thing that was tried."""
    return {each.what: each.result for each in report.findings}


def left_in(consul: ConsulStandIn) -> tuple[Any, ...]:
    """Return the sessions, keys and checks that there are."""
    state = consul._state
    return consul.sessions, sorted(state.keys), sorted(state.checks)


# The options.

class Backend:
    """A backend of liveness or metrics."""

    make_observer = push = None

    class OptionsConfig(ConfigGroup):
        """Its options."""

        password = option(attrtype=str, secret=True)
        url = option(attrtype=str, default='http://me:pw@there/')


class OwnConfig(Config):
    """A configuration with options of its own."""

    batch = option(attrtype=int, minimum=1, default=5, env='JOBSLIB_BATCH')
    db_password = option(attrtype=str)
    keys = option(attrtype=dict, secret=True, default={})

    @option(attrtype=str)
    def target(self) -> str:
        """Return what is computed."""
        return 'computed one'


def shown(config: Config) -> dict[str, Any]:
    """Return what is shown of each option of *config*."""
    return {each.name: each for each in list_options(config)}


def test_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option is listed: own ones, nested ones, those of backends."""
    monkeypatch.setenv('JOBSLIB_BATCH', '7')
    backend = {'backend': f'{__name__}.Backend',
               'options': {'password': SECRET}}
    options = shown(configure(
        config_class=OwnConfig, LIVENESS=backend, METRICS=backend,
        RUN_INTERVAL=60, ONE_INSTANCE={
            'backend': CONSUL_LOCK, 'options': {'token': SECRET}}))
    assert set(ConsulLock.OptionsConfig.declared()) == {
        name.removeprefix('one_instance.options.') for name in options
        if name.startswith('one_instance.options.')}
    assert {'liveness.options.url', 'metrics.options.url',
            'liveness.backend', 'one_instance.disabled'} < set(options)
    assert options['batch'][1:] == (
        7, 'environment, JOBSLIB_BATCH', 'an integer of at least 1')
    assert options['run_interval'][1:] == (
        60.0, 'settings, RUN_INTERVAL', 'a number of seconds of at least 0')
    assert options['target'].source == 'computed'
    assert options['one_instance.options.ttl'][1:] == (
        15.0, 'default', 'a number of seconds from 10 to 86400')
    assert options['one_instance.options.token'].source == (
        "settings, ONE_INSTANCE['options']['token']")


def test_no_secret(capsys: pytest.CaptureFixture[str],
                   consul: ConsulStandIn) -> None:
    """No secret is shown, wherever it stands, to a person or in JSON."""
    backend = {'backend': f'{__name__}.Backend',
               'options': {'password': SECRET, 'url': f'x://u:{SECRET}@h/'}}
    config = configure(
        config_class=OwnConfig, LIVENESS=backend, METRICS=backend,
        DB_PASSWORD=SECRET, KEYS={'any': SECRET},
        LOGGING={'version': 1, 'handlers': [{
            'class': 'logging.NullHandler', 'credentials': ['me', SECRET],
            'API_KEY': SECRET}]},
        ONE_INSTANCE=consul.one_instance(token=SECRET))
    for as_json in (False, True):
        config.args.json, config.args.all = as_json, True
        assert check.run(config) == ExitCode.DONE
        text = capsys.readouterr().out
        assert SECRET not in text
        assert text.count(MASK) >= 8


@pytest.mark.parametrize(('value', 'shown'), [
    (None, None), (True, True), (1.5, 1.5), ('text', 'text'),
    ({'token': 'x', 'Password': 'y', 'secrets': None, 'tokens': ['x']},
     {'token': MASK, 'Password': MASK, 'secrets': None, 'tokens': MASK}),
    ({'token_file': '/x', 'key': 'jobs/x', 'a': [{'auth': 'x'}]},
     {'token_file': '/x', 'key': 'jobs/x', 'a': [{'auth': MASK}]}),
    ('http://me:pw@there:80/x', f'http://{MASK}@there:80/x'),
    ('x://me:p@ss@there/x', f'x://{MASK}@there/x'),
    ('http://there/@x', 'http://there/@x'),
    ({'aws_secret_access_key': 'x', 'private_key': 'x', 'passphrase': 'x',
      'DB_PWD': 'x', 'credentials': 'x', 'passage': 'y'},
     {'aws_secret_access_key': MASK, 'private_key': MASK, 'passphrase': MASK,
      'DB_PWD': MASK, 'credentials': MASK, 'passage': 'y'}),
    (pathlib.Path('/x'), '/x'),
])
def test_mask(value: object, shown: object) -> None:
    """What looks like a secret is masked, and all of it fits into JSON."""
    assert mask(value) == shown
    json.dumps(mask(value))


# The lease.

def test_sums() -> None:
    """The sums are those of the timings, with their results."""
    text = '\n'.join(sums(Timings.derive(15, 15)))
    assert ('renew_interval 3 + timeout 2 + grace 3 + kill 0.5 = 8.5 s' in text)
    assert ('window 15 - renew_interval 3 - grace 3 - kill 0.5 = 8.5 s' in text)


@pytest.mark.parametrize(('check_ttl', 'container'), [
    (None, []), (5.0, [(20, 'check_ttl 5 + lock_delay 15')])])
def test_handovers(check_ttl: float | None,
                   container: list[tuple[float, str]]) -> None:
    """The worst case of each handover is told, with its sum."""
    timings = Timings.derive(15, 15, check_ttl=check_ttl)
    dead, *beside, ended, stopped, killed = handovers(timings)
    # The agent may die with its machine, and then fails no check.
    assert dead[1:] == (45, '2 x ttl 15 + lock_delay 15')
    assert [each[1:] for each in beside] == container
    assert (ended.seconds, stopped.seconds, killed.seconds) == (15, 3.5, 0.2)


# The lock in Consul.

def test_all_well(consul: ConsulStandIn) -> None:
    """All that the lock needs is tried, and nothing is left behind."""
    report = on(consul, check_ttl=5)
    assert set(results(report).values()) == {OK}
    assert set(results(report)) == {
        'reach Consul', 'register a check of the agent', 'create a session',
        'renew the session', 'read the session', 'list the sessions',
        f'read {KEY}', f'write {KEY}', 'lock a scratch key beside it',
        f'write {KEY}.control', 'write jobs/plain/history/lock',
        'list the keys in jobs/plain/', 'delete the scratch key',
        'destroy the session', 'deregister the check', 'compare the clocks'}
    assert report.code == ExitCode.DONE
    assert left_in(consul) == ([], [], [])


def test_fewer_without(consul: ConsulStandIn) -> None:
    """Without check_ttl no check is made, without history nothing of it."""
    config = configure(HISTORY=0, ONE_INSTANCE=consul.one_instance())
    found = results(check.examine(config))
    assert 'register a check of the agent' not in found
    assert found['write jobs/plain/history/lock'] == NOT_TRIED


def test_holder_is_not_disturbed(consul: ConsulStandIn) -> None:
    """A held key keeps its session and its index; the holder is named."""
    lock = make_lock(ConsulLock, 'plain', **consul.options(**STEADY))
    try:
        assert lock.acquire()
        before = consul._state.keys[KEY]
        sessions = consul.sessions
        report = on(consul)
        assert consul._state.keys[KEY] == before
        assert consul.sessions == sessions
        assert lock.refresh()
    finally:
        lock.close()
    [finding] = [each for each in report.findings if each.what == f'read {KEY}']
    assert finding.detail.startswith('held by ')
    assert f'process {os.getpid()}' in finding.detail


def test_a_free_key_is_not_written(consul: ConsulStandIn) -> None:
    """A key that is free stays as it is."""
    lock = make_lock(ConsulLock, 'plain', **consul.options(**STEADY))
    assert lock.acquire() and lock.release()
    lock.close()
    before = consul._state.keys[KEY]
    report = on(consul)
    assert consul._state.keys == {KEY: before}
    assert Finding(f'read {KEY}', OK, 'free') in report.findings


def test_strange_record(consul: ConsulStandIn) -> None:
    """A holder that left no record is a holder."""
    from jobslib.testing.consul_state import Entry, Session
    consul._state.create_session(session := Session(ttl=30, ttl_text='30s'))
    consul._state.lock(Entry(KEY, b'[1]', 0, session.id))
    [detail] = [each.detail for each in on(consul).findings
                if each.what == f'read {KEY}']
    assert detail == 'held, by whom is not written in it'


def test_without_a_task(consul: ConsulStandIn) -> None:
    """Without a task everything is tried that needs no key."""
    report = on(consul, None)
    assert report.task is None
    found = results(report)
    assert found['destroy the session'] == OK
    assert found['read and write the key'] == NOT_TRIED
    assert report.code == ExitCode.DONE
    assert left_in(consul) == ([], [], [])


def test_without_a_task_but_with_a_key(consul: ConsulStandIn) -> None:
    """A key that is set needs no task."""
    assert results(on(consul, None, key='a/b'))['write a/b'] == OK


@pytest.mark.parametrize('refuse', [True, False])
def test_consul_is_away(consul: ConsulStandIn, refuse: bool) -> None:
    """When Consul does not answer nothing more is tried."""
    with consul.partition(refuse):
        report = on(consul, timeout=0.2)
    first, *others = report.findings
    assert first[:2] == ('reach Consul', FAILED)
    assert {each.result for each in others} == {NOT_TRIED}
    assert report.code == ExitCode.LOCK_SERVICE_UNAVAILABLE


@pytest.mark.parametrize(('ahead', 'side'), [
    (-30, 'behind'), (0, ''), (30, 'ahead of')])
def test_clock(consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
               ahead: float, side: str) -> None:
    """How far the clock is from Consul's is shown, and above a second that is
    a warning."""
    monkeypatch.setattr(
        'jobslib.testing.consul_server._Handler.date_time_string',
        lambda _self: formatdate(time.time() - ahead, usegmt=True))
    report = on(consul)
    assert report.code == ExitCode.DONE
    [finding] = [each for each in report.findings
                 if each.what == 'compare the clocks']
    assert finding.result == (DOUBTFUL if side else OK)
    warnings = [each for each in report.warnings if 'the clock of this' in each]
    assert warnings == ([finding.detail] if side else [])
    assert side in finding.detail
    clock = check.as_dict(report)['lock']['clock_ahead']
    assert clock['at_least'] <= ahead <= clock['at_most']


def test_no_clock_to_compare_with(consul: ConsulStandIn,
                                  tmp_path: pathlib.Path) -> None:
    """Where there is no service, or it is away, nothing is said of clocks."""
    with consul.partition():
        reports = [on(consul, timeout=0.2), in_folder(tmp_path)]
    for report in reports:
        assert 'compare the clocks' not in results(report)
        assert check.as_dict(report)['lock']['clock_ahead'] is None


def answer_with(monkeypatch: pytest.MonkeyPatch, consul: ConsulStandIn,
                method: str, path: str, answer: Answer) -> None:
    """Have the stand-in give this answer to such requests."""
    known = consul._api.answer

    def replaced(request: Request) -> Answer:
        if (request.method, request.path) == (method, f'/v1/{path}'):
            return answer
        return known(request)
    monkeypatch.setattr(consul._api, 'answer', replaced)


def test_no_leader(consul: ConsulStandIn,
                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers without a leader are as good as none."""
    answer_with(monkeypatch, consul, 'GET', 'status/leader', Answer(200, b'""'))
    first, *others = on(consul).findings
    assert first.result == FAILED and 'no leader' in first.detail
    assert {each.result for each in others} == {NOT_TRIED}


def test_not_consul(consul: ConsulStandIn,
                    monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no answer of Consul is told so, and is no reason to break."""
    answer_with(monkeypatch, consul, 'PUT', 'session/create', Answer(200, []))
    report = on(consul)
    assert Finding('create a session', FAILED,
                   'not an answer of Consul: TypeError') in report.findings
    assert results(report)['renew the session'] == NOT_TRIED
    assert report.code == ExitCode.LOCK_SERVICE_UNAVAILABLE


def test_key_that_is_not_consuls(consul: ConsulStandIn,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is named alike, whether the consul package finds it or not.
    """
    answer_with(monkeypatch, consul, 'GET', f'kv/{KEY}', Answer(200, b'null'))
    assert Finding(f'read {KEY}', FAILED,
                   'not an answer of Consul: TypeError') in on(consul).findings


@pytest.mark.parametrize(('status', 'text', 'result', 'grant'), [
    (403, 'Permission denied', DENIED,
     'session "stand-in" { policy = "write" }'),
    (500, 'rpc error: Permission denied', DENIED,
     'session "stand-in" { policy = "write" }'),
    (403, 'ACL not found', DENIED, 'a token that Consul knows'),
    (500, 'disk full', FAILED, ''),
])
def test_refused(consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
                 status: int, text: str, result: str, grant: str) -> None:
    """A denial names the rule to grant; another refusal does not."""
    name = consul._api.answer(
        Request('GET', '/v1/agent/self')).content['Config']['NodeName']
    answer_with(monkeypatch, consul, 'PUT', 'session/create',
                Answer(status, text))
    [finding] = [each for each in on(consul).findings
                 if each.what == 'create a session']
    assert finding[1:] == (result, text, grant.replace('stand-in', name))


def test_longer_ttl() -> None:
    """Where Consul wants a longer TTL, the lock's own is tried."""
    with ConsulStandIn(ttl_min=20) as consul:
        assert results(on(consul, ttl=30))['create a session'] == OK
        report = on(consul, ttl=15)
    [finding] = [each for each in report.findings
                 if each.what == 'create a session']
    assert finding.result == FAILED and 'Invalid Session TTL' in finding.detail


def test_leftovers_of_a_killed_one(consul: ConsulStandIn) -> None:
    """A check that a killed process left is removed by the next."""
    from jobslib.consul.rights import CHECK_NAME
    from jobslib.testing.consul_state import Check
    for name, text in (('old', CHECK_NAME), ('other', 'not ours')):
        consul._state.register_check(Check(name, text, 5.0, 'critical'))
    on(consul, check_ttl=5)
    assert sorted(consul._state.checks) == ['other']


REQUESTS = 20


@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('number', range(REQUESTS))
def test_interrupted(consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
                     number: int, when: str) -> None:
    """Whenever it is interrupted, nothing is left behind."""
    request = Transport.request
    count = -1

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and when == 'before':
            signal.raise_signal(signal.SIGINT)
        try:
            return request(*args, **kwargs)
        finally:
            if count == number and when == 'after':
                signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(Transport, 'request', interrupted)
    try:
        on(consul, check_ttl=5)
    except KeyboardInterrupt:
        pass
    else:
        assert count < number, 'no interrupt'
    assert left_in(consul) == ([], [], [])


def test_enough_requests(consul: ConsulStandIn) -> None:
    """The test above interrupts each of them."""
    on(consul, check_ttl=5)
    assert 15 < len(consul.requests) <= REQUESTS


# The lock in a file.

def in_folder(folder: pathlib.Path,
              task_cls: type[BaseTask] | None = PlainTask) -> check.Report:
    """Return what is found of a lock in *folder*."""
    return check.examine(configure(
        task_cls, ONE_INSTANCE={'options': {'folder': str(folder)}}))


def test_file_lock(tmp_path: pathlib.Path) -> None:
    """A lock that nobody has had is well, and no folder is made for it."""
    folder = tmp_path / 'new' / 'folder'
    assert in_folder(folder).findings == [
        Finding(f'use the folder {folder}', OK, 'it will be made'),
        Finding(f'read {folder}/plain.lock', OK, 'nobody has held it yet')]
    assert list(tmp_path.iterdir()) == []


def test_file_lock_is_held(tmp_path: pathlib.Path) -> None:
    """The holder of a lock file is named, and keeps it."""
    lock = make_file_lock(tmp_path)
    assert lock.acquire()
    before = pathlib.Path(lock.path).stat()
    finding = in_folder(tmp_path).findings[1]
    assert finding.result == OK
    assert finding.detail.startswith(f'held by process {os.getpid()}, since 2')
    assert lock.refresh()
    assert pathlib.Path(lock.path).stat().st_mtime_ns == before.st_mtime_ns
    lock.release()
    assert in_folder(tmp_path).findings[1].detail == 'free'


def test_folder_is_open_to_others(tmp_path: pathlib.Path) -> None:
    """A folder that a run would refuse is refused."""
    tmp_path.chmod(0o777)
    report = in_folder(tmp_path)
    assert report.findings[0].result == FAILED
    assert 'others may write to it' in report.findings[0].detail
    assert report.code == ExitCode.LOCK_SERVICE_UNAVAILABLE


def test_folder_below_a_file(tmp_path: pathlib.Path) -> None:
    """A folder that cannot be made is told."""
    (tmp_path / 'file').touch()
    found = in_folder(tmp_path / 'file' / 'folder').findings[0]
    assert found.result == FAILED and 'is not a folder' in found.detail


def test_no_access(tmp_path: pathlib.Path,
                   monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder or file without access is denied, with what to grant."""
    make_file_lock(tmp_path).path
    (tmp_path / 'plain.lock').touch()
    # Whoever is root may do everything.
    monkeypatch.setattr(os, 'access', lambda *_: False)
    folder, file = in_folder(tmp_path).findings
    assert (folder.result, file.result) == (DENIED, DENIED)
    assert str(tmp_path) in folder.grant and 'plain.lock' in file.grant


def test_lock_file_is_a_link(tmp_path: pathlib.Path) -> None:
    """A link in place of the file is refused, as in a run."""
    (tmp_path / 'file').touch()
    (tmp_path / 'plain.lock').symlink_to(tmp_path / 'file')
    assert in_folder(tmp_path).findings[1].result == FAILED


def test_file_lock_without_a_task(tmp_path: pathlib.Path) -> None:
    """Without a task the folder is looked at."""
    assert [each.result for each in in_folder(tmp_path, None).findings] == [
        OK, NOT_TRIED]


# Other locks.

class OwnLock(DummyLock):
    """A lock of a user's, which may be unavailable."""

    error: Exception | None = None

    @classmethod
    def diagnose(cls, context: BackendContext, options: Any) -> list[Finding]:
        if cls.error:
            raise cls.error
        return [Finding('ask the database', DENIED, 'no', 'GRANT')]


class BareLock:
    """A class with what a lock has to have, and no more."""

    acquire = None

    class OptionsConfig(ConfigGroup):
        """No options."""


def with_lock(name: str) -> Config:
    """Return a configuration with this lock."""
    return configure(ONE_INSTANCE={'backend': f'{__name__}.{name}'})


def test_own_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's lock has its say."""
    report = check.examine(with_lock('OwnLock'))
    assert results(report) == {'ask the database': DENIED}
    assert report.code == ExitCode.LOCK_SERVICE_UNAVAILABLE
    monkeypatch.setattr(OwnLock, 'error', LockUnavailableError('down'))
    assert check.examine(with_lock('OwnLock')).findings == [
        Finding('use the lock', FAILED, 'down')]
    monkeypatch.setattr(OwnLock, 'error', ConfigError('wrong'))
    with pytest.raises(ConfigError, match='wrong'):
        check.examine(with_lock('OwnLock'))


@pytest.mark.parametrize('name', ['BareLock', 'DummyLock'])
def test_options_only(name: str) -> None:
    """Of a lock that says nothing the options are shown."""
    report = check.examine(with_lock(name))
    assert (report.findings, report.code) == ([], ExitCode.DONE)


# As a command.

JOBS = '''
import sys
from jobslib import BaseTask, Context, argument

class Never(Context):
    def initialize(self):
        sys.exit('the context is made')

class Tick(BaseTask):
    name = 'plain'
    def initialize(self):
        sys.exit('the task is made')
    def task(self):
        pass

class Conflict(BaseTask):
    arguments = (argument('--keep-lock'),)
    def task(self):
        pass
'''


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with tasks."""
    write_module(tmp_path, 'jobs', JOBS)
    return tmp_path


def test_as_a_command(folder: pathlib.Path, consul: ConsulStandIn) -> None:
    """It shows options, sums and findings, and runs nothing of the user's."""
    env = {'JOBSLIB_CONTEXT_CLASS': 'jobs.Never',
           'JOBSLIB_ONE_INSTANCE_BACKEND': CONSUL_LOCK,
           'CONSUL_HTTP_ADDR': '%s:%d' % consul.address}
    done = run_job(folder, 'check', '--all', 'jobs.Tick', **env)
    assert (done.returncode, done.stderr) == (ExitCode.DONE, '')
    for text in ('Options of plain', 'jobs.Never', 'Lease',
                 '2 x ttl 15 + lock_delay 15', f'write {KEY}', 'All is well.'):
        assert text in done.stdout
    done = run_job(folder, 'check', 'jobs.Tick', '--json', **env)
    report = json.loads(done.stdout)
    assert (report['ok'], report['exit_code'], report['task']) == (
        True, 0, 'plain')
    assert report['lock']['timings']['slack'] == 8.5
    assert report['lock']['findings'][0]['result'] == 'ok'
    done = run_job(folder, 'check', 'jobs.Tick', **env | {
        'CONSUL_HTTP_ADDR': '127.0.0.1:1'})
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert done.stdout.splitlines()[-1].endswith(
        'things went wrong: reach Consul')


@pytest.mark.parametrize(('task', 'env', 'says'), [
    ('jobs.Tick', {'JOBSLIB_CONTEXT_CLASS': 'no.Such'}, 'context_class'),
    ('jobs.Conflict', {}, 'task jobs.Conflict: argument --keep-lock'),
    ('jobs.Tick', {'JOBSLIB_ONE_INSTANCE_CONSUL_LOCK_DELAY': '1'},
     'lock_delay from environment, JOBSLIB_ONE_INSTANCE_CONSUL_LOCK_DELAY;'),
    ('jobs.Tick', {'JOBSLIB_ONE_INSTANCE_CONSUL_KEY': '/x'}, "key: '/x'"),
])
def test_configuration_is_wrong(
    folder: pathlib.Path, task: str, env: dict[str, str], says: str,
) -> None:
    """What a run would refuse is refused, in one line."""
    done = run_job(folder, 'check', task, **{
        'JOBSLIB_ONE_INSTANCE_BACKEND': CONSUL_LOCK} | env)
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ''
    [line] = done.stderr.splitlines()
    assert line.startswith('runjob: error: ') and says in line
