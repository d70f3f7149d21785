"""A run whose outcome is logged is done, even if the process dies at once."""

import json
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support import STEADY, Job, run_job, until, write_module

from jobslib.exitcodes import ExitCode
from jobslib.testing import ConsulStandIn

#: Settings with a logging handler that kills the supervisor when the outcome
#: of a run is written, the first or a later one; and a task that says which
#: attempt it is.
JOBS = '''
import logging, os, signal
from jobslib import BaseTask

class Deadly(logging.StreamHandler):
    told = 0

    def emit(self, record):
        super().emit(record)
        if record.getMessage().startswith(('run succeeded', 'run failed')):
            Deadly.told += 1
            if os.environ.get('DEADLY') == str(Deadly.told):
                os.kill(os.getpid(), signal.SIGKILL)

class Task(BaseTask):
    name = 'told'
    def task(self):
        print('BEGIN', self.attempt, flush=True)
        if os.environ.get('FAILS'):
            raise RuntimeError('went wrong')

LOGGING = {
    'version': 1, 'root': {'level': 'INFO', 'handlers': ['deadly']},
    'handlers': {'deadly': {'class': 'jobs.Deadly'}}}
'''
HOURLY = '--settings', 'jobs', '--run-interval', '3600'


@pytest.fixture(params=['file', 'consul'])
def folder(request: pytest.FixtureRequest,
           tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder with the module, whose lock is a file or in Consul."""
    (tmp_path / 'run').mkdir()
    if request.param == 'file':
        write_module(tmp_path, 'jobs', JOBS)
        yield tmp_path
        return
    with ConsulStandIn() as consul:
        write_module(tmp_path, 'jobs', (
            f'{JOBS}\nONE_INSTANCE = {consul.one_instance(**STEADY)!r}\n'))
        yield tmp_path


def status(folder: pathlib.Path) -> Any:
    """Return what is known of the job."""
    return json.loads(run_job(
        folder, *HOURLY, 'status', '--json', 'jobs.Task').stdout)


@pytest.mark.parametrize('keep', [(), ('--keep-lock',)], ids=['each', 'kept'])
@pytest.mark.parametrize(('fails', 'outcome'), [
    ('', 'succeeded'), ('yes', 'failed')])
def test_slot_is_done(folder: pathlib.Path, keep: tuple[str, ...],
                      fails: str, outcome: str) -> None:
    """The next holder does not run the slot again, and knows the run."""
    with Job(folder, *HOURLY, *keep, 'jobs.Task', DEADLY='1', FAILS=fails) as job:
        assert job.wait() == -signal.SIGKILL
        assert job.output.count('BEGIN 1') == 1
    until(lambda: status(folder)['holder'] is None, 'the release')
    done = run_job(folder, *HOURLY, '--run-once', 'jobs.Task')
    assert done.returncode == ExitCode.DONE, done.stderr
    assert 'BEGIN' not in done.stdout
    assert outcome in done.stderr
    job_status = status(folder)
    assert (job_status['runs'], job_status['killed']) == (1, 0)
    assert job_status['last_run']['outcome'] == outcome


def test_extra_run_is_done(folder: pathlib.Path) -> None:
    """Nor does it run again what an operator has asked for."""
    with Job(folder, *HOURLY, '--keep-lock', 'jobs.Task', DEADLY='2') as job:
        job.wait_for('run succeeded')
        asked = run_job(folder, *HOURLY, 'run', 'jobs.Task')
        assert asked.returncode == ExitCode.DONE, asked.stderr
        assert job.wait() == -signal.SIGKILL
        assert job.output.count('BEGIN') == 2
    assert status(folder)['extra'] is not None
    with Job(folder, *HOURLY, '--keep-lock', 'jobs.Task') as job:
        until(lambda: status(folder)['extra'] is None, 'the end of the request')
        assert 'BEGIN' not in job.output
    assert status(folder)['runs'] == 2
