"""Progress: throttled, harmless, on a terminal and elsewhere."""

import fcntl
import json
import logging
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support import DEADLINE, FakeClock, environment, run_job, write_module

from jobslib import BaseTask, Config, OneInstanceWatchdogError
from jobslib.exceptions import LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance.dummy import DummyLock
from jobslib.progress import Progress, describe
from jobslib.runs import ProgressReport


class ReportingLock(DummyLock):
    """A lock that is told of the progress, and can be lost."""

    alive = True

    def __init__(self, context: Any, options: Any) -> None:
        super().__init__(context, options)
        self.beats = 0
        self.reports: list[dict[str, Any]] = []
        self.refusal: BaseException | None = None

    def refresh(self) -> bool:
        self.beats += 1
        return super().refresh() and self.alive

    def report_progress(self, progress: dict[str, Any]) -> None:
        self.reports.append(progress)
        if self.refusal is not None:
            raise self.refusal


class Plain(BaseTask):
    """A task that is not run."""

    name = 'plain'


def make_task(backend: str = f'{__name__}.ReportingLock',
              **options: Any) -> Plain:
    """Return a task that has its lock."""
    task = Plain(Config(SimpleNamespace(ONE_INSTANCE={
        'backend': backend, 'options': options}), None, Plain))
    task.context.one_instance_lock.acquire()
    return task


class Meter:
    """A progress by a clock that a test moves."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock(1000.0, 1.7e9)
        self.task = make_task(**options)
        self.lock: ReportingLock = self.task.context.one_instance_lock
        self.progress = Progress(self.task, self.clock)

    def report(self, *args: Any, after: float = 0.0) -> None:
        """Report after so many seconds."""
        self.clock.time += after
        self.progress.report(*args)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what was logged."""
    caplog.set_level(logging.INFO)
    return lambda: [f'{record.levelname} {record.getMessage()}'
                    for record in caplog.records]


def test_latest() -> None:
    """The last report is kept with its time, whether it is shown or not."""
    meter = Meter()
    assert meter.progress.latest is None
    meter.report(1, 10, 'first')
    meter.report(2, 10, 'second', after=0.01)
    meter.clock.time += 5
    assert meter.progress.latest is not None
    assert meter.progress.latest.export() == {
        'done': 2, 'total': 10, 'message': 'second',
        'time': 1.7e9 + 0.01}


def test_first_report_is_a_heartbeat() -> None:
    """The first report counts, further ones after a moment."""
    meter = Meter()
    meter.report(1)
    assert meter.lock.beats == 1
    for number in range(10):
        meter.report(number, after=0.009)
    assert meter.lock.beats == 1
    meter.report(11, after=0.02)
    assert meter.lock.beats == 2


def test_short_heartbeat() -> None:
    """A heartbeat that is allowed little silence is given more often."""
    meter = Meter(heartbeat=0.2)
    meter.report(1)
    meter.report(2, after=0.019)
    assert meter.lock.beats == 1
    meter.report(3, after=0.002)
    assert meter.lock.beats == 2


def test_lost_lock() -> None:
    """A report raises when the lock is lost, each time."""
    meter = Meter()
    meter.report(1)
    meter.lock.alive = False
    for _ in range(2):
        with pytest.raises(OneInstanceWatchdogError, match='the lock is lost'):
            meter.report(2, after=1)


def test_lost_lock_is_seen_at_every_call() -> None:
    """Once it is known, no report is taken without saying so."""
    meter = Meter()
    meter.lock.alive = False
    for _ in range(2):
        with pytest.raises(OneInstanceWatchdogError):
            meter.report(1)


def test_without_a_lock() -> None:
    """A task that is called without a lock, in a test, may report."""
    meter = Meter()
    meter.lock.release()
    meter.report(1, 2)
    assert meter.progress.latest is not None


