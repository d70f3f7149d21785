"""The arithmetic of a lease, in words."""

from __future__ import annotations

from typing import NamedTuple

from jobslib.keeper.timings import Timings

__all__ = ['Handover', 'figures', 'handovers', 'sums']

#: How soon the lock is free when its process was killed, in seconds.
KILLED = 0.2


class Handover(NamedTuple):
    """How long it takes at the most until another machine can have the lock.

    *seconds* is the sum that *arithmetic* shows.
    """

    event: str
    seconds: float
    arithmetic: str


def sums(timings: Timings) -> list[str]:
    """Return the sums that decide how long a run has, and an outage may last."""
    t = timings
    needed = t.renew_interval + t.timeout + t.grace + t.kill
    return [
        f'window: {t.window:g} s, the smaller of ttl {t.ttl:g} and '
        f'lock_delay {t.lock_delay:g}',
        f'needed: renew_interval {t.renew_interval:g} + timeout '
        f'{t.timeout:g} + grace {t.grace:g} + kill {t.kill:g} = {needed:g} s, '
        f'at most the window',
        f'slack:  window {t.window:g} - renew_interval '
        f'{t.renew_interval:g} - grace {t.grace:g} - kill {t.kill:g} = '
        f'{t.slack:g} s, the outage of Consul that disturbs nothing']


def handovers(timings: Timings) -> list[Handover]:
    """Return the worst case of each way to lose the job."""
    t = timings
    # This holds with a health check as well: the agent that would fail the check
    # may have died with the machine.
    found = [Handover('the machine dies, or is cut off',
                      2 * t.ttl + t.lock_delay,
                      f'2 x ttl {t.ttl:g} + lock_delay {t.lock_delay:g}')]
    if t.check_ttl is not None:
        found.append(Handover(
            'the container dies, its agent lives', t.dead_machine,
            f'check_ttl {t.check_ttl:g} + lock_delay {t.lock_delay:g}'))
    return found + [
        Handover('its session ends (by hand, with its agent)', t.lock_delay,
                 f'lock_delay {t.lock_delay:g}'),
        Handover('SIGTERM in a run', t.grace + t.kill,
                 f'grace {t.grace:g} + kill {t.kill:g}'),
        Handover('its process is killed', KILLED,
                 'the keeper releases the lock'),
    ]


def figures(timings: Timings) -> dict[str, object]:
    """Return all figures by name, in seconds."""
    return vars(timings) | {
        'slack': timings.slack, 'dead_machine': timings.dead_machine,
        'handovers': [each._asdict() for each in handovers(timings)]}
