"""The command, as a process in a folder of its own."""

import json
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
from support import (
    DEADLINE,
    Job,
    Process,
    environment,
    is_free,
    lock_folder,
    run_job,
    write_module,
)

from jobslib import __version__
from jobslib.exitcodes import ExitCode
from jobslib.testing import ConsulStandIn

JOBS = '''
import os, sys
from jobslib import BaseTask, TaskError, argument

class Hello(BaseTask):
    name = 'hello'
    description = 'Says hello.'
    arguments = (argument('--to', default='world', help='whom to greet'),)

    def task(self):
        self.stdout.write(f'hello {self.args.to}\\n')
        self.stderr.write('to standard error\\n')

class Show(BaseTask):
    def task(self):
        config = self.context.config
        print(f'once={config.run_once} sleep={config.sleep_interval} '
              f'run={config.run_interval} keep={config.keep_lock} '
              f'error={config.release_on_error} max={config.max_run_time}')

class Fail(BaseTask):
    def task(self):
        raise ZeroDivisionError('nothing to divide by')

class FailMildly(BaseTask):
    def task(self):
        raise TaskError('no disk')

class Exit(BaseTask):
    def task(self):
        sys.exit(3)

class Hang(BaseTask):
    def task(self):
        import time
        while True:
            time.sleep(0.01)

class Hold(BaseTask):
    name = 'hello'
    def task(self):
        print('holding', flush=True)
        sys.stdin.readline()

class Lose(BaseTask):
    def task(self):
        os.unlink(self.context.one_instance_lock.path)
        self.extend_lock()

class Unlocked(BaseTask):
    def task(self):
        print(type(self.context.one_instance_lock).__name__,
              self.fencing_token)

class BadStart(BaseTask):
    def task(self):
        pass

    def initialize(self):
        self.context.one_instance_lock.acquire()
        raise ZeroDivisionError('at the start')

class Conflict(BaseTask):
    arguments = (argument('--keep-lock'),)
    def task(self):
        pass

class NoTask:
    pass

def function():
    pass
'''

SETTINGS = '''
RUN_ONCE = True
MAX_RUN_TIME = 7
'''

OWN = '''
from jobslib import BaseTask, Config, Context, option

class OwnConfig(Config):
    batch = option(attrtype=int, default=1, flag='--batch')

    @option(required=True, attrtype=str)
    def target(self):
        return self._settings.TARGET

class OwnContext(Context):
    def initialize(self):
        print('context made')
        self.opened = 'opened for ' + self.config.target

    def close(self):
        print('context closed')

class Task(BaseTask):
    def initialize(self):
        print('task made')

    def task(self):
        print(self.context.opened, self.context.config.batch)

class BadTask(Task):
    def initialize(self):
        raise ZeroDivisionError
'''

OWN_SETTINGS = '''
CONFIG_CLASS = 'own.OwnConfig'
CONTEXT_CLASS = 'own.OwnContext'
TARGET = 'there'
'''

BAD_LOCK = '''
from jobslib.exceptions import LockError
from jobslib.oneinstance.dummy import DummyLock

class Lock(DummyLock):
    def __init__(self, context, options):
        raise LockError('no lock today')
'''