def test_lines(lines: Callable[[], list[str]]) -> None:
    """Elsewhere than on a terminal there is a line in five seconds."""
    meter = Meter()
    for number in range(120):
        meter.report(number, 120, 'parts', after=0.1)
    meter.report(120, 120, 'all')
    assert lines() == ['INFO progress: 49 of 120 (40 %), parts',
                       'INFO progress: 99 of 120 (82 %), parts']
    meter.progress.close()
    assert lines()[2:] == ['INFO progress: 120 of 120 (100 %), all']


def test_short_run(lines: Callable[[], list[str]]) -> None:
    """A short run has one line, and reports nothing to others."""
    meter = Meter()
    for number in range(30):
        meter.report(number, 30, after=0.1)
    meter.progress.close()
    assert lines() == ['INFO progress: 29 of 30 (96 %)']
    assert meter.lock.reports == []


def test_last_line_is_not_repeated(lines: Callable[[], list[str]]) -> None:
    """What the last line said is not said again at the end."""
    meter = Meter()
    meter.report(1, 2)
    meter.report(2, 2, after=6)
    meter.progress.close()
    assert lines() == ['INFO progress: 2 of 2 (100 %)']


def test_record_has_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    """A line has the report as a field, for lines of JSON."""
    caplog.set_level(logging.INFO)
    meter = Meter()
    meter.report(1, 2, 'half')
    meter.progress.close()
    [record] = caplog.records
    assert meter.progress.latest is not None
    assert vars(record)['progress'] == meter.progress.latest.export()


def test_nothing_after_the_end(lines: Callable[[], list[str]]) -> None:
    """A thread that reports after the end is not heard."""
    meter = Meter()
    meter.report(1, 2)
    meter.progress.close()
    meter.report(2, 2, after=60)
    assert lines() == ['INFO progress: 1 of 2 (50 %)']


def test_no_report_no_line(lines: Callable[[], list[str]]) -> None:
    """A run that reports nothing logs nothing."""
    Meter().progress.close()
    assert lines() == []


def test_report_to_the_lock() -> None:
    """The lock is told once in five seconds, by the thread that reports."""
    meter = Meter()
    for number in range(120):
        meter.report(number, 120, 'parts', after=0.1)
    assert [(report['done'], report['total']) for report in
            meter.lock.reports] == [(49, 120), (99, 120)]
    assert json.loads(json.dumps(meter.lock.reports)) == meter.lock.reports


def test_lock_that_cannot_be_told(lines: Callable[[], list[str]]) -> None:
    """A service that does not answer fails no run, and is named once."""
    meter = Meter()
    meter.lock.refusal = LockUnavailableError('no answer')
    for number in range(200):
        meter.report(number, 200, after=0.1)
    assert len(meter.lock.reports) == 4
    assert [line for line in lines() if 'WARNING' in line] == [
        'WARNING progress cannot be shown: LockUnavailableError: no answer']


def test_lock_that_knows_of_no_progress(
        lines: Callable[[], list[str]]) -> None:
    """Any lock will do."""
    task = make_task('jobslib.oneinstance.dummy.DummyLock')
    clock = FakeClock()
    progress = Progress(task, clock)
    progress.report(1)
    clock.time += 10
    progress.report(2)
    assert lines() == ['INFO progress: 2']


class Odd:
    """Cannot be compared, nor shown, nor counted."""

    def __eq__(self, other: object) -> bool:
        raise ValueError

    def __str__(self) -> str:
        raise ValueError

    def __float__(self) -> float:
        raise ValueError


