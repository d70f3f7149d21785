"""Commands in place of a task: how they are found, called and reported."""

import io
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support import DEADLINE, PlainTask, environment, run_job, write_module

from jobslib import BaseTask, Config, argument, option
from jobslib.cmdlineparser import CommandLine, build_command_parser
from jobslib.commands import COMMANDS, load_command, output
from jobslib.commands.common import make_lock, require_task
from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.main import main

JOBS = '''
from jobslib import BaseTask, argument

class Copy(BaseTask):
    name = 'copy'
    arguments = (argument('source'), argument('--number', required=True),
                 argument('--json', required=True))
    def __init__(self, config):
        raise AssertionError('the task is not made')
    def task(self):
        pass
'''


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a task."""
    write_module(tmp_path, 'jobs', JOBS)
    write_module(tmp_path, 'broken', 'import no_such_library')
    write_module(tmp_path, 'settings', 'RUN_INTERVAL = 7')
    return tmp_path


class CopyTask(BaseTask):
    """A task with arguments that a run needs."""

    arguments = (argument('source'), argument('many', nargs=2),
                 argument('-n', '--number', type=int, required=True),
                 argument('--json', required=True))


def parse(argv: list[str], task_cls: type[BaseTask] | None = None) -> Any:
    """Return the parsed command line of the command ``check``."""
    check = load_command('check')
    unknown = CommandLine(argv).find_task(check)[1]
    return build_command_parser(
        'check', check, task_cls, demanding=bool(unknown)).parse_args(argv)


# The command line.

@pytest.mark.parametrize('argv', [
    ['check', '--json', '--run-once', 'jobs.Copy'],
    ['--run-once', 'check', 'jobs.Copy', '--json'],
    ['--json', 'check', '--run-once', 'jobs.Copy'],
    ['-s', 'check', 'check', 'jobs.Copy', '--run-once', '--json'],
])
def test_options_before_and_after(argv: list[str]) -> None:
    """Options stand before the command or after it, in any order."""
    assert CommandLine(argv).find_task(load_command('check')) == (
        'jobs.Copy', [])
    args = parse(argv, CopyTask)
    assert (args.task_cls, args.json, args.run_once) == (
        'jobs.Copy', True, True)


def test_no_task() -> None:
    """A command can do without a task."""
    assert parse(['check']).task_cls is None
    assert parse(['--run-once', 'check', '--json']).task_cls is None


def test_arguments_of_the_task_are_not_needed() -> None:
    """A command needs none of the task's own arguments."""
    args = parse(['check', 'jobs.Copy'], CopyTask)
    assert (args.source, args.many, args.number) == (None, None, None)


def test_arguments_of_the_task_are_taken() -> None:
    """The command line of a run is that of a command as well."""
    argv = ['check', 'jobs.Copy', 'here', 'a', 'b', '-n', '5']
    args = parse(argv, CopyTask)
    assert (args.source, args.many, args.number) == ('here', ['a', 'b'], 5)


@pytest.mark.parametrize('argv', [
    ['check', '--typo'], ['check', 'jobs.Copy', '--typo'],
    ['check', 'jobs.Copy', '-n', '5'], ['check', 'jobs.Copy', '-n', 'x'],
])
def test_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is unknown, or given by halves, is refused as in a run."""
    with pytest.raises(SystemExit) as caught:
        parse(argv, CopyTask if 'jobs.Copy' in argv else None)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(
        'runjob check: error: ')


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command(name: str) -> None:
    """A command has a description, and a help with its arguments first."""
    command = load_command(name)
    assert command.DESCRIPTION.endswith('.')
    text = build_command_parser(name, command, PlainTask).format_help()
    assert text.startswith(f'usage: runjob {name} ')
    assert text.index('--help') < text.index('options as for a run')
    assert '--settings SETTINGS' in text
    # Of the options of a run those that matter to it.
    assert ('--run-interval SECONDS' in text) == (
        name in ('check', 'exec', 'status', 'skip'))
    assert ('--keep-lock' in text) == (name in ('check', 'exec'))
    assert 'runjob_command' not in text


def test_conflict_with_own_flag(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flag of the configuration with a command's name is one line."""
    class OwnConfig(Config):
        json = option(attrtype=bool, flag='--json')

    own = SimpleNamespace(CONFIG_CLASS='own_module.OwnConfig')
    monkeypatch.setitem(sys.modules, 'own_settings', own)
    monkeypatch.setitem(
        sys.modules, 'own_module',
        SimpleNamespace(OwnConfig=OwnConfig))
    assert main(['-s', 'own_settings', 'check']) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith(
        'runjob: error: check: argument --json: conflicting')


