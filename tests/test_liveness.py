"""Liveness: what is noted, who notes it, and the command that asks."""

import argparse
import json
import math
import pathlib
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from support import DEADLINE, PlainTask, make_context, run_job, until, write_module

from jobslib import Config, Context
from jobslib.commands import COMMANDS, check_liveness
from jobslib.exceptions import ConfigError, LivenessError
from jobslib.exitcodes import ExitCode
from jobslib.imports import import_module
from jobslib.liveness import BaseLiveness, observer
from jobslib.liveness.dummy import DummyLiveness
from jobslib.liveness.observer import LivenessObserver
from jobslib.runs import Outcome, Run

DUMMY = 'jobslib.liveness.dummy.DummyLiveness'
BROKEN = LivenessError('cannot write: no answer')


class ListLiveness(BaseLiveness):
    """Keeps everything in a list."""

    records: list[dict[str, Any]] = []
    error: Exception | None = None
    may_go = threading.Event()
    closed = False

    def write(self) -> None:
        self.write_at(time.time())

    def write_at(self, at: float) -> None:
        assert self.may_go.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        self.records.append(self.make_record(at))

    def read(self) -> dict[str, Any] | None:
        if self.error is not None:
            raise self.error
        return self.records[-1] if self.records else None

    def close(self) -> None:
        ListLiveness.closed = True


class Loud(Context):
    """The context of a task, which the command is not to open."""

    def initialize(self) -> None:
        raise AssertionError('opened')


@pytest.fixture(autouse=True)
def start_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the list empty, and nothing fail or hang."""
    monkeypatch.setattr(ListLiveness, 'records', [])
    monkeypatch.setattr(ListLiveness, 'error', None)
    monkeypatch.setattr(ListLiveness, 'closed', False)
    ListLiveness.may_go.set()


SETTINGS = {'LIVENESS': {'backend': f'{__name__}.ListLiveness'}}


def make_liveness() -> BaseLiveness:
    """Return a liveness of a context of its own."""
    return make_context(SETTINGS).liveness


def ended(outcome: Outcome, started: float = 1.7e9,
          duration: float = 2.5) -> Run:
    """Return a run that has ended."""
    run = Run(1, None, started)
    run.end(outcome, duration)
    return run


# What a liveness says

def test_record() -> None:
    """A record has the machine and the time, in the formats of the locks."""
    context = make_context(SETTINGS)
    record = context.liveness.make_record(1.7e9)
    owner = context.one_instance_lock.make_record()
    assert record['timestamp'] == 1.7e9
    assert record['time_utc'] == '2023-11-14T22:13:20Z'
    assert set(record) == {'fqdn', 'timestamp', 'time_utc', 'time_local'}
    assert set(record) < set(owner)
    assert len(record['time_local']) == len(owner['time_local'])


@pytest.mark.parametrize(('age', 'passes'), [
    (0.0, True), (50.0, True), (-50.0, True), (70.0, False), (-70.0, False)])
def test_age(age: float, passes: bool) -> None:
    """A success counts for max_age, before this machine's clock or after."""
    liveness = make_liveness()
    assert liveness.check(60) is False
    liveness.write_at(time.time() - age)
    assert liveness.check(60) is passes


def test_write_is_now() -> None:
    """What is written without a time succeeded just now."""
    liveness = make_liveness()
    liveness.write()
    assert liveness.check(DEADLINE)


def test_write_at_is_write() -> None:
    """A liveness that only knows how to write now can be used."""
    calls: list[str] = []

    class OnlyNow(BaseLiveness):
        def write(self) -> None:
            calls.append('write')
    OnlyNow(make_context(), None).write_at(1.0)
    assert calls == ['write']


def test_dummy() -> None:
    """The dummy notes nothing, and is content with it."""
    liveness = make_context({'LIVENESS': {'backend': DUMMY}}).liveness
    assert isinstance(liveness, DummyLiveness)
    liveness.write()
    assert liveness.read() is None
    assert liveness.check(1)
    liveness.close()


def test_context_without_liveness() -> None:
    """Where none is configured the context has the dummy, and one only."""
    context = make_context()
    assert isinstance(context.liveness, DummyLiveness)
    assert context.liveness is context.liveness