@pytest.mark.parametrize(('report', 'shown'), [
    ((3, 10), '3 of 10 (30 %)'), ((3,), '3'), ((3, None, 'parts'), '3, parts'),
    ((2.5, 10.0), '2.5 of 10 (25 %)'), ((True, 2), '1 of 2 (50 %)'),
    ((199, 200), '199 of 200 (99 %)'), ((0, 10), '0 of 10 (0 %)'),
    ((1e9, 2e9), '1000000000 of 2000000000 (50 %)'),
    # Of what cannot be right only the rest is shown.
    ((12, 10), '12'), ((3, 0), '3'), ((0, 0), '0'), ((3, -1), '3'),
    ((-1, 10), ''), ((-1, 10, 'parts'), 'parts'), ((None,), ''),
    (('3', '10', 'parts'), 'parts'), ((b'3',), ''), ((3, 'many'), '3'),
    ((float('nan'), 10), ''), ((3, float('nan')), '3'),
    ((3, float('inf')), '3'), ((float('inf'),), ''), ((10 ** 400,), ''),
    ((2 ** 60,), ''), ((3, 2 ** 60), '3'), ((3j, 10), ''), (([3], {}), ''),
    ((Odd(), Odd(), Odd()), ''), ((Odd(), 10, 'parts'), 'parts'),
    ((3, 10, None), '3 of 10 (30 %)'), ((3, 10, 5), '3 of 10 (30 %), 5'),
    ((3, 10, 'two\nlines\x1b[31m'), '3 of 10 (30 %), two lines[31m'),
    ((3, 10, 'x' * 1000), '3 of 10 (30 %), ' + 'x' * 200),
])
def test_numbers_that_are_not_right(report: Any, shown: str,
                                    lines: Callable[[], list[str]]) -> None:
    """No report fails a run, and what is right of it is shown."""
    meter = Meter()
    for _ in range(3):
        meter.report(*report, after=0.001)
        meter.report(*report, after=1)
    latest = meter.progress.latest
    assert latest is not None
    assert describe(latest) == shown
    assert latest.total is None or (latest.done or 0) <= latest.total
    json.dumps(latest.export(), allow_nan=False)
    meter.progress.close()
    assert lines() == ([f'INFO progress: {shown}'] if shown else [])


@pytest.mark.parametrize(('found', 'read'), [
    (None, None), ({}, None), ([5], None),
    ({'done': 2, 'total': 4.5, 'message': 'parts', 'time': 5.0, 'token': 7},) * 2,
    ({'done': 'x', 'total': [], 'message': 'two\nlines', 'time': '5',
      'token': -1},
     {'done': None, 'total': None, 'message': 'two lines', 'time': None}),
])
def test_report_is_read(found: object, read: object) -> None:
    """A report is read as it was written, without what is wrong in it."""
    report = ProgressReport.parse(found)
    assert (report and report.export()) == read


def test_all_done_is_not_throttled() -> None:
    """The report that all is done is looked at when it comes, once."""
    meter = Meter()
    meter.report(1, 2)
    meter.report(2, 2)
    assert meter.lock.beats == 2
    for _ in range(5):
        meter.report(2, 2)
    assert meter.lock.beats == 2


def test_task() -> None:
    """A task has one progress for each run."""
    task = make_task()
    task.progress(1, 2, 'half')
    first = vars(task)['_progress']
    assert first.latest.message == 'half'
    task.progress(2)
    assert vars(task)['_progress'] is first
    task.end_progress()
    task.end_progress()
    task.progress(1)
    assert vars(task)['_progress'] is not first


def test_threads() -> None:
    """Threads share one progress, and each may report."""
    task = make_task()
    seen: list[int] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        for number in range(1000):
            task.progress(number, 1000)
        seen.append(id(vars(task)['_progress']))
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and len(set(seen)) == 1


def test_forked_child() -> None:
    """In a forked child a report does nothing, and raises nothing."""
    meter = Meter()
    meter.report(1, 2)
    beats = meter.lock.beats
    pid = os.fork()
    if not pid:
        try:
            meter.report(2, 2, after=60)
            heard = meter.lock.beats != beats or meter.lock.reports
            os._exit(1 if heard else 0)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_many_calls_are_cheap() -> None:
    """A call costs far less than a microsecond, 20 of them on a bad day."""
    task = make_task()
    began = time.process_time()
    for number in range(200_000):
        task.progress(number, 200_000, 'records')
    assert (time.process_time() - began) / 200_000 < 20e-6


