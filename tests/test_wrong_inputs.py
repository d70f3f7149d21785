"""What people get wrong, and the one line that they are told."""

import pathlib
import re
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import pytest
from support import DEADLINE, Job, environment, run_job, write_module

from jobslib.exitcodes import ExitCode
from jobslib.testing import ConsulStandIn

JOBS = '''
from jobslib import BaseTask, Config, argument, option
from jobslib.oneinstance.file import FileLock

class Copy(BaseTask):
    """Copies the orders."""
    name = 'copy'
    arguments = (argument('--target', default='there'),)
    def task(self):
        print('ran')

class OwnConfig(Config):
    shop_url = option(attrtype=str, env='JOBSLIB_SHOP_URL')

class OwnLock(FileLock):
    class OptionsConfig(FileLock.OptionsConfig):
        color = option(attrtype=str, env='JOBSLIB_LOCK_COLOR')

class NoTask(BaseTask):
    pass

class OneArgument(BaseTask):
    arguments = (argument('--target'))
    def task(self):
        pass

class OddArguments(BaseTask):
    arguments = ('--target',)
    def task(self):
        pass

class NoArguments(BaseTask):
    arguments = None
    def task(self):
        pass

class OddName(BaseTask):
    name = 7
    def task(self):
        pass

class OddDescription(BaseTask):
    description = 7
    def task(self):
        pass

class History(BaseTask):
    name = 'orders/history'
    def task(self):
        pass

class NotCallable(BaseTask):
    task = 7

class Yields(BaseTask):
    def task(self):
        yield 1

class TakesMore(BaseTask):
    def task(self, what):
        pass

class TakesNothing(BaseTask):
    def task():
        pass

class OddInit(BaseTask):
    def __init__(self):
        pass
    def task(self):
        pass

class NoSuper(BaseTask):
    def __init__(self, config):
        pass
    def task(self):
        print('ran')

class OddType(BaseTask):
    arguments = (argument('--count', type='int'),)
    def task(self):
        pass

class Blank(BaseTask):
    name = 'copy '
    def task(self):
        pass

class TwoLines(BaseTask):
    name = 'two\\nlines'
    def task(self):
        pass
'''
COMMANDS = ('check, status, pause, resume, run, stop, skip, release, handover, '
            'check-liveness, completion, exec')
LOCK = 'jobslib.oneinstance.consul.ConsulLock'
CONSUL = {
    'JOBSLIB_ONE_INSTANCE_BACKEND': LOCK,
    'CONSUL_HTTP_ADDR': '127.0.0.1:1'}
OWN = 'an own name has to differ more, or begin with an underscore'


class Wrong(NamedTuple):
    """A wrong input: the words after ``runjob``, with what is around them."""

    args: str
    #: The last line of standard error.
    answer: str
    #: The text of the module ``settings``, which is used when there is one.
    settings: str = ''
    env: dict[str, str] = {}
    code: ExitCode = ExitCode.USAGE


def setting(text: str, name: str, meant: str) -> Wrong:
    """Return the case of a name in the settings module."""
    return Wrong(
        'jobs.Copy', f"unknown name {name!r} in settings module 'settings'; "
        f'did you mean {meant!r}? ({OWN})', text)


def variable(name: str, meant: str) -> Wrong:
    """Return the case of a variable in the environment."""
    return Wrong(
        'jobs.Copy', f'unknown variable {name} in the environment, no option '
        f'of jobslib or of your classes has it; nearest known: {meant}',
        env={name: '1'})


def task(name: str, what: str) -> Wrong:
    """Return the case of a class of the user."""
    return Wrong(f'jobs.{name}', f"task 'jobs.{name}' {what}")


def consul(env: dict[str, str], answer: str) -> Wrong:
    """Return the case of a variable of Consul's tools."""
    return Wrong('jobs.Copy', answer, env=CONSUL | env)


def option(text: str, answer: str) -> Wrong:
    """Return the case of an option of the lock in Consul."""
    return Wrong('jobs.Copy', answer, f"ONE_INSTANCE = {{'backend': '{LOCK}', "
                                      f"'options': {{{text}}}}}")