FILE_LOCK = 'jobslib.oneinstance.file.FileLock'


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with jobs and settings, good and bad."""
    folder = tmp_path_factory.mktemp('jobs')
    write_module(folder, 'jobs', JOBS)
    write_module(folder, 'settings', SETTINGS)
    write_module(folder, 'own', OWN)
    write_module(folder, 'own_settings', OWN_SETTINGS)
    write_module(folder, 'bad_lock', BAD_LOCK)
    modules = {
        'broken': 'RUN_ONCE = 1 / 0',
        'broken_syntax': 'RUN_ONCE = = 1',
        'broken_import': 'import no_such_module',
        'broken_exit': 'raise SystemExit(0)',
        'slow': 'SLEEP_INTERVAL = 5',
        'grid': 'RUN_INTERVAL = 5',
        'text': 'SLEEP_INTERVAL = "5"',
        'infinite': 'MAX_RUN_TIME = float("inf")',
        'boolean': 'RUN_INTERVAL = True',
        'no_backend': 'ONE_INSTANCE = {"backend": "no_such.Lock"}',
        'no_lock': 'ONE_INSTANCE = {"backend": "jobs.NoTask"}',
        'typo': f'ONE_INSTANCE = {{"backend": "{FILE_LOCK}",\n'
                f'"options": {{"foldr": "x"}}}}',
        'typo_above': 'ONE_INSTANCE = {"beckend": "x"}',
        'no_dict': 'ONE_INSTANCE = "x"',
        'no_config': 'CONFIG_CLASS = "jobs.NoTask"',
        'no_config_path': 'CONFIG_CLASS = object',
        'missing_config': 'CONFIG_CLASS = "jobs.NoSuch"',
        'no_context': 'CONTEXT_CLASS = "jobs.NoTask"',
        'bad_logging': 'LOGGING = {"version": 2}',
        'bad_lock_settings': 'CONTEXT_CLASS = "own.OwnContext"\n'
                             'CONFIG_CLASS = "own.OwnConfig"\n'
                             'TARGET = "x"\n'
                             'ONE_INSTANCE = {"backend": "bad_lock.Lock"}',
    }
    for name, text in modules.items():
        write_module(folder, name, text)
    return folder


class Bad(NamedTuple):
    """A wrong command line, environment or settings module."""

    args: str
    #: What the message has to contain.
    parts: tuple[str, ...]
    env: dict[str, str] = {}


BAD = [
    # No settings.
    Bad('-s no_such jobs.Hello',
        ("settings module 'no_such' from --settings: no module named "
         "'no_such' in /", '; allowed: the dotted path of a module')),
    Bad('-s settings.no_such jobs.Hello', ("'settings.no_such'",)),
    Bad('-s .settings jobs.Hello', ("'.settings' is not a dotted path",)),
    Bad('jobs.Hello',
        ("settings module 'no_such' from JOBSLIB_SETTINGS_MODULE: no module",),
        {'JOBSLIB_SETTINGS_MODULE': 'no_such'}),
    # No task.
    Bad('', ('name a task, package.module.Task, or a command: check, status',)),
    Bad('no_such.Task', ("task 'no_such.Task': no module named 'no_such'",)),
    Bad('jobs.NoSuch',
        ("task 'jobs.NoSuch': module 'jobs' has no 'NoSuch'",)),
    Bad('jobs', ("task 'jobs': 'jobs' is not a dotted path",)),
    Bad('jobs.NoTask',
        ("task 'jobs.NoTask' is not a subclass of jobslib.BaseTask",)),
    Bad('jobs.function', ("'jobs.function' is not a subclass",)),
    Bad('jobs.Conflict', ("task jobs.Conflict: argument --keep-lock: "
                          "conflicting option string: --keep-lock",)),
    # Both intervals.
    Bad('--sleep-interval 5 --run-interval 6 jobs.Hello',
        ('sleep_interval (5 from command line, --sleep-interval)',
         'run_interval (6 from command line, --run-interval)',
         'exclude each other')),
    Bad('-s slow jobs.Hello',
        ('sleep_interval (5 from environment, JOBSLIB_SLEEP_INTERVAL)',
         'run_interval (6 from environment, JOBSLIB_RUN_INTERVAL)'),
        {'JOBSLIB_RUN_INTERVAL': '6', 'JOBSLIB_SLEEP_INTERVAL': '5'}),
    # A schedule.
    Bad('--schedule 61_*_*_*_* jobs.Hello',
        ("schedule: '61_*_*_*_*' from command line, --schedule: it has one "
         "field instead of five or six",)),
    Bad('--schedule @daily --time-zone Europe/Praha jobs.Hello',
        ("time_zone: 'Europe/Praha' from command line, --time-zone: there is "
         "no such time zone, nearest known: Europe/Prague",)),
    # Bad values.
    Bad('--sleep-interval -1 jobs.Hello',
        ("sleep_interval: '-1' from command line, --sleep-interval is not "
         "allowed; allowed: a number of seconds of at least 0",)),
    Bad('--run-interval=-0.5 jobs.Hello',
        ("run_interval: '-0.5' from command line, --run-interval",
         'allowed: a number of seconds of at least 0')),
    Bad('--max-run-time 0 jobs.Hello', ('allowed: a number of seconds above 0',)),
    Bad('--max-run-time inf jobs.Hello',
        ("max_run_time: 'inf' from command line, --max-run-time",
         'allowed: a number of seconds above 0')),
    Bad('--sleep-interval nan jobs.Hello', ("sleep_interval: 'nan'",)),
    Bad('--sleep-interval 5s jobs.Hello', ("sleep_interval: '5s'",)),
    Bad('--sleep-interval=-inf jobs.Hello', ("sleep_interval: '-inf'",)),
    Bad('jobs.Hello',
        ("run_interval: 'often' from environment, JOBSLIB_RUN_INTERVAL",),
        {'JOBSLIB_RUN_INTERVAL': 'often'}),
    Bad('jobs.Hello',
        ("run_once: 'maybe' from environment, JOBSLIB_RUN_ONCE is not "
         "allowed; allowed: 1/0, true/false, yes/no or on/off",),
        {'JOBSLIB_RUN_ONCE': 'maybe'}),
    Bad('-s text jobs.Hello',
        ("sleep_interval: '5' from settings, SLEEP_INTERVAL",)),
    Bad('-s infinite jobs.Hello',
        ('max_run_time: inf from settings, MAX_RUN_TIME',)),
    Bad('-s boolean jobs.Hello',
        ('run_interval: True from settings, RUN_INTERVAL',)),
    # The lock.
    Bad('-s no_backend jobs.Hello',
        ("backend: 'no_such.Lock' from settings, ONE_INSTANCE['backend']: no "
         "module named 'no_such' in /", '; allowed: the dotted path of a BaseLock')),
    Bad('-s no_lock jobs.Hello', ("'jobs.NoTask'", 'it is not a BaseLock')),
    Bad('jobs.Hello',
        ("backend: 'no_such.Lock' from environment, "
         "JOBSLIB_ONE_INSTANCE_BACKEND: no module",),
        {'JOBSLIB_ONE_INSTANCE_BACKEND': 'no_such.Lock'}),
    Bad('-s typo jobs.Hello',
        ("unknown option 'foldr' in settings, ONE_INSTANCE['options'], "
         "nearest known: 'folder'",)),
    Bad('-s typo_above jobs.Hello',
        ("unknown option 'beckend' in settings, ONE_INSTANCE, "
         "nearest known: 'backend'",)),
    Bad('-s no_dict jobs.Hello',
        ("one_instance: 'x' from settings, ONE_INSTANCE is not allowed",)),
    Bad('jobs.Hello',
        ("grace: '0' from environment, JOBSLIB_ONE_INSTANCE_GRACE",
         'a number of seconds above 0'), {'JOBSLIB_ONE_INSTANCE_GRACE': '0'}),
    # Logging.
    Bad('jobs.Hello',
        ('logging: *** from environment, JOBSLIB_LOGGING is not allowed',
         'line 1 column 2', 'a JSON object'), {'JOBSLIB_LOGGING': '{'}),
    Bad('jobs.Hello', ('logging: *** from environment',),
        {'JOBSLIB_LOGGING': '[]'}),
    Bad('jobs.Hello', ("Unable to configure handler 'h': [Errno 2]", '/none/log'),
        {'JOBSLIB_LOGGING': json.dumps({'version': 1, 'handlers': {'h': {
            'class': 'logging.FileHandler', 'filename': '/none/log'}},
            'root': {'handlers': ['h']}})}),
    Bad('jobs.Hello', ("logging: {} from environment", 'version'),
        {'JOBSLIB_LOGGING': '{}'}),
    Bad('-s bad_logging jobs.Hello',
        ("logging: {'version': 2} from settings, LOGGING",)),
    # The classes.
    Bad('-s no_config jobs.Hello',
        ("config_class: 'jobs.NoTask' from settings, CONFIG_CLASS is not a "
         "subclass of jobslib.Config",)),
    Bad('-s missing_config jobs.Hello',
        ("config_class: 'jobs.NoSuch' from settings, CONFIG_CLASS: "
         "module 'jobs' has no 'NoSuch'",)),
    Bad('-s no_config_path jobs.Hello',
        ("config_class: <class 'object'> from settings, CONFIG_CLASS is not "
         "allowed; allowed: a dotted path (a string)",)),
    Bad('jobs.Hello',
        ("config_class: 'no_such.C' from JOBSLIB_CONFIG_CLASS: no module",),
        {'JOBSLIB_CONFIG_CLASS': 'no_such.C'}),
    Bad('-s no_context jobs.Hello',
        ("context_class: 'jobs.NoTask' from settings, CONTEXT_CLASS",
         'it is not a Context')),
    # The command line itself.
    Bad('--no-such-option jobs.Hello',
        ('unrecognized arguments: --no-such-option',)),
    Bad('jobs.Hello --number 5', ('unrecognized arguments: --number 5',)),
    Bad('--sleep-interval', ('--sleep-interval: expected one argument',)),
    Bad('--run jobs.Hello', ('unrecognized arguments: --run',)),
    Bad('--typo 5 jobs.Hello',
        ("task '5': '5' is not a dotted path", 'unknown: --typo jobs.Hello')),
    Bad('--sleep-interval -inf jobs.Hello', ("sleep_interval: '-inf'",)),
    Bad('--run-interval -1e3 jobs.Hello', ("run_interval: '-1e3'",)),
]


@pytest.mark.parametrize(
    'bad', BAD, ids=lambda bad: ' '.join([*bad.env.values(), bad.args]))
def test_bad_input(shared: pathlib.Path, bad: Bad) -> None:
    """What is wrong is said in one clear line, with exit code 2."""
    done = run_job(shared, *bad.args.split(), **bad.env)
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ''
    assert 'Traceback' not in done.stderr
    lines = [line for line in done.stderr.splitlines() if 'error:' in line]
    assert lines == done.stderr.splitlines()[-1:]
    assert lines[0].startswith('runjob: error: ')
    for part in bad.parts:
        assert part in lines[0]


@pytest.mark.parametrize(('args', 'what', 'trace'), [
    ('-s broken jobs.Hello', "settings module 'broken' from --settings",
     'ZeroDivisionError'),
    ('-s broken_syntax jobs.Hello', "settings module 'broken_syntax'",
     'SyntaxError'),
    ('-s broken_import jobs.Hello', "settings module 'broken_import'",
     "No module named 'no_such_module'"),
    ('-s broken_exit jobs.Hello', "settings module 'broken_exit'",
     'SystemExit'),
    ('broken.Task', "task 'broken.Task'", 'ZeroDivisionError'),
    ('broken_import.Task', "task 'broken_import.Task'", 'no_such_module'),
    ('broken.Lock', "backend: 'broken.Lock' from environment",
     'ZeroDivisionError'),
    ('broken_import.Context', "context_class: 'broken_import.Context' from",
     'no_such_module'),
])
def test_broken_inside(shared: pathlib.Path, args: str, what: str,
                       trace: str) -> None:
    """Of a module that is broken inside the traceback is shown."""
    variable = {'broken.Lock': 'JOBSLIB_ONE_INSTANCE_BACKEND',
                'broken_import.Context': 'JOBSLIB_CONTEXT_CLASS'}.get(args)
    done = (run_job(shared, 'jobs.Hello', **{variable: args}) if variable
            else run_job(shared, *args.split()))
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ''
    assert done.stderr.count('Traceback') == 1
    assert trace in done.stderr
    module = args.removeprefix('-s ').split()[0].partition('.')[0]
    assert f'{module}.py", line 1' in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f'runjob: error: {what}')
    assert done.stderr.endswith(' cannot be imported, see above\n')


def test_hello(shared: pathlib.Path) -> None:
    """A task of the current folder runs once and is done."""
    done = run_job(shared, '--run-once', 'jobs.Hello')
    assert done.returncode == ExitCode.DONE
    assert done.stdout == 'hello world\n'
    assert 'to standard error\n' in done.stderr
    assert re.search(r' INFO jobslib: run succeeded after \d+\.\d+ s', done.stderr)
    assert (f'lock file {lock_folder(shared)}/hello.lock: one instance on '
            f'this machine only') in done.stderr
    assert is_free(shared, 'hello')


def test_arguments_of_the_task(shared: pathlib.Path) -> None:
    """A task has the values of its own arguments."""
    done = run_job(shared, 'jobs.Hello', '--to', 'you', '--run-once')
    assert done.stdout == 'hello you\n'


def test_help(shared: pathlib.Path) -> None:
    """--help works without a task and without settings."""
    done = run_job(shared, '--help')
    assert done.returncode == 0
    assert done.stdout.startswith('usage: runjob [options] package.module.Task')
    assert 'JOBSLIB_RUN_INTERVAL' in done.stdout
    assert done.stderr == ''


def test_help_with_bad_settings(shared: pathlib.Path) -> None:
    """Help works whatever the environment names as settings."""
    done = run_job(shared, '--help', JOBSLIB_SETTINGS_MODULE='no_such')
    assert done.returncode == ExitCode.DONE
    assert done.stdout.startswith('usage: runjob')


@pytest.mark.parametrize('columns', ['1', '2', '20', '-5'])
def test_help_on_a_narrow_terminal(shared: pathlib.Path,
                                   columns: str) -> None:
    """Help works however narrow the terminal is."""
    for args in ['--help'], ['status', '--help']:
        done = run_job(shared, *args, COLUMNS=columns)
        assert (done.returncode, done.stderr) == (ExitCode.DONE, '')


def test_current_folder_is_deleted(shared: pathlib.Path,
                                   tmp_path: pathlib.Path) -> None:
    """A current folder that is gone matters only if the task was in it."""
    done = subprocess.run(
        ['sh', '-c', 'rmdir "$PWD"; exec "$0" -m jobslib --run-once jobs.Hello',
         sys.executable], cwd=tmp_path, capture_output=True, text=True,
        env=environment(shared / 'run', PYTHONPATH=str(shared)),
        timeout=DEADLINE)
    assert done.stdout == 'hello world\n'
    assert done.returncode == ExitCode.DONE


def test_help_of_a_task(shared: pathlib.Path) -> None:
    """--help behind a task shows what the task is and takes."""
    for args in ['jobs.Hello', '--help'], ['-h', 'jobs.Hello']:
        done = run_job(shared, *args)
        assert done.returncode == 0
        assert 'Says hello.' in done.stdout
        assert 'whom to greet' in done.stdout
        assert '--run-once' in done.stdout
        assert 'hello world' not in done.stdout


def test_version(shared: pathlib.Path) -> None:
    """--version shows the version."""
    done = run_job(shared, '--version')
    assert (done.returncode, done.stdout) == (0, f'jobslib {__version__}\n')


def test_current_folder_first(shared: pathlib.Path) -> None:
    """The command finds modules of the current folder, however started."""
    command = 'import sys; from jobslib.main import main; sys.exit(main())'
    with Process(shared, '-P', '-c', command, '--run-once',
                 'jobs.Hello') as process:
        assert process.wait() == 0
        assert 'hello world' in process.output


SHOWN = 'once=True sleep=None run=None keep=False error=False max='


def test_settings(shared: pathlib.Path) -> None:
    """The settings module is that of -s, else that of the variable."""
    variable = {'JOBSLIB_SETTINGS_MODULE': 'settings'}
    for args, env in (('-s', 'settings'), {}), ((), variable):
        done = run_job(shared, *args, 'jobs.Show', **env)
        assert done.stdout == f'{SHOWN}7.0\n'
    done = run_job(shared, '-s', 'grid', '--run-once', 'jobs.Show',
                   **variable)
    assert done.stdout == (
        'once=True sleep=None run=5.0 keep=False error=False max=None\n')


def test_no_settings(shared: pathlib.Path) -> None:
    """An empty variable names no settings module."""
    done = run_job(shared, '--run-once', 'jobs.Show',
                   JOBSLIB_SETTINGS_MODULE='')
    assert done.stdout == f'{SHOWN}None\n'


def test_sources(shared: pathlib.Path) -> None:
    """The command line wins over the environment, it over the settings."""
    done = run_job(shared, '-s', 'settings', 'jobs.Show',
                   JOBSLIB_MAX_RUN_TIME='8')
    assert done.stdout == f'{SHOWN}8.0\n'
    done = run_job(shared, '-s', 'settings', '--max-run-time', '9',
                   'jobs.Show', JOBSLIB_MAX_RUN_TIME='8')
    assert done.stdout == f'{SHOWN}9.0\n'


def test_all_options(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Each option of the command line reaches the configuration."""
    # With a lock of its own: a run just before would be within the pause.
    done = run_job(shared, '--run-once', '--sleep-interval', '1.5',
                   '--keep-lock', '--release-on-error', '--max-run-time',
                   '90.5', 'jobs.Show',
                   JOBSLIB_ONE_INSTANCE_FILE_FOLDER=str(tmp_path / 'own'))
    assert done.stdout == (
        'once=True sleep=1.5 run=None keep=True error=True max=90.5\n')


