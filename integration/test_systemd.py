"""The units of `examples/systemd`, as they stand, under a systemd of the tests' own."""

import contextlib
import fcntl
import json
import os
import pathlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from integration.agents import Agent, wait_until
from integration.locks import BACKEND, ROOT
from integration.systemd import Systemd, Unit, inner_id, missing
from integration.unit_jobs import INITIALIZED, LEAST_DYNAMIC
from integration.workers import DEADLINE, is_alive, process_state, read_proc
from jobslib.exitcodes import ExitCode

#: What a job needs at least, of which the production page tells.
RULES = '''\
session_prefix "" { policy = "write" }
key_prefix "jobs/" { policy = "write" }
'''

#: `TimeoutStopSec` of the unit, in seconds.
STOPPED = 45.0

#: The silence that the watchdog accepts in a test, in seconds.
SILENCE = 2.0

#: What a probe of each restriction finds, see `integration.unit_jobs.Probing`.
IN_FORCE = {
    'NoNewPrivileges': '1', 'CapabilityBoundingSet': '0' * 16, 'DynamicUser': True,
    'SystemCallFilter': 'EPERM', 'StateDirectory': '0o700', 'UMask': '0077',
    'ProtectSystem': True, 'ProtectHome': 'EACCES', 'PrivateTmp': [],
    'PrivateDevices': True, 'ProtectProc': False,
    'RestrictAddressFamilies': 'EAFNOSUPPORT', 'RestrictNamespaces': 'EPERM',
    'RestrictRealtime': 'EPERM', 'RestrictSUIDSGID': 'EPERM',
    'LockPersonality': 'EPERM', 'MemoryDenyWriteExecute': 'EPERM',
}

#: How a run begins that finds nothing of another.
LEFT_NOTHING = 'BEGIN, left by others:'

GRACE = {'file': 'JOBSLIB_ONE_INSTANCE_GRACE',
         'consul': 'JOBSLIB_ONE_INSTANCE_CONSUL_GRACE'}

#: An override: with a FileLock, which has no keeper, it is systemd that ends what minds
#: no SIGTERM when the supervisor is gone.
PATIENCE = {'file': 'TimeoutStopSec=1', 'consul': ''}

Make = Callable[..., Unit]


@pytest.fixture(scope='module')
def systemd() -> Iterator[Systemd]:
    """A systemd, shared by the tests."""
    if lack := missing():
        pytest.skip(f'no systemd can be started here, for want of {lack}')
    with Systemd() as running:
        # So that there is something in /tmp and /home that a job must not see.
        running.write('/tmp/of-others', '')
        running.write('/home/of-others', '')
        yield running


@pytest.fixture(scope='module')
def secured(
    systemd: Systemd, consul_bin: pathlib.Path,
) -> Iterator[tuple[Agent, str]]:
    """A Consul that denies everything by default, and a token for jobs."""
    with Agent(acl=True, binary=consul_bin) as agent:
        yield agent, agent.api.create_token(RULES)


@pytest.fixture
def make(systemd: Systemd) -> Iterator[Make]:
    """Makes units with a FileLock."""
    with contextlib.ExitStack() as stack:
        yield lambda task, **options: stack.enter_context(
            Unit(systemd, task, **options))


@pytest.fixture(params=['file', 'consul'])
def lock(request: pytest.FixtureRequest) -> str:
    """Which lock a unit has."""
    name: str = request.param
    return name


@pytest.fixture
def make_either(request: pytest.FixtureRequest, lock: str, make: Make) -> Make:
    """Makes units with that lock."""
    if lock == 'file':
        return make
    made: Make = request.getfixturevalue('make_consul')
    return made


@pytest.fixture
def make_consul(make: Make, secured: tuple[Agent, str]) -> Make:
    """Makes units with a ConsulLock."""
    agent, token = secured
    return lambda task, **options: make(task, consul=agent, token=token, **options)


