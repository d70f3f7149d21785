"""The calls of liveness: a service of Consul, and the check that belongs to it."""

from __future__ import annotations

from jobslib.consul.api import duration
from jobslib.consul.keyclient import KeyClient
from jobslib.consul.refusals import Refused

__all__ = ['ServiceClient']

# How an agent refuses to update or to remove what it does not know, in lower case.
_UNKNOWN = ('does not have associated ttl', 'unknown check', 'unknown service')


class ServiceClient(KeyClient):
    """A client with services.  They are the agent's own, so they are registered,
    updated and removed by the agent of this machine."""

    def register_service(
        self, service: str, name: str, ttl: float, status: str, remove_after: float,
    ) -> None:
        """Register a service with the agent, with a check that has to be updated.

        *service* is its id, *name* is for DNS.  The check has the id
        ``service:`` followed by that of the service, and *status* to begin
        with.  It becomes critical *ttl* seconds after the last update; when it
        was critical for *remove_after* seconds, the agent removes the service.
        """
        self._call(f'register the service {name}', lambda: (
            self._calls.api.agent.service.register(name, service_id=service, check={
                'TTL': duration(ttl), 'Status': status,
                'DeregisterCriticalServiceAfter': duration(remove_after)})))

    def deregister_service(self, service: str) -> None:
        """Remove the service with this id from the agent, if it is there."""
        def call() -> None:
            try:
                self._calls.api.agent.service.deregister(service)
            except Refused as exc:
                if not exc.says(_UNKNOWN):
                    raise
        self._call(f'remove the service {service}', call)

    def expired_services(self, name: str) -> list[str]:
        """Return the ids of the services *name* that nobody updates any more."""
        def call() -> list[str]:
            return [about['ServiceID']
                    for about in self._calls.api.agent.checks().values()
                    if about['ServiceName'] == name
                    and about['Status'] == 'critical'
                    and about['Output'].startswith('TTL expired')]
        return self._call('list the checks', call)

    def update_check(self, check: str, status: str, note: str) -> bool:
        """Set a check with a TTL to passing, warning or critical.

        Returns False if the agent does not know the check.
        """
        ttl = self._calls.api.agent.check
        update = {'passing': ttl.ttl_pass, 'warning': ttl.ttl_warn,
                  'critical': ttl.ttl_fail}[status]

        def call() -> bool:
            try:
                update(check, notes=note)
            except Refused as exc:
                if exc.says(_UNKNOWN):
                    return False
                raise
            return True
        return self._call('update the check', call)