WRONG = [
    # Names in the settings module.
    setting("ONE_INSTANCES = {'backend': 'x'}", 'ONE_INSTANCES',
            'ONE_INSTANCE'),
    setting('KEEPLOCK = True', 'KEEPLOCK', 'KEEP_LOCK'),
    setting('run_interval = 5', 'run_interval', 'RUN_INTERVAL'),
    setting('RUN_INTERVALL = 5', 'RUN_INTERVALL', 'RUN_INTERVAL'),
    setting('RUN_INTERAVL = 5', 'RUN_INTERAVL', 'RUN_INTERVAL'),
    setting('INTERVAL_RUN = 5', 'INTERVAL_RUN', 'RUN_INTERVAL'),
    setting('SLEEP_INTERVALS = 5', 'SLEEP_INTERVALS', 'SLEEP_INTERVAL'),
    setting('RunOnce = True', 'RunOnce', 'RUN_ONCE'),
    setting('METRIC = {}', 'METRIC', 'METRICS'),
    setting('LIVENES = {}', 'LIVENES', 'LIVENESS'),
    setting('MAX_RUNTIME = 60', 'MAX_RUNTIME', 'MAX_RUN_TIME'),
    setting('RELEASE_ON_ERRORS = True', 'RELEASE_ON_ERRORS',
            'RELEASE_ON_ERROR'),
    setting("ONE_INSTANCE_BACKEND = 'x.Lock'", 'ONE_INSTANCE_BACKEND',
            "ONE_INSTANCE['backend']"),
    setting('JOBSLIB_RUN_INTERVAL = 5', 'JOBSLIB_RUN_INTERVAL',
            'RUN_INTERVAL'),
    setting('ONE_INSTANCE_GRACE = 5', 'ONE_INSTANCE_GRACE',
            "ONE_INSTANCE['options']"),
    # Names in the dicts of the settings module.
    Wrong('jobs.Copy', "unknown option 'Backend' in settings, ONE_INSTANCE, "
          "nearest known: 'backend'; allowed: backend, disabled, options",
          "ONE_INSTANCE = {'Backend': 'x.Lock'}"),
    Wrong('jobs.Copy', "unknown option 'option' in settings, METRICS, "
          "nearest known: 'options'; allowed: backend, options",
          "METRICS = {'option': {}}"),
    Wrong('jobs.Copy', "unknown option 'heart_beat' in settings, "
          "ONE_INSTANCE['options'], nearest known: 'heartbeat'; allowed: "
          "folder, grace, heartbeat",
          "ONE_INSTANCE = {'options': {'heart_beat': 5}}"),
    Wrong('jobs.Copy', "options of LIVENESS are given, and no 'backend' that "
          'they are for', "LIVENESS = {'options': {'key': 'x'}}"),
    # Variables.
    variable('JOBSLIB_RUN_INTERVALL', 'JOBSLIB_RUN_INTERVAL'),
    variable('JOBSLIB_RUNINTERVAL', 'JOBSLIB_RUN_INTERVAL'),
    variable('JOBSLIB_ONE_INSTANCE_BACKEN', 'JOBSLIB_ONE_INSTANCE_BACKEND'),
    variable('JOBSLIB_SETTING_MODULE', 'JOBSLIB_SETTINGS_MODULE'),
    variable('JOBSLIB_SETTINGS', 'JOBSLIB_SETTINGS_MODULE'),
    variable('jobslib_keep_lock', 'JOBSLIB_KEEP_LOCK'),
    variable('JOBSLIB_ONE_INSTANCE_CONSUL_HOSTS',
             'JOBSLIB_ONE_INSTANCE_CONSUL_HOST'),
    variable('JOBSLIB_METRICS_INFLUXDB_URI', 'JOBSLIB_METRICS_INFLUXDB_URL'),
    variable('JOBSLIB_SHOP_URLS', 'JOBSLIB_SHOP_URL'),
    Wrong('jobs.Copy', 'unknown variable JOBLIB_RUN_ONCE in the environment; '
          'did you mean JOBSLIB_RUN_ONCE?', env={'JOBLIB_RUN_ONCE': '1'}),
    # Classes.
    task('NoTask', 'has no method task(); that is what a run does'),
    task('NotCallable', 'has a task that is not a method'),
    task('BaseTask', 'is the base of all tasks; name a subclass of it'),
    task('OwnConfig', 'is not a subclass of jobslib.BaseTask'),
    task('OneArgument', 'has arguments that are not a tuple; a tuple of one '
         'ends with a comma: arguments = (argument(...),)'),
    task('OddArguments', "has '--target' among its arguments; allowed: "
         'jobslib.argument(...)'),
    task('NoArguments', 'has arguments that are not a tuple but None; '
         'allowed: a tuple of jobslib.argument(...)'),
    task('OddName', 'has the name 7; allowed: a string'),
    task('OddDescription', 'has the description 7; allowed: a string'),
    task('Yields', 'has a task() with a yield in it, so that calling it '
         'would do nothing; return instead'),
    task('TakesMore', 'has a method task() with other parameters than it is '
         'called with; allowed: def task(self), with self.args for what it '
         'works on'),
    task('TakesNothing', 'has a method task() with other parameters than it '
         'is called with; allowed: def task(self), with self.args for what it '
         'works on'),
    task('OddInit', 'has a method __init__() with other parameters than it is '
         'called with; allowed: def __init__(self, config); or override '
         'initialize(self) instead'),
    task('NoSuper', 'has an __init__() that does not call '
         'super().__init__(config); call it first, or override initialize() '
         'instead'),
    task('OddType', "has an argument that argparse refuses: "
         "argument('--count', type='int'): 'int' is not callable"),
    task('Blank', "has the name 'copy '; allowed: no spaces at the beginning or "
         'end'),
    task('TwoLines', "has the name 'two\\nlines'; allowed: printable "
         "characters"),
    # The command line.
    Wrong('', f'name a task, package.module.Task, or a command: {COMMANDS}; '
          f'"runjob --help" tells more'),
    Wrong('satus', f"task 'satus': 'satus' is not a dotted path "
          f"(package.module.Name); nor is it a command ({COMMANDS}) (did you "
          f"mean 'status'?)"),
    Wrong('jobs', f"task 'jobs': 'jobs' is not a dotted path "
          f"(package.module.Name); nor is it a command ({COMMANDS}) (jobs.py is "
          f"a module; name a class in it: jobs.Name)"),
    Wrong('Status jobs.Copy', f"task 'Status': 'Status' is not a dotted path "
          f"(package.module.Name); nor is it a command ({COMMANDS}) (did you "
          f"mean 'status'?); unknown: jobs.Copy"),
    Wrong('jobs.Copy status', 'unrecognized arguments: status (did you mean '
          '"runjob status jobs.Copy"?)'),
    Wrong('jobs.Copy --json status', 'unrecognized arguments: --json status '
          '(did you mean "runjob status jobs.Copy"?)'),
    Wrong('jobs.Copy --run-onse', 'unrecognized arguments: --run-onse (did '
          'you mean --run-once?)'),
    Wrong('jobs.Copy --keep_lock', 'unrecognized arguments: --keep_lock (did '
          'you mean --keep-lock?)'),
    Wrong('jobs.Copy \N{EM DASH}run-once', 'unrecognized arguments: '
          '\N{EM DASH}run-once (did you mean --run-once?)'),
    Wrong('jobs.Copy -run-once', 'unrecognized arguments: -run-once (did you '
          'mean --run-once?)'),
    Wrong('jobs.Copy --run-once=yes', "argument --run-once: it takes no value, "
          "and 'yes' is given; allowed: --run-once alone"),
    Wrong('jobs.Copy --targe=x', 'unrecognized arguments: --targe=x (did you '
          'mean --target?)'),
    Wrong('jobs.Copy --unlike-any', 'unrecognized arguments: --unlike-any'),
    Wrong('--run-intervall 5 jobs.Copy', 'unrecognized arguments: '
          "--run-intervall (did you mean --run-interval?); '5' was taken for "
          'the task'),
    Wrong('release --timeot 5 jobs.Copy', 'unrecognized arguments: --timeot '
          "(did you mean --timeout?); '5' was taken for the task"),
    Wrong('--unlike-any 5 jobs.Copy', f"task '5': '5' is not a dotted path "
          f"(package.module.Name); nor is it a command ({COMMANDS}); unknown: "
          f"--unlike-any jobs.Copy"),
    Wrong('status --jsn jobs.Copy', 'unrecognized arguments: --jsn (did you '
          'mean --json?)'),
    Wrong('release jobs.Copy --forse', 'unrecognized arguments: --forse (did '
          'you mean --force?)'),
    Wrong('handover jobs.Copy --timeout soon', "argument --timeout: 'soon' "
          'is not allowed; allowed: a number of seconds of at least 0'),
    Wrong('status status', 'status: it is a command, and stands where a task '
          'is expected; allowed: runjob COMMAND package.module.Task'),
    Wrong('--versoin', f'name a task, package.module.Task, or a command: '
          f'{COMMANDS}; "runjob --help" tells more; unknown: --versoin (did '
          f'you mean --version?)'),
    Wrong('--setting jobs jobs.Copy', 'unrecognized arguments: --setting (did '
          "you mean --settings?); 'jobs' was taken for the task"),
    Wrong('help', f"task 'help': 'help' is not a dotted path "
          f"(package.module.Name); nor is it a command ({COMMANDS}) (did you "
          f"mean '--help'?)"),
    # Paths.
    Wrong('job.Copy', "task 'job.Copy': no module named 'job' in {folder} or "
          "where Python has its packages (did you mean 'jobs'?)"),
    Wrong('jobs.Copi', "task 'jobs.Copi': module 'jobs' has no 'Copi' (did "
          "you mean 'jobs.Copy'?)"),
    Wrong('jobs.py:Copy', "task 'jobs.py:Copy': module 'jobs' has no 'py:Copy' "
          "(did you mean 'jobs.Copy'?)"),
    Wrong('jobs.py', "task 'jobs.py': module 'jobs' has no 'py' (it has "
          "Copy, OwnConfig, OwnLock, NoTask, OneArgument, OddArguments)"),
    Wrong('status jobs.Copi', "task 'jobs.Copi': module 'jobs' has no 'Copi' "
          "(did you mean 'jobs.Copy'?)"),
    Wrong('-s jobs.py jobs.Copy', "settings module 'jobs.py' from --settings: "
          "no module named 'jobs.py' (did you mean 'jobs'?); allowed: the "
          "dotted path of a module"),
    Wrong('-s ./conf/jobs.py jobs.Copy', "settings module './conf/jobs.py' "
          "from --settings: './conf/jobs.py' is not a dotted path (did you "
          "mean 'conf.jobs'?); allowed: the dotted path of a module"),
    Wrong('-s job jobs.Copy', "settings module 'job' from --settings: no "
          "module named 'job' in {folder} or where Python has its packages "
          "(did you mean 'jobs'?); allowed: the dotted path of a module"),
    Wrong('-s {folder}/jobs.py jobs.Copy', "settings module "
          "'{folder}/jobs.py' from --settings: no module named "
          "'{folder}/jobs' in {folder} or where Python has its packages (did "
          "you mean 'jobs'?); allowed: the dotted path of a module"),
    Wrong('-s /etc/conf/prod.py jobs.Copy', "settings module "
          "'/etc/conf/prod.py' from --settings: no module named "
          "'/etc/conf/prod' in {folder} or where Python has its packages (did "
          "you mean 'prod', with PYTHONPATH=/etc/conf?); allowed: the dotted "
          "path of a module"),
    Wrong('-s conf jobs.Copy', "settings module 'conf' from --settings: it is "
          "the folder {folder}/conf, without settings; allowed: the dotted "
          "path of a module (did you mean 'conf.prod'?)"),
    # Backends and values.
    Wrong('jobs.Copy', "backend: 'ConsulLock' from settings, "
          "ONE_INSTANCE['backend']: 'ConsulLock' is not a dotted path "
          "(package.module.Name) (did you mean "
          "'jobslib.oneinstance.consul.ConsulLock'?); allowed: the dotted path "
          "of a BaseLock", "ONE_INSTANCE = {'backend': 'ConsulLock'}"),
    Wrong('jobs.Copy', "backend: 'jobslib.oneinstance.consul.ConsulLok' from "
          "environment, JOBSLIB_ONE_INSTANCE_BACKEND: module "
          "'jobslib.oneinstance.consul' has no 'ConsulLok' (did you mean "
          "'jobslib.oneinstance.consul.ConsulLock'?); allowed: the dotted path "
          "of a BaseLock",
          env={'JOBSLIB_ONE_INSTANCE_BACKEND':
               'jobslib.oneinstance.consul.ConsulLok'}),
    Wrong('jobs.Copy', "backend: 'jobslib.metrics.Prometheus' from settings, "
          "METRICS['backend']: module 'jobslib.metrics' has no 'Prometheus' "
          "(it has BaseMetrics) (did you mean "
          "'jobslib.metrics.prometheus.PrometheusMetrics'?); allowed: the "
          "dotted path of a BaseMetrics",
          "METRICS = {'backend': 'jobslib.metrics.Prometheus'}"),
    Wrong('jobs.Copy', "run_interval: '5m' from environment, "
          'JOBSLIB_RUN_INTERVAL is not allowed; allowed: a number of seconds '
          'of at least 0', env={'JOBSLIB_RUN_INTERVAL': '5m'}),
    Wrong('jobs.Copy', "sleep_interval: '5' from settings, SLEEP_INTERVAL is "
          'not allowed; allowed: a number of seconds of at least 0',
          "SLEEP_INTERVAL = '5'"),
    variable('JOBSLIB_ONE_INSTANCE', 'JOBSLIB_ONE_INSTANCE_BACKEND'),
    Wrong('jobs.Copy', "schedule: '[5]' from environment, JOBSLIB_SCHEDULE is "
          'not allowed; allowed: a cron expression, or a list of them (in the '
          'environment a JSON array)', env={'JOBSLIB_SCHEDULE': '[5]'}),
    # With it no slot would ever be run.
    Wrong('jobs.Copy', 'start_deadline: 0 from settings, START_DEADLINE is '
          'not allowed; allowed: a number of seconds of at least 0.1',
          "SCHEDULE = '@daily'\nSTART_DEADLINE = 0"),
    Wrong('jobs.Copy', 'config_class: 7 from settings, CONFIG_CLASS is not '
          'allowed; allowed: a dotted path (a string)', 'CONFIG_CLASS = 7'),
    Wrong('jobs.Copy', "folder: 7 from settings, "
          "ONE_INSTANCE['options']['folder'] is not allowed; allowed: the "
          "path of a folder (a string)",
          "ONE_INSTANCE = {'options': {'folder': 7}}"),
    Wrong('jobs.Copy', "folder: '~/locks' from settings, "
          "ONE_INSTANCE['options']['folder']: it would be taken as it is "
          'written; allowed: a path without "~", variables, or spaces at the '
          'beginning or end', "ONE_INSTANCE = {'options': {'folder': '~/locks'}}"),
    Wrong('jobs.Copy', "folder: ' /locks' from environment, "
          'JOBSLIB_ONE_INSTANCE_FILE_FOLDER: it would be taken as it is '
          'written; allowed: a path without "~", variables, or spaces at the '
          'beginning or end', env={'JOBSLIB_ONE_INSTANCE_FILE_FOLDER': ' /locks'}),
    Wrong('jobs.Copy', 'run_interval: <int> from settings, RUN_INTERVAL is not '
          'allowed; allowed: a number of seconds of at least 0',
          'RUN_INTERVAL = 10 ** 5000'),
    Wrong('jobs.Copy', f"log_level: '{498 * 'x'}… from settings, LOG_LEVEL is not "
          f'allowed; allowed: one of debug, info, warning, error, critical',
          "LOG_LEVEL = 5000 * 'x'"),
    Wrong('jobs.Copy', "time_zone: 'localtime' from settings, TIME_ZONE: it is "
          'another zone on each machine; allowed: a name of the IANA database, '
          'as Europe/Prague or UTC',
          "SCHEDULE = '@daily'\nTIME_ZONE = 'localtime'"),
    Wrong('jobs.Copy', "run_interval_epoch: '0001-01-01' from settings, "
          'RUN_INTERVAL_EPOCH: its year is out of range; allowed: a time in the '
          'years 2 to 9998', "RUN_INTERVAL = 60\nTIME_ZONE = 'Europe/Prague'\n"
          "RUN_INTERVAL_EPOCH = '0001-01-01'"),
    # Keys of LOGGING, where logging itself passes over what it does not know.
    Wrong('jobs.Copy', "logging: unknown key 'handler' from settings, LOGGING; "
          "did you mean 'handlers'?", "LOGGING = {'version': 1, 'handler': {}}"),
    Wrong('jobs.Copy', "logging: unknown key 'Level' from settings, "
          "LOGGING['loggers']['jobslib']; did you mean 'level'?",
          "LOGGING = {'version': 1, 'loggers': {'jobslib': {'Level': 'INFO'}}}"),
    Wrong('jobs.Copy', "logging: unknown key 'propogate' from environment, "
          "JOBSLIB_LOGGING['root']; did you mean 'propagate'?",
          env={'JOBSLIB_LOGGING': '{"version": 1, "root": {"propogate": 1}}'}),
    Wrong('jobs.Copy', "logging: unknown key 'formatt' from settings, "
          "LOGGING['formatters']['plain']; did you mean 'format'?",
          "LOGGING = {'version': 1, 'formatters': {'plain': {'formatt': ''}}}"),
    Wrong('jobs.Copy', "option 'ttl' is given in ONE_INSTANCE, and no "
          "'backend' that has it; the default one, FileLock, has: folder, "
          "grace, heartbeat", "ONE_INSTANCE = {'options': {'ttl': 15}}"),
    Wrong('jobs.Copy', "backend: 'jobslib.oneinstance.BaseLock' from settings, "
          "ONE_INSTANCE['backend']: it is the base of all others; allowed: a "
          "subclass of BaseLock",
          "ONE_INSTANCE = {'backend': 'jobslib.oneinstance.BaseLock'}"),
    # Variables of Consul's tools, and its addresses.
    consul({'CONSUL_HTTP_ADDR': 'ann:hunter2@there:8500'},
           "CONSUL_HTTP_ADDR: '***@there:8500' from environment, "
           "CONSUL_HTTP_ADDR: user and password are not supported; leave them "
           "out, and give a token, in CONSUL_HTTP_TOKEN"),
    consul({'CONSUL_HTTP_ADDR': 'http://ann:hunter/2@there:8500'},
           "CONSUL_HTTP_ADDR: '***@there:8500' from environment, "
           "CONSUL_HTTP_ADDR: user and password are not supported; leave them "
           "out, and give a token, in CONSUL_HTTP_TOKEN"),
    consul({'CONSUL_HTTP_SSL': 'maybe'},
           "CONSUL_HTTP_SSL: 'maybe' from environment, CONSUL_HTTP_SSL is not "
           "allowed; allowed: 1/0, true/false, yes/no or on/off"),
    consul({'CONSUL_HTTP_TOKN': 'x'}, 'unknown variable CONSUL_HTTP_TOKN in '
           'the environment; did you mean CONSUL_HTTP_TOKEN?'),
    consul({'CONSUL_CA_CERT': 'x'}, 'unknown variable CONSUL_CA_CERT in the '
           'environment; did you mean CONSUL_CACERT?'),
    option("'host': 'http://there:8500'", "host: 'http://there:8500' from "
           "settings, ONE_INSTANCE['options']['host']: it has a scheme in it; "
           "allowed: the name or address alone, 'there', and the option "
           "scheme, 'http'"),
    option("'host': 'unix://'", "host: 'unix://' from "
           "settings, ONE_INSTANCE['options']['host']: it is not allowed; "
           "allowed: the name or address alone, or unix:///PATH"),
    option("'key': '/jobs'", "key: '/jobs' from settings, "
           "ONE_INSTANCE['options']['key'] is not allowed; allowed: a path of "
           "printable characters, without a leading slash or parts that are "
           "empty, \".\" or \"..\""),
    Wrong('status --prefix /jobs', "key: '/jobs' from --prefix is not "
          "allowed; allowed: a path of printable characters, without a leading "
          "slash or parts that are empty, \".\" or \"..\"", env=CONSUL),
    Wrong('run jobs.Copy --slot 9999-01-01T00:00:00+00:00', "argument --slot: "
          "'9999-01-01T00:00:00+00:00' is not allowed; allowed: a time in ISO "
          '8601 with its offset from UTC (2026-11-24T02:30:00+01:00), in the '
          'years 2 to 5000'),
    option("'key': 'jobs/'", "key: 'jobs/' from settings, "
           "ONE_INSTANCE['options']['key'] is not allowed: it is that of a "
           "folder; allowed: no slash at its end"),
    # The lock's service.
    Wrong('status jobs.Copy', "cannot read jobs/copy/lock, "
          "jobs/copy/history/lock, jobs/copy/progress/lock: PUT /v1/txn on "
          "http://127.0.0.1:1: [Errno 111] Connection refused; to see why: "
          "runjob check jobs.Copy",
          env=CONSUL, code=ExitCode.LOCK_SERVICE_UNAVAILABLE),
    Wrong('jobs.History', "key: 'jobs/orders/history/lock' is not allowed: it "
          "is a key beside the lock 'jobs/orders/lock', and one of the two "
          "jobs would never run; choose another name for the task, or another "
          "key", env=CONSUL),
]


