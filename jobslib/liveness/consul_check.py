"""The job as a service of Consul, with its health and last outcome."""

from __future__ import annotations

import os
import re
import time

from jobslib.exceptions import ConfigError, LockError
from jobslib.liveness.consul import ENV, ConsulLiveness, parse
from jobslib.options import option
from jobslib.runs import encodable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.consul.services import ServiceClient
    from jobslib.observers import Observer

__all__ = ['ConsulCheckLiveness', 'ServiceCheck']

#: How often the service is registered anew, in seconds.  The agent goes on using
#: the token that it got with the registration, which may have expired since.
REGISTER_AGAIN = 600.0

#: The names of services that Consul's DNS can find.
SERVICE_NAME = re.compile(r'[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?')


class ConsulCheckLiveness(ConsulLiveness):
    """A :class:`~jobslib.liveness.consul.ConsulLiveness` with a service and its
    check on the agent of this machine.

    Each process of the job, holder and standbys alike, registers the service, and
    removes it when it ends.
    """

    class OptionsConfig(ConsulLiveness.OptionsConfig):
        """Options of :class:`ConsulCheckLiveness`."""

        service = option(
            attrtype=str, env=f'{ENV}SERVICE',
            help='Name of the service (default: the name of the task, with '
                 'a hyphen for what DNS does not know).')
        ttl = option(
            attrtype=float, unit='seconds', minimum=3, maximum=86400,
            default=30.0, env=f'{ENV}TTL',
            help='The check is critical when the process has been silent for '
                 'so many seconds; it speaks three times as often.')
        max_age = option(
            attrtype=float, unit='seconds', above=0,
            env=f'{ENV}MAX_AGE',
            help='The check is critical when no machine has succeeded for so '
                 'many seconds.')
        remove_after = option(
            attrtype=float, unit='seconds', minimum=60, maximum=2592000,
            default=3600.0,
            env=f'{ENV}REMOVE_AFTER',
            help='Consul removes the service of a process that died when it '
                 'was critical for so many seconds.')

        def validate(self) -> None:
            """Refuse a service that DNS cannot find."""
            super().validate()
            if self.service and not SERVICE_NAME.fullmatch(self.service):
                raise self.error(
                    'service', 'allowed: up to 63 letters, digits and hyphens')

    def __init__(self, context: BackendContext, options: Any) -> None:
        super().__init__(context, options)
        service = options.service or service_name(context.config.task_name)
        self.service_check = ServiceCheck(
            service, options.ttl, options.remove_after, self.logger)
        # The UNIX time of the newest success that is known, and words about it.
        self._last: float | None = None
        self._last_shown = 'there was none since this process started'
        self._started = time.time()

    def make_observer(self) -> Observer:
        from jobslib.liveness.checkobserver import CheckObserver
        return CheckObserver(
            self, self.update, self.succeeded, self.options.ttl / 3)

    def succeeded(self, at: float) -> None:
        """A run of this process succeeded at the UNIX time *at*."""
        self._last = at
        self._last_shown = 'the last success was on this machine'

    def update(self, state: tuple[str, str] | None) -> None:
        """Tell the agent how this process is: status and note.

        ``None`` removes the service.

        :raises LivenessError: the agent did not answer, or refused.
        """
        with self._calling() as client:
            if state is None:
                self.service_check.remove(client)
            else:
                self.service_check.update(client, *self._rate(client, *state))

    def _rate(self, client: ServiceClient, status: str,
              note: str) -> tuple[str, str]:
        """Return status and note, made worse if ``max_age`` is exceeded."""
        max_age = self.options.max_age
        if max_age is None or self._is_fresh(self._last):
            return status, note
        # Another machine may have succeeded since.
        try:
            record = parse(client.read(self.key).record)
        except LockError as exc:
            return 'warning', f'{note}; the last success is not known: {exc}'
        if record is not None and record['timestamp'] > (self._last or 0.0):
            self._last = record['timestamp']
            self._last_shown = (f'the last success was at '
                                f'{record.get("time_local")} on '
                                f'{record.get("fqdn")}')
        if self._is_fresh(self._last or self._started):
            return status, note
        return 'critical', (f'nobody succeeded for {max_age:g} s, '
                            f'{self._last_shown}; {note}')

    def _is_fresh(self, at: float | None) -> bool:
        return (at is not None
                and abs(time.time() - at) <= self.options.max_age)


class ServiceCheck:
    """The service of this process on the agent, and its check.

    :param name: the name of the service.
    :param ttl: how long after an update the check becomes critical, in seconds.
    :param remove_after: how long after that Consul removes the service, in
        seconds.
    :param logger: reports that the agent has lost the service.
    """

    def __init__(self, name: str, ttl: float, remove_after: float,
                 logger: logging.Logger) -> None:
        self.name = name
        #: Different for each process, because several may use the same agent.
        self.id = f'{name}-{os.getpid()}-{os.urandom(8).hex()}'
        self._ttl = ttl
        self._remove_after = remove_after
        self._logger = logger
        self._registered = False
        self._register_at = 0.0
        self._clear_at: list[float] = []

    def update(self, client: ServiceClient, status: str, note: str) -> None:
        """Set the check, and register it where the agent does not know it."""
        known = self._registered and self._set(client, status, note)
        if not known or time.monotonic() >= self._register_at:
            self._register(client, status, known)
            self._set(client, status, note)
        if self._clear_at and time.monotonic() >= self._clear_at[0]:
            # Remove the services of processes that have died; this one takes
            # their place.
            for service in client.expired_services(self.name):
                client.deregister_service(service)
            del self._clear_at[0]

    def _register(self, client: ServiceClient, status: str,
                  known: bool) -> None:
        if self._registered and not known:
            self._logger.info(
                'the agent has forgotten the service %s, which is registered '
                'again', self.name)
        client.register_service(
            self.id, self.name, self._ttl, status, self._remove_after)
        now = time.monotonic()
        self._register_at = now + REGISTER_AGAIN
        if not self._registered:
            # The check of a process that died just now still passes, so it is
            # looked for a second time.
            self._clear_at = [now, now + 1.5 * self._ttl]
        self._registered = True

    def remove(self, client: ServiceClient) -> None:
        """Remove the service, if it was registered."""
        if self._registered:
            client.deregister_service(self.id)
            self._registered = False

    def _set(self, client: ServiceClient, status: str, note: str) -> bool:
        # The note becomes part of a URL, so it has to be encodable.
        return client.update_check(
            f'service:{self.id}', status, encodable(note))


def service_name(task_name: str) -> str:
    """Return the name of the service of a task.

    :raises ConfigError: nothing of the name is left.
    """
    name = re.sub('[^A-Za-z0-9]+', '-', task_name)[:63].strip('-')
    if not name:
        raise ConfigError(
            f'service: required, because the name of the task, '
            f'{task_name!r}, has no letter or digit')
    return name
