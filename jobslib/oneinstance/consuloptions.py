"""The options of :class:`jobslib.oneinstance.consul.ConsulLock`."""

from __future__ import annotations

from jobslib.exceptions import ConfigError
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.connection import ConsulConnection
from jobslib.oneinstance.timings import Timings
from jobslib.options import option

__all__ = ['ConsulOptions']

ENV = 'JOBSLIB_ONE_INSTANCE_CONSUL_'

MAX_LOCK_DELAY = 60.0
MIN_CHECK_TTL = 2.0


class ConsulOptions(ConsulConnection, BaseLock.OptionsConfig, env=ENV):
    """Options of :class:`jobslib.oneinstance.consul.ConsulLock`.

    The standard variables of Consul's own tools (``CONSUL_HTTP_ADDR``
    and its like) count where nothing else is given.
    """

    key = option(
        attrtype=str, env=f'{ENV}KEY',
        help='Key of the lock (default jobs/TASK NAME/lock).')
    ttl = option(
        attrtype=float, minimum=10, maximum=86400, default=15.0,
        env=f'{ENV}TTL', help='TTL of the session, in seconds.')
    lock_delay = option(
        attrtype=float, above=0, maximum=MAX_LOCK_DELAY, default=15.0,
        env=f'{ENV}LOCK_DELAY',
        help='How long nobody gets the lock, in seconds, when its '
             'session ends without a release.')
    check_ttl = option(
        attrtype=float, minimum=MIN_CHECK_TTL, env=f'{ENV}CHECK_TTL',
        help='Have the agent notice within this many seconds that this '
             'machine or container is dead, rather than within twice '
             "ttl; for agents of the client's own machine.")
    grace = option(
        attrtype=float, above=0, env=f'{ENV}GRACE',
        help='Seconds from the interrupt of a run to its kill '
             '(default: a fifth of the smaller of ttl and lock_delay, '
             'at most 3).')
    heartbeat = option(
        attrtype=float, above=0, env=f'{ENV}HEARTBEAT',
        help='A run that does not call extend_lock() for longer, in '
             'seconds, is treated as hung.')

    def validate(self) -> None:
        """Refuse settings that contradict each other."""
        super().validate()
        try:
            self.timings = Timings.derive(
                self.ttl, self.lock_delay, self.grace, self.timeout,
                self.check_ttl)
        except ConfigError as exc:
            sources = '; '.join(
                f'{name} from {self.source(name)}'
                for name in ('ttl', 'lock_delay', 'grace', 'timeout'))
            raise ConfigError(f'{exc} ({sources})') from None
