"""``runjob status``: who has the job, how did it go, when is the next run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from jobslib.commands.common import add_json, make_lock
from jobslib.commands.jobs import LATEST, ago, describe, since, who
from jobslib.commands.output import (
    Cell,
    bad,
    dim,
    good,
    is_terminal,
    make_console,
    make_table,
    plain_table,
    print_json,
    printable,
    warn,
)
from jobslib.config import Config
from jobslib.context import Context
from jobslib.exceptions import ConfigError, LockUnavailableError
from jobslib.exitcodes import ExitCode

if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'add_arguments', 'run']

DESCRIPTION = ('Show who has a job and how its last runs went; without a '
               'task, all jobs.')

INTERVAL = 2.0
SHOWN_RUNS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)
    parser.add_argument(
        '--watch', action='store_true',
        help=f'show it anew every {INTERVAL:g} s, until Ctrl-C; with --json '
             f'one document a line')
    parser.add_argument(
        '--prefix', metavar='PREFIX',
        help='without a task: the jobs whose lock begins so (default: jobs/, '
             'the keys of Consul that locks have by default)')


def run(config: Config) -> ExitCode:
    """Show the job, or all jobs.

    :raises ConfigError: the lock does not know of other jobs.
    :raises LockUnavailableError: the lock's service did not answer.
    """
    try:
        if config.args.watch:
            _watch(config)
        else:
            _show(config, look(config))
    except NotImplementedError as exc:
        raise ConfigError(f'status: {exc}; name a task') from None
    return ExitCode.DONE


def look(config: Config) -> list[dict[str, Any]]:
    """Return what is known of the job, or of all jobs."""
    if config.task_cls is None:
        one_instance = config.one_instance
        states = one_instance.backend_class.find_all(
            Context(config), one_instance.options, config.args.prefix)
        return [describe(name, state)
                for name, state in sorted(states.items())]
    lock = make_lock(config)
    try:
        return [describe(config.task_name, lock.look())]
    finally:
        lock.close()


def _show(config: Config, jobs: list[dict[str, Any]]) -> None:
    if config.args.json:
        print_json(jobs if config.task_cls is None else jobs[0])
    else:
        for table in tables(config, jobs):
            if is_terminal():
                make_console().print(make_table(*table))
            else:
                print(plain_table(*table))


def _watch(config: Config) -> None:
    """Show it again and again, until interrupted."""
    if config.args.json:
        while True:
            print_json({'time': time.time(), 'jobs': look(config)}, None)
            time.sleep(INTERVAL)
    if not is_terminal():
        while True:
            _show(config, look(config))
            print(flush=True)
            time.sleep(INTERVAL)
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text
    with Live(console=make_console(), auto_refresh=False) as live:
        while True:
            try:
                parts: list[Any] = [make_table(*table) for table
                                    in tables(config, look(config))]
            except LockUnavailableError as exc:
                parts = [Text(printable(str(exc)), 'bold red')]
            parts.append(Text(time.strftime('%H:%M:%S'), 'dim'))
            live.update(Group(*parts), refresh=True)
            time.sleep(INTERVAL)


Table = tuple[tuple[str, ...], list[tuple[Cell | str, ...]]]


def tables(config: Config, jobs: list[dict[str, Any]]) -> list[Table]:
    """Return the tables to show, each its headings and rows."""
    if config.task_cls is None:
        return [_overview(jobs)]
    return [_details(jobs[0]), _runs(jobs[0])]


def _overview(jobs: list[dict[str, Any]]) -> Table:
    return (('job', 'state', 'holder', 'last run', 'outcome', 'next due',
             'runs', 'failed', 'standbys'),
            [(job['job'], _state(job), str((job['holder'] or {}).get('fqdn', '-')),
              since((job['last_run'] or {}).get('started')),
              _outcome(job['last_run']), since(job['due']), str(job['runs']),
              str(job['failures']), _standbys(job)) for job in jobs])


def _details(job: dict[str, Any]) -> Table:
    holder, last = job['holder'], job['last_run']
    rows: list[tuple[Cell | str, ...]] = [
        ('job', job['job']), ('state', _state(job)), ('holder', who(holder)),
        ('since', ago((holder or {}).get('since'))),
        ('fencing token', str((holder or {}).get('token') or '-')),
        ('last run', ago((last or {}).get('started'))),
        ('outcome', _outcome(last)), ('duration', _duration(last)),
        ('error', str((last or {}).get('error') or '-')),
        ('last success', ago(job['last_success'])),
        ('next due', ago(job['due'])), ('runs', str(job['runs'])),
        ('failed', str(job['failures'])),
        ('standbys', ', '.join(map(who, job['standbys'] or ())) or '-')]
    if job['progress']:
        rows.append(('progress', _progress(job['progress'])))
    if job['paused'] is not None:
        rows.append(('paused', warn(_paused(job['paused']))))
    return ('field', 'value'), rows


def _runs(job: dict[str, Any]) -> Table:
    return (('run', 'started', 'duration', 'outcome', 'on', 'error'),
            [(str(run.get('run')), ago(run.get('started')), _duration(run),
              _outcome(run), who(run), str(run.get('error') or ''))
             for run in reversed(job['history'][-SHOWN_RUNS:])])


def _state(job: dict[str, Any]) -> Cell:
    state = job['state']
    if job['paused'] is not None:
        # A holder that is told to pause ends its run first.
        return warn('paused' if state != 'running' else 'running, then paused')
    return good(state) if job['holder'] else dim(state)


def _outcome(run: dict[str, Any] | None) -> Cell:
    if run is None:
        return dim('-')
    outcome = str(run.get('outcome'))
    return good(outcome) if outcome == 'succeeded' else bad(outcome)


def _duration(run: dict[str, Any] | None) -> str:
    duration = (run or {}).get('duration')
    ok = isinstance(duration, int | float) and abs(duration) < LATEST
    return f'{duration:.3f} s' if ok else '-'


def _standbys(job: dict[str, Any]) -> str:
    return '-' if job['standbys'] is None else str(len(job['standbys']))


def _progress(progress: dict[str, Any]) -> str:
    done, total = progress.get('done'), progress.get('total')
    shown = f'{done} of {total}' if total is not None else f'{done}'
    message = progress.get('message')
    return f'{shown}{f", {message}" if message else ""}, at ' + ago(
        progress.get('time'))


def _paused(paused: dict[str, Any]) -> str:
    reason = paused.get('reason')
    return (f'by {paused.get("by", "?")}, {ago(paused.get("timestamp"))}'
            + (f': {reason}' if reason else ''))
