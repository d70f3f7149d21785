"""What the lease keeper asks of a lock service.

The keeper knows no lock service.  It asks an :class:`Engine`, which is made
for one lock of one process, and which is told what a *session*, a key, an
address is when it is made.  One file makes the engine of a service; see
:mod:`jobslib.consul.engine`.  Standard library only, see
:mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

__all__ = ['ANOTHERS', 'ENDED', 'GONE', 'NOBODYS', 'OURS', 'RENEWED',
           'UNKNOWN', 'Chore', 'Engine', 'Sight']

#: There is no answer, or none that can be relied on.
UNKNOWN = 'unknown'
#: Of a renewal: the session lives; it has ended.
RENEWED, ENDED = 'renewed', 'ended'
#: Of a look at the lock: our session holds it; no session does; another one
#: does; there is no such lock any more.
OURS, NOBODYS, ANOTHERS, GONE = 'ours', "nobody's", "another's", 'gone'

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Sight:
    """What was seen of the lock.

    :param holder: :data:`OURS`, :data:`NOBODYS`, :data:`ANOTHERS`,
        :data:`GONE` or :data:`UNKNOWN`.
    :param control: what operators ask, or ``None`` when that was not seen.
    :param mark: where the next look goes on from; 0: at the beginning, after
        a pause.
    """

    def __init__(self, holder: str, control: bytes | None = None,
                 mark: int = 0) -> None:
        self.holder = holder
        self.control = control
        self.mark = mark


class Chore:
    """Something that is to be done for as long as the session lives.

    :param interval: how often, in seconds.
    :param call: does it.
    """

    def __init__(self, interval: float, call: Callable[[], object]) -> None:
        self.interval = interval
        self.call = call


class Engine:
    """A session of a lock service, and the lock that it is for.

    No method raises anything, whatever the service answers.  All may be
    called by several threads at a time, and take at most the timeout that
    the engine was made with, but for :meth:`watch`.
    """

    #: For how long nobody else is granted a lock whose session has ended, in
    #: seconds.
    protects_after_end = 0.0

    #: What else has to be done.
    chores: tuple[Chore, ...] = ()

    def renew(self, timeout: float | None = None) -> str:
        """Renew the session: :data:`RENEWED`, :data:`ENDED` or
        :data:`UNKNOWN`.

        :param timeout: in seconds, if it is to be shorter than usual.
        """
        raise NotImplementedError

    def watch(self, mark: int) -> Sight:
        """Look at the lock; wait until there is news since *mark*.

        :param mark: of the last :class:`Sight`, or 0, which never waits.
        """
        raise NotImplementedError

    def look_away(self) -> None:
        """No :meth:`watch` follows soon; called by who called that."""

    def write(self, key: str, value: str, token: int) -> bool:
        """Write *value* to *key* if the lock is held with *token*.

        :returns: whether that is done with: written, or of no use any more.
        """
        raise NotImplementedError

    def release(self, record: dict[str, object], notes: dict[str, str],
                token: int | None) -> bool:
        """Release the lock if our session holds it.

        :param record: what to leave in it.
        :param notes: what to write with it, by key.
        :param token: of the hold that is to end; ``None``: it is not known
            whether the lock was taken at all.
        :returns: whether our session does not hold it any more.
        """
        raise NotImplementedError

    def end(self) -> bool:
        """End the session; return whether it has ended."""
        raise NotImplementedError

    def clear_up(self) -> None:
        """The session has ended: leave nothing behind."""

    def rest(self, resting: bool) -> None:
        """Nothing is held, if *resting*: keep no connection open."""