def test_task_failed(shared: pathlib.Path) -> None:
    """A task that raises is logged with its traceback, and is exit code 1."""
    done = run_job(shared, '--run-once', 'jobs.Fail')
    assert done.returncode == ExitCode.TASK_FAILED
    assert 'ERROR jobslib: run failed after' in done.stderr
    assert 'ZeroDivisionError: nothing to divide by' in done.stderr
    assert is_free(shared, 'jobs.Fail')


def test_task_error(shared: pathlib.Path) -> None:
    """A task that says what failed is logged with that alone."""
    done = run_job(shared, '--run-once', 'jobs.FailMildly')
    assert done.returncode == ExitCode.TASK_FAILED
    assert 'Traceback' not in done.stderr
    assert done.stderr.endswith(' s: no disk\n')


def test_exit(shared: pathlib.Path) -> None:
    """A task that exits with a code of its own has failed."""
    done = run_job(shared, '--run-once', 'jobs.Exit')
    assert done.returncode == ExitCode.TASK_FAILED
    assert done.stderr.endswith(' s: exit with 3\n')


def test_max_run_time(shared: pathlib.Path) -> None:
    """A run that takes too long is stopped, and is exit code 1."""
    done = run_job(shared, '--run-once', '--max-run-time', '0.1', 'jobs.Hang')
    assert done.returncode == ExitCode.TASK_FAILED
    [took] = re.findall(r'run interrupted after ([\d.]+) s', done.stderr)
    assert float(took) >= 0.1
    assert 'the run took longer than 0.1 s' in done.stderr
    assert is_free(shared, 'jobs.Hang')