# As a process.

def test_command_of_a_task(folder: pathlib.Path) -> None:
    """A command has the options of a run, and does not make the task."""
    done = run_job(folder, '-s', 'settings', 'check', 'jobs.Copy', '--json',
                   '--keep-lock')
    assert done.returncode == ExitCode.DONE, done.stderr
    options = {each['name']: each for each in json.loads(
        done.stdout)['options']}
    assert options['run_interval']['value'] == 7
    assert options['keep_lock']['source'] == 'command line, --keep-lock'


@pytest.mark.parametrize(('args', 'says'), [
    ('check no_such.Task', "task 'no_such.Task': no module named 'no_such'"),
    ('check jobs.NoSuch', "module 'jobs' has no 'NoSuch'"),
    ('check copy', "task 'copy': 'copy' is not a dotted path"),
    ('check --typo no_such.Task', 'unknown: --typo'),
    ('chekc', "'chekc' is not a dotted path (package.module.Name); nor is it a "
     "command (check"),
    ('check --run-interval x', "run_interval: 'x' from command line"),
    ('check --max-run-time 0', "max_run_time: '0' from command line"),
    ('-s no_such check', "settings module 'no_such' from --settings"),
])
def test_bad_input(folder: pathlib.Path, args: str, says: str) -> None:
    """What is wrong is said in one line, with exit code 2."""
    done = run_job(folder, *args.split())
    assert done.returncode == ExitCode.USAGE
    [line] = done.stderr.splitlines()
    assert line.startswith('runjob: error: ') and says in line


def test_broken_task(folder: pathlib.Path) -> None:
    """A task that breaks when it is imported is shown, as for a run."""
    done = run_job(folder, 'check', 'broken.Task')
    assert done.returncode == ExitCode.USAGE
    assert 'no_such_library' in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "runjob: error: task 'broken.Task' cannot be imported, see above")


def test_help_lists_the_commands(folder: pathlib.Path) -> None:
    """The help of runjob has each command with its description."""
    done = run_job(folder, '--help', COLUMNS='200')
    assert done.returncode == ExitCode.DONE
    listed = done.stdout[done.stdout.index('commands, in place of task_cls'):]
    for name in COMMANDS:
        assert f'  {name} ' in listed
        assert load_command(name).DESCRIPTION in listed


def test_a_task_starts_without_commands(tmp_path: pathlib.Path) -> None:
    """To start a task none of the commands is loaded, nor their libraries."""
    write_module(tmp_path, 'jobs', '''
        import sys
        from jobslib import BaseTask

        class Show(BaseTask):
            def task(self):
                print(*sys.modules)
    ''')
    done = run_job(tmp_path, 'jobs.Show', '--run-once')
    assert done.returncode == ExitCode.DONE, done.stderr
    loaded = done.stdout.split()
    assert 'jobslib.run.process' in loaded
    assert not [name for name in loaded
                if name.startswith(('jobslib.commands.', 'rich'))]


# What a command raises.

