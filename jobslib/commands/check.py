"""``runjob check``: is everything as it should be?"""

from __future__ import annotations

import datetime
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from jobslib.cmdlineparser import build_parser
from jobslib.commands.common import add_json, hasten, is_default_lock
from jobslib.commands.lease import figures, handovers, sums
from jobslib.commands.listing import Shown, list_options
from jobslib.commands.output import (
    Cell,
    bad,
    dim,
    good,
    is_coloured,
    print_heading,
    print_json,
    print_line,
    print_table,
    warn,
)
from jobslib.config import Config
from jobslib.context import Context
from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.keeper.timings import Timings
from jobslib.legacy import describe
from jobslib.oneinstance.clocks import LIMIT
from jobslib.oneinstance.diagnosis import (
    DENIED,
    DOUBTFUL,
    FAILED,
    NOT_TRIED,
    OK,
    Finding,
    examine_system,
)
from jobslib.strictness import find_unknown_settings, remarks

if TYPE_CHECKING:
    import argparse

    from jobslib.documents import Document


__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Show the options that are set and check the lock, '
               'without disturbing a running job.')

#: Its help lists all options of a run, because it shows what they lead to.
OPTIONS = None

WRONG = (DENIED, FAILED)

#: How many of the next runs are shown.
SHOWN_SLOTS = 5


class Report(NamedTuple):
    """All that was found out."""

    #: The name of the task, if one is named.
    task: str | None
    #: The dotted path of the lock's class.
    lock: str
    options: list[Shown]
    timings: Timings | None
    #: When the job is due, in words, and the next slots as far as they are
    #: known.
    schedule: str
    next_runs: list[datetime.datetime]
    #: What the kernel and the sandbox let a job do.
    system: list[Finding]
    #: What the lock needs.
    findings: list[Finding]
    #: By how many seconds this machine's clock is ahead of that of the lock's
    #: service, at least and at most; ``None`` if it is not known.
    clock: tuple[float, float] | None
    #: What is allowed, and probably not meant.
    warnings: list[str]
    #: The names in the settings module that no option has.
    unknown: list[str]

    @property
    def wrong(self) -> list[Finding]:
        """What went wrong."""
        return [each for each in self.system + self.findings
                if each.result in WRONG]

    @property
    def code(self) -> ExitCode:
        """The exit code that follows from it."""
        return (ExitCode.LOCK_SERVICE_UNAVAILABLE if self.wrong
                else ExitCode.DONE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)
    parser.add_argument(
        '--all', action='store_true',
        help='also show options that have their defaults, the arithmetic of '
             'the lease, and what went well')


def run(config: Config) -> ExitCode:
    """Show what is configured, and try what the lock needs.

    :raises ConfigError: a run would be refused for it.
    """
    report = examine(config)
    for note in describe(config):
        print_line(f'runjob: warning: deprecated since jobslib 4: {note}',
                   sys.stderr)
    if config.args.json:
        print_json(as_dict(report))
    else:
        show(report, config.args.all)
    return report.code


def examine(config: Config) -> Report:
    """Find out all that the report has, without running code of the user.

    :raises ConfigError: a run would be refused for the same reason.
    """
    _check_classes(config)
    options = list(list_options(config))
    hasten(config)
    one_instance = config.one_instance
    lock_class = one_instance.backend_class
    timings = getattr(one_instance.options, 'timings', None)
    findings = _diagnose(config)
    clock = _compare_clocks(config, findings)
    return Report(
        None if config.task_cls is None else config.task_name,
        f'{lock_class.__module__}.{lock_class.__qualname__}',
        options,
        timings if isinstance(timings, Timings) else None,
        *_examine_schedule(config),
        examine_system(),
        findings, clock, _warn(config) + [
            each.detail for each in findings if each.result == DOUBTFUL],
        find_unknown_settings(config))


def _warn(config: Config) -> list[str]:
    return remarks(config) + ([
        'no lock is configured, so the job has the default one, a file: it '
        'keeps the job to one instance on this machine only'
    ] if is_default_lock(config) else [])


def as_dict(report: Report) -> Document:
    """Return *report* as JSON takes it."""
    return {
        'task': report.task,
        'ok': report.code == ExitCode.DONE,
        'exit_code': int(report.code),
        'warnings': report.warnings,
        'unknown_settings': report.unknown,
        'options': [each._asdict() for each in report.options],
        'schedule': report.schedule,
        'next_runs': [each.isoformat() for each in report.next_runs],
        'system': [each._asdict() for each in report.system],
        'lock': {
            'class': report.lock,
            'timings': report.timings and figures(report.timings),
            'findings': [each._asdict() for each in report.findings],
            'clock_ahead': report.clock and dict(zip(
                ('at_least', 'at_most'),
                (round(each, 3) for each in report.clock), strict=True))},
    }