def is_free(unit: Unit) -> bool:
    """Whether nobody has the lock of a unit."""
    if unit.consul is not None:
        return 'Session' not in (unit.consul.api.kv(unit.key) or {})
    folder = unit.systemd.path('/var/lib/private/jobslib')
    path, = folder.glob('*/lock/*.lock')
    with path.open('r+') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# Started

def test_started_is_ready(make_either: Make) -> None:
    """A start returns when the loop begins; the main process is the supervisor."""
    unit = make_either('Tidy')
    unit.ctl('start')
    assert unit.systemd.path(
        f'/var/lib/private/jobslib/jobs.Tidy/{INITIALIZED}').exists()
    assert (unit.show('ActiveState'), unit.show('SubState')) == ('active', 'running')
    unit.wait_for_log('BEGIN')
    assert (f'BEGIN {inner_id(unit.run_process())} {unit.show("MainPID")}'
            in unit.log())
    unit.until(lambda: 'Status: "running since ' in unit.ctl('status'), 'its status')
    assert not is_free(unit)


def test_token_is_a_credential(make_consul: Make, secured: tuple[Agent, str]) -> None:
    """The token of Consul is in a file of the job, and nowhere else."""
    unit = make_consul('Tidy')
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    token = secured[1]
    assert token not in unit.ctl('show') + unit.log()
    for pid in unit.processes():
        assert token.encode() not in read_proc(pid, 'environ')
    path = unit.systemd.path(f'/run/credentials/{unit.name}/consul-token')
    assert path.read_text() == token
    assert not path.stat().st_mode & 0o007


def test_standby_is_active(make_consul: Make) -> None:
    """A standby has started too; when the holder is stopped, it takes over."""
    first = make_consul('Tidy')
    first.ctl('start')
    first.wait_for_log('BEGIN')
    second = make_consul('Deaf', env={'JOBSLIB_ONE_INSTANCE_CONSUL_KEY': first.key})
    second.ctl('start')
    assert second.show('ActiveState') == 'active'
    second.until(lambda: second.show('StatusText').startswith(
        'standby: the lock is held by '), 'the status of a standby')
    assert 'BEGIN' not in second.log()
    first.ctl('stop')
    second.wait_for_log('BEGIN')
    second.until(lambda: second.show('StatusText').startswith('running since '),
                 'the status of a holder')


def test_wrong_setting(make: Make) -> None:
    """A job with a wrong setting fails with 2, and is not started again."""
    unit = make('Tidy', env={'JOBSLIB_KEEP_LOCK': 'perhaps'})
    unit.ctl('start', check=False)
    # Else it would be "activating", and wait for its next start.
    assert (unit.show('ActiveState'), unit.show('SubState')) == ('failed', 'failed')
    assert unit.show('NRestarts') == '0'
    status = unit.ctl('status', check=False)
    assert f'status={ExitCode.USAGE:d}' in status
    assert "keep_lock: 'perhaps' from environment" in status


# Stopped

def test_stop_in_a_run(make_either: Make) -> None:
    """A stop lets the run clean up, ends what it started, and frees the lock."""
    unit = make_either('Tidy')
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    processes = unit.processes()
    assert b'sleep' in {read_proc(pid, 'comm').strip() for pid in processes}
    unit.ctl('stop')
    assert {'SEEN Terminate', 'CLEANED'} <= {*unit.log().splitlines()}
    assert 'Deactivated successfully' in unit.log()
    assert unit.show('ActiveState') == 'inactive'
    assert not any(map(is_alive, processes))
    assert not unit.processes()
    assert is_free(unit)


def test_stop_after_the_grace(make_either: Make, lock: str) -> None:
    """A run that minds no interrupt has its grace time, and no more."""
    unit = make_either('Deaf', env={GRACE[lock]: 1})
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    processes, began = unit.processes(), time.monotonic()
    unit.ctl('stop')
    assert 1.0 <= time.monotonic() - began < STOPPED
    assert 'signal SIGTERM; killed by SIGKILL' in unit.log()
    assert 'Deactivated successfully' in unit.log()
    assert not any(map(is_alive, processes))
    assert is_free(unit)


