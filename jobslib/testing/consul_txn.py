"""Transactions on the keys of a :class:`State`, as Consul has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobslib.testing import consul_wire as wire
from jobslib.testing.consul_state import Entry, Refusal, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['Operation', 'operations_of', 'transact']

MAX_OPERATIONS = 64
READING = {'get', 'get-tree', 'check-index', 'check-session',
           'check-not-exists'}
WRITING = {'set', 'cas', 'lock', 'unlock', 'delete', 'delete-cas'}
# Why a verb could not do its work on a key.
REFUSALS = {
    'cas': 'failed to set key "{}", index is stale',
    'lock': 'failed to lock key "{}", lock is already held',
    'unlock': 'failed to unlock key "{}", lock isn\'t held, or is held by '
              'another session',
}


@dataclass(frozen=True)
class Operation:
    """One operation: *index* is what the key's must be, where that counts."""

    verb: str
    entry: Entry
    index: int = 0

    @property
    def writes(self) -> bool:
        """Whether it makes a transaction one that writes."""
        return self.verb in WRITING


def operations_of(body: bytes) -> list[Operation]:
    """Return the operations on keys that a request asks for."""
    given = wire.decode(body, list, 'Failed to parse body')
    if len(given) > MAX_OPERATIONS:
        raise Refusal(413, 'Transaction contains too many operations '
                      f'({len(given)} > {MAX_OPERATIONS})')
    return [_operation_of(each['KV']) for each in given if each.get('KV')]


def _operation_of(given: Document) -> Operation:
    verb = given.get('Verb') or ''
    if verb == 'delete-tree':
        raise Refusal(501, f'the stand-in does not know the verb {verb!r}')
    index = given.get('Index') or 0
    if not isinstance(index, int) or index < 0:
        raise Refusal(400, 'Failed to parse body: Index is not a uint64')
    return Operation(verb, wire.entry_of(given), index)


def transact(
    state: State, operations: Sequence[Operation],
) -> tuple[list[Any], list[dict[str, object]]]:
    """Do all of it or nothing; return the results and the errors."""
    errors = _errors_in_advance(state, operations)
    if errors:
        return [], errors
    if any(operation.writes for operation in operations):
        # A transaction that fails is an entry of the log as well.
        state.index += 1
    before = dict(state.keys), dict(state.tombstones), state.keys_index
    results = []
    for position, operation in enumerate(operations):
        try:
            results += _operate(state, operation)
        except Refusal as exc:
            errors.append({'OpIndex': position, 'What': str(exc)})
    if errors:
        state.keys, state.tombstones, state.keys_index = before
    return results, errors


def _errors_in_advance(
    state: State, operations: Sequence[Operation],
) -> list[dict[str, object]]:
    """Return what the leader refuses without a Raft entry."""
    errors = []
    for position, operation in enumerate(operations):
        key = operation.entry.key
        if not key:
            what = 'Must provide key'
        elif operation.verb == 'lock' and state.is_delayed(key):
            what = f'failed to lock key "{key}" due to lock delay'
        else:
            continue
        errors.append({'OpIndex': position, 'What': what})
    return errors


def _operate(state: State, operation: Operation) -> list[dict[str, object]]:
    if operation.verb in READING:
        found = _read(state, operation)
    elif operation.writes:
        found = _write(state, operation)
    else:
        raise Refusal(409, f'unknown KV verb "{operation.verb}"')
    with_value = operation.verb in ('get', 'get-tree')
    return [{'KV': wire.show_entry(each, with_value)} for each in found]


def _read(state: State, operation: Operation) -> list[Entry]:
    """Return what an operation finds, which may be nothing."""
    verb, key = operation.verb, operation.entry.key
    if verb == 'get-tree':
        return state.under(key)
    known = state.keys.get(key)
    if verb == 'check-not-exists':
        if known is not None:
            raise Refusal(409, f'key "{key}" exists')
        return []
    if known is None:
        what = verb.replace('check-', 'failed to check ') + ', '
        raise Refusal(409, f'{"" if verb == "get" else what}key "{key}" '
                      "doesn't exist")
    if verb == 'check-index' and known.modify_index != operation.index:
        raise Refusal(409, f'failed index check for key "{key}", current '
                      f'modify index {known.modify_index} != '
                      f'{operation.index}')
    if verb == 'check-session' and known.session != operation.entry.session:
        raise Refusal(409, f'failed session check for key "{key}", current '
                      f'session "{known.session}" != '
                      f'"{operation.entry.session}"')
    return [known]


def _write(state: State, operation: Operation) -> list[Entry]:
    """Return the key as it is then, nothing when it is deleted."""
    verb, entry = operation.verb, operation.entry
    done: Entry | None
    if verb == 'delete':
        state.delete(entry.key)
        return []
    if verb == 'delete-cas':
        if not state.delete(entry.key, operation.index):
            raise Refusal(409, f'failed to delete key "{entry.key}", index '
                          'is stale')
        return []
    if verb == 'set':
        done = state.set(entry)
    elif verb == 'cas':
        done = state.set(entry, operation.index)
    elif verb == 'lock':
        done = state.lock(entry)
    else:
        done = state.unlock(entry)
    if done is None:
        raise Refusal(409, REFUSALS[verb].format(entry.key))
    return [done]