def test_lock_lost(shared: pathlib.Path) -> None:
    """A run that loses its lock is exit code 4."""
    done = run_job(shared, '--run-once', 'jobs.Lose')
    assert done.returncode == ExitCode.LOCK_LOST
    assert 'the lock is lost' in done.stderr


def test_lock_not_available(shared: pathlib.Path) -> None:
    """A lock that another process holds is exit code 3, said who has it."""
    with Job(shared, 'jobs.Hold') as job:
        job.wait_for('holding')
        done = run_job(shared, '--run-once', 'jobs.Hello')
        assert done.returncode == ExitCode.LOCK_NOT_AVAILABLE
        assert done.stdout == ''
        assert f'(pid {job.popen.pid}) since 2' in done.stderr


def test_lock_service_unavailable(shared: pathlib.Path) -> None:
    """A lock that cannot be had from anyone is exit code 5."""
    (shared / 'planted').mkdir(exist_ok=True)
    (shared / 'planted').chmod(0o777)
    done = run_job(shared, '--run-once', 'jobs.Hello',
                   JOBSLIB_ONE_INSTANCE_FILE_FOLDER=str(shared / 'planted'))
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert done.stdout == ''
    assert 'others may write to it' in done.stderr
    assert 'Traceback' not in done.stderr


