"""Access control and encryption: what suffices, and where secrets do not get."""

import logging
import pathlib
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from integration.agents import HOST, Agent, TlsFiles, make_tls, wait_until
from integration.locks import Program, holder_of, lock_on
from integration.runjobs import job
from integration.together import together
from integration.workers import children, process_state, read_proc
from jobslib.exceptions import LockUnavailableError
from jobslib.exitcodes import ExitCode

PREFIX = 'jobs'
UNKNOWN = '11111111-2222-3333-4444-555555555555'


def least_policy(agent: Agent) -> str:
    """The rules that suffice, as the documentation has them."""
    return (f'session "{agent.name}" {{ policy = "write" }}\n'
            f'key_prefix "{PREFIX}/" {{ policy = "write" }}')


@pytest.fixture(scope='module')
def denying(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server that denies by default."""
    with Agent(binary=consul_bin, acl=True) as agent:
        yield agent


@pytest.fixture(scope='module')
def secret(denying: Agent) -> str:
    """A token with the least policy."""
    return denying.api.create_token(least_policy(denying))


@pytest.fixture(scope='module')
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A private CA and certificates."""
    return make_tls(tmp_path_factory.mktemp('tls'))


@pytest.fixture(scope='module')
def encrypted(consul_bin: pathlib.Path, tls: TlsFiles) -> Iterator[Agent]:
    """A server that speaks https and wants a certificate."""
    with Agent(binary=consul_bin, tls=tls) as agent:
        yield agent


def renewals(agent: Agent) -> int:
    """How often sessions were renewed successfully."""
    return sum('/v1/session/renew/' in line and 'Request finished' in line
               for line in agent.log_text().splitlines())


def assert_not_in(secret: str, program: Program) -> None:
    """Neither the job's processes nor what it wrote shows the secret.

    The job's own environment is where its user put the token, if there.
    """
    assert secret not in program.output
    below = children(program.pid)
    assert len(below) >= 2, 'keeper and a child of the task'
    for pid in [program.pid, *below]:
        assert secret.encode() not in read_proc(pid, 'cmdline')
    for pid in below:
        assert secret.encode() not in read_proc(pid, 'environ')


# Access control

def test_least_policy(denying: Agent, secret: str, tmp_path: pathlib.Path) -> None:
    """Session and key suffice: to hold, to renew, to free after a death."""
    key = f'{PREFIX}/least'
    with job(tmp_path, denying.http_addr, key, '--keep-lock', 'tasks.Task',
             '--seconds', '60', token=secret) as first:
        first.wait_for('BEGIN')
        with job(tmp_path, denying.http_addr, key, '--keep-lock', 'tasks.Task',
                 '--seconds', '60', token=secret) as standby:
            standby.wait_for('not run')
            before = renewals(denying)
            wait_until(lambda: renewals(denying) > before + 1, 30, 'renewals')
            first.send(signal.SIGKILL)
            # Far sooner than its session would end by itself.
            standby.wait_for('BEGIN', timeout=8)
            standby.send(signal.SIGTERM)
            assert standby.wait() == ExitCode.TERMINATED
        assert holder_of(denying.api, key) is None
    wait_until(lambda: not denying.api.sessions(), 20, 'no session left')


@pytest.mark.parametrize('rules', [
    f'key_prefix "{PREFIX}/" {{ policy = "write" }}',
    'session_prefix "" { policy = "write" }',
    f'session_prefix "" {{ policy = "write" }}\n'
    f'key_prefix "{PREFIX}/" {{ policy = "read" }}',
    f'session_prefix "" {{ policy = "read" }}\n'
    f'key_prefix "{PREFIX}/" {{ policy = "write" }}',
], ids=['no-session', 'no-key', 'key-read', 'session-read'])
def test_less_does_not_suffice(
    denying: Agent, tmp_path: pathlib.Path, rules: str,
) -> None:
    """Without one of them the job says what is denied, once, and keeps waiting."""
    token = denying.api.create_token(rules)
    with job(tmp_path, denying.http_addr, f'{PREFIX}/less', '--run-once',
             token=token) as program:
        assert program.wait() == ExitCode.LOCK_SERVICE_UNAVAILABLE
        # The first says where the lock is.
        [_, line] = program.output.splitlines()
        assert 'Permission denied' in line or '403' in line
        assert token not in line
    with job(tmp_path, denying.http_addr, f'{PREFIX}/less', token=token) as program:
        program.wait_for('waiting for the lock')
        assert token not in program.output


def test_no_right_to_the_history(denying: Agent) -> None:
    """A history that may not be written does not keep the lock from others."""
    key = f'{PREFIX}/no-history'
    token = denying.api.create_token(
        f'session_prefix "" {{ policy = "write" }}\n'
        f'key_prefix "{key}" {{ policy = "write" }}')
    with lock_on(denying.http_addr, key, token=token, lock_delay=10,
                 ttl=10) as lock:
        assert lock.acquire()
        lock.history = {'runs': 1}
        lock.save_history()
        with pytest.raises(LockUnavailableError):
            lock.release()
        # By the keeper, with nothing of the lock-delay.
        wait_until(lambda: holder_of(denying.api, key) is None, 9, 'its release')
        record = denying.api.kv(key)
        assert record is not None and b'"released"' in record['Value']
        assert lock.acquire()


@pytest.mark.parametrize('token', [None, UNKNOWN], ids=['none', 'unknown'])
def test_no_token(denying: Agent, tmp_path: pathlib.Path, token: str | None) -> None:
    """Without a token that Consul knows the job says so."""
    options: dict[str, Any] = {'token': token} if token else {}
    with job(tmp_path, denying.http_addr, f'{PREFIX}/none', '--run-once',
             **options) as program:
        assert program.wait() == ExitCode.LOCK_SERVICE_UNAVAILABLE
        assert '403' in program.output and UNKNOWN not in program.output
        assert 'Traceback' not in program.output


def test_standard_token_variables(
    denying: Agent, secret: str, tmp_path: pathlib.Path,
) -> None:
    """CONSUL_HTTP_TOKEN and _TOKEN_FILE count; an explicit setting wins."""
    file = tmp_path / 'token'
    file.write_text(f'{secret}\n')
    cases: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({'CONSUL_HTTP_TOKEN': secret}, {}),
        ({'CONSUL_HTTP_TOKEN_FILE': str(file)}, {}),
        ({'CONSUL_HTTP_TOKEN': UNKNOWN}, {'token': secret}),
        ({'CONSUL_HTTP_TOKEN': UNKNOWN}, {'token_file': str(file)}),
        ({'CONSUL_HTTP_TOKEN_FILE': '/nowhere'}, {'token': secret}),
    ]
    for env, options in cases:
        with job(tmp_path, denying.http_addr, f'{PREFIX}/variable', '--run-once',
                 env=env, **options) as program:
            assert program.wait() == ExitCode.DONE, (env, program.output)


