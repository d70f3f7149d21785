"""The command line, made from the options' declarations."""

import argparse
from typing import Any

import pytest
from support import PlainTask

from jobslib import BaseTask, Config, __version__, argument, option
from jobslib.cmdlineparser import CommandLine, build_parser, flags

TASK = 'jobs.Task'


class CopyTask(BaseTask):
    """A task with arguments."""

    description = 'Copies what is there: 100 % of it.'
    arguments = (
        argument('source', help='where from'),
        argument('-n', '--number', type=int, default=3, choices=range(9)),
    )


class OwnConfig(Config):
    """A configuration with a flag of its own."""

    batch = option(attrtype=int, flag='--batch-size', metavar='ROWS',
                   env='JOBSLIB_BATCH', help='At most 100 % Of it.')
    quiet = option(attrtype=bool, flag='--quiet')
    hidden = option(attrtype=int, env='JOBSLIB_HIDDEN')


def test_argument() -> None:
    """An argument keeps what add_argument is to be called with."""
    declared = argument('-x', '--extra', type=int)
    assert declared.args == ('-x', '--extra')
    assert declared.kwargs == {'type': int}


def test_all_options() -> None:
    """Every option of the command line is there, its value as it came."""
    args = build_parser().parse_args([
        '-s', 'settings', '--disable-one-instance', '--run-once',
        '--sleep-interval', '1.5', '--run-interval', 'x', '--keep-lock',
        '--release-on-error', '--max-run-time', '-1', '--log-level', 'x',
        TASK])
    assert vars(args) == {
        'settings': 'settings', 'disable_one_instance': True,
        'run_once': True, 'sleep_interval': '1.5', 'run_interval': 'x',
        'keep_lock': True, 'release_on_error': True, 'max_run_time': '-1',
        'log_level': 'x',
        'cold_standby': None, 'schedule': None, 'time_zone': None,
        'run_interval_epoch': None,
        'jitter': None, 'catch_up': None, 'start_deadline': None,
        'retries': None, 'retry_delay': None, 'recoveries': None,
        'task_cls': TASK}


def test_nothing_given() -> None:
    """What is not on the command line is None, so that others count."""
    args = vars(build_parser().parse_args([TASK]))
    assert args.pop('task_cls') == TASK
    assert set(args.values()) == {None}


def test_flags() -> None:
    """The options with a flag are found, those of nested groups included."""
    assert [declared.flag for declared in flags(Config)] == [
        '--schedule', '--time-zone', '--sleep-interval', '--run-interval',
        '--run-interval-epoch', '--jitter', '--catch-up', '--start-deadline',
        '--retries', '--retry-delay', '--recoveries', '--run-once', '--keep-lock',
        '--release-on-error', '--max-run-time', '--cold-standby', '--log-level',
        '--disable-one-instance']


@pytest.mark.parametrize('argv', [
    ['--run-once', TASK, 'here', '-n', '5'],
    [TASK, '--run-once', 'here', '-n', '5'],
    [TASK, 'here', '-n', '5', '--run-once'],
])
def test_arguments_of_the_task(argv: list[str]) -> None:
    """A task's arguments are parsed, our options before or behind them."""
    args = build_parser(CopyTask).parse_args(argv)
    assert (args.task_cls, args.source, args.number) == (TASK, 'here', 5)
    assert args.run_once is True
    assert args.keep_lock is None


def test_arguments_of_the_task_are_checked(
        capsys: pytest.CaptureFixture[str]) -> None:
    """A task's arguments take what argparse takes, and are checked by it."""
    with pytest.raises(SystemExit) as caught:
        build_parser(CopyTask).parse_args([TASK, 'here', '-n', '9'])
    assert caught.value.code == 2
    assert 'runjob: error: argument -n/--number: invalid choice: 9' in (
        capsys.readouterr().err)


