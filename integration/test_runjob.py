"""`runjob` under a real Consul: two processes, both signals, every stage."""

import pathlib
import signal
import time

import pytest

from integration.agents import Agent, wait_until
from integration.locks import held_record, hold, holder_of, session_ids
from integration.proxy import Proxy
from integration.report import allowed
from integration.runjobs import Moment, job, moments
from integration.stamps import now
from integration.workers import children
from jobslib.exitcodes import ExitCode

SIGNALS = [signal.SIGTERM, signal.SIGINT]

#: How soon a process ends that is told to, in seconds.
AT_ONCE = 0.1


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
    key = f'one/lock{"-".join(options)}'
    with (job(tmp_path, agent.http_addr, key, *options) as first,
          job(tmp_path, agent.http_addr, key, *options) as second):
        jobs = [first, second]
        wait_until(lambda: sum(len(moments(each, 'END')) for each in jobs) >= 8, 60,
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
            wait_until(lambda: children(program.pid), 20, 'the keeper')
        sent = now()
        program.send(signum)
        assert program.wait() == ExitCode.TERMINATED
        assert now() - sent < allowed(AT_ONCE, since=sent)
        assert holder_of(agent.api, key) == holder
        assert f'ended by signal {signum.name}' in program.output
        assert 'Traceback' not in program.output or stage == 'after a failure'
    wait_until(lambda: session_ids(agent.api) - before == {holder} - {None}, 20,
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
        sent = now()
        program.send(signum)
        assert program.wait() == ExitCode.TERMINATED
        assert now() - sent < allowed(AT_ONCE, since=sent)


def test_second_signal_does_not_wait(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A second signal ends a task that does not end, and the lock is freed."""
    key = 'signal/second'
    with job(tmp_path, agent.http_addr, key, 'tasks.Stubborn') as program:
        program.wait_for('BEGIN')
        program.send(signal.SIGTERM)
        program.wait_for('IGNORED')
        sent = now()
        program.send(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM
        wait_until(lambda: holder_of(agent.api, key) is None, 5, 'the lock free')
        assert now() - sent < allowed(AT_ONCE, since=sent)


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
        assert len(program.output.splitlines()) == 2, program.output
        proxy.pass_through()
        back = now()
        program.wait_for('BEGIN')
        assert now() - back < allowed(2.0, since=back)
        assert program.output.count('the service of the lock answers again') == 1


# The loop

def test_failing_task(agent: Agent, tmp_path: pathlib.Path) -> None:
    """A failure is logged with its traceback, and the loop goes on."""
    with job(tmp_path, agent.http_addr, 'loop/fails', 'tasks.Task',
             '--fail') as program:
        started = now()
        program.wait_for('run failed', 2)
        program.send(signal.SIGTERM)
        program.wait()
        output = program.output
        assert output.count('RuntimeError: went wrong') == output.count('run failed')
        first, second = [each.at for each in moments(program, 'BEGIN')][:2]
        assert 1.0 < second - first < allowed(1.1, since=started)


def test_release_on_error(agent: Agent, tmp_path: pathlib.Path) -> None:
    """With --release-on-error a failure hands the kept lock over."""
    key = 'loop/release-on-error'
    options = ['--keep-lock', '--release-on-error']
    with job(tmp_path, agent.http_addr, key, *options, '--sleep-interval', '1',
             'tasks.Task', '--fail', '--seconds', '1') as failing:
        failing.wait_for('BEGIN')
        with job(tmp_path, agent.http_addr, key, *options, 'tasks.Task',
                 '--seconds', '60') as standby:
            wait_until(lambda: 'not run' in standby.output
                       or 'BEGIN' in standby.output, 20, 'the standby')
            failed = failing.output.count('run failed')
            standby.wait_for('BEGIN')
            # The very next failure, if it was not the last one.
            assert failing.output.count('run failed') in (failed, failed + 1)
            failing.wait_for('not run: the lock is held by')


def test_lock_kept_over_a_failure(agent: Agent, tmp_path: pathlib.Path) -> None:
    """Without it the lock is kept over a failure."""
    key = 'loop/keep-on-error'
    with (job(tmp_path, agent.http_addr, key, '--keep-lock', 'tasks.Task',
              '--fail') as failing):
        failing.wait_for('BEGIN')
        with job(tmp_path, agent.http_addr, key, '--keep-lock') as standby:
            standby.wait_for('not run')
            failing.wait_for('BEGIN', 3)
            assert len({each.token for each in moments(failing, 'BEGIN')}) == 1
            assert 'BEGIN' not in standby.output


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_handover_keeps_the_grid(
    agent: Agent, tmp_path: pathlib.Path, signum: signal.Signals,
) -> None:
    """A standby goes on with the grid of the holder before it."""
    interval, started = 1.5, now()
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
    late = allowed(0.0, since=started)
    for number, begin in enumerate(begins[:3]):
        assert begin.at - begins[0].at == pytest.approx(number * interval, abs=late)


def test_grid_does_not_drift(agent: Agent, tmp_path: pathlib.Path) -> None:
    """Runs start on the grid, with the lock taken anew for each of them."""
    started = now()
    with job(tmp_path, agent.http_addr, 'loop/drift', '--run-interval', '0.25',
             'tasks.Task', '--seconds', '0.05') as program:
        program.wait_for('BEGIN', 14)
        # The very first run is late by the time that connecting takes.
        begins = moments(program, 'BEGIN')[1:14]
    took = begins[-1].at - begins[0].at
    assert took == pytest.approx(3.0, abs=allowed(0.0, since=started))

    def off_grid(early: Moment, late: Moment) -> float:
        slots = (late.at - early.at) / 0.25
        return 0.25 * abs(slots - round(slots))
    # Any one can be late, or miss its slot; with a drift all the last ones are.
    assert min(off_grid(early, late)
               for early in begins[:3] for late in begins[-3:]) < 0.05
    assert len({begin.token for begin in begins}) == 13
