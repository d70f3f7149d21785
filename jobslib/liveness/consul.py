"""The last success, in a key of Consul."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from functools import cached_property

from jobslib.consul.connection import ConsulConnection, refuse_key
from jobslib.exceptions import LivenessError, LockError
from jobslib.liveness import BaseLiveness
from jobslib.oneinstance.record import parse as parse_object
from jobslib.options import option
from jobslib.reading import mapping, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.consul.services import ServiceClient

__all__ = ['ConsulLiveness', 'parse']

ENV = 'JOBSLIB_LIVENESS_CONSUL_'

# When a success is noted later than this, in seconds, another machine may have
# noted a newer one.
LATE = 2.0


class ConsulLiveness(BaseLiveness):
    """Keeps the last success in a key of Consul, as JSON.

    Options that are not given here are those of the ``ConsulLock`` in
    ``ONE_INSTANCE``.  If a host is given here, none of the lock's options is
    used.  Several threads may use it.
    """

    class OptionsConfig(
            ConsulConnection, BaseLiveness.OptionsConfig, env=ENV):
        """Options of :class:`ConsulLiveness`."""

        key = option(
            attrtype=str, env=f'{ENV}KEY',
            help='Key of the last success (default jobs/TASK NAME/liveness).')

    def __init__(self, context: BackendContext, options: Any) -> None:
        super().__init__(context, options)
        self.key = options.key or f'jobs/{context.config.task_name}/liveness'
        refuse_key(self.key, options.source('key') if options.key else '')
        self._endpoint = options.endpoint_like(
            context.config.one_instance.options)
        # Only one thread at a time may use the client.
        self._lock = threading.Lock()

    @cached_property
    def client(self) -> ServiceClient:
        """The client of Consul; not for two threads at once."""
        # Imported here, because it takes longer than all the rest, and the run's
        # process does not need it.
        from jobslib.consul.services import ServiceClient
        return ServiceClient(self._endpoint, self.options.retry_max_attempts,
                             patience=self.options.patience)

    def write(self) -> None:
        self.write_at(time.time())

    def write_at(self, at: float) -> None:
        with self._calling() as client:
            if time.time() - at > LATE:
                last = parse(client.read(self.key).record)
                if last is not None and last['timestamp'] > at:
                    return
            client.put(self.key, json.dumps(self.make_record(at)).encode())

    def read(self) -> dict[str, Any] | None:
        with self._calling() as client:
            value = client.read(self.key).record
            if value is None:
                # Consul leaves out a key that the token may not read, and without a
                # success a job would seem to be stuck.
                self._refuse_denied(client)
            record = parse(value)
            if value and record is None:
                raise LivenessError(f'cannot read {self.key}: its value is not that '
                                    f'of a success, and is replaced by the next one')
            return record

    def _refuse_denied(self, client: ServiceClient) -> None:
        from jobslib.consul.failures import PermissionDeniedError
        try:
            client.prove_readable(self.key)
        except PermissionDeniedError as exc:
            raise LivenessError(f'{exc}; grant the token: key "{self.key}" '
                                f'{{ policy = "read" }}') from exc

    def close(self) -> None:
        if 'client' in vars(self):
            with self._calling() as client:
                client.close()

    @contextlib.contextmanager
    def _calling(self) -> Iterator[ServiceClient]:
        with self._lock:
            try:
                yield self.client
            except LockError as exc:
                raise LivenessError(str(exc)) from exc


def parse(data: bytes | None) -> dict[str, Any] | None:
    """Return the record in the value of a key, ``None`` if it is not one."""
    record = mapping(parse_object(data))
    return None if number(record.get('timestamp')) is None else record
