"""What Consul knows of a job, seen from outside, and what it can be told."""

from __future__ import annotations

import json
from typing import Any

from jobslib.oneinstance import LockState
from jobslib.oneinstance.client import (
    ConsulClient,
    Entry,
    control_key,
    history_key,
    progress_key,
)
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.record import parse

__all__ = ['ask', 'find_all', 'look']


def look(client: ConsulClient, key: str) -> LockState:
    """Return the state of the job whose lock is *key*."""
    entries = client.read_all(
        [key, history_key(key), progress_key(key)])
    return _state(key, entries, client.sessions())


def find_all(client: ConsulClient, prefix: str) -> dict[str, LockState]:
    """Return the states of all jobs whose locks begin with *prefix*, by
    task names."""
    entries = client.read_all([prefix])
    sessions = client.sessions()
    found = {}
    for key, entry in entries.items():
        record = parse(entry.value)
        # What a lock's key has, and none of those beside it.
        if record and {'task', 'pid', 'schedule'} <= set(record):
            found[str(record['task'])] = _state(key, entries, sessions)
    return found


def ask(client: ConsulClient, key: str, control: Control,
        of: Control) -> bool:
    """Write *control*, unless something else than *of* is asked by now."""
    name = control_key(key)
    entry = client.read_all([name]).get(name)
    asked = Control.parse(entry.value if entry else None)
    if asked.export() != of.export():
        return False
    return client.write_if(name, json.dumps(control.export()).encode(),
                           entry.modify_index if entry else 0)


def _state(key: str, entries: dict[str, Entry],
           sessions: dict[str, str]) -> LockState:
    lock = entries.get(key)

    def value(name: str) -> dict[str, Any] | None:
        entry = entries.get(name)
        return parse(entry.value) if entry else None

    control = entries.get(control_key(key))
    holder = lock.session if lock else None
    others = [_process(name) for session, name in sessions.items()
              if session != holder
              and name.rsplit(' ', 2)[0] == f'jobslib {key}']
    # A token may be allowed to read the sessions of some nodes only.
    known = holder is None or holder in sessions
    return LockState(
        holder is not None, value(key), value(history_key(key)),
        Control.parse(control.value if control else None), value(progress_key(key)),
        others if known else None,
        lock.modify_index if lock and holder else None)


def _process(name: str) -> dict[str, Any]:
    machine, _, pid = name.rpartition(' ')
    return {'fqdn': machine.rpartition(' ')[2],
            'pid': int(pid) if pid.isdigit() else None}