# Who notes it

def test_success_is_noted_when_it_was() -> None:
    """A success is noted with the time at which the run ended."""
    listening = make_liveness().make_observer()
    listening.run_ended(ended(Outcome.SUCCEEDED))
    listening.closed()
    assert [each['timestamp'] for each in ListLiveness.records] == [1.7e9 + 2.5]
    assert ListLiveness.closed


@pytest.mark.parametrize('outcome', [
    Outcome.FAILED, Outcome.INTERRUPTED, Outcome.KILLED])
def test_failure_is_not_noted(outcome: Outcome) -> None:
    """What did not succeed is not noted."""
    listening = make_liveness().make_observer()
    listening.run_ended(ended(outcome))
    listening.closed()
    assert ListLiveness.records == []


def test_loop_does_not_wait() -> None:
    """While a write hangs the loop goes on; then the newest is noted."""
    ListLiveness.may_go.clear()
    listening = LivenessObserver(make_liveness())
    for number in range(5):
        listening.run_ended(ended(Outcome.SUCCEEDED, 1000.0 + number, 0.0))
    ListLiveness.may_go.set()
    listening.closed()
    noted = [each['timestamp'] for each in ListLiveness.records]
    assert noted[-1] == 1004.0
    assert len(noted) <= 2


def test_end_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that hangs at the end is left behind."""
    monkeypatch.setattr(observer, 'CLOSE_TIMEOUT', 0.05)
    ListLiveness.may_go.clear()
    listening = LivenessObserver(make_liveness())
    listening.run_ended(ended(Outcome.SUCCEEDED))
    begun = time.monotonic()
    listening.closed()
    assert time.monotonic() - begun < DEADLINE / 2
    assert not ListLiveness.closed
    ListLiveness.may_go.set()


def test_late_write_keeps_its_time(
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    """What fails is noted later, with the time of the success."""
    monkeypatch.setattr('jobslib.background.FIRST_PAUSE', 0.001)
    monkeypatch.setattr(ListLiveness, 'error', BROKEN)
    listening = make_liveness().make_observer()
    listening.run_ended(ended(Outcome.SUCCEEDED))
    until(lambda: 'noting the success fails' in caplog.text)
    monkeypatch.setattr(ListLiveness, 'error', None)
    until(lambda: ListLiveness.records)
    listening.closed()
    assert ListLiveness.records[0]['timestamp'] == 1.7e9 + 2.5


JOB = '''
import json, pathlib
from jobslib import BaseTask, Context
from jobslib.liveness import BaseLiveness

class Liveness(BaseLiveness):
    def write_at(self, at):
        pathlib.Path('noted').write_text(json.dumps(self.make_record(at)))

class Fails(BaseLiveness):
    def __init__(self, *args):
        super().__init__(*args)
    def write(self):
        raise OSError('nobody there')

class Task(BaseTask):
    def task(self):
        pass
'''


def test_runjob_notes(tmp_path: pathlib.Path) -> None:
    """A run under runjob is noted by the liveness of the settings."""
    write_module(tmp_path, 'jobs', JOB)
    done = run_job(tmp_path, '--run-once', 'jobs.Task',
                   JOBSLIB_LIVENESS_BACKEND='jobs.Liveness')
    assert done.returncode == ExitCode.DONE, done.stderr
    assert 'time_utc' in json.loads((tmp_path / 'noted').read_text())


def test_runjob_does_not_mind(tmp_path: pathlib.Path) -> None:
    """A liveness that does not work is logged, and the run has succeeded."""
    write_module(tmp_path, 'jobs', JOB)
    done = run_job(tmp_path, '--run-once', 'jobs.Task',
                   JOBSLIB_LIVENESS_BACKEND='jobs.Fails')
    assert done.returncode == ExitCode.DONE
    assert done.stderr.count('noting the success fails, and is tried again: '
                             'OSError: nobody there') == 1


# The command

def ask(*args: str, settings: dict[str, Any] | None = None,
        task_cls: Any = PlainTask) -> ExitCode:
    """Return what the command returns."""
    parser = argparse.ArgumentParser()
    check_liveness.add_arguments(parser)
    parser.set_defaults(runjob_command='check-liveness')
    given = SimpleNamespace(**(SETTINGS if settings is None else settings))
    return check_liveness.run(
        Config(given, parser.parse_args(args), task_cls))


def test_command_is_known() -> None:
    """The command is a module with a description."""
    module = import_module(COMMANDS['check-liveness'])
    assert module is check_liveness
    assert check_liveness.DESCRIPTION.endswith('.')


def test_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """A young success passes, and the line says how old, and whose."""
    liveness = make_liveness()
    liveness.write()
    assert ask('--max-age', '60') is ExitCode.DONE
    record = ListLiveness.records[0]
    shown = capsys.readouterr().out
    assert shown.startswith('PASS: plain: last success ')
    assert shown.endswith(f' s ago ({record["time_local"]} on '
                          f'{record["fqdn"]}); allowed: 60 s\n')


@pytest.mark.parametrize(('age', 'says'), [
    (None, 'FAIL: plain: no success is noted\n'),
    (100.0, 'FAIL: plain: last success 10'),
    (-100.0, 's ahead of the clock of this machine'),
])
def test_fail(age: float | None, says: str,
              capsys: pytest.CaptureFixture[str]) -> None:
    """None, an old one or one from the future fails."""
    if age is not None:
        make_liveness().write_at(time.time() - age)
    assert ask('--max-age', '60') is ExitCode.TASK_FAILED
    assert says in capsys.readouterr().out


def test_what_others_noted_is_escaped(
        capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in the record cannot move the cursor."""
    make_liveness().write()
    ListLiveness.records[0]['fqdn'] = 'a\x1b[2Jb\nc'
    assert ask('--max-age', '60') is ExitCode.DONE
    assert r'a\x1b[2Jb\nc' in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get the same."""
    assert ask('--max-age', '60', '--json') is ExitCode.TASK_FAILED
    assert json.loads(capsys.readouterr().out) == {
        'task': 'plain', 'passed': False, 'max_age': 60.0, 'age': None,
        'last': None}
    make_liveness().write_at(time.time() - 10)
    assert ask('--max-age', '60', '--json') is ExitCode.DONE
    report = json.loads(capsys.readouterr().out)
    assert report['passed'] and 10 <= report['age'] < 60
    assert report['last'] == ListLiveness.records[0]


def test_no_answer(monkeypatch: pytest.MonkeyPatch,
                   capsys: pytest.CaptureFixture[str]) -> None:
    """A service that does not answer is neither a pass nor a failure."""
    monkeypatch.setattr(ListLiveness, 'error', LivenessError('no answer'))
    assert ask('--max-age', '60', '--json') is (
        ExitCode.LOCK_SERVICE_UNAVAILABLE)
    written = capsys.readouterr()
    assert json.loads(written.out) == {'passed': None, 'error': 'no answer'}
    assert written.err == 'runjob: error: no answer\n'
    assert ListLiveness.closed


@pytest.mark.parametrize(('settings', 'task_cls', 'says'), [
    ({}, PlainTask, 'no liveness is configured'),
    (SETTINGS, None, 'check-liveness: name a task')])
def test_command_is_refused(
        settings: dict[str, Any], task_cls: Any, says: str) -> None:
    """Without a liveness, or a task, there is nothing to ask."""
    with pytest.raises(ConfigError, match=says):
        ask('--max-age', '1', settings=settings, task_cls=task_cls)


@pytest.mark.parametrize('text', ['0', '-1', 'x', 'nan', 'inf'])
def test_max_age_is_refused(
        text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The age is a number of seconds above 0."""
    with pytest.raises(SystemExit) as stopped:
        ask(f'--max-age={text}')
    assert stopped.value.code == ExitCode.USAGE
    assert 'allowed: a number of seconds above 0' in capsys.readouterr().err


def test_command_opens_nothing_of_the_task() -> None:
    """What the task's own context opens stays closed."""
    ListLiveness.records.append({'timestamp': math.floor(time.time())})
    settings = SETTINGS | {'CONTEXT_CLASS': f'{__name__}.Loud'}
    assert ask('--max-age', '60', settings=settings) is ExitCode.DONE
