"""The options of :class:`jobslib.oneinstance.consul.ConsulLock`."""

from __future__ import annotations

from jobslib.consul.connection import ConsulConnection
from jobslib.exceptions import ConfigError
from jobslib.keeper.timings import Timings
from jobslib.legacy import aliased
from jobslib.oneinstance import BaseLock
from jobslib.options import option

__all__ = ['ConsulOptions']

ENV = 'JOBSLIB_ONE_INSTANCE_CONSUL_'

MAX_LOCK_DELAY = 60.0
MIN_CHECK_TTL = 2.0
# With a shorter lock-delay there is no time to stop a run, whatever the other
# timings are.
LEAST_LOCK_DELAY = 1.7


class ConsulOptions(ConsulConnection, BaseLock.OptionsConfig, env=ENV):
    """Options of :class:`jobslib.oneinstance.consul.ConsulLock`.

    The standard variables of Consul's own tools, such as ``CONSUL_HTTP_ADDR``,
    count where nothing else is given.
    """

    # The old names are those of jobslib 2.
    key = aliased(
        attrtype=str, kind='a key of Consul', env=f'{ENV}KEY',
        old=('JOBSLIB_ONE_INSTANCE_OPTIONS_KEY',),
        help='Key of the lock (default jobs/TASK NAME/lock).')
    ttl = aliased(
        attrtype=float, unit='seconds', minimum=10, maximum=86400, default=15.0,
        old=('JOBSLIB_ONE_INSTANCE_OPTIONS_TTL',),
        env=f'{ENV}TTL', help='TTL of the session, in seconds.')
    lock_delay = aliased(
        attrtype=float, unit='seconds', minimum=0, maximum=MAX_LOCK_DELAY,
        default=15.0, old=('JOBSLIB_ONE_INSTANCE_LOCK_DELAY',),
        env=f'{ENV}LOCK_DELAY',
        help='How long nobody gets the lock, in seconds, when its '
             'session ends without a release.')
    check_ttl = option(
        attrtype=float, unit='seconds', minimum=MIN_CHECK_TTL,
        env=f'{ENV}CHECK_TTL',
        help='Have the agent notice within this many seconds that this '
             'machine or container is dead, rather than within twice '
             "ttl; for agents of the client's own machine.")
    grace = option(
        attrtype=float, unit='seconds', above=0, env=f'{ENV}GRACE',
        help='Seconds from the interrupt of a run to its kill '
             '(default: a fifth of the smaller of ttl and lock_delay, '
             'at most 3).')
    heartbeat = option(
        attrtype=float, unit='seconds', above=0, env=f'{ENV}HEARTBEAT',
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
            hint = ('' if self.lock_delay >= LEAST_LOCK_DELAY else
                    '; for a lock_delay that jobslib 3 had, 1 by default, '
                    'write 15 or leave it out')
            raise ConfigError(f'{exc} ({sources}){hint}') from None
