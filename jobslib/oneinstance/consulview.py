"""What Consul knows of a job, seen from outside, and what it can be told.

Of several keys Consul leaves out those that the token may not read, so that a
lock that is held looks like one that nobody has.  So whatever is not there is
asked for by itself, which Consul refuses aloud.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from jobslib.consul.client import (
    ConsulClient,
    Entry,
    PermissionDeniedError,
    control_key,
    handed_in_key,
    handed_in_of,
    history_key,
    progress_key,
)
from jobslib.history import HandIn
from jobslib.oneinstance import FoundLocks, LockState
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.record import parse

__all__ = ['ask', 'find_all', 'find_handed_in', 'hand_in', 'look']

# In keys.  Consul takes 64 operations at once, and a history has up to 64 KB
# as it is sent, where an answer may have 8 MB.
BATCH = 32
# How often a hand-in is tried while the key changes from one look to the next.
TRIES = 5
# What a lock's key has, and none of those beside it.
OF_A_LOCK = {'task', 'pid', 'schedule'}


def look(client: ConsulClient, key: str) -> LockState:
    """Return the state of the job whose lock is *key*.

    :raises PermissionDeniedError: the token may not read all of it.
    """
    beside = _beside(key)
    with _granting(key, 'read'):
        entries = client.read_all([key, *beside[1:]])
        for name in [key, *beside]:
            if name not in entries:
                client.prove_readable(name)
        sessions = client.sessions()
    return _state(key, entries, sessions)


def find_all(client: ConsulClient, address: str, prefix: str) -> FoundLocks:
    """Return the states of all jobs whose locks begin with *prefix*, by
    their keys.

    :raises PermissionDeniedError: the token may read none of them.
    """
    found = FoundLocks(address, prefix)
    rule = f'key_prefix "{prefix}" {{ policy = "read" }}'
    names = set(client.list_keys(prefix))
    try:
        # A rule for the prefix holds for a key in it that nobody has.
        client.prove_readable(f'{prefix}.jobslib')
    except PermissionDeniedError as exc:
        if not names:
            raise PermissionDeniedError(
                f'cannot list the keys that begin with {prefix!r}: {exc}; '
                f'grant the token: {rule}') from exc
        found.missing = (f'only the jobs that the token may read are shown; '
                         f'to see all, grant it: {rule}')
    # What ends with a slash is a folder that a person made, and all that is
    # in it would be read.
    names = {name for name in names if not name.endswith('/')}
    beside = {name for key in names for name in _beside(key)}
    locks: dict[str, Entry] = {}
    for batch in _batches(sorted(names - beside), BATCH):
        entries = client.read_all(batch)
        locks |= {key: entries[key] for key in batch if key in entries
                  and OF_A_LOCK <= set(parse(entries[key].value) or ())}
    sessions = client.sessions()
    for batch in _batches(sorted(locks), BATCH // len(_beside(''))):
        wanted = names & {name for key in batch for name in _beside(key)}
        entries = client.read_all(sorted(wanted)) if wanted else {}
        for key in batch:
            state = _state(key, {**entries, key: locks[key]}, sessions)
            found[key] = _without_old_runs(state)
    return found


def _beside(key: str) -> list[str]:
    return [control_key(key), history_key(key), progress_key(key)]


def _without_old_runs(state: LockState) -> LockState:
    """Return *state* with the newest run only, which is what is shown of
    each of many jobs."""
    newest = (state.history or {}).get('newest')
    if isinstance(newest, list):
        state.history = {**(state.history or {}), 'newest': newest[-1:]}
    return state


def _batches(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start:start + size]


def ask(client: ConsulClient, key: str, control: Control,
        of: Control) -> bool:
    """Write *control*, unless something else than *of* is asked by now.

    :raises PermissionDeniedError: the token may not.
    """
    name = control_key(key)
    with _granting(key, 'write'):
        entry = client.read_all([name]).get(name)
        asked = Control.parse(entry.value if entry else None)
        if asked.export() != of.export():
            return False
        return client.write_if(name, control.encode(),
                               entry.modify_index if entry else 0)


def find_handed_in(client: ConsulClient, key: str) -> dict[str, HandIn]:
    """Return what was handed in for the history of the job, by name."""
    entries = client.read_all([handed_in_key(key)])
    return _handed_in(key, entries)


def hand_in(client: ConsulClient, key: str, handed_in: HandIn) -> bool:
    """Leave *handed_in* for the next holder to merge, or for the present one,
    which is told so; false if it could not be done just now.

    :raises PermissionDeniedError: the token may not.
    """
    value = json.dumps(handed_in.export(), separators=(',', ':')).encode()
    with _granting(key, 'write'):
        for _ in range(TRIES):
            state = client.read(key)
            control = Control.parse(state.control)
            # Who takes the lock next finds it in any case.
            news = state.session is not None and not control.handed_in
            if client.hand_in(
                    key, handed_in.name, value, state,
                    control.changed(handed_in=True).encode() if news else None):
                return True
    return False


@contextlib.contextmanager
def _granting(key: str, policy: str) -> Iterator[None]:
    """Say what to grant when something is denied."""
    try:
        yield
    except PermissionDeniedError as exc:
        if 'ACL not found' in str(exc):
            # No rights help a token that there is not.
            raise PermissionDeniedError(
                f'{exc}: Consul does not know the token; give one that it '
                f'knows') from exc
        folder = key.rpartition('/')[0]
        prefix = f'{folder}/' if folder else key
        raise PermissionDeniedError(
            f'{exc}; grant the token: key_prefix "{prefix}" {{ policy = '
            f'"{policy}" }}, session_prefix "" {{ policy = "read" }}'
        ) from exc


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
        lock.modify_index if lock and holder else None,
        _handed_in(key, entries))


def _handed_in(key: str, entries: dict[str, Entry]) -> dict[str, HandIn]:
    return {name: HandIn.parse(parse(entry.value))
            for name, entry in handed_in_of(key, entries).items()}


def _process(name: str) -> dict[str, Any]:
    machine, _, pid = name.rpartition(' ')
    return {'fqdn': machine.rpartition(' ')[2],
            'pid': int(pid) if pid.isdigit() else None}
