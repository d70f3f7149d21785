"""What a module with a task does to the process that imports it."""

import json
import pathlib
import signal

import pytest
from support import Process, run_job, write_module

from jobslib.exitcodes import ExitCode

TASK = '''
import os, signal, sys, threading, time
{code}
from jobslib import BaseTask

class Task(BaseTask):
    def task(self):
        print('RUN', flush=True)
'''


def write_task(folder: pathlib.Path, code: str) -> None:
    """Write a module with a task whose import does what *code* does."""
    write_module(folder, 'work', TASK.format(code=code))


@pytest.mark.parametrize('code, exit_code, said', [
    ('os.kill(os.getpid(), signal.SIGKILL)', ExitCode.TASK_FAILED,
     'the task, or the settings, cannot be imported: killed by SIGKILL'),
    ('os._exit(7)', ExitCode.TASK_FAILED,
     'the task, or the settings, cannot be imported: its process ended with '
     'exit code 7'),
    ('os._exit(0)', ExitCode.TASK_FAILED, 'its process ended with exit code 0'),
    ('os.closerange(3, 4096)', ExitCode.USAGE,
     'closes descriptors that it has not opened'),
    ('sys.exit(3)', ExitCode.USAGE, "task 'work.Task' cannot be imported"),
])
def test_import_that_ends_the_process(
        tmp_path: pathlib.Path, code: str, exit_code: int, said: str) -> None:
    """A line says that it did, and how."""
    write_task(tmp_path, code)
    done = run_job(tmp_path, 'work.Task', '--run-once')
    assert done.returncode == exit_code, done.stderr
    assert said in done.stderr and 'RUN' not in done.stdout


def test_import_that_forks(tmp_path: pathlib.Path) -> None:
    """The child ends where the import does, and becomes no runner."""
    write_task(tmp_path, 'os.fork()')
    done = run_job(tmp_path, 'work.Task', '--run-once')
    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout == 'RUN\n'


def test_thread_of_an_import_that_is_waited_for(tmp_path: pathlib.Path) -> None:
    """The log says that the process of the task does not end."""
    write_task(tmp_path, 'threading.Thread(target=time.sleep, args=(300,)).start()')
    with Process(tmp_path, '-m', 'jobslib', '--run-once', 'work.Task') as job:
        job.wait_for('waiting for the process of the task')
        job.popen.send_signal(signal.SIGTERM)
        job.popen.send_signal(signal.SIGTERM)


def test_thread_of_an_import_ends_with_the_job(tmp_path: pathlib.Path) -> None:
    """A thread that goes on for ever does not keep a job that is told to end."""
    write_task(tmp_path, 'threading.Thread(target=time.sleep, args=(300,)).start()')
    with Process(tmp_path, '-m', 'jobslib', '--sleep-interval', '300', 'work.Task',
                 JOBSLIB_MAX_HOOK_TIME='0.2') as job:
        job.wait_for('run succeeded')
        job.popen.send_signal(signal.SIGTERM)
        assert job.popen.wait(30) == ExitCode.TERMINATED


@pytest.mark.parametrize('code', [
    'os.fork()', 'threading.Thread(target=time.sleep, args=(300,)).start()'])
def test_command_for_a_task_with_an_import_of_this_kind(
        tmp_path: pathlib.Path, code: str) -> None:
    """A command is carried out once, and ends when that is done."""
    write_task(tmp_path, code)
    done = run_job(tmp_path, 'status', '--json', 'work.Task')
    assert done.returncode == ExitCode.DONE, done.stderr
    assert json.loads(done.stdout)['state'] == 'free'


@pytest.mark.parametrize('words, exit_code, said', [
    (('--help',), ExitCode.DONE, 'usage:'),
    (('--no-such-flag',), ExitCode.USAGE, 'unrecognized arguments'),
    (('--retries', '-1'), ExitCode.USAGE, 'retries'),
    (('status', '--help'), ExitCode.DONE, 'usage:'),
    (('status', '--no-such-flag'), ExitCode.USAGE, 'unrecognized arguments'),
    (('status', '--name', 'x'), ExitCode.USAGE, 'one of them'),
])
def test_refusal_for_a_task_whose_import_starts_a_thread(
        tmp_path: pathlib.Path, words: tuple[str, ...], exit_code: int,
        said: str) -> None:
    """What is refused ends at once, and so does the help, since a unit of systemd
    that is refused and goes on looks as if it ran."""
    write_task(tmp_path, 'threading.Thread(target=time.sleep, args=(300,)).start()')
    done = run_job(tmp_path, *words, 'work.Task')
    assert done.returncode == exit_code, done.stderr
    assert said in done.stdout + done.stderr


def test_initialize_that_closes_descriptors(tmp_path: pathlib.Path) -> None:
    """It is refused with the reason, as an import is that does so."""
    write_module(tmp_path, 'work', TASK.format(code='') + """
    def initialize(self):
        os.closerange(3, 4096)
""")
    done = run_job(tmp_path, 'work.Task', '--run-once')
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert 'closes descriptors that it has not opened' in done.stderr
    assert 'RUN' not in done.stdout
