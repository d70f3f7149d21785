"""The keys of jobs in Consul, read into types, and written from them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from jobslib.consul import view
from jobslib.consul.client import ConsulClient
from jobslib.consul.connection import refuse_key
from jobslib.history import HandIn
from jobslib.oneinstance import FoundLocks, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.record import find_unreadable, parse
from jobslib.reading import mappings

__all__ = ['ask', 'find_all', 'find_handed_in', 'hand_in', 'look']

# Fields that an owner record has, and no value of a key beside a lock.
OF_A_LOCK = {'task', 'pid', 'schedule'}


def look(client: ConsulClient, key: str) -> LockState:
    """Return the state of the job whose lock is *key*.

    :raises LockUnavailableError: the token may not read all of it.
    """
    return _state(view.read_job(client, key))


def find_all(client: ConsulClient, address: str, prefix: str) -> FoundLocks:
    """Return the states of all jobs whose locks begin with *prefix*, by
    their keys.

    :raises LockUnavailableError: the token may read none of them.
    :raises ConfigError: no key can begin with *prefix*.
    """
    refuse_key(prefix, '--prefix')
    found = FoundLocks(address, prefix)
    jobs, found.missing = view.find_jobs(
        client, prefix, lambda value: OF_A_LOCK <= set(parse(value) or ()))
    for key, keys in jobs.items():
        found[key] = _without_old_runs(_state(keys))
    return found


def ask(client: ConsulClient, key: str, control: Control,
        expected: Control) -> bool:
    """Write *control*, unless something else than *expected* is asked by now.

    :returns: whether it was written.
    :raises LockUnavailableError: the token may not write it.
    """
    return view.write_control(
        client, key, control.encode(),
        lambda value: Control.parse(value).export() == expected.export())


def _without_old_runs(state: LockState) -> LockState:
    """Return *state* with its newest run only, since no other is shown in a list
    of jobs."""
    # When something was handed in, it may turn out to be newer than the last run,
    # and all runs are needed to merge it.
    if state.history is not None and not state.handed_in:
        newest = mappings(state.history.get('newest'))
        state.history = {**state.history, 'newest': newest[-1:]}
    return state


def find_handed_in(client: ConsulClient, key: str) -> dict[str, HandIn]:
    """Return what was handed in for the history of the job, by name."""
    return _parse_handed_in(view.read_handed_in(client, key))


def hand_in(client: ConsulClient, key: str, handed_in: HandIn) -> bool:
    """Hand *handed_in* in, for the next holder to merge, or for the present one,
    which is told to look for it.

    :returns: false if it could not be done just now.
    :raises LockUnavailableError: the token may not write it.
    """
    def change(value: bytes | None) -> bytes | None:
        control = Control.parse(value)
        return (None if control.handed_in
                else control.changed(handed_in=True).encode())

    value = json.dumps(handed_in.export(), separators=(',', ':')).encode()
    return view.hand_in(client, key, handed_in.name, value, change)


def _state(keys: view.KeysOfJob) -> LockState:
    waiting = keys.waiting
    state = LockState(
        keys.session is not None, parse(keys.record), parse(keys.history),
        Control.parse(keys.control), parse(keys.progress),
        None if waiting is None else [_process(name) for name in waiting],
        keys.token, _parse_handed_in(keys.handed_in))
    state.unreadable = find_unreadable({
        'the owner record': keys.record, 'the history': keys.history,
        'what operators ask': keys.control, 'the progress': keys.progress})
    return state


def _parse_handed_in(found: Mapping[str, bytes]) -> dict[str, HandIn]:
    return {name: HandIn.parse(parse(value)) for name, value in found.items()}


def _process(name: str) -> dict[str, object]:
    machine, _, pid = name.rpartition(' ')
    return {'fqdn': machine.rpartition(' ')[2],
            'pid': int(pid) if pid.isdigit() else None}
