"""What requests to Consul and its answers look like."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from jobslib.testing.consul_state import (
    DATACENTER,
    NODE,
    Check,
    Entry,
    Refusal,
    Session,
    State,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['about', 'blocking', 'check_of', 'cut', 'decode',
           'entry_of', 'parse_duration', 'session_of', 'show_check', 'show_entry',
           'show_session', 'update_of']

UNITS = {'ns': 1e-9, 'us': 1e-6, 'ms': 1e-3, 's': 1.0, 'm': 60.0, 'h': 3600.0}
LONGEST_WAIT = 600.0
DEFAULT_WAIT = 300.0
MAX_OUTPUT = 4096
STATUSES = ('passing', 'warning', 'critical')


def parse_duration(text: str) -> float:
    """Return the seconds of a duration as Go writes it, ``1m30s``.

    :raises ValueError: it is none, in Go's words.
    """
    sign, digits = (-1, text[1:]) if text.startswith('-') else (1, text)
    if digits == '0':
        return 0.0
    parts = re.findall(r'(\d+\.?\d*|\.\d+)(ns|us|ms|s|m|h)', digits)
    if not parts or ''.join(map(''.join, parts)) != digits:
        number = re.fullmatch(r'\d+\.?\d*', digits)
        problem = 'missing unit in' if number else 'invalid'
        raise ValueError(f'time: {problem} duration "{text}"')
    return sign * sum(float(number) * UNITS[unit] for number, unit in parts)


def blocking(query: Mapping[str, str]) -> tuple[int, float]:
    """Return the index that a query waits on, 0 for none, and how long."""
    index = query.get('index', '') or '0'
    if not (index.isascii() and index.isdigit()):
        raise Refusal(400, 'Invalid index')
    try:
        wait = parse_duration(query.get('wait') or '0')
    except ValueError:
        raise Refusal(400, 'Invalid wait time') from None
    return int(index), min(wait or DEFAULT_WAIT, LONGEST_WAIT)


def decode(body: bytes, kind: type[object],
           what: str = 'Request decode failed') -> Any:
    """Return the JSON in *body*."""
    try:
        value = json.loads(body)
    except ValueError as exc:
        raise Refusal(400, f'{what}: {exc if body else "EOF"}') from None
    if not isinstance(value, kind):
        raise Refusal(400, f'{what}: not a {kind.__name__}')
    return value


def session_of(body: bytes) -> tuple[Session, Document]:
    """Return the session that a request asks for, and all its fields."""
    fields = _fields(body) if body else {}
    session = Session(name=fields.get('name') or '',
                      ttl_text=fields.get('ttl') or '',
                      behavior=fields.get('behavior') or 'release')
    if session.ttl_text:
        try:
            session.ttl = parse_duration(session.ttl_text)
        except ValueError as exc:
            raise Refusal(500, f"Session TTL '{session.ttl_text}' invalid: "
                          f'{exc}') from None
    if fields.get('lockdelay') is not None:
        session.lock_delay = _lock_delay(fields['lockdelay'])
    # Two names, of different versions of the interface; the old one, when it
    # is there and empty, wins over the new one.
    for name in ('checks', 'nodechecks'):
        if name in fields:
            session.checks = list(fields[name] or [])
            break
    if session.checks and len({'checks', 'nodechecks'} & set(fields)) == 2:
        raise Refusal(501, 'the stand-in does not know Checks together with '
                      'NodeChecks')
    return session, fields


def _lock_delay(given: Any) -> float:
    if isinstance(given, str):
        return _decoded_duration(given)
    # A small number can only be meant as seconds, a large one as nanoseconds.
    return float(given) if abs(given) < 1000 else given / 1e9


def _decoded_duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise Refusal(400, f'Request decode failed: {exc}') from None


def check_of(body: bytes) -> Check:
    """Return the check that a request registers."""
    fields = _fields(body)
    if 'checkid' in fields:
        raise Refusal(400, 'Request decode failed: json: unknown field '
                      '"CheckID"')
    if not fields.get('name'):
        raise Refusal(400, 'Missing check name')
    ttl = _decoded_duration(fields.get('ttl') or '0')
    if ttl <= 0:
        raise Refusal(400, 'Invalid check: TTL must be > 0 for TTL checks')
    status = fields.get('status') or 'critical'
    if status not in STATUSES:
        raise Refusal(400, 'Bad check status')
    return Check(fields.get('id') or fields['name'], fields['name'], ttl,
                 status, fields.get('notes') or '')


def update_of(body: bytes) -> tuple[str, str]:
    """Return status and text that a request gives a check."""
    for name in decode(body, dict):
        if name.lower() not in ('status', 'output'):
            raise Refusal(400, 'Request decode failed: json: unknown field '
                          f'"{name}"')
    fields = _fields(body)
    status, output = fields.get('status') or '', fields.get('output') or ''
    if not isinstance(output, str):
        raise Refusal(400, 'Request decode failed: Output is not a string')
    if status not in STATUSES:
        raise Refusal(400, f"Invalid check status: '{status}'")
    return status, cut(output)


def cut(output: str) -> str:
    """Return as much of a check's text as an agent keeps."""
    text = output.encode()
    if len(text) <= MAX_OUTPUT:
        return output
    return (f'{text[:MAX_OUTPUT].decode(errors="replace")} ... (captured '
            f'{MAX_OUTPUT} of {len(text)} bytes)')