def show(report: Report, everything: bool = True) -> None:
    """Print *report* for a person.

    :param everything: otherwise only what was set, and what is wrong.
    """
    _show_options(report, everything)
    if everything and report.timings is not None:
        print_heading('Lease')
        for line in sums(report.timings):
            print_line(line)
        print_heading('Another machine can have the lock, at the latest, when')
        print_table(('event', 'after', 'sum'), (
            (event, f'{seconds:g} s', arithmetic)
            for event, seconds, arithmetic in handovers(report.timings)))
    print_heading(f'Schedule: {report.schedule}')
    if report.next_runs:
        print_table(('next runs', 'here'), (
            (f'{each:%Y-%m-%d %H:%M:%S %z}',
             f'{each.astimezone():%Y-%m-%d %H:%M:%S %z}')
            for each in report.next_runs))
    print_heading('System')
    _show_findings(report.system, everything)
    print_heading(f'Lock: {report.lock}')
    _show_findings(report.findings, everything)
    for warning in report.warnings:
        print_heading(f'Warning: {warning}')
    print_heading(_verdict(report))


def _examine_schedule(
    config: Config,
) -> tuple[str, list[datetime.datetime]]:
    """Return when the job is due, and the next runs by the calendar."""
    from jobslib.schedule.agenda import NEVER
    from jobslib.schedule.rhythms import Slots
    plan = config.make_plan('' if config.task_cls is None else config.task_name)
    rhythm = plan.rhythm
    if not isinstance(rhythm, Slots):
        return rhythm.words(), []
    late = f', {plan.jitter:g} s later' if plan.jitter else ''
    slots = rhythm.between(
        time.time() - plan.jitter, float('inf'), SHOWN_SLOTS)
    return rhythm.words() + late, [
        config.local_time(slot + plan.jitter) for slot in slots
        if slot + plan.jitter < NEVER]


def _show_findings(findings: list[Finding], everything: bool) -> None:
    wrong = [each for each in findings if each.result in WRONG]
    shown = findings if everything else wrong
    if shown:
        print_table(('what', 'result', 'detail', 'to grant'), (
            (what, _result(result), detail, grant)
            for what, result, detail, grant in shown),
            ('to grant',), ('detail', 'what'))
        if is_coloured():
            # Said once more, because the table may have left the column out.
            for each in wrong:
                grant = f'; to grant: {each.grant}' if each.grant else ''
                print_line(f'{each.what}: {each.detail}{grant}')
    elif findings:
        tried = ('1 thing was' if len(findings) == 1
                 else f'{len(findings)} things were')
        print_line(f'{tried} tried, and nothing went wrong; '
                   f'{findings[0].detail or "see --all"}')


def _show_options(report: Report, everything: bool) -> None:
    name = report.task or 'every task'
    given = [each for each in report.options if each.source != 'default']
    if everything:
        print_heading(f'Options of {name}')
        print_table(('option', 'value', 'from', 'allowed'), (
            (each.name, _value(each), _source(each), dim(each.allowed))
            for each in report.options), ('allowed',), ('value', 'from'))
    elif given:
        print_heading(f'Options of {name} that are set')
        print_table(('option', 'value', 'from'), (
            (each.name, _value(each), _source(each)) for each in given))
    else:
        print_heading(f'No option of {name} is set')
    if not everything:
        print_line(f'{len(report.options) - len(given)} options have their '
                   f'defaults: "runjob check --all" shows them')
    if report.unknown:
        print_line('In the settings and not an option of jobslib: '
                   + ', '.join(report.unknown))


def _check_classes(config: Config) -> None:
    """Refuse what a run would refuse when it makes the task."""
    import argparse
    config.find_class()
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


def _compare_clocks(config: Config,
                    findings: list[Finding]) -> tuple[float, float] | None:
    """Return how far this machine's clock is ahead, and add a finding."""
    what = 'compare the clocks'
    one_instance = config.one_instance
    lock_class = one_instance.backend_class
    if not hasattr(lock_class, 'compare_clocks'):
        return None
    if findings and findings[0].result == FAILED:
        # The service does not answer, and would be waited for once more.
        return None
    try:
        bounds: tuple[float, float] | None = lock_class.compare_clocks(
            Context(config), one_instance.options)
    except LockUnavailableError as exc:
        findings.append(Finding(what, NOT_TRIED, str(exc)))
        return None
    if bounds is not None:
        findings.append(_judge_clock(what, *bounds))
    return bounds


def _judge_clock(what: str, low: float, high: float) -> Finding:
    middle, off = (low + high) / 2, (high - low) / 2
    side = 'ahead of' if middle >= 0 else 'behind'
    found = (f'the clock of this machine is {abs(middle):.1f} s {side} that of '
             f'the lock\'s service (give or take {off:.1f} s)')
    if low <= LIMIT and high >= -LIMIT:
        return Finding(what, OK, found)
    return Finding(what, DOUBTFUL, (
        f'{found}; slots begin by the clock of each machine, so set both right, '
        f'with NTP for instance'))


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
    if result == DOUBTFUL:
        return warn(result)
    return good(result) if result == OK else dim(result)


def _verdict(report: Report) -> str:
    if not report.wrong:
        return 'All is well.' if not report.warnings else (
            f'The lock works; {len(report.warnings)} warning'
            f'{"s" if len(report.warnings) > 1 else ""}, see above.')
    tried = len(report.system + report.findings)
    return (f'{len(report.wrong)} of {tried} things went wrong: '
            + '; '.join(each.what for each in report.wrong))
