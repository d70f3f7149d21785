"""What is known of a job, put together for people and for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobslib.history import History, written_ledger
from jobslib.oneinstance import LockState
from jobslib.oneinstance.control import MAX_SKIPS
from jobslib.owner import OwnerRecord
from jobslib.schedule.agenda import NEVER, read_ledger
from jobslib.schedule.belief import Memory, Situation
from jobslib.schedule.decisions import decide, upcoming
from jobslib.schedule.ledger import Ledger, Records, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobslib.documents import Document
    from jobslib.oneinstance.requests import Extra, Pause, Request, Stop
    from jobslib.schedule.plans import Plan

__all__ = ['ago', 'describe', 'find_ledger', 'iso', 'since', 'who']

#: A number that is larger is not a UNIX time.
LATEST = 1e12

#: How many of the next slots are shown.
SHOWN_SLOTS = 3


def describe(name: str, state: LockState, now: float | None = None,
             place: Mapping[str, object] | None = None,
             plan: Plan | None = None) -> Document:
    """Return what *state* says of the job *name*, as JSON takes it.

    Times are UNIX times.  Beside each there is the same time in ISO 8601, by a
    name that ends with ``_utc``.

    :param now: UNIX time, by default that of this machine.
    :param place: where the lock is.
    :param plan: when the job is due, as far as that is known here.
    """
    now = time.time() if now is None else now
    record = state.owner
    history = History.read(
        state.history, OwnerRecord.parse(state.record), now, held=state.held,
        handed_in=state.handed_in)
    due = record.due
    if state.held and history.acquired == record.timestamp:
        # The holder keeps the lock and has ended a run since it took it, so the
        # history is newer than the owner record.
        due = history.due
    what = _state(state, due, now)
    run = _current_run(state, due, now, plan) if what == 'running' else None
    return {
        'task': name, 'lock': place, 'state': what,
        'holder': None if not state.held else {
            'fqdn': record.fqdn, 'pid': record.pid, 'since': record.timestamp,
            'since_utc': iso(record.timestamp), 'token': state.token},
        'current_run': run,
        'last_run': (_dated(history.newest[-1].export(), 'started')
                     if history.newest else None),
        'last_success': history.succeeded,
        'last_success_utc': iso(history.succeeded),
        'due': due, 'due_utc': iso(due),
        'next_runs': _next_runs(state, now, plan),
        'runs': history.runs, 'failures': history.failures,
        **history.outcomes,
        'progress': _progress(state, run),
        'paused': _exported(state.control.paused),
        'asked': _exported(_asked(state)),
        'stop': (_exported(state.control.stop_for(state.token)) if state.held
                 else None),
        'extra': _exported(state.control.extra),
        'skipped': [
            {**each.export(), 'slot_utc': iso(each.slot)}
            for each in state.control.skips if each.slot > now],
        'unreadable': state.unreadable,
        'standbys': state.others, 'history': [
            _dated(run.export(), 'started') for run in history.newest]}


def _ledger(state: LockState) -> Ledger | None:
    record = OwnerRecord.parse(state.record)
    ledger, _ = read_ledger(record, written_ledger(state.history, record))
    return ledger


def find_ledger(state: LockState, plan: Plan) -> Ledger | None:
    """Return the ledger of the job, an empty one if there is none.

    It is ``None`` if the holder has another schedule than *plan*.
    """
    found = _ledger(state)
    if found is None:
        return Ledger(plan.fingerprint)
    if state.held and found.schedule != plan.fingerprint:
        return None
    return found


def _current_run(state: LockState, due: float | None, now: float,
                 plan: Plan | None) -> dict[str, object]:
    """Return what is known of the run that is under way.

    What is not known is ``None``.  If ``attempt`` is a number and ``slot`` is
    ``None``, the run is for no slot.
    """
    extra = state.control.extra
    if extra is not None and extra.token != state.token:
        extra = None
    slot, attempt, started = (
        _run_of_schedule(state, due, plan) if extra is None
        else (extra.slot, extra.tries, extra.began))
    started = None if started is None else round(started, 3)
    return {'slot': slot, 'slot_utc': iso(slot), 'attempt': attempt,
            'reason': None if extra is None else 'asked',
            'started': started, 'started_utc': iso(started),
            'duration': (None if started is None
                         else round(max(0.0, now - started), 3))}


def _run_of_schedule(
    state: LockState, due: float | None, plan: Plan | None,
) -> tuple[float | None, int | None, float | None]:
    """Return slot, attempt and start of the run that is under way by the
    schedule, as far as they are known.
    """
    ledger = _ledger(state)
    if ledger is None:
        return None, None, due
    if ledger.records is Records.NOTHING:
        # The ledger has only the first run of the holder, which may be long ago.
        return None, None, None
    if ledger.state is State.BEGUN:
        return ledger.slot, ledger.attempt, ledger.began
    # A holder that keeps the lock writes when its runs have ended.  The run that
    # is under way is the one on which it has decided when that was due.
    if due is None or plan is None or ledger.schedule != plan.fingerprint:
        return None, None, due
    # A little later than `due`, because sums of times are not exact.
    decision = decide(plan, ledger, Situation(
        due + 0.001, pauses=state.control.pauses, skips=state.control.skipped),
        Memory(due))
    if not decision.run:
        return None, None, due
    return decision.slot, decision.ledger.attempt, due


def _next_runs(state: LockState, now: float,
               plan: Plan | None) -> list[dict[str, object]] | None:
    """Return the next slots, and when they are due; ``None`` if that is not
    known here."""
    ledger = None if plan is None else find_ledger(state, plan)
    if plan is None or ledger is None:
        return None
    slots = [slot for slot in upcoming(
        plan, ledger, now - plan.jitter, SHOWN_SLOTS + MAX_SKIPS)
        if slot not in state.control.skipped and slot < NEVER]
    return [{'slot': slot, 'slot_utc': iso(slot),
             'due': round(slot + plan.jitter, 3),
             'due_utc': iso(slot + plan.jitter)}
            for slot in slots[:SHOWN_SLOTS]]


def _progress(state: LockState, run: Document | None) -> Document | None:
    """Return how far the *run* that is under way is."""
    progress = state.progress
    if run is None or progress is None or (
            progress.token not in (None, state.token)):
        return None
    said, started = progress.time, run['started']
    if said is not None and started is not None and said < started:
        # It is about an earlier run of a holder that keeps the lock.
        return None
    return _dated(progress.export(), 'time')


def _asked(state: LockState) -> Request | None:
    """Return the request to the holder that is not fulfilled yet."""
    request = state.control.request
    if request is None or request.token is None:
        return None
    token = state.token if state.held else state.owner.token
    return request if request.token == token else None


def _exported(asked: Pause | Request | Stop | Extra | None) -> object:
    return None if asked is None else asked.export()


def _dated(found: Document, name: str) -> Document:
    """Return *found* with the UNIX time *name* in ISO 8601 as well."""
    return {**found, f'{name}_utc': iso(found[name])}


def iso(then: float | None) -> str | None:
    """Return a UNIX time in UTC, in ISO 8601; ``None`` if there is none."""
    return None if then is None else time.strftime(
        '%Y-%m-%dT%H:%M:%SZ', time.gmtime(then))


def _state(state: LockState, due: float | None, now: float) -> str:
    extra = state.control.extra
    if state.held and extra and extra.token == state.token:
        return 'running'
    if state.held:
        return 'waiting' if due is not None and due > now else 'running'
    if state.control.paused is not None:
        return 'paused'
    return 'free'


def who(process: Mapping[str, object] | None) -> str:
    """Return machine and process, for people."""
    if process is None:
        return '-'
    return f'{process.get("fqdn", "?")} (pid {process.get("pid", "?")})'


def ago(then: object, now: float | None = None) -> str:
    """Return a UNIX time for people, and how long ago or ahead it is; a dash if
    *then* is not a time."""
    passed, at = since(then, now), _time(then)
    if at is None or at >= NEVER:
        return passed
    shown = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))
    return f'{shown} ({passed})'


def since(then: object, now: float | None = None) -> str:
    """Return how long ago or ahead a UNIX time is; a dash if *then* is not a
    time."""
    at = _time(then)
    if at is None:
        return '-'
    if at >= NEVER:
        return 'never'
    passed = (time.time() if now is None else now) - at
    return (f'in {_span(-passed)}' if passed < 0
            else f'{_span(passed)} ago')


def _time(value: object) -> float | None:
    if isinstance(value, int | float) and abs(value) < LATEST:
        return value
    return None


def _span(seconds: float) -> str:
    for size, unit in ((86400, 'd'), (3600, 'h'), (60, 'min')):
        if seconds >= 2 * size:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds:.0f} s'
