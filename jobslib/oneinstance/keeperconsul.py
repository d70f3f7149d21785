"""What the lease keeper asks of Consul, and what the answers mean.

Standard library only, see :mod:`jobslib.oneinstance.keeper`.
"""

from __future__ import annotations

import binascii
import json
import threading

from jobslib.oneinstance.transport import Transport, TransportError

# Not typing.TYPE_CHECKING: importing typing costs the keeper milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from jobslib.oneinstance.transport import Endpoint, Response

__all__ = ['RETRY', 'Loss', 'Notes', 'control_of', 'entries_of', 'find_loss',
           'operation', 'read_renewal', 'session_has_ended', 'succeeds',
           'transaction']

#: Pause after a request that failed, in seconds.
RETRY = 0.3
# The longest pause between attempts to write a note.
LONGEST_RETRY = 30.0


class Loss:
    """How the lease was lost.

    :param reason: for people.
    :param hold: the hold that ended; ``None``: the session itself did.
    :param protected: a lock-delay keeps others from the key.
    """

    def __init__(self, reason: str, hold: object | None = None,
                 protected: bool = True) -> None:
        self.reason = reason
        self.hold = hold
        self.protected = protected


class Notes:
    """What a holder keeps beside its lock; written by a thread.

    Of each key the newest value is written, and only while the lock is held
    as it was acquired, with the fencing token of the note: the same
    transaction checks that.

    :param endpoint: how to reach Consul.
    :param key: of the lock.
    """

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._endpoint = endpoint
        self._key = key
        # By key: the newest value, and the fencing token of the holder.
        self._values: dict[str, tuple[str, int]] = {}
        # Of the values: they are added and written by two threads.
        self._lock = threading.Lock()
        self._added = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, key: str, value: str, token: int) -> None:
        """Write *value* to *key* soon, for the holder with *token*."""
        with self._lock:
            self._values[key] = value, token
        if self._thread is None:
            thread = threading.Thread(target=self._run, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # There is no room for a thread; the next note tries again.
                return
            self._thread = thread
        self._added.set()

    def clear(self) -> None:
        """Forget what is not written yet."""
        with self._lock:
            self._values.clear()

    def pending(self) -> dict[str, str]:
        """Return what is not written yet, by keys."""
        with self._lock:
            return {key: value for key, (value, _) in self._values.items()}

    def _run(self) -> None:
        transport = Transport(self._endpoint)
        pause: float | None = None
        while True:
            self._added.wait(pause)
            self._added.clear()
            if self._write_all(transport):
                pause = None
            else:
                # A token without the right to do it may never get it.
                pause = min(2 * pause, LONGEST_RETRY) if pause else RETRY

    def _write_all(self, transport: Transport) -> bool:
        written = True
        for key in list(self._values):
            # Another by now, or forgotten.
            note = self._values.get(key)
            if note is None:
                continue
            if not self._write(transport, key, *note):
                written = False
                continue
            with self._lock:
                if self._values.get(key) is note:
                    del self._values[key]
        return written

    def _write(self, transport: Transport, key: str, value: str,
               token: int) -> bool:
        # The index of the key is the token until somebody writes to it.  409:
        # the lock is not held, or not as it was then.
        return succeeds(transport, '/v1/txn', transaction(
            {'Verb': 'check-index', 'Key': self._key, 'Index': token},
            operation('set', key, value)), (200, 409))


def read_renewal(response: Response, session: str) -> tuple[bool, bool]:
    """Return whether *session* was renewed, and whether it has ended.

    The status alone could come from anybody on the way to Consul.
    """
    if response.status == 404:
        return False, session in response.text
    return (response.status == 200
            and response.json()[0].get('ID') == session), False


def session_has_ended(transport: Transport, session: str) -> bool:
    """Return whether *session* is gone, as the leader of a quorum knows it.

    A server that was just restarted answers renewals before it has read its
    log, and then knows of no session.

    :raises TransportError: there is no answer.
    """
    response = transport.request(
        'GET', f'/v1/session/info/{session}', [('consistent', '1')])
    return response.status == 200 and response.json() == []


def entries_of(response: Response) -> dict[str, dict[str, Any]]:
    """Return the keys that were read, by name."""
    if response.status != 200:
        return {}
    return {entry['Key']: entry for entry in response.json()}


def find_loss(response: Response, entry: dict[str, Any] | None,
              session: str, hold: object) -> Loss | None:
    """Return why the key, read as *entry*, is not ours any more.

    ``None`` if it is.
    """
    if response.status not in (200, 404) or not response.index:
        return None
    if entry is None:
        return Loss('the key was deleted', hold, protected=False)
    holder = entry.get('Session')
    if holder == session:
        return None
    if holder:
        return Loss('another session holds the key', hold, protected=False)
    return Loss('the session does not hold the key any more', hold)


def operation(verb: str, key: str, value: str,
              session: str = '') -> dict[str, str]:
    """Return one operation of a transaction."""
    # Not by base64, whose import costs the keeper milliseconds.
    encoded = binascii.b2a_base64(value.encode(), newline=False).decode()
    return {'Verb': verb, 'Key': key, 'Session': session, 'Value': encoded}


def transaction(*operations: dict[str, Any]) -> bytes:
    """Return the body of a transaction."""
    return json.dumps([{'KV': each} for each in operations]).encode()


def succeeds(transport: Transport, path: str, body: bytes = b'',
             statuses: tuple[int, ...] = (200, 404)) -> bool:
    """Send a PUT; return whether the answer has one of *statuses*."""
    try:
        return transport.request('PUT', path, body=body).status in statuses
    except TransportError:
        return False


def control_of(entry: dict[str, Any] | None) -> bytes:
    """Return the value of a control key, read as *entry*."""
    return binascii.a2b_base64((entry or {}).get('Value') or '')