# Killed

def test_run_is_killed(make_either: Make) -> None:
    """A crash of the run is none of the unit; the next run finds nothing of it."""
    unit = make_either('Leaving')
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    main = unit.main()
    os.kill(unit.run_process(), signal.SIGKILL)
    unit.wait_for_log('BEGIN', 2)
    assert unit.log().count(f'{LEFT_NOTHING}\n') == 2
    assert 'killed by SIGKILL' in unit.log()
    assert (unit.main(), unit.show('NRestarts')) == (main, '0')


def test_main_process_is_killed(make_either: Make, lock: str) -> None:
    """A crash of the supervisor is a restart; nothing of the run is left by then."""
    unit = make_either('Leaving', override=PATIENCE[lock])
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    processes = unit.processes()
    os.kill(unit.main(), signal.SIGKILL)
    unit.wait_for_log('BEGIN', 2)
    assert 'code=killed, status=9/KILL' in unit.log()
    assert unit.log().count(f'{LEFT_NOTHING}\n') == 2
    assert not any(map(is_alive, processes))
    assert unit.show('NRestarts') == '1'


# The watchdog

def test_watchdog_lets_a_busy_task_be(make_consul: Make) -> None:
    """A task may keep the interpreter for longer than the watchdog waits."""
    unit = make_consul('Blocking', override=f'WatchdogSec={SILENCE}')
    unit.ctl('start')
    main = unit.main()
    unit.wait_for_log('BLOCKED')
    assert 'BLOCKED no other thread ran' in unit.log()
    assert (unit.main(), unit.show('NRestarts')) == (main, '0')


def test_watchdog_ends_a_stopped_supervisor(make_either: Make, lock: str) -> None:
    """A supervisor that stands still is started anew, with the lock free by then."""
    unit = make_either(
        'Leaving', override=f'{PATIENCE[lock]}\nWatchdogSec={SILENCE}',
        # A keeper would end it after the grace time, without the watchdog.
        env={GRACE[lock]: 5})
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    processes, main = unit.processes(), unit.main()
    os.kill(main, signal.SIGSTOP)
    wait_until(lambda: process_state(main) == 'T', DEADLINE, 'the stop')
    unit.wait_for_log('BEGIN', 2)
    assert 'Watchdog timeout' in unit.log()
    assert unit.log().count(f'{LEFT_NOTHING}\n') == 2
    assert not any(map(is_alive, processes))
    assert unit.show('NRestarts') == '1'


# Beside the unit

def test_operator_pauses_a_job(make: Make) -> None:
    """The command of the guide reaches the lock of a job with a user of its own."""
    unit = make('Tidy')
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    command = find_command('docs/guide/operating.rst', 'runjob pause', 'jobs.Tidy')
    # There is no message bus, which is needed to wait for the command.
    command.remove('--pipe')
    unit.systemd.run(*command, '--interrupt')
    unit.until(lambda: unit.show('StatusText').startswith('standby: paused by jobslib'),
               'the pause')


def test_machine_is_shut_down(make_consul: Make) -> None:
    """Jobs are stopped before the agent of their machine is."""
    unit = make_consul('Tidy')
    unit.systemd.write('/etc/systemd/system/consul.service', """\
        [Service]
        ExecStart=sleep infinity
        """)
    unit.systemd.ctl('daemon-reload')
    unit.systemd.ctl('start', 'consul.service', unit.name)
    # As it is done when the machine is.
    unit.systemd.ctl('start', 'shutdown.target')
    lines = unit.systemd.journal(unit.name, 'consul.service').splitlines()
    assert (lines.index(f'Stopped {unit.name} - Job jobs.Tidy.')
            < lines.index('Stopping consul.service...'))