@together
def test_token_file_is_rotated(_: Agent) -> None:
    """A token that is replaced and then revoked does not disturb the job."""
    with (tempfile.TemporaryDirectory(prefix='jobslib-') as folder,
          Agent(acl=True) as agent):
        rotate(agent, pathlib.Path(folder))


def rotate(denying: Agent, folder: pathlib.Path) -> None:
    """Replace the token of a job that runs, and revoke the old one."""
    api = denying.api
    old, new = (api.create_token(least_policy(denying)) for _ in range(2))
    file = folder / 'token'
    file.write_text(old)
    with job(folder, denying.http_addr, f'{PREFIX}/rotated', '--keep-lock',
             'tasks.Child', '--seconds', '60', token_file=str(file)) as program:
        program.wait_for('BEGIN')
        session = holder_of(api, f'{PREFIX}/rotated')
        accessor = denying.new_api(old).get('acl/token/self').json()['AccessorID']
        (folder / 'new').write_text(new)
        (folder / 'new').replace(file)  # which is read all the time
        assert api.delete(f'acl/token/{accessor}').ok
        # Longer than the lease would last: window 10.
        before = renewals(denying)
        wait_until(lambda: renewals(denying) >= before + 6, 60, 'six renewals')
        assert holder_of(api, f'{PREFIX}/rotated') == session
        assert len(program.output.splitlines()) == 4, program.output
        assert_not_in(old, program)
        assert_not_in(new, program)
        program.send(signal.SIGTERM)
        assert program.wait() == ExitCode.TERMINATED
        assert holder_of(api, f'{PREFIX}/rotated') is None


# Where the token does not get

@pytest.mark.parametrize('variable', [
    'JOBSLIB_ONE_INSTANCE_CONSUL_TOKEN', 'CONSUL_HTTP_TOKEN', 'settings', 'file'])
