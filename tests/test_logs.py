"""Log records: the fields of the run, and lines of JSON."""

import json
import logging
import os
import pathlib
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import Job, run_job, write_module

from jobslib import logs
from jobslib.exitcodes import ExitCode
from jobslib.logs import FIELDS, JsonFormatter, RunFields, RunFilter
from jobslib.machine import fqdn
from jobslib.runs import Outcome, Run


@pytest.fixture(autouse=True)
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the run at the end of a test."""
    monkeypatch.setattr(logs, '_current', {})


def make_record(message: Any = 'hello', *args: Any,
                **extra: Any) -> logging.LogRecord:
    """Return a record as a logger makes it."""
    return logging.getLogger('shop').makeRecord(
        'shop', logging.WARNING, __file__, 1, message, args, None,
        extra=extra)


def read(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the line of *record* says; it must be one."""
    line = JsonFormatter().format(record)
    assert '\n' not in line and line.isascii()

    def refuse(constant: str) -> None:
        raise AssertionError(f'{constant} is not JSON')
    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    # The same in every line, but for one that could not be made.
    assert found.pop('fqdn', fqdn()) == fqdn()
    assert found.pop('pid', os.getpid()) == os.getpid()
    return found


def test_json() -> None:
    """A record is a line with its time in UTC, without what is unknown."""
    record = make_record('hello %s', 'world')
    record.created = 1700000000.0567
    assert read(record) == {
        'timestamp': '2023-11-14T22:13:20.056Z', 'level': 'WARNING',
        'logger': 'shop', 'message': 'hello world'}
    found = json.loads(JsonFormatter().format(record))
    assert (found['fqdn'], found['pid']) == (fqdn(), os.getpid())


def test_json_is_ordered() -> None:
    """What people look for first stands first."""
    record = make_record(batch=5)
    assert list(read(record)) == [
        'timestamp', 'level', 'logger', 'message', 'batch']


def test_own_fields() -> None:
    """The extra fields of a record are in its line, as they are."""
    found = read(make_record(batch=5, names=['a'], nested={'b': None}))
    assert found['batch'] == 5
    assert found['names'] == ['a']
    assert found['nested'] == {'b': None}


def test_own_fields_with_names_that_are_taken() -> None:
    """A record's own field does not replace the level, nor is it lost."""
    found = read(make_record(level=7, timestamp='then'))
    assert found['level'] == 'WARNING'
    assert found['extra_level'] == 7
    assert found['extra_timestamp'] == 'then'


def test_own_field_named_like_one_of_ours() -> None:
    """What a record says of itself counts."""
    RunFields('job').run_begins(Run(3, 7, 0.0))
    record = make_record(task='mine', run='this one')
    RunFilter().filter(record)
    found = read(record)
    assert found['task'] == 'mine'
    assert found['run'] == 'this one'
    assert found['fencing_token'] == 7


def test_text_of_another_alphabet() -> None:
    """Any text comes through."""
    text = 'žluťoučký \u2028 \U0001f600 "quoted"\n\ttwo lines \ud800'
    assert read(make_record('%s', text))['message'] == text


def test_exception() -> None:
    """The traceback is one text."""
    record = make_record()
    try:
        raise ZeroDivisionError('no luck')
    except ZeroDivisionError:
        record.exc_info = sys.exc_info()
    found = read(record)['exception']
    assert found.startswith('Traceback (most recent call last)')
    assert found.endswith('ZeroDivisionError: no luck')


def test_exception_that_is_a_text_already() -> None:
    """A traceback that came through a queue is kept."""
    record = make_record()
    record.exc_text = 'Traceback'
    assert read(record)['exception'] == 'Traceback'


def test_no_exception() -> None:
    """exc_info=True where there is none says nothing."""
    record = make_record()
    record.exc_info = (None, None, None)
    assert 'exception' not in read(record)


def test_stack() -> None:
    """A stack is one text."""
    record = make_record()
    record.stack_info = 'Stack (most recent call last)'
    assert read(record)['stack'] == 'Stack (most recent call last)'


class Broken:
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


class Named:
    """Has a text."""

    def __str__(self) -> str:
        return 'named'


