"""Reading the JSON that other processes have written."""

from __future__ import annotations

import json

from jobslib.reading import mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['parse']


def parse(data: bytes | None) -> Document | None:
    """Return the JSON object in *data*, ``None`` if there is none."""
    try:
        found = json.loads(data or b'')
    except (ValueError, RecursionError):
        return None
    return found if mapping(found) is found else None
