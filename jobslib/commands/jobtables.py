"""What is known of jobs, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jobslib.commands.jobs import ago, since, who
from jobslib.commands.output import Cell, bad, dim, good, warn
from jobslib.history import FAILURES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['JobTable', 'demands', 'details', 'overview', 'runs',
           'shown_progress']

SHOWN_RUNS = 10
NOT_OURS = "its value is not jobslib's, and is ignored"

Row = tuple[Cell | str, ...]


class JobTable(NamedTuple):
    """A table: its headings, its rows, and how it is made narrower.

    *less* names the columns that are left out on a narrow terminal, the first
    one first, *short* those whose texts are cut off.
    """

    headings: tuple[str, ...]
    rows: list[Row]
    less: tuple[str, ...] = ()
    short: tuple[str, ...] = ()


def overview(jobs: list[Document]) -> JobTable:
    """Return a table with a row for each job."""
    names = [job['task'] for job in jobs]
    headings = ('task', 'state', 'holder', 'last run', 'outcome', 'next due',
                'runs', *FAILURES, 'standbys')
    rows: list[Row] = []
    for job in jobs:
        name = job['task']
        if names.count(name) > 1:
            # Tasks of one name with different locks are different jobs.
            name = f'{name} ({(job["lock"] or {}).get("key")})'
        rows.append((
            name, _state(job), str((job['holder'] or {}).get('fqdn', '-')),
            since((job['last_run'] or {}).get('started')),
            _outcome(job['last_run']), since(_next_due(job)), str(job['runs']),
            *(_count(job, outcome) for outcome in FAILURES), _standbys(job)))
    return JobTable(headings, rows, (
        'standbys', 'interrupted', 'killed', 'runs', 'next due', 'failed',
        'holder'), ('task', 'holder'))


def details(job: Document) -> JobTable:
    """Return a table with what is known of one job."""
    holder, last, lock = job['holder'], job['last_run'], job['lock'] or {}
    rows: list[Row] = [
        ('lock', lock.get('backend') or '-'),
        ('address', lock.get('address') or '-'),
        ('key', lock.get('key') or '-'),
        ('task', job['task']), ('state', _state(job)), ('holder', who(holder)),
        ('since', ago((holder or {}).get('since'))),
        ('fencing token', str((holder or {}).get('token') or '-')),
        *_current_run(job), ('last run', ago((last or {}).get('started'))),
        ('outcome', _outcome(last)), ('duration', _duration(last)),
        ('error', str((last or {}).get('error') or '-')),
        ('last success', ago(job['last_success'])),
        ('next due', ago(_next_due(job))), *_next_runs(job),
        ('runs', str(job['runs'])),
        *((outcome, _count(job, outcome)) for outcome in FAILURES),
        ('standbys', ', '.join(map(who, job['standbys'] or ())) or '-')]
    if job['paused'] is not None:
        rows.append(('paused', warn(_paused(job['paused']))))
    rows += [('asked', warn(_request(each))) for each in _requests(job)]
    rows += [('skipped', warn(_skip(each))) for each in job['skipped']]
    rows += [('unreadable', warn(f'{each}: {NOT_OURS}'))
             for each in job['unreadable']]
    return JobTable(('field', 'value'), rows)


def _current_run(job: Document) -> list[Row]:
    """Return rows about the run that is under way."""
    run, progress = job['current_run'], job['progress']
    if run is None:
        return []
    known = run['attempt'] is not None
    slot = ago(run['slot']) if known else 'not known'
    if run['reason'] == 'asked':
        slot = f'{slot}, asked for by {(job["extra"] or {}).get("by", "?")}'
    return [('running since', ago(run['started'])), ('slot', slot),
            ('attempt', str(run['attempt']) if known else 'not known'),
            ('progress', shown_progress(progress) if progress else '-')]


def _next_due(job: Document) -> float | None:
    """Return when the next run is due; ``None`` while a run is under way, since
    ``due`` is about that one."""
    due: float | None = None if job['current_run'] else job['due']
    return due


def _next_runs(job: Document) -> list[Row]:
    """Return rows about the next slots."""
    if job['next_runs'] is None:
        return [('next slots', 'not known: the job has another schedule than '
                               'this command')]
    return [('' if number else 'next slots', _next_run(each))
            for number, each in enumerate(job['next_runs'])]


def _next_run(run: Document) -> str:
    """Return a slot, and with jitter when it is due."""
    slot, due = run['slot'], run['due']
    return ago(slot) if due - slot < 1 else (
        f'{ago(slot).partition(" (")[0]}, due at {ago(due)}')


def _count(job: Document, outcome: str) -> str:
    """Return how many runs had *outcome*."""
    known = sum(job[each] for each in FAILURES)
    # Older versions counted only how many did not succeed, without the outcome.
    return f'{"≥ " if known < job["failures"] else ""}{job[outcome]}'


def runs(job: Document) -> JobTable:
    """Return a table with the newest runs of a job."""
    return JobTable(
        ('run', 'started', 'duration', 'outcome', 'on', 'slot', 'reason',
         'error'),
        [(str(run.get('run')), ago(run.get('started')), _duration(run),
          _outcome(run), who(run), *_slot(run), str(run.get('error') or ''))
         for run in reversed(job['history'][-SHOWN_RUNS:])],
        ('slot', 'reason', 'on', 'duration'), ('error', 'on'))


def _slot(run: Mapping[str, object]) -> tuple[str, str]:
    """Return which slot a run was for, and why it was run."""
    slot, reason = run.get('slot'), run.get('reason')
    if reason is None:
        reason = 'asked' if 'asked' in run else '-'
    attempt = run.get('attempt', 1)
    again = '' if attempt == 1 else f', attempt {attempt}'
    return ('-' if slot is None else ago(slot).partition(' (')[0],
            f'{reason}{again}')


def _state(job: Mapping[str, object]) -> Cell:
    state = job['state']
    if job['paused'] is not None:
        # The job pauses when the run that is under way has ended.
        return warn('paused' if state != 'running' else 'running, then paused')
    return good(state) if job['holder'] else dim(state)


def _outcome(run: Mapping[str, object] | None) -> Cell:
    if run is None:
        return dim('-')
    outcome = str(run.get('outcome'))
    return good(outcome) if outcome == 'succeeded' else bad(outcome)


def _duration(run: Document | None) -> str:
    duration = (run or {}).get('duration')
    return '-' if duration is None else f'{duration:.3f} s'


def _standbys(job: Document) -> str:
    return '-' if job['standbys'] is None else str(len(job['standbys']))


def shown_progress(progress: Document) -> str:
    """Return how far a run is, for people."""
    done, total = progress['done'], progress['total']
    count = '' if done is None else f'{done}'
    if count and total is not None:
        count = f'{count} of {total}'
    return ', '.join(filter(None, (
        count, progress['message'], f'at {ago(progress["time"])}')))


def demands(jobs: list[Document]) -> list[str]:
    """Return a line for each thing that is asked of a job, and by whom."""
    found = [f'{job["task"]}: paused {_paused(job["paused"])}'
             for job in jobs if job['paused'] is not None]
    return found + [f'{job["task"]}: {_request(each)}'
                    for job in jobs for each in _requests(job)] + [
        f'{job["task"]}: skipped {_skip(each)}'
        for job in jobs for each in job['skipped']] + [
        f'{job["task"]}: {each}: {NOT_OURS}'
        for job in jobs for each in job['unreadable']]


def _skip(skip: Mapping[str, object]) -> str:
    return f'the slot of {ago(skip["slot"])}, by {skip.get("by", "?")}'


def _requests(job: Document) -> list[Document]:
    """Return what is asked of the holder and not done yet."""
    stop, extra = job['stop'], job['extra']
    return [each for each in (
        job['asked'], stop and {**stop, 'do': 'stop'},
        extra and {**extra, 'do': 'run'}) if each]


def _paused(paused: Mapping[str, object]) -> str:
    reason = paused.get('reason')
    return (f'by {paused.get("by", "?")}, {ago(paused.get("timestamp"))}'
            + (f': {reason}' if reason else ''))


def _request(request: Mapping[str, object]) -> str:
    to = request.get('to')
    return (f'{request.get("do")}{f" to {to}" if to else ""} by '
            f'{request.get("by", "?")}, {ago(request.get("timestamp"))}')
