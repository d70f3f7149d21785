"""Metrics of a whole ``runjob``."""

import json
import pathlib
import re
import time
from typing import Any

import pytest
from support import DEADLINE, Job, run_job, write_module

BACKEND = '''
import json, threading
from jobslib import BaseTask, TaskError, argument
from jobslib.metrics import BaseMetrics

class Task(BaseTask):
    arguments = (argument('--fail', action='store_true'),)
    def task(self):
        self.context.metrics.push({'own': {'value': 7, 'tags': {'a': 'b'}}})
        if self.args.fail:
            raise TaskError('no')

class Printing(BaseMetrics):
    def push(self, metrics):
        print('PUSH', json.dumps(metrics), flush=True)
    def close(self):
        print('CLOSE', flush=True)

class Hanging(BaseMetrics):
    def push(self, metrics):
        print('HANGS', flush=True)
        threading.Event().wait()

class Broken(BaseMetrics):
    def push(self, metrics):
        raise RuntimeError('broken')
'''


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a task and backends."""
    write_module(tmp_path, 'job', BACKEND)
    return tmp_path


def pushed(output: str) -> dict[str, Any]:
    """Return the last of all metrics, by name or by name and outcome."""
    values = {}
    for line in output.splitlines():
        if line.startswith('PUSH'):
            for name, entry in json.loads(line[4:]).items():
                outcome = entry['tags'].get('outcome')
                values[f'{name} {outcome}' if outcome else name] = (
                    entry['value'])
    return values


@pytest.mark.parametrize('fails', [False, True])
def test_run_once_pushes_its_result(
        folder: pathlib.Path, fails: bool) -> None:
    """What a single run did arrives before the process ends."""
    args = ['--fail'] if fails else []
    done = run_job(folder, '--run-once', 'job.Task', *args,
                   JOBSLIB_METRICS_BACKEND='job.Printing')
    assert done.returncode == fails, done.stderr
    values = pushed(done.stdout)
    assert done.stdout.endswith('CLOSE\n')
    assert values['own'] == 7
    assert values['jobslib_lock_held'] == 0
    assert values['jobslib_runs_total failed'] == fails
    assert values['jobslib_runs_total succeeded'] == (not fails)
    last = values.get('jobslib_last_success_timestamp_seconds', 0)
    assert (abs(time.time() - last) < DEADLINE) != fails


def test_hanging_server_costs_nothing(folder: pathlib.Path) -> None:
    """While a push hangs, runs go on; a signal ends the process soon."""
    with Job(folder, '--sleep-interval', '0.01', 'job.Task',
             JOBSLIB_METRICS_BACKEND='job.Hanging') as job:
        job.wait_for('run succeeded', times=20)
        assert job.output.count('HANGS') == 1
        job.popen.terminate()
        assert job.wait() == 143
        assert 'the last metrics are given up after 2 s' in job.output
        durations = re.findall(r'run succeeded after ([\d.]+) s', job.output)
        assert min(map(float, durations)) < 0.1


def test_broken_backend_costs_nothing(folder: pathlib.Path) -> None:
    """A backend that raises is logged once, and fails no run."""
    done = run_job(folder, '--run-once', 'job.Task',
                   JOBSLIB_METRICS_BACKEND='job.Broken')
    assert done.returncode == 0
    assert done.stderr.count('RuntimeError: broken') == 1


@pytest.mark.parametrize(('backend', 'package', 'extra', 'env'), [
    ('prometheus.PrometheusMetrics', 'prometheus_client', 'prometheus',
     {'JOBSLIB_METRICS_PROMETHEUS_PORT': '9999'}),
    ('influxdb.InfluxDBMetrics', 'influxdb_client', 'influxdb',
     {'JOBSLIB_METRICS_INFLUXDB_BUCKET': 'any'}),
])
def test_missing_extra(folder: pathlib.Path, backend: str, package: str,
                       extra: str, env: dict[str, str]) -> None:
    """A package that is not there is one line that says what to install."""
    # Found first, in whichever process: the backend is the supervisor's.
    write_module(folder, package,
                 f'raise ModuleNotFoundError(name={package!r})')
    done = run_job(folder, '--run-once', 'job.Task',
                   JOBSLIB_METRICS_BACKEND=f'jobslib.metrics.{backend}', **env)
    assert done.returncode == 2
    assert done.stderr == (
        f'runjob: error: metrics: the package {package} is not installed; '
        f'to install it: pip install {package.replace("_", "-")} (the extra '
        f'{extra} of jobslib)\n')
