"""A stand-in for Consul, for unit tests of jobs and locks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Self

from jobslib.testing.consul_api import LIMITED, Answer, Api, Request
from jobslib.testing.consul_profiles import profile_of
from jobslib.testing.consul_server import Server
from jobslib.testing.consul_state import DATACENTER, State
from jobslib.testing.consul_wire import blocking

__all__ = ['ConsulStandIn']

POLL_INTERVAL = 0.05


class ConsulStandIn:
    """A Consul agent in a thread of the test, with faults on demand.

    It listens on a free port of 127.0.0.1 and imitates what locks use of
    Consul 1.8: sessions with their TTL, which Consul doubles, and their
    lock-delay; keys, alone or all with a prefix; writes that depend on an
    index; blocking queries and transactions; checks of the agent.
    It serves from its construction until :meth:`close`, which the end of a
    ``with`` block calls::

        def test_loss():
            with ConsulStandIn() as consul:
                lock = make_lock(ConsulLock, 'my-job', **consul.options())
                assert lock.acquire()
                with pytest.raises(OneInstanceWatchdogError):
                    consul.lose_lock()
                    while True:
                        time.sleep(0.05)  # the work
                assert lock.release() is False

    **Time.**  The clock of the stand-in stands still; only :meth:`advance`
    moves it.  It decides when sessions and checks end, and how long a
    lock-delay lasts.  The lock under test goes by the machine's clock all the
    same, and so does its lease keeper, a process of its own: it renews every
    few tenths of a second, whatever the stand-in's time, and it stops a run
    whose lease could not be renewed for a window of *real* seconds.  So one
    :meth:`advance` by more than twice the TTL ends a session that is being
    renewed; a lock that waits out a lock-delay does so in real time, and then
    needs an :meth:`advance` too; and a blocking query waits for real seconds.

    It differs from Consul in this: there is one server, which always leads,
    one datacenter and no access control; a blocking query on a key answers at
    the end of its wait, not up to a sixteenth later; one on a key or prefix
    that is not there and never was wakes with every change of a key, where
    Consul wakes with those of keys whose names are similar; that a key was
    deleted is never forgotten; changes of checks take effect at once; the
    lock-delay is never leaky.  What it does not know it refuses, with status
    404 for a path and 501 for a parameter or a verb.

    **Versions.**  It is Consul 1.8 as a real agent was measured.  By
    *version* it is a later one, ``'1.21.5'``, ``'1.22'`` or ``'2.1'``, as far
    as changelogs and source tell: it refuses names of keys, sessions in
    another datacenter that a client agent is asked for, and large requests to
    the agent; it cuts long answers, closes idle connections, and says when
    reads were filtered.  Each has a cap on its connections.

    :param ttl_min: the least TTL of a session that is accepted, in seconds.
    :param version: ``'1.8'``, ``'1.21.5'``, ``'1.22'`` or ``'2.1'``.
    :param client_agent: whether it is an agent in client mode, and no server.
    :param datacenters: further ones that can be asked, with the same keys.
    :param limits: limits other than those of the version, so that a test need
        not wait: *longest_answer* and *idle_timeout*, in seconds,
        *max_connections*, *max_agent_body* in bytes.
    :raises ValueError: it cannot be that version.
    """

    def __init__(self, ttl_min: float = 10.0, version: str = '1.8', *,
                 client_agent: bool = False, datacenters: Sequence[str] = (),
                 **limits: Any) -> None:
        self._profile = replace(profile_of(version), **limits)
        self._state = State(ttl_min=ttl_min)
        # Protects all fields that follow, and wakes the threads that wait for a
        # change.
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._partitioned = False
        self._refusing = False
        # Counts the partitions: a request that came before one gets no answer after
        # it.
        self._epoch = 0
        self._closed = False
        self._server = Server(self._exchange, self._profile)
        host, port = self._server.server_address[:2]
        #: Where it listens: host and port.
        self.address: tuple[str, int] = (str(host), port)
        self._api = Api(self._state, self.address, self._profile,
                        (DATACENTER, *datacenters))
        self._api.is_client = client_agent
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_INTERVAL,),
            daemon=True, name='jobslib-consul-stand-in')
        self._thread.start()

    # How to use it.

    @property
    def url(self) -> str:
        """The base of its addresses, without a slash at the end."""
        return f'http://{self.address[0]}:{self.address[1]}'

    def options(self, **options: object) -> dict[str, object]:
        """Return options for a ``ConsulLock`` that uses this stand-in.

        The lease is about as short as can be, so that tests need not wait: a
        lock-delay of 2 s, and half a second from the interrupt of a run to
        its kill.  Where the machine may stand still for that long, a test
        that only holds the lock needs a longer *lock_delay*.

        :param options: further options, or others instead of these.
        """
        return {'host': self.address[0], 'port': self.address[1],
                'ttl': 10.0, 'lock_delay': 2.0, 'grace': 0.5, **options}

    def one_instance(self, **options: object) -> dict[str, object]:
        """Return a value for the setting ``ONE_INSTANCE``.

        :param options: as for :meth:`options`.
        """
        return {'backend': 'jobslib.oneinstance.consul.ConsulLock',
                'options': self.options(**options)}

    def close(self) -> None:
        """Stop serving; may be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # What a test sees.

    @property
    def requests(self) -> list[Request]:
        """The requests until now, but for those that a partition swallowed."""
        with self._changed:
            return list(self._requests)

    @property
    def writes(self) -> int:
        """How many entries Consul's Raft log would have got until now."""
        with self._changed:
            return self._state.index - 1

    @property
    def sessions(self) -> list[str]:
        """The ids of all sessions, the oldest first."""
        with self._changed:
            return list(self._state.sessions)

    def holder(self, key: str) -> str | None:
        """Return the id of the session that holds *key*, if one does."""
        with self._changed:
            entry = self._state.keys.get(key)
            return entry.session or None if entry else None

    def value(self, key: str) -> bytes | None:
        """Return what is stored in *key*, ``None`` if there is no such key."""
        with self._changed:
            entry = self._state.keys.get(key)
            return entry.value if entry else None

    # What a test does to it.

    @property
    def time(self) -> float:
        """The time of its clock, in seconds since it was made."""
        with self._changed:
            return self._state.time

    def advance(self, seconds: float) -> None:
        """Move its clock on; what is due in between happens at its time."""
        with self._changed:
            self._state.advance(seconds)
            self._changed.notify_all()

    def lose_lock(self, key: str | None = None) -> None:
        """End the sessions that hold keys, as an operator could.

        The lock-delay of each is on its keys then.

        :param key: only the session that holds this key.
        """
        with self._changed:
            for entry in list(self._state.keys.values()):
                if entry.session and key in (None, entry.key):
                    self._state.end_session(entry.session)
            self._changed.notify_all()

    def partition(self, refuse: bool = False) -> AbstractContextManager[object]:
        """Cut the line, until :meth:`heal` or the end of a ``with`` block.

        What is sent in the meantime is never carried out, and what was being
        answered, blocking queries above all, gets no answer.  Requests hang
        until the line is whole again, and fail then.

        :param refuse: close connections instead of letting them hang.
        """
        with self._changed:
            self._partitioned = True
            self._refusing = refuse
            self._epoch += 1
            self._changed.notify_all()
        until_healed = contextlib.ExitStack()
        until_healed.callback(self.heal)
        return until_healed

    def heal(self) -> None:
        """End a partition, if there is one."""
        with self._changed:
            self._partitioned = False
            self._changed.notify_all()

    def limit_requests(
            self, status: int = 429) -> AbstractContextManager[object]:
        """Refuse writes, renewals of sessions among them, in a ``with`` block.

        Consul does so from 1.15 on where ``request_limits`` are set: the
        request was not carried out, and may be repeated.

        :param status: 429, or 503 for what only the leader can do.
        :raises ValueError: this version does not.
        """
        if not self._profile.limits_requests or status not in LIMITED:
            raise ValueError(f'Consul {self._profile.version} does not limit '
                             f'requests with status {status}')
        return self._for_a_while('refusing', status)

    def hide(self, *prefixes: str) -> AbstractContextManager[object]:
        """Hide keys in a ``with`` block, as from a token without rights.

        They are left out where several keys are read, and refused alone.

        :param prefixes: what the keys begin with.
        """
        return self._for_a_while('hidden', prefixes)

    @contextlib.contextmanager
    def _for_a_while(self, name: str, value: object) -> Iterator[None]:
        before = getattr(self._api, name)
        self._set(name, value)
        try:
            yield
        finally:
            self._set(name, before)

    def _set(self, name: str, value: object) -> None:
        with self._changed:
            setattr(self._api, name, value)
            self._changed.notify_all()

    # The server's side.

    def _exchange(self, request: Request) -> Answer | None:
        """Return the answer to *request*, ``None`` if it gets none."""
        with self._changed:
            epoch = self._epoch
            if self._partitioned or self._closed:
                self._swallow()
                return None
            self._requests.append(request)
            before = self._state.index
            answer = self._api.answer(request)
            if self._state.index != before:
                self._changed.notify_all()
            if answer.index is not None:
                blocked = self._block(request, answer, epoch)
                if blocked is None:
                    return None
                answer = blocked
            if epoch != self._epoch or self._closed:
                self._swallow()
                return None
            return answer

    def _block(self, request: Request, answer: Answer,
               epoch: int) -> Answer | None:
        """Wait until what was asked for has changed since then.

        :returns: ``None`` when that takes too long for any answer.
        """
        index, wait = blocking(request.query)
        longest = self._profile.longest_answer
        is_cut = bool(longest and wait > longest)
        ends = time.monotonic() + (longest if is_cut and longest else wait)
        while (index and answer.index is not None and answer.index <= index
               and epoch == self._epoch and not self._closed):
            left = ends - time.monotonic()
            if left <= 0:
                return None if is_cut else answer
            self._changed.wait(left)
            answer = self._api.answer(request)
        return answer

    def _swallow(self) -> None:
        while self._partitioned and not self._refusing and not self._closed:
            self._changed.wait()