def test_disable_one_instance(shared: pathlib.Path) -> None:
    """--disable-one-instance runs without a lock."""
    done = run_job(shared, '-s', 'no_backend', '--disable-one-instance',
                   '--run-once', 'jobs.Unlocked')
    assert (done.returncode, done.stdout) == (0, 'DummyLock None\n')


def test_own_classes(shared: pathlib.Path) -> None:
    """The user's Config and Context are used, made before the task."""
    done = run_job(shared, '-s', 'own_settings', '--run-once', '--batch',
                   '5', 'own.Task')
    assert done.stdout.splitlines() == [
        'context made', 'task made', 'opened for there 5', 'context closed']


def test_own_classes_by_the_environment(shared: pathlib.Path) -> None:
    """The user's Context can be named in the environment."""
    done = run_job(shared, '-s', 'own_settings', '--run-once', 'own.Task',
                   JOBSLIB_CONTEXT_CLASS='jobslib.Context')
    assert 'context made' not in done.stdout
    done = run_job(shared, '-s', 'own_settings', '--run-once', '--batch=5',
                   'own.Task', JOBSLIB_CONFIG_CLASS='jobslib.Config')
    assert 'unrecognized arguments: --batch=5' in done.stderr


def test_context_is_closed_if_the_task_cannot_be_made(
        shared: pathlib.Path) -> None:
    """What the context opened is closed when the task's start fails."""
    done = run_job(shared, '-s', 'own_settings', 'own.BadTask')
    assert done.returncode == 1
    assert done.stdout.splitlines() == ['context made', 'context closed']
    assert 'ZeroDivisionError' in done.stderr