JOBS = '''
import asyncio, sys, threading, time
from jobslib import BaseTask

class Steps(BaseTask):
    name = 'steps'
    def task(self):
        for number in range(11):
            self.progress(number, 10, f'step {number}')
        self.finish()
    def finish(self):
        pass

class Fail(Steps):
    def finish(self):
        self.progress(3, 10, 'as far as this')
        raise ZeroDivisionError

class Talk(Steps):
    def task(self):
        self.progress(0, 10, 'begins')
        self.logger.info('logged %s', 'word ' * 40)
        print('printed')
        print('printed to stderr', file=sys.stderr)
        self.stdout.write('written\\n')
        print('begun', end='')
        self.progress(10, 10, 'all of it')
    def on_success(self, run):
        self.logger.info('%s %s', type(sys.stderr).__name__,
                         type(self.stdout).__name__)

class Unknown(Steps):
    def task(self):
        self.progress(-1, 'many', '[bold]not markup[/bold]')
        time.sleep(0.11)
        self.progress(7, message='[red]')

class Coroutine(Steps):
    async def task(self):
        for number in range(11):
            self.progress(number, 10, f'step {number}')
            await asyncio.sleep(0)

class Thread(Steps):
    def task(self):
        thread = threading.Thread(target=super().task)
        thread.start()
        thread.join()

class Beat(Steps):
    def task(self):
        ends = time.monotonic() + 5
        while time.monotonic() < ends:
            self.progress(1)

class Loaded(Steps):
    def finish(self):
        print('rich loaded:', 'rich' in sys.modules)
'''