def case(wrong: Wrong) -> str:
    """Return a short name of the case."""
    return ' '.join([wrong.settings, *wrong.env, wrong.args]).strip()


@pytest.mark.parametrize('wrong', WRONG, ids=case)
def test_wrong(tmp_path: pathlib.Path, wrong: Wrong) -> None:
    """It is said in one clear line, and nothing has run."""
    write_module(tmp_path, 'jobs', JOBS)
    (tmp_path / 'conf').mkdir()
    write_module(tmp_path / 'conf', 'prod', 'KEEP_LOCK = True')
    env = dict(wrong.env)
    if wrong.settings:
        write_module(tmp_path, 'settings', wrong.settings)
        env['JOBSLIB_SETTINGS_MODULE'] = 'settings'
    args = wrong.args.replace('{folder}', str(tmp_path))
    done = run_job(tmp_path, *args.split(), **env)
    [line] = done.stderr.splitlines()[-1:]
    who, _, answer = line.partition(': error: ')
    assert who.startswith('runjob')
    assert answer == wrong.answer.replace('{folder}', str(tmp_path))
    assert done.returncode == wrong.code
    assert 'ran' not in done.stdout.split()
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('args', ['status', 'status jobs.Copy',
                                  'resume jobs.Copy'])
def test_silent_service(tmp_path: pathlib.Path, args: str) -> None:
    """A command waits for 2 s, tries nothing again after that, and says what
    to do next."""
    write_module(tmp_path, 'jobs', JOBS)
    with socket.create_server(('127.0.0.1', 0)) as server:
        done = run_job(tmp_path, *args.split(), **CONSUL | {
            'CONSUL_HTTP_ADDR': '127.0.0.1:%d' % server.getsockname()[1]})
        server.settimeout(0)
        with server.accept()[0], pytest.raises(BlockingIOError):
            server.accept()
    task = args.partition(' ')[2]
    assert done.stderr.endswith(f': no answer within 2 s; to see why: runjob '
                                f'check {task}'.rstrip() + '\n')
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE


@pytest.mark.parametrize('options', [
    '', "'host': '127.0.0.1', 'port': {port}, 'timeout': 9"])
def test_silent_service_of_a_probe(tmp_path: pathlib.Path, options: str) -> None:
    """A probe has its answer in 2 s as well, and it is not FAIL."""
    write_module(tmp_path, 'jobs', JOBS)
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        write_module(tmp_path, 'settings', f'''
            LIVENESS = {{'backend': 'jobslib.liveness.consul.ConsulLiveness',
                         'options': {{{options.format(port=port)}}}}}
        ''')
        done = run_job(tmp_path, '-s', 'settings', 'check-liveness', '--max-age',
                       '60', 'jobs.Copy', **CONSUL | {
                           'CONSUL_HTTP_ADDR': f'127.0.0.1:{port}'})
        server.settimeout(0)
        with server.accept()[0], pytest.raises(BlockingIOError):
            server.accept()
    assert done.stderr.endswith(': no answer within 2 s\n')
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE


def test_own_names_are_let_be(tmp_path: pathlib.Path) -> None:
    """A settings module, and an environment, may have names that are not
    jobslib's: declared ones, and in the settings any that are like none."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'settings', '''
        import logging
        from jobs import OwnLock as history
        CONFIG_CLASS = 'jobs.OwnConfig'
        ONE_INSTANCE = {'backend': 'jobs.OwnLock'}
        DB_HISTORY = 'db'
        DATABASES = {}
        TIMEOUT = 5
        RUN_ONCE = True
        _KEEPLOCK = True
        url = 'http://shop'
    ''')
    done = run_job(tmp_path, '-s', 'settings', 'jobs.Copy',
                   JOBSLIB_SHOP_URL='http://shop', JOBSLIB_LOCK_COLOR='red',
                   JOBSLIB_SLOT='1', JOBSLIB_METRICS_INFLUXDB_URL='http://db',
                   JOBLIB_TEMP_FOLDER='/tmp')
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'ran\n'


@pytest.mark.parametrize(('args', 'remark'), [
    ('--run-interval 60 --retries 3', 'retries (from command line, --retries) has '
     'no effect with a retry_delay of 60 s (from default) and a run_interval of '
     '60 s: the next slot is always due first'),
    ('--run-interval 60 --retry-delay 5', 'retry_delay (from command line, '
     '--retry-delay) has no effect without retries'),
    ('--release-on-error', 'release_on_error (from command line, '
     '--release-on-error) has no effect without keep_lock: the lock is '
     'released after every run'),
    ('--keep-lock', 'keep_lock (from command line, --keep-lock) has no '
     'effect with run_once: there is one run'),
    ('--time-zone Europe/Prague', 'time_zone (from command line, --time-zone) '
     'has no effect without schedule'),
    ('--jitter 5 --sleep-interval 5', 'jitter (from command line, --jitter) '
     'has no effect without schedule or run_interval'),
    ('--retries 5', 'retries (from command line, --retries) has no effect '
     'without schedule, run_interval or sleep_interval'),
])
def test_without_effect(tmp_path: pathlib.Path, args: str,
                        remark: str) -> None:
    """What has no effect is said once, as a warning, and the task runs."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '--run-once', *args.split(), 'jobs.Copy')
    lines = [line for line in done.stderr.splitlines() if 'WARNING' in line]
    assert [line.partition(': ')[2] for line in lines] == [remark]
    assert done.stdout == 'ran\n'


