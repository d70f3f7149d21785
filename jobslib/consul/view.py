"""What Consul knows of jobs, read by commands, and what they can write there.

When several keys are read at once, Consul leaves out those that the token may not
read, and a lock that is held looks like one that nobody ever had.  So whatever
is missing is read once more, by its name: then Consul says that it is denied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jobslib.consul.calls import Entry
from jobslib.consul.failures import PermissionDeniedError
from jobslib.consul.keyclient import KeyClient
from jobslib.consul.names import (
    control_key,
    handed_in_key,
    handed_in_of,
    history_key,
    progress_key,
)

__all__ = ['KeysOfJob', 'find_jobs', 'hand_in', 'read_handed_in', 'read_job',
           'write_control']

# How many keys are read at once.  Consul takes 64 operations in a transaction; the
# value of a key has up to 64 KB, and an answer may have 8 MB.
BATCH = 32
# How often a hand-in is tried when the key has changed since it was read.
TRIES = 5


class KeysOfJob(NamedTuple):
    """The values of the keys of one job; ``None`` for a key that is missing."""

    #: The owner record, which is the value of the lock's own key.
    record: bytes | None
    #: The session that holds the lock.
    session: str | None
    #: The fencing token of the holder: the index of a key that is held.
    token: int | None
    history: bytes | None
    control: bytes | None
    progress: bytes | None
    #: The names of the sessions that wait for the lock; ``None`` if the token
    #: may not read them.
    waiting: list[str] | None
    #: What was handed in for the history, by name.
    handed_in: dict[str, bytes]


def read_job(client: KeyClient, key: str) -> KeysOfJob:
    """Return the values of the keys of the job whose lock is *key*.

    :raises PermissionDeniedError: the token may not read all of them.
    """
    beside = _beside(key)
    with _granting(key, 'read'):
        entries = client.read_all([key, *beside[1:]])
        for name in [key, *beside]:
            if name not in entries:
                client.prove_readable(name)
        sessions = client.sessions()
    return _keys_of(key, entries, sessions)


def find_jobs(
    client: KeyClient, prefix: str,
    is_lock: Callable[[bytes], bool],
) -> tuple[dict[str, KeysOfJob], str]:
    """Find the jobs whose locks begin with *prefix*.

    :param is_lock: tells whether a value is that of a lock, and not of a key
        beside one.
    :returns: the jobs by the keys of their locks, and a sentence that says why
        some may be missing; it is empty if none is.
    :raises PermissionDeniedError: the token may read none of them.
    """
    missing = ''
    rule = f'key_prefix "{prefix}" {{ policy = "read" }}'
    names = set(client.list_keys(prefix))
    try:
        # A token that may read this key, which nobody has, has a rule for the
        # whole prefix.
        client.prove_readable(f'{prefix}.jobslib')
    except PermissionDeniedError as exc:
        if not names:
            raise PermissionDeniedError(
                f'cannot list the keys that begin with {prefix!r}: {exc}; '
                f'grant the token: {rule}') from exc
        missing = (f'only the jobs that the token may read are shown; '
                   f'to see all, grant it: {rule}')
    # A key that ends with a slash is a folder that somebody has made by hand.  It
    # is not a lock, and to read it would be to read all keys in it.
    names = {name for name in names if not name.endswith('/')}
    beside = {name for key in names for name in _beside(key)}
    locks: dict[str, Entry] = {}
    for batch in _batches(sorted(names - beside), BATCH):
        entries = client.read_all(batch)
        locks |= {key: entries[key] for key in batch
                  if key in entries and is_lock(entries[key].value)}
    if missing:
        # Of a job whose other keys may not be read, it is not known whether it is
        # paused, nor how it went.
        locks = {key: lock for key, lock in locks.items() if all(
            name in names or _is_readable(client, name) for name in _beside(key))}
    sessions = client.sessions()
    found = {}
    for batch in _batches(sorted(locks), BATCH // len(_beside(''))):
        wanted = names & {name for key in batch for name in _beside(key)}
        entries = client.read_all(sorted(wanted)) if wanted else {}
        for key in batch:
            found[key] = _keys_of(key, {**entries, key: locks[key]}, sessions)
    return found, missing


def write_control(client: KeyClient, key: str, value: bytes,
                  is_expected: Callable[[bytes | None], bool]) -> bool:
    """Write what operators ask of the job whose lock is *key*.

    :param is_expected: tells whether the value that the key has by now is the
        one that *value* was made from; otherwise nothing is written.
    :returns: whether it was written.
    :raises PermissionDeniedError: the token may not write it.
    """
    name = control_key(key)
    with _granting(key, 'write'):
        entry = client.read_all([name]).get(name)
        if not is_expected(entry.value if entry else None):
            return False
        return client.write_if(
            name, value, entry.modify_index if entry else 0)


def read_handed_in(client: KeyClient, key: str) -> dict[str, bytes]:
    """Return what was handed in for the history of the job, by name."""
    entries = client.read_all([handed_in_key(key)])
    return _handed_in(key, entries)


def hand_in(client: KeyClient, key: str, name: str, value: bytes,
            tell: Callable[[bytes | None], bytes | None]) -> bool:
    """Leave *value* by *name* for the holder of the lock, or for the next one.

    :param tell: makes the holder look for it: is called with the value of the
        control key and returns the one to write, ``None`` if it says so
        already.
    :returns: false if it could not be done just now.
    :raises PermissionDeniedError: the token may not write it.
    """
    with _granting(key, 'write'):
        for _ in range(TRIES):
            state = client.read(key)
            # A process that takes the lock looks for it in any case.
            control = None if state.session is None else tell(state.control)
            if client.hand_in(key, name, value, state, control):
                return True
    return False


def _is_readable(client: KeyClient, name: str) -> bool:
    try:
        client.prove_readable(name)
    except PermissionDeniedError:
        return False
    return True


def _beside(key: str) -> list[str]:
    return [control_key(key), history_key(key), progress_key(key)]


def _batches(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start:start + size]


@contextlib.contextmanager
def _granting(key: str, policy: str) -> Iterator[None]:
    """Add to the error what to grant, when something is denied."""
    try:
        yield
    except PermissionDeniedError as exc:
        if 'ACL not found' in str(exc):
            # Nothing can be granted to a token that does not exist.
            raise PermissionDeniedError(
                f'{exc}: Consul does not know the token; give one that it '
                f'knows') from exc
        folder = key.rpartition('/')[0]
        prefix = f'{folder}/' if folder else key
        raise PermissionDeniedError(
            f'{exc}; grant the token: key_prefix "{prefix}" {{ policy = '
            f'"{policy}" }}, session_prefix "" {{ policy = "read" }}'
        ) from exc


def _keys_of(key: str, entries: Mapping[str, Entry],
             sessions: Mapping[str, str]) -> KeysOfJob:
    def value(name: str) -> bytes | None:
        entry = entries.get(name)
        return entry.value if entry else None

    lock = entries.get(key)
    holder = lock.session if lock else None
    waiting = [name for session, name in sessions.items()
               if session != holder
               and name.rsplit(' ', 2)[0] == f'jobslib {key}']
    # If the holder's session is not among them, the token may read the sessions
    # of some nodes only, and those that wait may be missing as well.
    known = holder is None or holder in sessions
    return KeysOfJob(
        value(key), holder, lock.modify_index if lock and holder else None,
        value(history_key(key)), value(control_key(key)),
        value(progress_key(key)), waiting if known else None,
        _handed_in(key, entries))


def _handed_in(key: str, entries: Mapping[str, Entry]) -> dict[str, bytes]:
    return {name: entry.value
            for name, entry in handed_in_of(key, entries).items()}
