"""The arithmetic of a lease.  All figures are in seconds."""

from __future__ import annotations

from jobslib.exceptions import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ['Timings']

KILL = 0.5
MAX_TIMEOUT = 2.0
MAX_GRACE = 3.0
MIN_GRACE = 0.5


class Timings:
    """When a lease is renewed, and when the run that it guards has to stop.

    A session can end at any moment, with much of its TTL left: when its agent
    leaves the cluster, when an operator destroys it, when a leader that was
    paused is elected again.  Nothing but the lock-delay then keeps others from
    the lock, and the holder knows of no later moment at which the session
    lived than its last successful renewal.  So from there on it may rely on
    the lock for the *window*: the TTL or the lock-delay, whichever is shorter.
    """

    def __init__(self, ttl: float, lock_delay: float, window: float,
                 renew_interval: float, timeout: float, grace: float,
                 kill: float, check_ttl: float | None = None) -> None:
        #: The TTL of the session.
        self.ttl = ttl
        #: For how long others are kept from the lock after a session ended.
        self.lock_delay = lock_delay
        #: For how long, since a renewal was sent, the lease is certainly ours.
        self.window = window
        #: From one renewal to the next.
        self.renew_interval = renew_interval
        #: The most that one request of the keeper may take.
        self.timeout = timeout
        #: From the interrupt of the run to its kill.
        self.grace = grace
        #: How long a kill may take until all processes are gone.
        self.kill = kill
        #: The TTL of the agent's health check, by which a dead container is
        #: noticed; ``None`` when there is no such check.
        self.check_ttl = check_ttl

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
        """The longest outage of the lock service that disturbs no run."""
        return self.window - self.renew_interval - self.grace - self.kill

    @property
    def dead_machine(self) -> float:
        """The longest time until the lock of a dead machine is free.

        With :attr:`check_ttl` this holds for a container that died while its
        agent lives.  When the agent has died as well, the other agents notice
        by gossip, which takes some seconds as a rule.
        """
        noticed = 2 * self.ttl if self.check_ttl is None else self.check_ttl
        return noticed + self.lock_delay
