"""`runjob` under a real Consul: two processes, both signals, every stage."""

import pathlib
import signal
import tempfile
import time
from collections.abc import Iterator

import pytest

from integration.agents import HOST, Agent, free_ports, wait_until
from integration.locks import Program, held_record, hold, holder_of, session_ids
from integration.proxy import Proxy
from integration.runjobs import job, moments
from integration.workers import children
from jobslib.exitcodes import ExitCode

SIGNALS = [signal.SIGTERM, signal.SIGINT]

#: What a busy machine may add, in seconds.
NOISE = 0.3


@pytest.fixture
def unreachable() -> tuple[str, int]:
    """An address where nobody listens."""
    return HOST, free_ports(1)[0]


# Two processes

def test_two_keys_run_both(agent: Agent, tmp_path: pathlib.Path) -> None:
    """Jobs on two keys run at the same time."""
    with (job(tmp_path, agent.http_addr, 'both/1', 'tasks.Task',
              '--seconds', '60') as first,
          job(tmp_path, agent.http_addr, 'both/2', 'tasks.Task',
              '--seconds', '60') as second):
        first.wait_for('BEGIN')
        second.wait_for('BEGIN')
        assert 'END' not in first.output + second.output


@pytest.mark.parametrize('options', [
    [], ['--sleep-interval', '0.05'], ['--run-interval', '0.3'], ['--keep-lock'],
], ids=['at-once', 'sleep', 'grid', 'keep'])
def test_one_key_runs_one(
    agent: Agent, tmp_path: pathlib.Path, options: list[str],
) -> None:
    """Of two jobs on one key only one runs at a time."""
    key = 'one/' + '-'.join(options)
    with (job(tmp_path, agent.http_addr, key, *options) as first,
          job(tmp_path, agent.http_addr, key, *options) as second):
        jobs = [first, second]
        wait_until(lambda: sum(len(moments(each, 'END')) for each in jobs) >= 8, 20,
                   'eight runs')
        for each in jobs:
            each.send(signal.SIGTERM)
        assert [each.wait() for each in jobs] == [ExitCode.TERMINATED] * 2
        edges = sorted((moment.at, word == 'BEGIN', moment.token)
                       for each in jobs for word in ('BEGIN', 'END')
                       for moment in moments(each, word))
    running: set[int] = set()
    for _, begins, token in edges:
        assert not (begins and running - {token}), edges
        running = {token} if begins else set()
    tokens = [token for _, _, token in edges]
    assert tokens == sorted(tokens)


# Signals

STAGES = {
    # Waiting for a lock that somebody has.
    'standby': (['--keep-lock'], 'not run'),
    'waiting': ([], 'not run'),
    'slot skipped': (['--sleep-interval', '60'], 'not run'),
    'running': (['--keep-lock', 'tasks.Task', '--seconds', '60'], 'BEGIN'),
    'with a child': (['tasks.Child', '--seconds', '60'], 'BEGIN'),
    'asleep': (['--sleep-interval', '60'], 'run succeeded'),
    'asleep on the grid': (['--run-interval', '60'], 'run succeeded'),
    'asleep with the lock': (
        ['--keep-lock', '--sleep-interval', '60'], 'run succeeded'),
    'after a failure': (['tasks.Task', '--fail'], 'run failed'),
}


@pytest.mark.parametrize('signum', SIGNALS)
@pytest.mark.parametrize('stage', STAGES)
def test_signal(agent: Agent, tmp_path: pathlib.Path, stage: str,
                signum: signal.Signals) -> None:
    """A signal ends the job at once, its lock free and its session destroyed."""
    key = f'signal/{signum.name}/{stage}'
    args, said = STAGES[stage]
    before = session_ids(agent.api)
    holder = None
    if said == 'not run':
        holder = hold(agent.api, key, held_record(), '0s')
    with job(tmp_path, agent.http_addr, key, *args) as program:
        program.wait_for(said)
        if '--keep-lock' in args:
            wait_until(lambda: children(program.pid), 5, 'the keeper')
        sent = time.monotonic()
        program.send(signum)
        assert program.wait() == ExitCode.TERMINATED
        assert time.monotonic() - sent < NOISE
        assert holder_of(agent.api, key) == holder
        assert f'ended by signal {signum.name}' in program.output
        assert 'Traceback' not in program.output or stage == 'after a failure'
    wait_until(lambda: session_ids(agent.api) - before == {holder} - {None}, 5,
               'no session left')
    if holder:
        agent.api.destroy_session(holder)


@pytest.mark.parametrize('signum', SIGNALS)
def test_signal_without_consul(
    unreachable: tuple[str, int], tmp_path: pathlib.Path, signum: signal.Signals,
) -> None:
    """A job that waits for Consul ends at once, too."""
    with job(tmp_path, unreachable, 'any') as program:
        program.wait_for('waiting for the lock')
        sent = time.monotonic()
        program.send(signum)
        assert program.wait() == ExitCode.TERMINATED
        assert time.monotonic() - sent < NOISE


