"""``runjob check-liveness``: did the job succeed lately, on any machine."""

from __future__ import annotations

import argparse
import math
import sys

from jobslib.commands.common import add_json, hasten, require_task
from jobslib.commands.output import print_json, print_line
from jobslib.config import Config
from jobslib.context import Context
from jobslib.exceptions import ConfigError, LivenessError
from jobslib.exitcodes import ExitCode
from jobslib.liveness import BaseLiveness, age_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = 'Say whether the job succeeded lately, on any machine.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        '--max-age', type=_seconds, required=True, metavar='SECONDS',
        help='how old the last success may be')
    add_json(parser)


def run(config: Config) -> ExitCode:
    """Print PASS or FAIL, and return the exit code for it.

    A task need not be named if the liveness has a key of its own.

    :raises ConfigError: no task is named, or no liveness is configured.
    """
    key = getattr(config.liveness.options, 'key', None)
    if key is None:
        require_task(config)
    if config.liveness.raw_value('backend') is None:
        raise ConfigError(
            'check-liveness: no liveness is configured; set '
            "LIVENESS['backend'] or JOBSLIB_LIVENESS_BACKEND")
    hasten(config)
    # A plain context is made, because that of the task opens what only runs need.
    liveness = Context(config).liveness
    try:
        report = _check(liveness, config.args.max_age)
    except LivenessError as exc:
        if config.args.json:
            print_json({'passed': None, 'error': str(exc)}, None)
        print_line(f'runjob: error: {exc}', sys.stderr)
        return ExitCode.LOCK_SERVICE_UNAVAILABLE
    finally:
        liveness.close()
    task = key if config.task_cls is None else config.task_name
    report = {'task': task, **report}
    if config.args.json:
        print_json(report, None)
    else:
        print_line(_describe(report))
    return ExitCode.DONE if report['passed'] else ExitCode.TASK_FAILED


def _check(liveness: BaseLiveness, max_age: float) -> dict[str, object]:
    record = liveness.read()
    return {
        'passed': liveness.judge(record, max_age), 'max_age': max_age,
        'age': None if record is None else round(age_of(record), 3),
        'last': record}


def _describe(report: Document) -> str:
    word = 'PASS' if report['passed'] else 'FAIL'
    last, age = report['last'], report['age']
    if last is None:
        return f'{word}: {report["task"]}: no success is noted'
    where = f'{last.get("time_local", "?")} on {last.get("fqdn", "?")}'
    if age < -report['max_age']:
        text = (f'last success {-age:.1f} s ahead of the clock of this machine '
                f'({where}): one of the clocks is wrong')
    else:
        text = f'last success {max(age, 0.0):.1f} s ago ({where})'
    return f'{word}: {report["task"]}: {text}; allowed: {report["max_age"]:g} s'


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not allowed; allowed: a number of seconds '
            f'above 0')
    return seconds