def _fields(body: bytes) -> Document:
    """Return what a JSON object has; the case of names does not count."""
    return {name.lower(): value for name, value in decode(body, dict).items()}


def entry_of(operation: Document) -> Entry:
    """Return the key that an operation of a transaction is about."""
    try:
        value = base64.b64decode(operation.get('Value') or '', validate=True)
    except binascii.Error as exc:
        raise Refusal(400, f'Failed to parse body: {exc}') from None
    return Entry(operation.get('Key') or '', value,
                 operation.get('Flags') or 0, operation.get('Session') or '')


def show_entry(entry: Entry, with_value: bool = True) -> dict[str, object]:
    """Return *entry* as an answer has it."""
    value = base64.b64encode(entry.value).decode() if with_value else ''
    session = {'Session': entry.session} if entry.session else {}
    return {'LockIndex': entry.lock_index, 'Key': entry.key,
            'Flags': entry.flags, 'Value': value or None, **session,
            'CreateIndex': entry.create_index,
            'ModifyIndex': entry.modify_index}


def show_session(session: Session) -> dict[str, object]:
    """Return *session* as an answer has it."""
    return {'ID': session.id, 'Name': session.name, 'Node': NODE,
            'LockDelay': round(session.lock_delay * 1e9),
            'Behavior': session.behavior, 'TTL': session.ttl_text,
            'NodeChecks': session.checks, 'ServiceChecks': None,
            'CreateIndex': session.index, 'ModifyIndex': session.index}


def show_check(check: Check) -> dict[str, object]:
    """Return *check* as an answer has it."""
    return {'Node': NODE, 'CheckID': check.id, 'Name': check.name,
            'Status': check.status, 'Notes': check.notes,
            'Output': check.output, 'Type': 'ttl',
            'ServiceID': '', 'ServiceName': '', 'ServiceTags': [],
            'Definition': {}, 'CreateIndex': 0, 'ModifyIndex': 0}


def about(state: State, address: tuple[str, int], version: str, *,
          is_server: bool) -> dict[str, object]:
    """Return what the agent says of itself: the part that clients look at."""
    host, port = address
    return {
        'Config': {'Datacenter': DATACENTER, 'NodeName': NODE, 'NodeID': '',
                   'Revision': '', 'Server': is_server, 'Version': version},
        'Member': {'Name': NODE, 'Addr': host, 'Port': port, 'Status': 1},
        'Stats': {'raft': {'last_log_index': str(state.index)}},
    }