@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Set what the command ``check`` does."""
    def replace(run: Any) -> None:
        monkeypatch.setattr(load_command('check'), 'run', run)
    return replace


@pytest.mark.parametrize(('error', 'code'), [
    (ConfigError('bad'), ExitCode.USAGE),
    (LockUnavailableError('away'), ExitCode.LOCK_SERVICE_UNAVAILABLE),
])
def test_errors(command: Callable[[Any], None], error: Exception,
                code: ExitCode, capsys: pytest.CaptureFixture[str]) -> None:
    """What a command raises is one line and an exit code."""
    def run(config: Config) -> None:
        raise error
    command(run)
    assert main(['check']) == code
    assert capsys.readouterr().err == f'runjob: error: {error}\n'


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_signals(command: Callable[[Any], None], signum: int) -> None:
    """A signal interrupts a command, which can clean up."""
    cleaned = []

    def run(config: Config) -> None:
        try:
            os.kill(os.getpid(), signum)
            time.sleep(DEADLINE)
        finally:
            cleaned.append(True)
    command(run)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(['check']) == ExitCode.TERMINATED
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert cleaned == [True]


def test_require_task(command: Callable[[Any], None],
                      capsys: pytest.CaptureFixture[str]) -> None:
    """A command that needs a task says so in one line."""
    command(require_task)
    assert main(['check']) == ExitCode.USAGE
    assert capsys.readouterr().err == (
        'runjob: error: check: name a task: runjob check '
        'package.module.Task, or a job of "runjob exec": --name NAME\n')


def test_closed_pipe(tmp_path: pathlib.Path) -> None:
    """Who has read enough is not told of an error."""
    with subprocess.Popen(
            [sys.executable, '-m', 'jobslib', 'check'], cwd=tmp_path,
            env=environment(tmp_path), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b''
        assert process.wait(DEADLINE) == ExitCode.DONE


# Without a task.

def test_config_without_a_task() -> None:
    """What needs the task's name says so; all else is there."""
    config = Config(None, None, None)
    assert config.one_instance.options is not None
    with pytest.raises(ConfigError, match='no task is named'):
        config.task_name
    with pytest.raises(ConfigError, match='no task is named'):
        make_lock(config)


def test_make_lock(tmp_path: pathlib.Path) -> None:
    """The lock of a command is made in a plain context."""
    settings = SimpleNamespace(
        CONTEXT_CLASS='no_such.Context',
        ONE_INSTANCE={'options': {'folder': str(tmp_path)}})
    lock = make_lock(Config(settings, None, PlainTask))
    assert lock.get_lock_owner_info() is None


# Completion.

@pytest.mark.parametrize(('words', 'completed'), [
    ('sta', 'status'), ('status --wa', '--watch'), ('--run-on', '--run-once'),
    ('pause --rea', '--reason'), ('check --al', '--all')])
def test_completion(tmp_path: pathlib.Path, words: str,
                    completed: str) -> None:
    """The script for bash completes commands, and the flags of each."""
    done = run_job(tmp_path, 'completion', '--shell', 'bash')
    assert done.returncode == ExitCode.DONE, done.stderr
    (tmp_path / 'script').write_text(done.stdout)
    shell = subprocess.run(
        ['bash', '-c', f'source ./script; COMP_WORDS=(runjob {words}); '
         f'COMP_CWORD={len(words.split())}; _shtab_runjob; '
         'echo "${COMPREPLY[@]}"'], cwd=tmp_path, capture_output=True,
        text=True, timeout=DEADLINE)
    assert (shell.stdout, shell.stderr) == (f'{completed}\n', '')


def test_completion_of_zsh(tmp_path: pathlib.Path) -> None:
    """The shell is the user's own, unless another one is named."""
    done = run_job(tmp_path, 'completion', SHELL='/usr/bin/zsh')
    assert done.stdout.startswith('#compdef runjob\n')
    assert '--max-age' in done.stdout


def test_completion_of_a_shell_as_a_word(tmp_path: pathlib.Path) -> None:
    """The shell may stand there without the flag, as other programs have it;
    another one is refused as such."""
    done = run_job(tmp_path, 'completion', 'zsh', SHELL='/bin/bash')
    assert done.stdout.startswith('#compdef runjob')
    done = run_job(tmp_path, 'completion', 'fish')
    assert done.returncode == ExitCode.USAGE
    assert "invalid choice: 'fish'" in done.stderr.splitlines()[-1]


def test_completion_without_its_library(tmp_path: pathlib.Path) -> None:
    """What is missing is said, and how to get it."""
    write_module(tmp_path, 'shtab', 'raise ImportError("no shtab")')
    done = run_job(tmp_path, 'completion')
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == (
        "runjob: error: completion: the library shtab is needed, which is "
        "installed by: pip install 'jobslib[completion]'\n")