def test_context_is_closed_if_the_lock_cannot_be_made(
        shared: pathlib.Path) -> None:
    """What the context opened is closed when the lock cannot be made."""
    done = run_job(shared, '-s', 'bad_lock_settings', 'own.Task')
    assert done.returncode == ExitCode.USAGE
    assert done.stdout.splitlines() == [
        'context made', 'task made', 'context closed']
    assert done.stderr == 'runjob: error: no lock today\n'


def test_nothing_stays_locked_if_the_task_cannot_be_made(
        shared: pathlib.Path) -> None:
    """A task cannot acquire its lock itself, and nothing stays locked."""
    done = run_job(shared, 'jobs.BadStart')
    assert done.returncode == 2
    assert "runjob: error: the lock is the supervisor's" in done.stderr
    assert is_free(shared, 'jobs.BadStart')


def test_logging(shared: pathlib.Path) -> None:
    """Logging is as JOBSLIB_LOGGING says."""
    logging = {'version': 1, 'root': {'level': 'INFO', 'handlers': ['out']},
               'formatters': {'short': {'format': '<%(message)s>'}},
               'handlers': {'out': {'class': 'logging.StreamHandler',
                                    'stream': 'ext://sys.stdout',
                                    'formatter': 'short'}}}
    done = run_job(shared, '--run-once', 'jobs.FailMildly',
                   JOBSLIB_LOGGING=json.dumps(logging))
    assert done.stderr == ''
    assert done.stdout.endswith(' s: no disk>\n')


