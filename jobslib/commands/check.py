"""``runjob check``: is everything as it should be?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from jobslib.cmdlineparser import build_parser
from jobslib.commands.common import add_json
from jobslib.commands.lease import figures, handovers, sums
from jobslib.commands.listing import Shown, list_options
from jobslib.commands.output import (
    Cell,
    bad,
    dim,
    good,
    print_heading,
    print_json,
    print_table,
)
from jobslib.config import Config, import_class
from jobslib.context import Context
from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance.diagnosis import DENIED, FAILED, OK, Finding
from jobslib.oneinstance.timings import Timings

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Show the options and check the lock, '
               'without disturbing a running job.')

WRONG = (DENIED, FAILED)


class Report(NamedTuple):
    """All that was found out."""

    #: The name of the task, if one is named.
    task: str | None
    #: The dotted path of the lock's class.
    lock: str
    options: list[Shown]
    timings: Timings | None
    findings: list[Finding]

    @property
    def code(self) -> ExitCode:
        """The exit code that follows from it."""
        wrong = any(each.result in WRONG for each in self.findings)
        return ExitCode.LOCK_SERVICE_UNAVAILABLE if wrong else ExitCode.DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)


def run(config: Config) -> ExitCode:
    """Show what is configured, and try what the lock needs.

    :raises ConfigError: a run would be refused for it.
    """
    report = examine(config)
    if config.args.json:
        print_json(as_dict(report))
    else:
        show(report)
    return report.code


def examine(config: Config) -> Report:
    """Find it all out; nothing of the user's is run for it.

    :raises ConfigError: a run would be refused for it.
    """
    _check_classes(config)
    one_instance = config.one_instance
    lock_class = one_instance.backend_class
    timings = getattr(one_instance.options, 'timings', None)
    return Report(
        None if config.task_cls is None else config.task_name,
        f'{lock_class.__module__}.{lock_class.__qualname__}',
        list(list_options(config)),
        timings if isinstance(timings, Timings) else None,
        _diagnose(config))


def as_dict(report: Report) -> dict[str, Any]:
    """Return *report* fit for JSON."""
    return {
        'task': report.task,
        'ok': report.code == ExitCode.DONE,
        'exit_code': int(report.code),
        'options': [each._asdict() for each in report.options],
        'lock': {
            'class': report.lock,
            'timings': report.timings and figures(report.timings),
            'findings': [each._asdict() for each in report.findings]},
    }


def show(report: Report) -> None:
    """Print *report* for a person."""
    print_heading(f'Options of {report.task or "every task"}')
    print_table(('option', 'value', 'from', 'allowed'), (
        (each.name, _value(each), _source(each), dim(each.allowed))
        for each in report.options))
    if report.timings is not None:
        print_heading('Lease')
        for line in sums(report.timings):
            print(line)
        print_heading('Another machine can have the lock, at the latest, when')
        print_table(('event', 'after', 'sum'), (
            (event, f'{seconds:g} s', arithmetic)
            for event, seconds, arithmetic in handovers(report.timings)))
    print_heading(f'Lock: {report.lock}')
    if report.findings:
        print_table(('what', 'result', 'detail', 'to grant'), (
            (what, _result(result), detail, grant)
            for what, result, detail, grant in report.findings))
    print_heading(_verdict(report))


def _check_classes(config: Config) -> None:
    """Refuse what a run would refuse when it makes the task."""
    import argparse
    import_class(config, 'context_class', 'a Context', 'from_config')
    try:
        build_parser(config.task_cls, type(config))
    except argparse.ArgumentError as exc:
        raise ConfigError(f'task {config.args.task_cls}: {exc}') from None


def _diagnose(config: Config) -> list[Finding]:
    one_instance = config.one_instance
    lock_class = one_instance.backend_class
    if not hasattr(lock_class, 'diagnose'):
        return []
    try:
        return list(lock_class.diagnose(Context(config), one_instance.options))
    except LockUnavailableError as exc:
        return [Finding('use the lock', FAILED, str(exc))]


def _value(option: Shown) -> Cell:
    if option.value is None:
        return dim('-')
    if isinstance(option.value, float):
        return Cell(f'{option.value:g}')
    return Cell(str(option.value))


def _source(option: Shown) -> Cell:
    return dim(option.source) if option.source == 'default' else Cell(
        option.source)


def _result(result: str) -> Cell:
    if result in WRONG:
        return bad(result)
    return good(result) if result == OK else dim(result)


def _verdict(report: Report) -> str:
    wrong = [each for each in report.findings if each.result in WRONG]
    if not wrong:
        return 'All is well.'
    return (f'{len(wrong)} of {len(report.findings)} things went wrong: '
            + '; '.join(each.what for each in wrong))