# What is shown.

ROWS = [('ttl', output.good('fine')), ('long', 'x' * 300), (None, 5)]


def test_plain_table() -> None:
    """A plain table has one line for each row, with nothing cut off."""
    lines = output.plain_table(('name', 'value'), ROWS).splitlines()
    assert lines[0].split() == ['NAME', 'VALUE']
    assert lines[1] == 'ttl   fine'
    assert lines[2] == 'long  ' + 'x' * 300
    assert lines[3] == '      5'


def test_what_others_wrote_is_escaped() -> None:
    """No text can move the cursor or begin a line."""
    evil = 'a\x1b[2Jb\nc\x9bd\u202ee'
    assert output.printable(evil) == r'a\x1b[2Jb\nc\x9bd\u202ee'
    assert output.plain_table(('x',), [(evil,)]).splitlines()[1] == (
        output.printable(evil))


def test_fitted_table() -> None:
    """A table that is too wide does without some columns, and then cuts
    texts; where it fits, it is whole."""
    headings = ('name', 'spare', 'long')
    rows = [('name', 'spared', 100 * 'x'), ('other', '', 'y')]

    def fit(width: int) -> tuple[list[str], list[list[str]]]:
        shown, cells = output.fit(headings, rows, ('spare',), ('long',), width)
        return shown, [[cell.text for cell in row] for row in cells]

    assert fit(200) == (list(headings), [list(row) for row in rows])
    shown, [first, second] = fit(60)
    assert shown == list(headings) and second == list(rows[1])
    assert first[2] == 42 * 'x' + '…'
    shown, [first, second] = fit(30)
    assert shown == ['name', 'long']
    assert first == ['name', 21 * 'x' + '…'] and second == ['other', 'y']


def test_no_word_is_broken() -> None:
    """A table whose names take more columns than there are becomes lines."""
    table = ('from jobslib.commands.output import *; print_table(("option", '
             '"value"), [("one_instance.backend", "x.y"), ("z" * 36, 7)]); '
             'print_table(("a", "b", "c"), [("k" * 20, "l" * 20, "m n")])')
    text = re.sub(r'\x1b\[[\d;]*m', '', on_terminal(table))
    assert [line.rstrip() for line in text.splitlines()] == [
        'one_instance.backend: x.y', f'{"z" * 36}: 7',
        f'{"k" * 20}:', 'l' * 20, '  c: m n']


def test_errors_on_a_terminal() -> None:
    """An error is folded between words where a person reads it."""
    text = on_terminal('from jobslib.main import main; main(["check", '
                       '"--run-interval", "often"])').replace('\r', '')
    lines = text.splitlines()
    assert max(map(len, lines)) <= 40
    assert ' '.join(lines) == (
        "runjob: error: run_interval: 'often' from command line, "
        '--run-interval is not allowed; allowed: a number of seconds of at '
        'least 0')


def test_forced_colour() -> None:
    """FORCE_COLOR gives colours where no person is, with nothing cut off."""
    done = subprocess.run(
        [sys.executable, '-c', TABLE], capture_output=True, text=True,
        check=True, env=environment(pathlib.Path('/'), FORCE_COLOR='1'))
    assert '\x1b[1;31m' in done.stdout and 60 * 'y' in done.stdout