def looped() -> list[Any]:
    """Return a list that contains itself."""
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    """Return a list that is nested deeper than anything can follow."""
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize(('value', 'expected'), [
    (Named(), 'named'), ([Named()], ['named']), ({1, }, '{1}'),
    (pathlib.Path('/a'), '/a'), (b'a', "b'a'"), (1 + 2j, '(1+2j)'),
    (float('nan'), 'nan'), ([float('inf')], '[inf]'),
    ({(1, 2): 3}, '{(1, 2): 3}'), ({1: 2}, {'1': 2}),
    (Broken(), '<Broken>'), ([Broken()], ['<Broken>']),
    ({(1, 2): Broken()}, '<dict>'), (looped(), '[[...]]'),
    (deep(), '<list>'), (10 ** 5000, '<int>'),
], ids=lambda value: type(value).__name__)
def test_values_that_are_not_json(value: Any, expected: Any) -> None:
    """What JSON has no form for is a text; the rest of the line is there."""
    found = read(make_record(value=value, other=1))
    assert found['value'] == expected
    assert found['message'] == 'hello'
    assert found['other'] == 1


@pytest.mark.parametrize(('message', 'args', 'expected'), [
    ('%d', ('x',), "%d ('x',)"), ('%s %s', ('x',), "%s %s ('x',)"),
    ('%s', (Broken(),), '%s <tuple>'), (Broken(), (), '<Broken> ()'),
    (Named(), (), 'named'), ('%', (), '%'), (None, (), 'None'),
])
def test_messages_that_are_not_right(message: Any, args: Any,
                                     expected: str) -> None:
    """A message that does not fit its arguments is shown with them."""
    assert read(make_record(message, *args))['message'] == expected


def test_record_that_is_not_right() -> None:
    """Not even a record without a time makes a formatter fail."""
    record = make_record(batch=5)
    record.created = None  # type: ignore[assignment]
    found = read(record)
    assert found['level'] == 'ERROR'
    assert "'batch': 5" in found['message']
    assert found['exception'].startswith('TypeError')


def test_subclass() -> None:
    """A subclass adds fields."""
    class Own(JsonFormatter):
        def fields(self, record: logging.LogRecord) -> dict[str, Any]:
            return super().fields(record) | {'host': 'alpha'}
    assert json.loads(Own().format(make_record()))['host'] == 'alpha'


def test_names_of_logging_are_free() -> None:
    """No field has the name of an attribute that records have."""
    standard = set(vars(logging.makeLogRecord({})))
    assert not standard & set(FIELDS)
    assert not {'message', 'asctime', 'taskName'} & set(FIELDS)


def fields() -> dict[str, Any]:
    """Return the fields that a record has now."""
    record = make_record()
    assert RunFilter().filter(record) is True
    return {name: value for name in FIELDS
            if (value := getattr(record, name)) is not None}


def test_fields_of_a_run() -> None:
    """A record has the token while the lock is held, the run in the run."""
    observer = RunFields('job')
    logs.install('job')
    run = Run(3, 7, 0.0)
    assert fields() == {'task': 'job'}
    observer.acquired(7)
    assert fields() == {'task': 'job', 'fencing_token': 7}
    observer.run_begins(run)
    during = {'task': 'job', 'run': 3, 'fencing_token': 7}
    assert fields() == during
    run.end(Outcome.SUCCEEDED, 1.0)
    observer.run_ended(run)
    assert fields() == during
    observer.waiting(5.0)
    assert fields() == {'task': 'job', 'fencing_token': 7}
    observer.run_begins(run)
    observer.released()
    assert fields() == {'task': 'job'}


@pytest.mark.parametrize('end', ['lost', 'standby'])
def test_fields_after_a_run(end: str) -> None:
    """What ends the time of a run takes the run from the records."""
    observer = RunFields('job')
    observer.run_begins(Run(3, None, 0.0))
    getattr(observer, end)('somehow')
    assert fields() == {'task': 'job'}


