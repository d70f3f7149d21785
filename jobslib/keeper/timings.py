"""The arithmetic of a lease.  All figures are in seconds."""

from typing import NamedTuple, Self

from jobslib.exceptions import ConfigError

__all__ = ['Timings']

KILL = 0.5
MAX_TIMEOUT = 2.0
MAX_GRACE = 3.0
MIN_GRACE = 0.5


class Timings(NamedTuple):
    """When a lease is renewed, and when the run it guards has to stop.

    A session can end at any moment, with much of its TTL left (the agent
    leaves, an operator destroys it, a leader that was paused is elected
    again).  From the last renewal that is known to have succeeded, the
    holder is then protected by the lock-delay alone; hence the window.
    """

    #: TTL of the session.
    ttl: float
    #: How long Consul keeps the key from others when a session ended.
    lock_delay: float
    #: How long after a renewal was sent the lease is certainly ours.
    window: float
    #: From one renewal to the next.
    renew_interval: float
    #: The most that one request of the keeper may take.
    timeout: float
    #: From the interrupt of the run to its kill.
    grace: float
    #: Allowance for the kill to be done.
    kill: float
    #: How soon the agent notices a dead machine, if it is to.
    check_ttl: float | None = None

    @classmethod
    def derive(cls, ttl: float, lock_delay: float,
               grace: float | None = None,
               client_timeout: float = MAX_TIMEOUT,
               check_ttl: float | None = None) -> Self:
        """Return the timings that follow from the settings.

        :raises ConfigError: they leave no time to stop a run; the sum is in
            the message.
        """
        window = min(ttl, lock_delay)
        renew_interval = window / 5
        timeout = min(MAX_TIMEOUT, window / 5, client_timeout)
        if grace is None:
            grace = max(min(MAX_GRACE, window / 5), MIN_GRACE)
        needed = renew_interval + timeout + grace + KILL
        if needed > window:
            raise ConfigError(
                f'the timings of the lease contradict each other: '
                f'renew_interval {renew_interval:g} + timeout {timeout:g} + '
                f'grace {grace:g} + kill {KILL:g} = {needed:g} s, and the '
                f'window, the smaller of ttl {ttl:g} and lock_delay '
                f'{lock_delay:g}, is {window:g} s; allowed: a sum of at most '
                f'the window')
        return cls(ttl, lock_delay, window, renew_interval, timeout, grace,
                   KILL, check_ttl)

    @property
    def slack(self) -> float:
        """The longest outage of Consul that disturbs nothing."""
        return self.window - self.renew_interval - self.grace - self.kill

    @property
    def dead_machine(self) -> float:
        """The longest time until the lock of a dead machine is free.

        With :attr:`check_ttl` it is that of a dead container whose agent
        lives; when the agent has died as well, the other agents notice by
        gossip, in some seconds as a rule.
        """
        noticed = 2 * self.ttl if self.check_ttl is None else self.check_ttl
        return noticed + self.lock_delay
