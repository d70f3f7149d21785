"""Reading what others have written; a value that cannot be right is ``None``.

What is kept beside a lock may come from another version, or be written by hand.
It is checked here, once, and made into types; code behind that checks nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import enum
    from typing import TypeVar

    from jobslib.documents import Document

    M = TypeVar('M', bound=enum.Enum)

__all__ = ['count', 'mapping', 'mappings', 'member', 'number', 'text']

# A number that is as large is neither a UNIX time nor a duration; sums with it
# would lose the seconds.
TOO_LARGE = 1e11
# Tokens are the largest counts: microseconds since 1970, with a FileLock.
MAX_COUNT = 1 << 62
#: The most that is kept of a text, in characters.
MAX_TEXT = 255
# All control characters, and what is shown in their place.
CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def number(value: object) -> float | None:
    """Return *value* if it can be a time or a duration, else ``None``."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < TOO_LARGE else None


def count(value: object) -> int | None:
    """Return *value* if it can be a count, a token or a pid, else ``None``."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < MAX_COUNT else None


def text(value: object) -> str | None:
    """Return *value*, or the beginning of it, if it is a string.

    Control characters are escaped, since it is shown in logs: there it must neither
    begin a new line nor move the reader's cursor.
    """
    if not isinstance(value, str):
        return None
    return (value if value.isprintable() else value.translate(CONTROLS))[:MAX_TEXT]


def member(kind: type[M], value: object) -> M | None:
    """Return the member of *kind* that has this value, if one has."""
    try:
        return kind(value)
    except ValueError:
        return None


def mapping(value: object) -> Document:
    """Return *value* if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Document]:
    """Return those of the items of *value* that are JSON objects."""
    items = value if isinstance(value, list) else []
    return [each for each in items if isinstance(each, dict)]