def test_fields_in_threads() -> None:
    """A thread that the run started logs for the run."""
    RunFields('job').run_begins(Run(3, 7, 0.0))
    seen: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: seen.append(fields()))
    thread.start()
    thread.join()
    assert seen == [{'task': 'job', 'run': 3, 'fencing_token': 7}]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger with a handler of its own."""
    logger = logging.getLogger('shop.orders')
    handler = logging.NullHandler()
    logger.addHandler(handler)
    filters = {each: list(each.filters) for each in logs.handlers()}
    yield logger
    logger.removeHandler(handler)
    for each, before in filters.items():
        each.filters[:] = before


def test_install(logger: logging.Logger) -> None:
    """Handlers anywhere get the filter, and each only one."""
    logs.install('job')
    logs.install('job')
    [handler] = logger.handlers
    assert [type(each) for each in handler.filters] == [RunFilter]


JOBS = '''
import asyncio, logging, threading
from jobslib import BaseTask, TaskError

logger = logging.getLogger('other')

class Talk(BaseTask):
    name = 'talk'
    def initialize(self):
        self.logger.info('prepares')
    def task(self):
        self.logger.info('works', extra={'batch': 5})
        logger.info('elsewhere', extra={'task': 'of another kind'})
        thread = threading.Thread(target=logger.info, args=['in a thread'])
        thread.start()
        thread.join()
    def on_success(self, run):
        self.logger.info('is glad')
    def on_released(self):
        self.logger.info('is free')

class Fail(BaseTask):
    def task(self):
        raise ZeroDivisionError('no luck')

class Coroutine(BaseTask):
    name = 'talk'
    async def task(self):
        await asyncio.sleep(0)
        self.logger.info('works')
'''

SETTINGS = '''
LOG_FORMAT = 'text'
LOGGING = {
    'version': 1, 'disable_existing_loggers': False,
    'formatters': {
        'json': {'()': 'jobslib.logs.JsonFormatter'},
        'own': {'format': '%(task)s|%(run)s|%(outcome)s|%(message)s'},
    },
    'handlers': {
        'json': {'class': 'logging.StreamHandler', 'formatter': 'json'},
        'own': {'class': 'logging.StreamHandler', 'formatter': 'own',
                'stream': 'ext://sys.stdout'},
    },
    'root': {'level': 'INFO', 'handlers': ['json', 'own']},
}
'''


def test_process_that_logs_json(tmp_path: pathlib.Path) -> None:
    """Each line of a job is JSON, and says what it belongs to."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, 'jobs.Talk', '--run-once',
                   JOBSLIB_LOG_FORMAT='json')
    assert done.returncode == ExitCode.DONE
    lines = {found['message'].split(' after ')[0]: found
             for found in map(json.loads, done.stderr.splitlines())}
    token = lines['works']['fencing_token']
    assert token > 0
    during = {'task': 'talk', 'run': 1, 'fencing_token': token}

    def has(message: str) -> dict[str, Any]:
        found = lines[message]
        return {name: found[name] for name in (*FIELDS, 'batch')
                if name in found}
    assert has('prepares') == {'task': 'talk'}
    assert has('works') == during | {'batch': 5}
    assert has('elsewhere') == during | {'task': 'of another kind'}
    assert has('in a thread') == during
    assert has('run succeeded') == during | {
        'outcome': 'succeeded', 'duration': has('run succeeded')['duration']}
    assert has('is glad') == during
    assert has('is free') == {'task': 'talk'}