def test_second_signal_does_not_wait(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A second signal ends a task that does not end, and the lock is freed."""
    key = 'signal/second'
    with job(tmp_path, agent.http_addr, key, 'tasks.Stubborn') as program:
        program.wait_for('BEGIN')
        program.send(signal.SIGTERM)
        program.wait_for('IGNORED')
        sent = time.monotonic()
        program.send(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM
        wait_until(lambda: holder_of(agent.api, key) is None, 5, 'the lock free')
        assert time.monotonic() - sent < NOISE


# Consul unreachable

def test_consul_unreachable_at_start(
    agent: Agent, proxy: Proxy, tmp_path: pathlib.Path,
) -> None:
    """The job waits, says so once, and takes up work when Consul is back."""
    proxy.refuse()
    with job(tmp_path, proxy.addr, 'unreachable/start') as program:
        program.wait_for('waiting for the lock')
        time.sleep(3)  # several attempts
        assert program.output.count('waiting for the lock') == 1
        assert len(program.output.splitlines()) == 1, program.output
        proxy.pass_through()
        back = time.monotonic()
        program.wait_for('BEGIN')
        assert time.monotonic() - back < 2.0 + NOISE
        assert program.output.count('the service of the lock answers again') == 1


def test_run_once_without_consul(
    unreachable: tuple[str, int], tmp_path: pathlib.Path,
) -> None:
    """With --run-once the job gives up after its retries, with its own code."""
    with job(tmp_path, unreachable, 'any', '--run-once') as program:
        assert program.wait() == ExitCode.LOCK_SERVICE_UNAVAILABLE
        assert 'refused' in program.output and 'Traceback' not in program.output


# --run-once

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
        wait_until(lambda: session_ids(agent.api) == before, 5, 'no session left')


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


# The loop

def test_failing_task(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A failure is logged with its traceback, and the loop goes on."""
    with job(tmp_path, agent.http_addr, 'loop/fails', 'tasks.Task',
             '--fail') as program:
        program.wait_for('run failed', 2)
        assert program.output.count('RuntimeError: went wrong') == 2
        first, second = [each.at for each in moments(program, 'BEGIN')][:2]
        assert 1.0 < second - first < 1.1 + NOISE


def test_release_on_error(agent: Agent, tmp_path: pathlib.Path) -> None:
    """With --release-on-error a failure hands the kept lock over."""
    key = 'loop/release-on-error'
    options = ['--keep-lock', '--release-on-error']
    with job(tmp_path, agent.http_addr, key, *options, '--sleep-interval', '1',
             'tasks.Task', '--fail', '--seconds', '1') as failing:
        failing.wait_for('BEGIN')
        with job(tmp_path, agent.http_addr, key, *options, 'tasks.Task',
                 '--seconds', '60') as standby:
            standby.wait_for('BEGIN')
            assert failing.output.count('run failed') == 1
            failing.wait_for('not run: the lock is held by')


def test_lock_kept_over_a_failure(agent: Agent, tmp_path: pathlib.Path) -> None:
    """Without it the lock is kept over a failure."""
    key = 'loop/keep-on-error'
    with (job(tmp_path, agent.http_addr, key, '--keep-lock', 'tasks.Task',
              '--fail') as failing):
        failing.wait_for('BEGIN')
        with job(tmp_path, agent.http_addr, key, '--keep-lock') as standby:
            failing.wait_for('BEGIN', 3)
            assert len({each.token for each in moments(failing, 'BEGIN')}) == 1
            assert 'BEGIN' not in standby.output


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_handover_keeps_the_grid(
    agent: Agent, tmp_path: pathlib.Path, signum: signal.Signals,
) -> None:
    """A standby goes on with the grid of the holder before it."""
    interval = 1.5
    key = f'loop/grid/{signum.name}'
    options = ['--keep-lock', '--run-interval', str(interval)]
    with job(tmp_path, agent.http_addr, key, *options) as first:
        first.wait_for('run succeeded')
        time.sleep(0.4)  # so that the standby's own grid would be another
        with job(tmp_path, agent.http_addr, key, *options) as second:
            second.wait_for('not run')
            first.wait_for('run succeeded', 2)
            first.send(signum)
            first.wait()
            second.wait_for('run succeeded', 2)
            # The very first run is late by the time that connecting takes.
            _, *begins = moments(first, 'BEGIN') + moments(second, 'BEGIN')
    for number, begin in enumerate(begins[:3]):
        assert begin.at - begins[0].at == pytest.approx(number * interval, abs=0.1)


def test_grid_does_not_drift(agent: Agent, tmp_path: pathlib.Path) -> None:
    """Runs start on the grid, with the lock taken anew for each of them."""
    with job(tmp_path, agent.http_addr, 'loop/drift', '--run-interval', '0.25',
             'tasks.Task', '--seconds', '0.05') as program:
        program.wait_for('BEGIN', 14)
        # The very first run is late by the time that connecting takes.
        begins = moments(program, 'BEGIN')[1:14]
    assert begins[-1].at - begins[0].at == pytest.approx(3.0, abs=0.05)
    assert len({begin.token for begin in begins}) == 13


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
            wait_until(lambda: agent.log_text().count('/v1/session/renew/') > 2, 10,
                       'the session renewed')
            program.send(signal.SIGKILL)
            wait_until(lambda: not agent.api.sessions(), 5, 'everything given up')