def loaded(folder: pathlib.Path, names: set[str], **env: str) -> set[str]:
    """Return those of the modules *names* that a run loads in its supervisor."""
    code = ('import sys; before = set(sys.modules); from jobslib.main import main; '
            'assert main(["--run-once", "jobs.Hello"]) == 0; '
            'print(*set(sys.modules) - before, sep=",")')
    with Process(folder, '-c', code, **env) as process:
        assert process.wait() == 0, process.output
        return names & set(process.output.splitlines()[-1].split(','))


def test_library_only(shared: pathlib.Path) -> None:
    """A run under the embedded lock loads no more than it needs."""
    assert loaded(shared, {
        'asyncio', 'concurrent', 'consul', 'ctypes', 'dataclasses', 'datetime',
        'email', 'hashlib', 'http', 'inspect', 'random', 'requests', 'shutil',
        'socket', 'ssl', 'subprocess', 'tempfile', 'typing', 'urllib.parse', 'uuid',
        'jobslib.folding', 'jobslib.metrics', 'jobslib.slips'},
        JOBSLIB_LOG_LEVEL='debug') == set()


def test_words_are_read_before_the_fork(shared: pathlib.Path) -> None:
    """A new process for the next run need not load what reads the words."""
    assert loaded(shared, {'jobslib.parsing'}) == {'jobslib.parsing'}