def test_failure_in_json(tmp_path: pathlib.Path) -> None:
    """The traceback of a run that failed stays in its line."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, 'jobs.Fail', '--run-once',
                   JOBSLIB_LOG_FORMAT='json')
    assert done.returncode == ExitCode.TASK_FAILED
    found = json.loads(done.stderr.splitlines()[-1])
    assert found['outcome'] == 'failed'
    assert found['level'] == 'ERROR'
    assert found['exception'].endswith('ZeroDivisionError: no luck')
    assert found['error'] == 'ZeroDivisionError: no luck'
    assert found['fqdn'] == fqdn() and found['pid'] > 0


@pytest.mark.parametrize(('args', 'level'), [
    ('--log-level warning', 'WARNING'), ('--log-level ERROR', 'ERROR'),
    ('-v', 'DEBUG'), ('', 'INFO')])
def test_level(tmp_path: pathlib.Path, args: str, level: str) -> None:
    """--log-level says from which level on there are lines."""
    write_module(tmp_path, 'jobs', """
        import logging
        from jobslib import BaseTask
        class Level(BaseTask):
            def task(self):
                print(logging.getLevelName(self.logger.getEffectiveLevel()))
    """)
    done = run_job(tmp_path, *args.split(), 'jobs.Level', '--run-once')
    assert done.stdout == f'{level}\n', done.stderr
    assert ('INFO jobslib: run succeeded' in done.stderr) == (
        level in ('INFO', 'DEBUG'))


def test_v_of_the_task(tmp_path: pathlib.Path) -> None:
    """A task may have an argument -v of its own."""
    write_module(tmp_path, 'jobs', """
        from jobslib import BaseTask, argument
        class Own(BaseTask):
            arguments = (argument('-v', '--verbose', action='store_true'),)
            def task(self):
                print(self.args.verbose)
    """)
    done = run_job(tmp_path, '--run-once', 'jobs.Own', '-v')
    assert done.stdout == 'True\n'
    assert 'DEBUG' not in done.stderr


def test_logging_of_the_user(tmp_path: pathlib.Path) -> None:
    """In LOGGING the formatter is named, and formats have the fields."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'settings', SETTINGS)
    done = run_job(tmp_path, 'jobs.Coroutine', '--run-once',
                   '-s', 'settings')
    assert done.returncode == ExitCode.DONE
    messages = [json.loads(line)['message']
                for line in done.stderr.splitlines()]
    lines = done.stdout.splitlines()
    assert [line.split('|')[-1] for line in lines] == messages
    assert 'talk|1|None|works' in lines
    assert lines[-1].startswith('talk|1|succeeded|run succeeded after')


def test_text_by_default(tmp_path: pathlib.Path) -> None:
    """Without the option there are lines for people."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, 'jobs.Coroutine', '--run-once')
    assert re.search(r'^[\d-]+ [\d:,]+ INFO talk: works$', done.stderr,
                     re.MULTILINE)


def test_format_that_there_is_not(tmp_path: pathlib.Path) -> None:
    """An unknown format is refused, with those that there are."""
    write_module(tmp_path, 'jobs', JOBS)
    done = run_job(tmp_path, 'jobs.Talk', JOBSLIB_LOG_FORMAT='xml')
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == (
        "runjob: error: log_format: 'xml' from environment, "
        "JOBSLIB_LOG_FORMAT is not allowed; allowed: one of text, json\n")


CLOSING = '''
import sys
from jobslib import BaseTask

class Closing(BaseTask):
    def task(self):
        print('BEGIN', flush=True)
        if not sys.stderr.closed:
            sys.stderr.close()
'''


def test_stream_that_the_task_closes(tmp_path: pathlib.Path) -> None:
    """A task that closes standard error is not heard of, and runs on."""
    write_module(tmp_path, 'closing', CLOSING)
    with Job(tmp_path, '--sleep-interval', '0.01', 'closing.Closing') as job:
        job.wait_for('BEGIN', 3)


@pytest.mark.parametrize('error', ['OSError("no service")', 'SystemExit(3)'])
def test_handler_that_raises_does_not_end_the_loop(
        error: str, tmp_path: pathlib.Path) -> None:
    """What it raises is shown; the run takes place, and others log it."""
    write_module(tmp_path, 'jobs', f"""
import logging
from jobslib import BaseTask

class Broken(logging.Handler):
    def emit(self, record):
        raise {error}

class Quiet(BaseTask):
    def task(self):
        pass
""")
    done = run_job(tmp_path, 'jobs.Quiet', '--run-once', JOBSLIB_LOGGING=(
        json.dumps({'version': 1, 'root': {
            'handlers': ['broken', 'plain'], 'level': 'INFO'}, 'handlers': {
                'broken': {'class': 'jobs.Broken'},
                'plain': {'class': 'logging.StreamHandler'}}})))
    assert done.returncode == 0
    assert 'run succeeded' in done.stderr
    assert error.partition('(')[0] in done.stderr