def test_token_does_not_get_out(
    denying: Agent, secret: str, tmp_path: pathlib.Path, variable: str,
) -> None:
    """It is in no log at debug level, argument list, child's environment or URL."""
    env = {'JOBSLIB_LOGGING': (
        '{"version": 1, "root": {"level": "DEBUG", "handlers": ["all"]}, "handlers": '
        '{"all": {"class": "logging.StreamHandler"}}}')}
    args = ['--keep-lock']
    if variable == 'settings':
        (tmp_path / 'own_settings.py').write_text(
            f"ONE_INSTANCE = {{'options': {{'token': {secret!r}}},\n"
            f"    'backend': 'jobslib.oneinstance.consul.ConsulLock'}}\n")
        args += ['-s', 'own_settings']
    elif variable == 'file':
        (tmp_path / 'token').write_text(secret)
        env['CONSUL_HTTP_TOKEN_FILE'] = str(tmp_path / 'token')
    else:
        env[variable] = secret
    with job(tmp_path, denying.http_addr, f'{PREFIX}/secret', *args, 'tasks.Child',
             '--seconds', '60', env=env) as program:
        program.wait_for('BEGIN')
        assert_not_in(secret, program)
        program.send(signal.SIGTERM)
        assert program.wait() == ExitCode.TERMINATED
        assert secret not in program.output
    assert secret not in '\n'.join(
        line for line in denying.log_text().splitlines() if 'url=' in line)


def test_token_is_in_no_repr_or_error(
    denying: Agent, caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither what the objects show nor what they raise has the token in it."""
    caplog.set_level(logging.DEBUG)
    with lock_on(denying.http_addr, 'elsewhere', token=UNKNOWN) as lock:
        with pytest.raises(LockUnavailableError) as caught:
            lock.acquire()
        shown = [repr(caught.value), str(caught.value), caplog.text]
        shown += map(repr, (lock, lock.options, lock.options.endpoint, lock.client,
                            lock.context.config, vars(lock.client)))
        assert UNKNOWN not in '\n'.join(shown)


# Encryption

def test_https_with_certificates(
    encrypted: Agent, tls: TlsFiles, tmp_path: pathlib.Path,
) -> None:
    """The job and its keeper trust a private CA and show a certificate."""
    key = f'{PREFIX}/tls'
    options: dict[str, Any] = {
        'scheme': 'https', 'ca_cert': tls.ca, 'client_cert': tls.client_cert,
        'client_key': tls.client_key}
    with job(tmp_path, encrypted.http_addr, key, '--keep-lock', 'tasks.Task',
             '--seconds', '60', **options) as program:
        program.wait_for('BEGIN')
        before = renewals(encrypted)
        wait_until(lambda: renewals(encrypted) > before, 30, 'a renewal')
        program.send(signal.SIGKILL)
        wait_until(lambda: not encrypted.api.sessions(), 20,
                   'everything given up')
        assert holder_of(encrypted.api, key) is None


def test_standard_tls_variables(
    encrypted: Agent, tls: TlsFiles, tmp_path: pathlib.Path,
) -> None:
    """The variables of Consul's own tools do for it all."""
    env = {'CONSUL_HTTP_ADDR': f'{HOST}:{encrypted.ports.http}',
           'CONSUL_HTTP_SSL': 'true', 'CONSUL_CACERT': tls.ca,
           'CONSUL_CLIENT_CERT': tls.client_cert, 'CONSUL_CLIENT_KEY': tls.client_key}
    with job(tmp_path, None, f'{PREFIX}/tls-env', '--run-once', env=env) as program:
        assert program.wait() == ExitCode.DONE, program.output
    env |= {'CONSUL_TLS_SERVER_NAME': 'server.dc1.consul'}
    with job(tmp_path, None, f'{PREFIX}/tls-env', '--run-once', env=env) as program:
        assert program.wait() == ExitCode.DONE, program.output


@pytest.mark.parametrize('left_out, says', [
    ('ca_cert', 'CERTIFICATE_VERIFY_FAILED'), ('client_cert', '')])
def test_https_that_cannot_be(
    encrypted: Agent, tls: TlsFiles, tmp_path: pathlib.Path, left_out: str, says: str,
) -> None:
    """An unknown CA, or a missing certificate, is one clear line."""
    options: dict[str, Any] = {
        'scheme': 'https', 'ca_cert': tls.ca, 'client_cert': tls.client_cert,
        'client_key': tls.client_key}
    for name in (left_out, left_out.replace('client_cert', 'client_key')):
        options.pop(name, None)
    with job(tmp_path, encrypted.http_addr, f'{PREFIX}/tls-none', '--run-once',
             **options) as program:
        assert program.wait() == ExitCode.LOCK_SERVICE_UNAVAILABLE
        [_, line] = program.output.splitlines()
        assert 'https://' in line and says in line


def test_verification_can_be_switched_off(
    encrypted: Agent, tls: TlsFiles, tmp_path: pathlib.Path,
) -> None:
    """With verify off any server certificate will do."""
    options: dict[str, Any] = {
        'scheme': 'https', 'verify': 'false', 'client_cert': tls.client_cert,
        'client_key': tls.client_key}
    with job(tmp_path, encrypted.http_addr, f'{PREFIX}/tls-any', '--run-once',
             **options) as program:
        assert program.wait() == ExitCode.DONE, program.output
        assert process_state(program.pid) in ('', 'Z')