LAST = 'progress: 10 of 10 (100 %), step 10'


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with the jobs."""
    write_module(tmp_path, 'jobs', JOBS)
    return tmp_path


@pytest.mark.parametrize('job', ['Steps', 'Coroutine', 'Thread'])
def test_process(folder: pathlib.Path, job: str) -> None:
    """A job without a terminal logs its progress before its outcome."""
    done = run_job(folder, f'jobs.{job}', '--run-once')
    assert done.returncode == ExitCode.DONE
    messages = [line.split(': ', 1)[1] for line in done.stderr.splitlines()]
    assert messages[-2] == LAST
    assert messages[-1].startswith('run succeeded')
    assert done.stderr.count('progress: ') == 1


def test_process_that_fails(folder: pathlib.Path) -> None:
    """The log says how far a run came that failed."""
    done = run_job(folder, 'jobs.Fail', '--run-once')
    assert done.returncode == ExitCode.TASK_FAILED
    assert re.search(r'progress: 3 of 10 \(30 %\), as far as this\n'
                     r'.* run failed', done.stderr)


def test_progress_is_a_heartbeat(folder: pathlib.Path) -> None:
    """A run that reports is not silent."""
    done = run_job(folder, 'jobs.Beat', '--run-once',
                   JOBSLIB_ONE_INSTANCE_HEARTBEAT='4')
    assert done.returncode == ExitCode.DONE, done.stderr


def test_rich_is_not_loaded_without_need(folder: pathlib.Path) -> None:
    """Only a bar needs the library that draws it."""
    done = run_job(folder, 'jobs.Loaded', '--run-once')
    assert 'rich loaded: False' in done.stdout


class Terminal:
    """A job on a terminal of 100 columns."""

    def __init__(self, folder: pathlib.Path, job: str, **extra: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ,
                    struct.pack('HHHH', 24, 100, 0, 0))
        env = environment(folder / 'run', **{'TERM': 'xterm'} | extra)
        for name in ('NO_COLOR', 'FORCE_COLOR', 'COLUMNS', 'LINES',
                     'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
            env.pop(name, None)
        popen = subprocess.Popen(
            [sys.executable, '-m', 'jobslib', f'jobs.{job}', '--run-once'],
            cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        try:
            self.output = _read(ours)
            self.code = popen.wait(DEADLINE)
        finally:
            popen.kill()
            popen.wait()
            os.close(ours)

    @property
    def text(self) -> str:
        """What was written, without colours."""
        return re.sub(r'\x1b\[[\d;]*m', '', self.output)

    @property
    def screen(self) -> list[str]:
        """The lines that are there in the end."""
        lines = ['']
        for part in re.split(r'(\r\n|\r\x1b\[2K)', self.text):
            if part == '\r\n':
                lines.append('')
            elif part == '\r\x1b[2K':
                lines[-1] = ''
            else:
                assert '\x1b' not in part and '\r' not in part
                lines[-1] += part
        return [line.rstrip() for line in lines]


def _read(fd: int) -> str:
    """Return all that is written to a terminal."""
    output = b''
    ends = time.monotonic() + DEADLINE
    while True:
        ready = select.select([fd], [], [], max(ends - time.monotonic(), 0))[0]
        assert ready, output
        try:
            data = os.read(fd, 1 << 16)
        except OSError:
            # What Linux says of a terminal that nobody has open any more.
            data = b''
        if not data:
            return output.decode()
        output += data


def test_bar(folder: pathlib.Path) -> None:
    """On a terminal there is one bar, and no lines in the log."""
    terminal = Terminal(folder, 'Steps')
    assert terminal.code == ExitCode.DONE
    [bar] = [line for line in terminal.screen if '━' in line]
    assert re.fullmatch(
        r'steps ━+ 100% 10/10 0:00:0\d 0:00:00 step 10', bar)
    assert 'progress: ' not in terminal.text
    assert 'run succeeded' in terminal.screen[-2]


def test_bar_leaves_the_cursor(folder: pathlib.Path) -> None:
    """The cursor is not hidden: a killed job could not bring it back."""
    assert '\x1b[?25l' not in Terminal(folder, 'Steps').output


def test_lines_above_the_bar(folder: pathlib.Path) -> None:
    """What is logged and printed appears above the bar, whole."""
    terminal = Terminal(folder, 'Talk')
    assert terminal.code == ExitCode.DONE
    screen = terminal.screen
    [bar] = [n for n, line in enumerate(screen) if '━' in line]
    assert [line.partition('INFO ')[2] or line
            for line in screen[bar - 5:bar]] == [
        'steps: logged ' + ' '.join(['word'] * 40), 'printed',
        'printed to stderr', 'written', 'begun']
    assert screen[bar].endswith('all of it')
    # The streams are what they were.
    assert screen[-2].endswith('steps: TextIOWrapper TextIOWrapper')


def test_bar_without_a_total(folder: pathlib.Path) -> None:
    """A bar does not need a total, nor numbers that are right."""
    terminal = Terminal(folder, 'Unknown')
    assert terminal.code == ExitCode.DONE
    assert '[bold]not markup[/bold]' in terminal.text
    [bar] = [line for line in terminal.screen if '━' in line]
    assert re.fullmatch(r'steps ━+ +7 0:00:0\d +\[red\]', bar)


@pytest.mark.parametrize('term', ['dumb', ''])
def test_terminal_without_a_bar(folder: pathlib.Path, term: str) -> None:
    """On a terminal that cannot show a bar there are lines."""
    terminal = Terminal(folder, 'Steps', TERM=term)
    assert '━' not in terminal.text
    assert terminal.text.count(LAST) == 1


def test_bar_that_fails(folder: pathlib.Path) -> None:
    """Without a bar there are lines, and one that says why."""
    (folder / 'rich').mkdir()
    (folder / 'rich' / '__init__.py').write_text('raise OSError("no rich")')
    terminal = Terminal(folder, 'Steps')
    assert terminal.code == ExitCode.DONE
    assert terminal.text.count(
        'progress cannot be shown: OSError: no rich') == 1
    assert terminal.text.count(LAST) == 1


def test_bar_beside_a_redirected_stream(folder: pathlib.Path) -> None:
    """What goes to a file goes there, whatever the bar does."""
    write_module(folder, 'redirected', '''
        import sys
        from jobs import Talk
        class Redirected(Talk):
            def initialize(self):
                self.stdout = sys.stdout = open('out.txt', 'w')
            def on_success(self, run):
                self.stdout.close()
    ''')
    (folder / 'jobs.py').write_text(
        JOBS + '\nfrom redirected import Redirected\n')
    terminal = Terminal(folder, 'Redirected')
    assert terminal.code == ExitCode.DONE
    assert (folder / 'out.txt').read_text() == 'printed\nwritten\nbegun'
    assert 'printed to stderr' in terminal.screen
