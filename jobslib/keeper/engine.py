"""What the lease keeper asks of a lock service.

The keeper knows no lock service.  It asks an :class:`Engine`, which is made for
one lock of one process; addresses, keys and session ids are the engine's own
business.  To support another service, write its engine in one file, like
:mod:`jobslib.consul.engine`.  Standard library only, see
:mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

__all__ = ['ANOTHERS', 'ENDED', 'GONE', 'NOBODYS', 'OURS', 'RENEWED',
           'UNKNOWN', 'Chore', 'Engine', 'Sight']

#: What any question may lead to: no answer came, or none that can be relied on.
UNKNOWN = 'unknown'
#: What a renewal leads to: the session lives, or it has ended.
RENEWED, ENDED = 'renewed', 'ended'
#: Who holds the lock when it is looked at: our session, no session, another
#: session; or the lock does not exist any more.
OURS, NOBODYS, ANOTHERS, GONE = 'ours', "nobody's", "another's", 'gone'

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Sight:
    """What one look at the lock has found.

    :param holder: :data:`OURS`, :data:`NOBODYS`, :data:`ANOTHERS`,
        :data:`GONE` or :data:`UNKNOWN`.
    :param control: what operators ask, or ``None`` when that was not seen.
    :param mark: what to give :meth:`Engine.watch` next time, so that it waits
        for news since this look; 0 when it has to start again, after a pause.
    """

    def __init__(self, holder: str, control: bytes | None = None,
                 mark: int = 0) -> None:
        self.holder = holder
        self.control = control
        self.mark = mark


class Chore:
    """Something that is to be done again and again while the session lives.

    :param interval: from one time to the next, in seconds.
    :param call: does it once.
    """

    def __init__(self, interval: float, call: Callable[[], object]) -> None:
        self.interval = interval
        self.call = call


class Engine:
    """A session of a lock service, and the lock that it is for.

    No method raises an exception, whatever the service answers.  Several
    threads may call any of them at the same time.  Each takes at most the
    timeout that the engine was made with, except :meth:`watch`, which waits.
    """

    #: For how long the service grants nobody a lock whose session has ended,
    #: in seconds; 0 if it may grant it at once.
    protects_after_end = 0.0

    #: What the service needs beside the renewals, such as a health check that
    #: has to be passed.
    chores: tuple[Chore, ...] = ()

    def renew(self, timeout: float | None = None) -> str:
        """Renew the session.

        :param timeout: in seconds, if it is to be shorter than usual.
        :returns: :data:`RENEWED`, :data:`ENDED` or :data:`UNKNOWN`.
        """
        raise NotImplementedError

    def watch(self, mark: int) -> Sight:
        """Look at the lock, as soon as there is news since *mark*.

        :param mark: that of the last :class:`Sight`; 0 looks at once.
        """
        raise NotImplementedError

    def look_away(self) -> None:
        """Let go of what watching needs, since no :meth:`watch` follows soon.

        Called by the thread that has called :meth:`watch`.
        """

    def write(self, key: str, value: str, token: int) -> bool:
        """Write *value* to *key* if the lock is held with the fencing *token*.

        :returns: false if it is to be tried again; true when it was written,
            and when the lock is not held any more, so that it is of no use.
        """
        raise NotImplementedError

    def release(self, record: dict[str, object], notes: dict[str, str],
                token: int | None) -> bool:
        """Release the lock if our session holds it.

        :param record: the owner record to leave in it.
        :param notes: what to write at the same time, by key.
        :param token: the fencing token of the hold that is to end; ``None``
            when it is not known whether the lock was taken at all.
        :returns: true when our session certainly does not hold it any more.
        """
        raise NotImplementedError

    def end(self) -> bool:
        """End the session; return whether it has ended."""
        raise NotImplementedError

    def clear_up(self) -> None:
        """Remove what the session needed; called when it has ended."""

    def rest(self, resting: bool) -> None:
        """Keep no connection open while *resting*: nothing is held then."""
