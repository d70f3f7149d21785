"""`runjob --run-once` under a real Consul, wherever that listens."""

import pathlib
import signal
import tempfile
from collections.abc import Iterator

import pytest

from integration.agents import HOST, Agent, wait_until
from integration.locks import Program, held_record, hold, holder_of, session_ids
from integration.runjobs import job
from jobslib.exitcodes import ExitCode


def test_run_once_without_consul(
    unreachable: tuple[str, int], tmp_path: pathlib.Path,
) -> None:
    """With --run-once the job gives up after its retries, with its own code."""
    with job(tmp_path, unreachable, 'any', '--run-once') as program:
        assert program.wait() == ExitCode.LOCK_SERVICE_UNAVAILABLE
        assert 'refused' in program.output and 'Traceback' not in program.output


@pytest.mark.parametrize('args, code', [
    ([], ExitCode.DONE), (['tasks.Task', '--fail'], ExitCode.TASK_FAILED)])
def test_run_once(agent: Agent, tmp_path: pathlib.Path, args: list[str],
                  code: ExitCode) -> None:
    """The exit code is the run's outcome; the lock is free, the session gone."""
    key = f'once/{code}'
    before = session_ids(agent.api)
    with job(tmp_path, agent.http_addr, key, '--run-once', *args) as program:
        assert program.wait() == code
        assert holder_of(agent.api, key) is None
        # Those of tests before may be ending just now.
        wait_until(lambda: session_ids(agent.api) <= before, 20, 'no session left')


def test_run_once_with_the_lock_held(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A lock held elsewhere has a code of its own, and the log says who has it."""
    key = 'once/held'
    session = hold(agent.api, key, held_record(time_local='noon'), '0s')
    with job(tmp_path, agent.http_addr, key, '--run-once') as program:
        assert program.wait() == ExitCode.LOCK_NOT_AVAILABLE
        assert 'the lock is held by elsewhere (pid 1) since noon' in program.output
        assert 'BEGIN' not in program.output
    agent.api.destroy_session(session)


def test_run_once_that_loses_the_lock(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A run that is stopped because the lock is lost has a code of its own."""
    key = 'once/lost'
    with job(tmp_path, agent.http_addr, key, '--run-once', 'tasks.Task',
             '--seconds', '60') as program:
        program.wait_for('BEGIN')
        session = holder_of(agent.api, key)
        assert session
        agent.api.destroy_session(session)
        assert program.wait() == ExitCode.LOCK_LOST
        assert 'run interrupted after' in program.output


def test_run_once_that_takes_too_long(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A run that exceeds --max-run-time has failed, and frees the lock."""
    key = 'once/long'
    with job(tmp_path, agent.http_addr, key, '--run-once', '--max-run-time', '0.5',
             'tasks.Task', '--seconds', '60') as program:
        assert program.wait() == ExitCode.TASK_FAILED
        assert 'the run took longer than 0.5 s' in program.output
        assert holder_of(agent.api, key) is None


# Where Consul is

def runs_at(program: Program) -> bool:
    """Whether the run succeeds."""
    return program.wait() == ExitCode.DONE


@pytest.mark.parametrize('scheme', ['', 'http://'])
def test_standard_variables(agent: Agent, tmp_path: pathlib.Path, scheme: str) -> None:
    """CONSUL_HTTP_ADDR counts where nothing else is given."""
    address = f'{scheme}{HOST}:{agent.ports.http}'
    with job(tmp_path, None, 'where/variable', '--run-once',
             env={'CONSUL_HTTP_ADDR': address}) as program:
        assert runs_at(program), program.output


def test_explicit_settings_win(agent: Agent, unreachable: tuple[str, int],
                               tmp_path: pathlib.Path) -> None:
    """A host that is set wins over CONSUL_HTTP_ADDR, as a whole."""
    env = {'CONSUL_HTTP_ADDR': f'https://{HOST}:{unreachable[1]}',
           'CONSUL_HTTP_TOKEN': 'unknown'}
    with job(tmp_path, agent.http_addr, 'where/explicit', '--run-once',
             env=env) as program:
        assert runs_at(program), program.output


@pytest.fixture
def socket_path() -> Iterator[pathlib.Path]:
    """A path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix='jobslib-') as folder:
        yield pathlib.Path(folder) / 'http.sock'


def test_unix_socket(consul_bin: pathlib.Path, socket_path: pathlib.Path,
                     tmp_path: pathlib.Path) -> None:
    """An agent that listens on a unix socket is reached there, by the keeper too."""
    config = {'addresses': {'http': f'{HOST} unix://{socket_path}'}}
    with Agent(binary=consul_bin, config=config) as agent:
        with job(tmp_path, None, 'where/socket', '--run-once',
                 env={'CONSUL_HTTP_ADDR': f'unix://{socket_path}'}) as program:
            assert runs_at(program), program.output
        with job(tmp_path, None, 'where/socket', '--keep-lock', 'tasks.Task',
                 '--seconds', '60', host=f'unix://{socket_path}') as program:
            program.wait_for('BEGIN')
            wait_until(lambda: agent.log_text().count('/v1/session/renew/') > 2, 30,
                       'the session renewed')
            program.send(signal.SIGKILL)
            wait_until(lambda: not agent.api.sessions(), 20, 'everything given up')