def test_settings_without_a_setting(tmp_path: pathlib.Path) -> None:
    """Another module than that of the settings is named, probably."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '-s', 'jobs', '--run-once', 'jobs.Copy')
    assert (f"WARNING jobslib: settings module 'jobs' has no setting that is "
            f"known ({tmp_path}/jobs.py)" in done.stderr)
    assert done.stdout == 'ran\n'


@pytest.mark.parametrize(('body', 'said'), [
    ("own = option(attrtype=str, flag='--settings')",
     'config_class: jobs.Odd has a flag that argparse refuses: argument --settings: '
     'conflicting option string: --settings'),
    ('def __init__(self): pass',
     'jobs.Odd cannot be made of the settings, see above')])
def test_odd_config_class(tmp_path: pathlib.Path, body: str, said: str) -> None:
    """A class of options that cannot be made is a wrong input."""
    write_module(tmp_path, 'jobs', f'{JOBS}\nclass Odd(Config):\n    {body}\n')
    for args in ('jobs.Copy --run-once', 'status jobs.Copy'):
        done = run_job(tmp_path, *args.split(), JOBSLIB_CONFIG_CLASS='jobs.Odd')
        assert done.returncode == ExitCode.USAGE
        assert done.stderr.endswith(f'runjob: error: {said}\n')


@pytest.mark.parametrize('body', [
    'async def acquire(self): return True',
    'def acquire(self): super().acquire()'])
def test_lock_that_says_neither(tmp_path: pathlib.Path, body: str) -> None:
    """A lock that does not say whether it is held is not taken to be."""
    write_module(tmp_path, 'jobs', f'{JOBS}\nclass Odd(FileLock):\n    {body}\n')
    done = run_job(tmp_path, 'jobs.Copy', '--run-once',
                   JOBSLIB_ONE_INSTANCE_BACKEND='jobs.Odd')
    assert done.returncode == ExitCode.TASK_FAILED
    assert 'TypeError: Odd.acquire() has returned ' in done.stderr
    assert done.stdout == ''


@pytest.mark.parametrize(('value', 'code'), [
    ('None', ExitCode.LOCK_NOT_AVAILABLE), ('0', ExitCode.LOCK_NOT_AVAILABLE),
    ('int(super().acquire())', ExitCode.DONE)])
def test_lock_that_says_it_in_other_words(tmp_path: pathlib.Path, value: str,
                                          code: ExitCode) -> None:
    """What some services answer counts as yes or no."""
    write_module(tmp_path, 'jobs', f'''{JOBS}
class Odd(FileLock):
    def acquire(self):
        return {value}
''')
    done = run_job(tmp_path, 'jobs.Copy', '--run-once',
                   JOBSLIB_ONE_INSTANCE_BACKEND='jobs.Odd')
    assert done.returncode == code
    assert (done.stdout == 'ran\n') == (code == ExitCode.DONE)


def test_folder_that_is_relative(tmp_path: pathlib.Path) -> None:
    """Which folder it is depends on where the job is started."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, '--run-once', 'jobs.Copy',
                   JOBSLIB_ONE_INSTANCE_FILE_FOLDER='locks')
    assert ('WARNING jobslib: folder (from environment, '
            'JOBSLIB_ONE_INSTANCE_FILE_FOLDER) is relative: a process that is '
            'started in another folder has another lock' in done.stderr)
    assert done.stdout == 'ran\n'