def test_library_under_consul(shared: pathlib.Path) -> None:
    """A run under Consul loads no library that speaks HTTP, or TLS."""
    with ConsulStandIn() as consul:
        options = consul.options()
        assert loaded(
            shared, {'consul', 'email', 'http', 'requests', 'ssl', 'urllib.parse'},
            JOBSLIB_ONE_INSTANCE_BACKEND='jobslib.oneinstance.consul.ConsulLock',
            CONSUL_HTTP_ADDR=f'{options["host"]}:{options["port"]}') == set()


def test_exit_codes() -> None:
    """The exit codes are the documented ones."""
    assert {code.name: code.value for code in ExitCode} == {
        'DONE': 0, 'TASK_FAILED': 1, 'USAGE': 2, 'LOCK_NOT_AVAILABLE': 3,
        'LOCK_LOST': 4, 'LOCK_SERVICE_UNAVAILABLE': 5, 'TERMINATED': 143}


def test_main_returns(shared: pathlib.Path,
                      monkeypatch: pytest.MonkeyPatch,
                      capfd: pytest.CaptureFixture[str]) -> None:
    """Called as a function, the command returns its exit code."""
    from jobslib.main import main
    monkeypatch.chdir(shared)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    assert main(['no_such_module.Task']) == 2
    assert 'no_such_module' in capfd.readouterr().err


def test_removed_folder(tmp_path: pathlib.Path) -> None:
    """Where the current folder was removed, nothing can be imported from it."""
    process = subprocess.run(
        ['sh', '-c', 'cd "$1" && rmdir "$1" && exec "$2" -m jobslib --version',
         'sh', str(tmp_path), sys.executable],
        env=environment(tmp_path), capture_output=True, text=True)
    assert process.stderr == ''
    assert process.returncode == 0


def test_garbage(tmp_path: pathlib.Path) -> None:
    """The collector looks at what the user's code made, and at no more."""
    write_module(tmp_path, 'cycle', '''
        import gc, os
        from jobslib import BaseTask

        class Cycle:
            def __init__(self):
                self.itself = self

            def __del__(self, write=os.write):
                write(1, b'collected')

        CYCLE = Cycle()

        class Task(BaseTask):
            def task(self):
                looked_at = set(map(id, gc.get_objects()))
                print(id(CYCLE) in looked_at, id(vars(gc)) in looked_at,
                      id(BaseTask) in looked_at, flush=True)
    ''')
    done = run_job(tmp_path, '--run-once', 'cycle.Task')
    assert done.stdout == 'True False False\ncollected'


def test_task_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    """What initialize() raises is logged, and ends the process."""
    write_module(tmp_path, 'jobs', '''
        from jobslib import BaseTask
        class Broken(BaseTask):
            def task(self):
                pass
            def initialize(self):
                raise RuntimeError('no database')
    ''')
    done = run_job(tmp_path, 'jobs.Broken', JOBSLIB_LOG_FORMAT='json')
    assert done.returncode == ExitCode.TASK_FAILED
    [line] = done.stderr.splitlines()
    record = json.loads(line)
    assert record['message'] == 'the task cannot be made'
    assert 'RuntimeError: no database' in record['exception']


def test_failures_do_not_keep_one_run_from_running(
        tmp_path: pathlib.Path) -> None:
    """Who asks for one run gets it, also right after runs that failed."""
    write_module(tmp_path, 'failing', '''
        from jobslib import BaseTask, TaskError

        class Fail(BaseTask):
            def task(self):
                raise TaskError('never mind')
    ''')
    for _ in range(3):
        done = run_job(tmp_path, '--run-once', 'failing.Fail')
        assert done.returncode == ExitCode.TASK_FAILED
        assert 'never mind' in done.stderr