def test_print_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is one document, whatever is in it."""
    output.print_json({'a': [1, None, 'ä'], 'b': pathlib.Path('x')})
    assert json.loads(capsys.readouterr().out) == {
        'a': [1, None, 'ä'], 'b': 'x'}


def test_json_without_numbers_that_json_lacks(
        capsys: pytest.CaptureFixture[str]) -> None:
    """What others wrote may have what only Python takes for JSON."""
    output.print_json({'a': [float('nan'), 1.5], 'b': float('-inf')})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    assert json.loads(capsys.readouterr().out, parse_constant=refuse) == {
        'a': ['NaN', 1.5], 'b': '-Infinity'}


@pytest.mark.parametrize(('encoding', 'shown'), [
    ('ascii', r'\xe4'), ('utf-8', 'ä')])
def test_any_encoding(tmp_path: pathlib.Path, encoding: str,
                      shown: str) -> None:
    """What the terminal's encoding lacks is escaped."""
    write_module(tmp_path, 'tell', '''
        import sys
        from jobslib.commands import output
        from jobslib.main import main
        class Module:
            @staticmethod
            def run(config):
                print('ä')
                output.print_json(['ä', '\\udcff'], None)
                return 0
        import jobslib.main
        jobslib.main.load_command = lambda name: Module
        class Config:
            def hide_secrets(self): pass
        sys.exit(jobslib.main._command('tell', Config()))
        ''')
    done = subprocess.run(
        [sys.executable, 'tell.py'], cwd=tmp_path, capture_output=True,
        env=environment(tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8='0'),
        timeout=DEADLINE)
    assert done.stderr == b''
    first, document = done.stdout.decode().splitlines()
    assert first == shown
    assert json.loads(document) == ['ä', '\udcff']


@pytest.mark.parametrize('args', ['check', 'status', 'check --json'])
def test_closed_output(folder: pathlib.Path, args: str) -> None:
    """Where standard output is closed, the exit code is the answer."""
    done = subprocess.run(
        ['sh', '-c', f'exec "$0" -m jobslib {args} >&-', sys.executable],
        cwd=folder, env=environment(folder), stderr=subprocess.PIPE,
        timeout=DEADLINE)
    assert done.returncode == ExitCode.DONE
    assert done.stderr.count(b'\n') == (
        done.stderr.count(b'runjob: warning: no lock is configured'))


def on_terminal(code: str, **extra: str) -> str:
    """Return what Python writes to a terminal of 40 columns."""
    ours, theirs = pty.openpty()
    variables = environment(pathlib.Path('/'), TERM='xterm', COLUMNS='40')
    variables.pop('NO_COLOR', None)
    try:
        subprocess.run(
            [sys.executable, '-c', code], stdin=theirs, stdout=theirs, stderr=theirs,
            env=variables | extra, check=True, timeout=DEADLINE)
    finally:
        os.close(theirs)
    written = io.BytesIO()
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            # All of it was read, and nobody has the other end.
            break
        if not piece:
            break
        written.write(piece)
    os.close(ours)
    return written.getvalue().decode()


TABLE = ('from jobslib.commands.output import *; '
         'print_heading("Title"); '
         'print_table(("a", "b"), [("[b]c", bad("y" * 60))])')


def test_colour_on_a_terminal() -> None:
    """On a terminal there are colours, and long cells are folded."""
    text = on_terminal(TABLE)
    assert '\x1b[1;31m' in text
    assert '[b]c' in text
    assert text.count('y') == 60
    assert 'y' * 60 not in text


def test_no_color() -> None:
    """NO_COLOR is honoured."""
    text = on_terminal(TABLE, NO_COLOR='1')
    assert '\x1b[1;31m' not in text and '31' not in text
    assert text.count('y') == 60


def test_no_terminal() -> None:
    """Elsewhere the text is plain, and no library is loaded for it."""
    done = subprocess.run(
        [sys.executable, '-c', TABLE + '; import sys; '
         'print("rich" in sys.modules)'], capture_output=True, text=True,
        check=True, env=environment(pathlib.Path('/'), COLUMNS='40'))
    assert done.stdout == f'\nTitle\nA     B\n[b]c  {"y" * 60}\nFalse\n'


def test_help_of_a_command_with_required_arguments(
        folder: pathlib.Path) -> None:
    """The help of a command is shown whatever else it needs."""
    for args in (['--help'], ['--help', 'jobs.Copy'], ['jobs.Copy', '--help']):
        done = run_job(folder, 'check-liveness', *args)
        assert done.returncode == ExitCode.DONE, done.stderr
        assert '--max-age' in done.stdout
    done = run_job(folder, 'check-liveness', 'jobs.Copy')
    assert done.returncode == ExitCode.USAGE
    assert '--max-age' in done.stderr