def test_settings_that_raise(tmp_path: pathlib.Path) -> None:
    """Settings may answer for themselves, and may do it badly."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'settings', '''
        def __getattr__(name):
            raise KeyError(name)
    ''')
    done = run_job(tmp_path, '-s', 'settings', '--run-once', 'jobs.Copy')
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.endswith(
        'runjob: error: CONFIG_CLASS of the settings cannot be read, see above\n')
    assert "KeyError: 'CONFIG_CLASS'" in done.stderr


def test_modules_with_names_of_python(tmp_path: pathlib.Path) -> None:
    """A file in the current folder may be called as a module of Python that
    jobslib needs."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'json', 'X = 1')
    done = subprocess.run(
        [sys.executable, '-c', 'import sys; sys.path.remove(""); '
         'from jobslib.main import main; sys.exit(main())', '--run-once',
         'jobs.Copy'], cwd=tmp_path, env=environment(tmp_path / 'run'),
        capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout == 'ran\n', done.stderr


def test_certificates_without_https(tmp_path: pathlib.Path) -> None:
    """Who names certificates means to encrypt."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'settings', f'''
        ONE_INSTANCE = {{'backend': '{LOCK}', 'options': {{
            'port': 1, 'ca_cert': '/etc/ca.pem'}}}}
    ''')
    done = run_job(tmp_path, '-s', 'settings', '--run-once', 'jobs.Copy')
    assert ("one_instance.ca_cert (from settings, ONE_INSTANCE['options']"
            "['ca_cert']) has no effect with the scheme http"
            in done.stderr)


@pytest.mark.parametrize('named', [False, True])
def test_options_of_a_backend_that_is_not_named(
        tmp_path: pathlib.Path, named: bool) -> None:
    """Who says where Consul is, and nowhere that the lock is there, has a
    lock of each machine; with a backend named, it may be for other jobs."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'settings', f'''
        LOCK = {{'backend': '{LOCK}'}}
        CACHE = {{'backend': 'redis'}}
        KEEP_LOCK = False
    ''')
    backend = {'JOBSLIB_ONE_INSTANCE_BACKEND':
               'jobslib.oneinstance.file.FileLock'} if named else {}
    done = run_job(tmp_path, '-s', 'settings', '--run-once', 'jobs.Copy',
                   JOBSLIB_ONE_INSTANCE_CONSUL_HOST='consul', **backend)
    assert done.stdout == 'ran\n'
    said = ("JOBSLIB_ONE_INSTANCE_CONSUL_HOST and LOCK have no effect: neither "
            "ONE_INSTANCE['backend'] nor JOBSLIB_ONE_INSTANCE_BACKEND is set, "
            'so the lock is the default one, of this machine only')
    assert done.stderr.count(said) == (not named)


@pytest.mark.parametrize('seconds', ['1e20', '1e300'])
@pytest.mark.parametrize('flag', ['--run-interval', '--sleep-interval'])
def test_interval_beyond_the_calendar(tmp_path: pathlib.Path, flag: str,
                                      seconds: str) -> None:
    """It is waited for, and has no date."""
    write_module(tmp_path, 'jobs', JOBS)
    for _ in range(2):
        done = run_job(tmp_path, '--run-once', flag, seconds, 'jobs.Copy')
        assert done.returncode == 0, done.stderr
    assert 'next at never' in done.stderr


def test_backend_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    """What a class of the user raises is shown, and whose fault it is."""
    write_module(tmp_path, 'jobs', JOBS + '''
from jobslib.liveness import BaseLiveness

class Broken(FileLock):
    def __init__(self, context, options):
        raise RuntimeError('not today')

class BrokenLiveness(BaseLiveness):
    __init__ = Broken.__init__
''')
    for args, variable, name in (
            ('jobs.Copy', 'ONE_INSTANCE', 'Broken'),
            ('status jobs.Copy', 'ONE_INSTANCE', 'Broken'),
            ('jobs.Copy', 'LIVENESS', 'BrokenLiveness'),
            ('check-liveness --max-age 5 jobs.Copy', 'LIVENESS',
             'BrokenLiveness')):
        variable = f'JOBSLIB_{variable}_BACKEND'
        done = run_job(tmp_path, *args.split(), **{variable: f'jobs.{name}'})
        assert done.returncode == ExitCode.USAGE
        assert 'RuntimeError: not today' in done.stderr
        assert done.stderr.endswith(
            f"runjob: error: backend: 'jobs.{name}' from environment, "
            f"{variable}: it cannot be made, see above\n")


def test_half_a_lock(tmp_path: pathlib.Path) -> None:
    """A class that overrides too little of BaseLock is refused as such."""
    write_module(tmp_path, 'jobs', JOBS + '''
from jobslib.oneinstance import BaseLock
class Half(BaseLock):
    def acquire(self):
        return True
''')
    done = run_job(tmp_path, 'jobs.Copy',
                   JOBSLIB_ONE_INSTANCE_BACKEND='jobs.Half')
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == (
        "runjob: error: backend: 'jobs.Half' from environment, "
        "JOBSLIB_ONE_INSTANCE_BACKEND: it lacks release, held, which BaseLock "
        "leaves to its subclasses\n")


def test_remark_is_said_once(tmp_path: pathlib.Path) -> None:
    """Also when a run is interrupted, and the next has another process."""
    write_module(tmp_path, 'jobs', JOBS + '''
class Long(BaseTask):
    def task(self):
        import os, time
        print('BEGIN', os.getpid(), flush=True)
        time.sleep(60)
''')
    with Job(tmp_path, '--release-on-error', '--max-run-time', '0.2',
             'jobs.Long') as job:
        job.wait_for('BEGIN', 3)
        pids = re.findall(r'BEGIN (\d+)', job.output)
        assert len(set(pids)) == len(pids)
        assert job.output.count('has no effect without keep_lock') == 1
        job.send(signal.SIGTERM)
        job.wait()


def test_two_classes_of_one_name(tmp_path: pathlib.Path) -> None:
    """Two tasks of one name share a lock, which is said at the start."""
    write_module(tmp_path, 'jobs', JOBS + '''
class Fast(Copy):
    pass
''')
    done = run_job(tmp_path, '--run-once', 'jobs.Copy')
    assert ("WARNING jobslib: jobs.Fast has the name 'copy' as well: tasks of "
            'one name share one lock and one history' in done.stderr)
    assert done.stdout == 'ran\n'


@pytest.mark.parametrize('args', [
    '--run-once jobs.Colon', 'jobs.Colon', 'status jobs.Colon'])
def test_key_that_only_this_consul_refuses(tmp_path: pathlib.Path,
                                           args: str) -> None:
    """It is refused at the start, with the versions that would take it."""
    write_module(tmp_path, 'jobs', JOBS + '''
class Colon(BaseTask):
    name = 'orders:eu'
    def task(self):
        print('ran')
''')
    with ConsulStandIn(version='1.21.5') as consul:
        write_module(tmp_path, 'settings',
                     f'ONE_INSTANCE = {consul.one_instance()}')
        done = run_job(tmp_path, '-s', 'settings', *args.split())
    assert done.returncode == ExitCode.USAGE
    line = done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr
    assert line.startswith(
        'runjob: error: key: not allowed by this version of Consul: cannot '
        'read jobs/orders:eu/lock: ')
    assert 'those from 1.21.6 on' in line
    assert done.stdout == ''


def test_output_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    """A full disk for what a command prints is one line, without a stack."""
    write_module(tmp_path, 'jobs', JOBS)
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            [sys.executable, '-m', 'jobslib', 'status', 'jobs.Copy'],
            cwd=tmp_path, env=environment(tmp_path / 'run'), stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=DEADLINE)
    assert done.returncode == ExitCode.TASK_FAILED
    assert done.stderr.splitlines()[-1] == (
        'runjob: error: status: standard output cannot be written: No space '
        'left on device')
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('args', [
    'jobs.Copi', 'status jobs.Copi', '--copi', 'status --copi'])
def test_refusal_that_cannot_be_written(tmp_path: pathlib.Path,
                                        args: str) -> None:
    """The exit code is that of a wrong input on a full disk as well: by it
    systemd does not start the job again and again."""
    write_module(tmp_path, 'jobs', JOBS)
    with open('/dev/full', 'w') as full:
        code = subprocess.call(
            [sys.executable, '-m', 'jobslib', *args.split()], cwd=tmp_path,
            env=environment(tmp_path, PYTHONUNBUFFERED=''), stderr=full,
            timeout=DEADLINE)
    assert code == ExitCode.USAGE


def test_folder_that_is_named(tmp_path: pathlib.Path) -> None:
    """Who names the folder of a file lock has configured one."""
    write_module(tmp_path, 'jobs', JOBS)
    for args in ('status jobs.Copy', 'check jobs.Copy'):
        done = run_job(tmp_path, *args.split(),
                       JOBSLIB_ONE_INSTANCE_FILE_FOLDER=str(tmp_path / 'own'))
        assert done.returncode == 0
        assert 'no lock is configured' not in done.stdout + done.stderr


def test_folder_that_is_a_file(tmp_path: pathlib.Path) -> None:
    """It is said that it is none."""
    write_module(tmp_path, 'jobs', JOBS)
    path = tmp_path / 'jobs.py'
    done = run_job(tmp_path, 'jobs.Copy', '--run-once',
                   JOBSLIB_ONE_INSTANCE_FILE_FOLDER=str(path))
    assert done.returncode == ExitCode.LOCK_SERVICE_UNAVAILABLE
    assert done.stderr.endswith(
        f'no lock: folder {path} cannot hold a lock: it is not a folder; to '
        f'see why: runjob check\n')
    assert done.stdout == ''