def test_timer_on_two_machines(make_consul: Make) -> None:
    """The unit of the guide has not failed where another machine has the lock."""
    unit = make_consul('Leaving')
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    systemd = unit.systemd
    text = (ROOT / 'docs/guide/production.rst').read_text().partition('.. _timers:')[2]
    text = text.partition('.. code-block:: ini\n\n')[2].partition('\n\nWithout')[0]
    systemd.write('/etc/systemd/system/once.service', text.replace(
        'tick.Tick', 'jobs.Leaving'))
    systemd.write('/etc/systemd/system/once.service.d/lock.conf', f"""\
        [Service]
        WorkingDirectory=/opt/jobs
        EnvironmentFile=/etc/jobs/jobs.Leaving.env
        Environment=JOBSLIB_ONE_INSTANCE_BACKEND={BACKEND}
        Environment=JOBSLIB_ONE_INSTANCE_CONSUL_TOKEN_FILE=/etc/jobs/consul-token
        """)
    systemd.write('/etc/systemd/system/once.timer', '[Timer]\nOnActiveSec=0\n')
    systemd.ctl('daemon-reload')
    systemd.ctl('start', 'once.timer')
    unit.until(lambda: 'Finished once.service' in systemd.journal('once.service'),
               'the run of the timer')
    assert 'not run: the lock is held by ' in systemd.journal('once.service')
    shown = systemd.ctl('show', '-P', 'ExecMainStatus', '-P', 'Result', 'once.service')
    assert shown.split() == ['success', f'{ExitCode.LOCK_NOT_AVAILABLE:d}']


def find_command(page: str, what: str, task: str) -> list[str]:
    """The words of a command of the guide, for a task."""
    text = (ROOT / page).read_text().replace('\\\n', ' ').replace('tick.Tick', task)
    line, = (line for line in text.splitlines()
             if line.strip().startswith('systemd-run') and what in line)
    return shlex.split(line)


# Restrictions

def test_restrictions_are_in_force(make_consul: Make) -> None:
    """What the unit forbids is impossible, and the keeper works all the same."""
    unit = make_consul('Probing')
    unit.ctl('start')
    unit.wait_for_log('PROBED')
    found: dict[str, Any] = json.loads(
        unit.log().partition('PROBED ')[2].partition('\n')[0])
    assert found == IN_FORCE
    status = dict(line.split(':', 1) for line in read_proc(
        unit.keeper(), 'status').decode().splitlines())
    assert (status['Seccomp'].strip(), status['NoNewPrivs'].strip()) == ('2', '1')
    assert int(status['Uid'].split()[0]) >= LEAST_DYNAMIC


def test_proc_has_processes_alone(make_either: Make, lock: str) -> None:
    """With a restriction that many add, what a run started is found as well."""
    unit = make_either('Leaving', override='ProcSubset=pid', env={GRACE[lock]: 0.5})
    unit.ctl('start')
    unit.wait_for_log('BEGIN')
    processes = unit.processes()
    os.kill(unit.run_process(), signal.SIGKILL)
    unit.wait_for_log('BEGIN', 2)
    assert unit.log().count(f'{LEFT_NOTHING}\n') == 2
    unit.ctl('stop')
    assert 'Deactivated successfully' in unit.log()
    assert not any(map(is_alive, processes))
    assert is_free(unit)


def test_task_does_not_speak_for_the_job(make: Make) -> None:
    """What a task tells systemd is not believed."""
    unit = make('Speaking')
    unit.ctl('start')
    main = unit.show('MainPID')
    unit.wait_for_log('SPOKEN 1 False')
    unit.wait_for_log('reception only permitted for main PID', 3)
    assert (unit.show('MainPID'), unit.show('SubState')) == (main, 'running')
    assert unit.show('StatusText').startswith('running since ')
