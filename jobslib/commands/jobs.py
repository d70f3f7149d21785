"""What is known of a job, put together for people and for programs."""

from __future__ import annotations

import time
from typing import Any

from jobslib.history import History
from jobslib.oneinstance import LockState
from jobslib.owner import OwnerRecord

__all__ = ['LATEST', 'ago', 'describe', 'iso', 'since', 'who']

#: No UNIX time, nor a duration; larger integers do not fit into a float.
LATEST = 1e12


def describe(name: str, state: LockState, now: float | None = None,
             place: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what *state* says of the job *name*; fit for JSON.

    Times are UNIX times, and beside each there is one in ISO 8601, whose
    name ends with ``_utc``.

    :param now: UNIX time, by default that of this machine.
    :param place: where the lock is.
    """
    now = time.time() if now is None else now
    record = state.record or {}
    history = History.read(
        state.history, OwnerRecord.parse(state.record), now, held=state.held,
        handed_in=state.handed_in)
    due = _due(state, history)
    what = _state(state, history, due, now)
    progress = state.progress or {}
    shown = what == 'running' and progress.get('token') in (None, state.token)
    return {
        'task': name, 'lock': place, 'state': what,
        'holder': None if not state.held else {
            'fqdn': record.get('fqdn'), 'pid': record.get('pid'),
            'since': record.get('timestamp'),
            'since_utc': iso(record.get('timestamp')), 'token': state.token},
        'last_run': (_dated(history.newest[-1].export()) if history.newest
                     else None),
        'last_success': history.succeeded,
        'last_success_utc': iso(history.succeeded),
        'due': due, 'due_utc': iso(due),
        'runs': history.runs, 'failures': history.failures,
        'progress': (_dated(state.progress, 'time') if shown and state.progress
                     else None),
        'paused': _dated(state.control.paused),
        'asked': _dated(_asked(state)),
        'stop': (_dated(state.control.stop_for(state.token)) if state.held
                 else None),
        'extra': _dated(state.control.extra),
        'skipped': [
            {**each, 'slot_utc': iso(each['slot'])}
            for each in state.control.skips if each['slot'] > now],
        'standbys': state.others, 'history': [
            _dated(run.export()) for run in history.newest]}


def _asked(state: LockState) -> dict[str, Any] | None:
    """Return what is asked of the job and not done yet."""
    request = state.control.request
    if request is None or request.get('token') is None:
        return None
    token = state.token if state.held else (state.record or {}).get('token')
    return request if request['token'] == token else None


def _dated(found: Any, name: str | None = None) -> Any:
    """Return *found* with its UNIX time in ISO 8601 as well."""
    if not isinstance(found, dict):
        return found
    for each in (name,) if name else ('started', 'timestamp'):
        if each in found:
            utc = 'time_utc' if each in ('timestamp', 'time') else f'{each}_utc'
            found = {**found, utc: iso(found[each])}
    return found


def iso(then: Any) -> str | None:
    """Return a UNIX time in UTC, in ISO 8601; ``None`` if it is none."""
    if not (isinstance(then, int | float) and abs(then) < LATEST):
        return None
    try:
        return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(then))
    except (ValueError, OverflowError, OSError):
        return None


def _due(state: LockState, history: History) -> float | None:
    """Return when the next run is due, as far as the last holder said so."""
    record = state.record or {}
    schedule = record.get('schedule')
    # What the holder said when it took the lock, or released it.
    due = schedule.get('due') if isinstance(schedule, dict) else None
    if state.held and history.acquired == record.get('timestamp'):
        # It has ended a run since, and keeps the lock.
        due = (state.history or {}).get('due')
    if isinstance(due, int | float) and abs(due) < LATEST:
        return float(due)
    return None


def _state(state: LockState, history: History, due: float | None,
           now: float) -> str:
    extra = state.control.extra
    if state.held and extra and extra.get('token') == state.token:
        return 'running'
    if state.held:
        return 'waiting' if due is not None and due > now else 'running'
    if state.control.paused is not None:
        return 'paused'
    return 'free'


def who(process: dict[str, Any] | None) -> str:
    """Return machine and process, for people."""
    if process is None:
        return '-'
    return f'{process.get("fqdn", "?")} (pid {process.get("pid", "?")})'


def ago(then: Any, now: float | None = None) -> str:
    """Return a UNIX time for people, and how long ago or ahead it is."""
    if then is None:
        return '-'
    try:
        shown = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(then))
    except (TypeError, ValueError, OverflowError, OSError):
        return '-'
    return f'{shown} ({since(then, now)})'


def since(then: Any, now: float | None = None) -> str:
    """Return how long ago or ahead a UNIX time is."""
    if not (isinstance(then, int | float) and abs(then) < LATEST):
        return '-'
    passed = (time.time() if now is None else now) - then
    return (f'in {_span(-passed)}' if passed < 0
            else f'{_span(passed)} ago')


def _span(seconds: float) -> str:
    for size, unit in ((86400, 'd'), (3600, 'h'), (60, 'min')):
        if seconds >= 2 * size:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds:.0f} s'