@pytest.mark.parametrize('argv', [
    [], ['--no-such-option', TASK], ['--run', TASK], ['--keep', TASK],
    [TASK, 'more'], ['--sleep-interval'], ['-s'],
])
def test_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is unknown, cut short or incomplete ends with code 2."""
    with pytest.raises(SystemExit) as caught:
        build_parser(PlainTask).parse_args(argv)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if 'error:' in line] == lines[-1:]
    assert lines[-1].startswith('runjob: error: ')


def test_help_without_a_task() -> None:
    """The help names each option, its value and its variable."""
    text = ' '.join(build_parser().format_help().split())
    for declared in flags(Config):
        shown = str(declared.flag)
        if declared.metavar:
            shown += f' {declared.metavar}'
        assert shown in text
        assert declared.env is None or f'({declared.env})' in text
    assert ('--run-interval SECONDS start runs on a grid of this many '
            'seconds, without drift (JOBSLIB_RUN_INTERVAL)') in text
    assert 'task_cls' in text
    assert 'None' not in text
    assert 'Run a task, once or for ever' in text


def test_help_of_a_task() -> None:
    """The help of a task has its description and its arguments."""
    text = ' '.join(build_parser(CopyTask).format_help().split())
    assert 'Copies what is there: 100 % of it.' in text
    assert 'arguments of CopyTask: source where from -n' in text
    assert '--keep-lock' in text
    assert 'Run a task, once or for ever' not in text


def test_help_of_a_task_without_description() -> None:
    """A task without a description has its docstring there, or else the
    help of runjob; its own arguments stand first."""
    text = build_parser(PlainTask).format_help()
    assert 'A task that does nothing.' in text
    bare = type('Bare', (PlainTask,), {'arguments': (argument('--own'),)})
    text = build_parser(bare).format_help()
    assert 'Run a task, once or for ever' in text
    assert text.index('arguments of Bare') < text.rindex('--keep-lock')


def test_own_flags() -> None:
    """The flags of a subclass of Config are offered, in its words."""
    parser = build_parser(PlainTask, OwnConfig)
    args = parser.parse_args([TASK, '--batch-size', '5', '--quiet'])
    assert (args.batch_size, args.quiet) == ('5', True)
    text = ' '.join(parser.format_help().split())
    assert '--batch-size ROWS at most 100 % Of it (JOBSLIB_BATCH)' in text
    assert 'HIDDEN' not in text.upper()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version needs no task."""
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(['--version'])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f'jobslib {__version__}\n'


@pytest.mark.parametrize('name', ['--keep-lock', '-s', '--help', '-h'])
def test_argument_with_our_name(name: str) -> None:
    """An argument of a task with one of our names is an error."""
    task_cls = type('Task', (BaseTask,), {'arguments': (argument(name),)})
    with pytest.raises(argparse.ArgumentError, match='conflicting'):
        build_parser(task_cls)


@pytest.mark.parametrize(('argv', 'settings'), [
    ([], None),
    ([TASK], None),
    (['-s', 'a.b', TASK], 'a.b'),
    (['--settings', 'a.b', TASK], 'a.b'),
    (['--settings=a.b', TASK], 'a.b'),
    ([TASK, '--number', '5', '-s', 'a.b'], 'a.b'),
    (['--help', '--version', '-s', 'a.b'], 'a.b'),
])
def test_find_settings(argv: list[str], settings: str | None) -> None:
    """The settings are found before anything else is known."""
    assert CommandLine(argv).settings == settings


@pytest.mark.parametrize(('argv', 'task'), [
    ([], None),
    (['--help'], None),
    (['-s', 'a.b'], None),
    (['--sleep-interval', '5', '--keep-lock'], None),
    ([TASK], TASK),
    (['-s', 'a.b', '--sleep-interval', '5', '--keep-lock', TASK], TASK),
    (['--batch-size', '5', TASK], TASK),
    (['--quiet', TASK, 'here', '--number', '5'], TASK),
    ([TASK, '--help'], TASK),
    (['--version', TASK], TASK),
])
def test_find_task(argv: list[str], task: str | None) -> None:
    """The task is found before its arguments are known."""
    assert CommandLine(argv).under(OwnConfig).word == task


def test_find_unknown() -> None:
    """What is not jobslib's own is told with the task."""
    line = CommandLine(['--typo', TASK, '--number', '5'], OwnConfig)
    assert (line.word, line.unknown) == (TASK, ['--typo', '--number', '5'])


@pytest.mark.parametrize('value', ['-1', '-1e3', '-inf', '-nan'])
def test_join_numbers(value: str) -> None:
    """A negative number is the value of the flag before it."""
    line = CommandLine(['--sleep-interval', value, TASK, '-1'], OwnConfig)
    assert line.words == [f'--sleep-interval={value}', TASK, '-1']
    words = ['--keep-lock', TASK, value]
    assert CommandLine(words, OwnConfig).words == words


def test_program_is_left_alone() -> None:
    """What stands after a "--" is somebody else's, numbers included."""
    words = ['exec', '--name', 'job', '--', 'ls', '--sleep-interval', '-1']
    line = CommandLine(words)
    assert (line.words, line.program) == (words, words[4:])


def test_no_side_effects() -> None:
    """Each call makes a parser of its own."""
    def options(parser: Any) -> set[str]:
        return set(parser.format_usage().split())

    before = options(build_parser())
    build_parser(CopyTask, OwnConfig)
    assert options(build_parser()) == before
