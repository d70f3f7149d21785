"""Sessions and keys as Consul has them, with the time given from outside.

Behaviour and messages are those of Consul 1.8.
"""

import uuid
from dataclasses import dataclass, field, replace

__all__ = ['Check', 'Entry', 'Refusal', 'Session', 'State']

DATACENTER = 'dc1'
NODE = 'stand-in'
SERF_HEALTH = 'serfHealth'
MAX_LOCK_DELAY = 60.0
MAX_TTL = 86400.0
EXPIRED = 'TTL expired'
NEVER = float('inf')


class Refusal(Exception):
    """An answer that is an error: the status of HTTP, and Consul's words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Entry:
    """A key; a *session* of '' does not hold it."""

    key: str
    value: bytes = b''
    flags: int = 0
    session: str = ''
    lock_index: int = 0
    create_index: int = 0
    modify_index: int = 0


@dataclass
class Session:
    """A session; times are in seconds, *expires* is of the server's clock.

    Without a *ttl* (0) it does not expire; *ttl_text* is how it was given.
    """

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str = ''
    ttl_text: str = ''
    ttl: float = 0.0
    lock_delay: float = 15.0
    behavior: str = 'release'
    checks: list[str] = field(default_factory=lambda: [SERF_HEALTH])
    index: int = 0
    expires: float = NEVER


@dataclass
class Check:
    """A health check of the agent that is passing for *ttl* seconds."""

    id: str
    name: str
    ttl: float
    status: str = 'critical'
    notes: str = ''
    output: str = ''
    expires: float = NEVER


@dataclass
class State:
    """All that the servers know.

    Every Raft entry adds one to *index*, whether it changed anything or not.

    :param ttl_min: the least TTL of a session, in seconds.
    """

    ttl_min: float = 10.0
    time: float = 0.0
    index: int = 1
    #: Index of the last change of any key, and of any session.
    keys_index: int = 1
    sessions_index: int = 1
    keys: dict[str, Entry] = field(default_factory=dict)
    #: Index of the last deletion of each key, which Consul forgets in time.
    tombstones: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    #: Until when a key that its session left cannot be locked.
    delays: dict[str, float] = field(default_factory=dict)

    # Time.

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass; what ends in between ends at its moment."""
        ends = self.time + seconds
        while (due := self._next_end()) <= ends:
            self.time = max(due, self.time)
            for check in list(self.checks.values()):
                if check.expires <= self.time:
                    self.set_check(check.id, 'critical', EXPIRED + (
                        ' (last output before timeout follows): '
                        + check.output if check.output else ''))
            for session in list(self.sessions.values()):
                if session.expires <= self.time:
                    self.end_session(session.id)
        self.time = ends

    def _next_end(self) -> float:
        ends = [check.expires for check in self.checks.values()]
        ends += [session.expires for session in self.sessions.values()]
        return min(ends, default=NEVER)

    # Sessions.

    def create_session(self, session: Session, node: str = '') -> None:
        """Add a session, on *node*, by default the agent's own."""
        if session.ttl and not self.ttl_min <= session.ttl <= MAX_TTL:
            raise Refusal(
                500, f"Invalid Session TTL '{round(session.ttl * 1e9)}', must "
                f"be between [{self.ttl_min:g}s=24h0m0s]")
        if session.behavior not in ('release', 'delete'):
            raise Refusal(500, f"Invalid Behavior setting '{session.behavior}'")
        self.index += 1
        if node not in ('', NODE):
            raise Refusal(500, 'Missing node registration')
        for name in session.checks:
            self._require_check(name)
        session.index = self.sessions_index = self.index
        self.sessions[session.id] = session
        self._restart(session)

    def renew_session(self, session_id: str) -> Session | None:
        """Restart the TTL of a session; ``None`` when there is none."""
        session = self.find_session(session_id)
        if session is not None:
            self._restart(session)
        return session

    def _restart(self, session: Session) -> None:
        # Consul promises the TTL, and takes twice as long.
        session.expires = (self.time + 2 * session.ttl if session.ttl
                           else NEVER)

    def find_session(self, session_id: str) -> Session | None:
        """Return a session, ``None`` when there is none."""
        if len(session_id) != 36:
            raise Refusal(500, 'failed session lookup: index error: '
                          'UUID must be 36 characters')
        return self.sessions.get(session_id)

    def end_session(self, session_id: str) -> None:
        """End a session, if it is there, and free its keys with a delay."""
        self.index += 1
        session = self.find_session(session_id)
        if session is not None:
            self._end(session)

    def _end(self, session: Session) -> None:
        del self.sessions[session.id]
        self.sessions_index = self.index
        delay = min(session.lock_delay, MAX_LOCK_DELAY)
        for entry in list(self.keys.values()):
            if entry.session != session.id:
                continue
            if session.behavior == 'delete':
                self.delete(entry.key)
            else:
                self.keys_index = self.index
                self.keys[entry.key] = replace(
                    entry, session='', modify_index=self.index)
            if delay > 0:
                self.delays[entry.key] = self.time + delay

    # Checks.

    def register_check(self, check: Check) -> None:
        """Add a check; one of the same id keeps its state."""
        known = self.checks.get(check.id)
        if known is not None:
            check.status, check.output = known.status, known.output
        else:
            self.index += 1
        self.checks[check.id] = check
        if check.status == 'passing':
            check.expires = self.time + check.ttl

    def set_check(self, check_id: str, status: str, output: str) -> None:
        """Give a check a status and text; a critical one ends its sessions."""
        check = self.checks.get(check_id)
        if check is None:
            raise Refusal(500, f'CheckID "{check_id}" does not have '
                          'associated TTL')
        check.expires = (NEVER if status == 'critical'
                         else self.time + check.ttl)
        check.output = output
        if check.status != status:
            check.status = status
            self.index += 1
        if status == 'critical':
            self._end_sessions_of(check_id)

    def remove_check(self, check_id: str) -> None:
        """Remove a check, if it is there; its sessions end."""
        if self.checks.pop(check_id, None) is not None:
            self.index += 1
            self._end_sessions_of(check_id)

    def _end_sessions_of(self, check_id: str) -> None:
        for session in list(self.sessions.values()):
            if check_id in session.checks:
                self._end(session)

    def _require_check(self, name: str) -> None:
        if name == SERF_HEALTH:
            return
        if name not in self.checks:
            raise Refusal(500, f"Missing check '{name}' registration")
        if self.checks[name].status == 'critical':
            raise Refusal(500, f"Check '{name}' is in critical state")

    # Keys; none of these counts the Raft entry, which the caller makes.

    def is_delayed(self, key: str) -> bool:
        """Return whether a lock-delay is on *key*."""
        return self.time < self.delays.get(key, 0.0)

    def under(self, prefix: str) -> list[Entry]:
        """Return the keys that start with *prefix*, in their order."""
        return [self.keys[key] for key in sorted(self.keys)
                if key.startswith(prefix)]

    def index_under(self, prefix: str) -> int:
        """Return the index of the keys that start with *prefix*.

        It is that of the whole store where there never was such a key.
        """
        indexes = [entry.modify_index for entry in self.under(prefix)]
        indexes += [index for key, index in self.tombstones.items()
                    if key.startswith(prefix)]
        return max(indexes, default=self.keys_index)

    def set(self, entry: Entry, index: int | None = None) -> Entry | None:
        """Write a key without regard to who holds it.

        :param index: what its index must be, 0 where there must be no key;
            ``None`` is returned when it is another.
        """
        known = self.keys.get(entry.key)
        if index not in (None, known.modify_index if known else 0):
            return None
        return self._put(replace(
            entry, session=known.session if known else ''))

    def lock(self, entry: Entry) -> Entry | None:
        """Take a key for *entry.session*; ``None`` when another holds it."""
        if not entry.session:
            raise Refusal(500, 'missing session')
        if self.find_session(entry.session) is None:
            raise Refusal(500, f'invalid session "{entry.session}"')
        known = self.keys.get(entry.key)
        if known is None:
            return self._put(replace(entry, lock_index=1))
        if known.session not in ('', entry.session):
            return None
        taken = 0 if known.session else 1
        return self._put(replace(entry, lock_index=known.lock_index + taken))

    def unlock(self, entry: Entry) -> Entry | None:
        """Free a key; ``None`` when *entry.session* does not hold it."""
        if not entry.session:
            raise Refusal(500, 'missing session')
        known = self.keys.get(entry.key)
        if known is None or known.session != entry.session:
            return None
        return self._put(replace(
            entry, session='', lock_index=known.lock_index))

    def delete(self, key: str, index: int | None = None) -> bool:
        """Delete a key, if it is there, without regard to who holds it.

        :param index: what its index must be; ``False`` when it is another.
        """
        known = self.keys.get(key)
        if known is None:
            return True
        if index not in (None, known.modify_index):
            return False
        del self.keys[key]
        self.keys_index = self.tombstones[key] = self.index
        return True

    def _put(self, entry: Entry) -> Entry:
        known = self.keys.get(entry.key)
        if known is not None:
            entry = replace(entry, create_index=known.create_index,
                            modify_index=known.modify_index)
            if entry == known:
                # What changes nothing keeps its index.
                return known
        else:
            entry = replace(entry, create_index=self.index)
        entry = replace(entry, modify_index=self.index)
        self.keys[entry.key] = entry
        self.keys_index = self.index
        return entry
