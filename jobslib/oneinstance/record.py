"""Reading the JSON that other processes have written."""

from __future__ import annotations

import json

from jobslib.history import VANISHED
from jobslib.owner import OwnerRecord
from jobslib.reading import mapping
from jobslib.runs import Outcome, Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobslib.documents import Document
    from jobslib.oneinstance.requests import Extra

__all__ = ['find_unreadable', 'parse', 'with_asked_run']


def parse(data: bytes | None) -> Document | None:
    """Return the JSON object in *data*, ``None`` if there is none."""
    try:
        found = json.loads(data or b'')
    except (ValueError, RecursionError):
        return None
    return found if mapping(found) is found else None


def find_unreadable(values: Mapping[str, bytes | None]) -> list[str]:
    """Return the names of those *values* that somebody else must have written,
    since there is no JSON object in them."""
    # A file for which space was reserved begins with zeros.
    return [name for name, value in values.items()
            if value is not None and value.strip(b'\0 \n') and parse(value) is None]


def with_asked_run(record: Document | None,
                   extra: Extra | None) -> Document | None:
    """Return the record of the last holder, with the run in which it vanished if
    an operator had asked for that run.

    The schedule in the record does not have such a run; only the request says that
    it began.

    :param record: the record of a holder that does not hold the lock any more.
    :param extra: the request that is pending.
    """
    if record is None or extra is None or extra.began is None or (
            'released' in record or 'killed' in record):
        return record
    owner = OwnerRecord(record)
    # A holder that vanished may not have written its token; then the times tell.
    is_its = (extra.began >= (owner.timestamp or 0.0) if owner.token is None
              else extra.token == owner.token)
    if not is_its:
        return record
    run = Run(0, extra.token, extra.began)
    run.end(Outcome.KILLED, None, VANISHED)
    run.slot, run.attempt, run.reason = extra.slot, extra.tries, 'asked'
    run.asked, run.presumed = extra.id, owner.timestamp
    return {**record, 'killed': run.export()}
