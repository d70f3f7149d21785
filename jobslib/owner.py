"""The owner record: who holds a lock, or held it last."""

from __future__ import annotations

from jobslib.reading import count, mapping, mappings, number, text
from jobslib.runs import Run
from jobslib.schedule.ledger import Ledger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['OwnerRecord']

#: How many earlier holders a record tells of, at most.
MAX_BEFORE = 10
# Which fields of their records are kept.
KEPT = ('fqdn', 'pid', 'timestamp', 'token', 'released', 'killed', 'schedule',
        'lock_delay')


class OwnerRecord:
    """What a holder says of itself, or has left.

    A lock makes it by :meth:`jobslib.oneinstance.BaseLock.make_record`, which a
    user's class may extend, so there may be more fields in it than here.

    :param document: the record as it was read.
    """

    def __init__(self, document: Document) -> None:
        schedule = mapping(document.get('schedule'))
        self._document = document
        self.fqdn = text(document.get('fqdn'))
        self.pid = count(document.get('pid'))
        self.task = text(document.get('task'))
        #: When the lock was taken, as UNIX time; no two holds have the same.
        self.timestamp = number(document.get('timestamp'))
        self.time_local = text(document.get('time_local'))
        self.token = count(document.get('token'))
        #: When the next run was due, as UNIX time, and the ledger.
        self.due = number(schedule.get('due'))
        self.ledger = Ledger.parse(schedule)
        #: Whether the holder has released the lock; otherwise, if nobody holds
        #: it, the holder has vanished.
        self.released = 'released' in document
        #: The run that ended because its process did, as the keeper has noted.
        self.killed = Run.parse(document.get('killed'))
        #: For how long nobody gets the lock when the holder vanished.
        self.lock_delay = number(document.get('lock_delay'))
        #: The earlier holders whose runs may be missing in the history, the
        #: oldest first.
        self.before = [OwnerRecord(_shortened(each)) for each in mappings(
            document.get('before'))[-MAX_BEFORE:]]
        if self.killed is not None:
            self.killed.fqdn, self.killed.pid = self.fqdn, self.pid

    @classmethod
    def parse(cls, document: Document | None) -> OwnerRecord | None:
        """Return the record in *document*, ``None`` if there is none."""
        return None if document is None else cls(document)

    @property
    def unsettled(self) -> list[Document]:
        """The holders, including this one, whose runs may be missing in the
        history; the next holder writes them into its record, as ``before``."""
        document = self._document
        ended_well = self.released and self.killed is None
        own = [] if ended_well else [_shortened(document)]
        return [*mappings(document.get('before')), *own][-MAX_BEFORE:]


def _shortened(document: Document) -> Document:
    return {name: document[name] for name in KEPT if name in document}
