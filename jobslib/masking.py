"""What looks like a secret is shown to nobody."""

from __future__ import annotations

import re

__all__ = ['MASK', 'is_secret', 'mask', 'shown']

#: What is shown in place of a secret.
MASK = '***'
#: The most that a message shows of a value, in characters.
MOST_SHOWN = 500

# Names of secrets, for options that are not declared secret and for keys of dicts.
_SECRET = re.compile(
    r'(^|_)((api|access|private|secret)_?key|auth|credential|pass(wd|word|phrase)'
    r'|pwd|secret|token)s?$')
_LOGIN = re.compile(r'//[^/\s]+@')


def is_secret(name: str) -> bool:
    """Return whether something called *name* is probably a secret."""
    return _SECRET.search(name.lower()) is not None


def mask(value: object) -> object:
    """Return *value* as JSON takes it, with what looks like a secret masked."""
    if isinstance(value, dict):
        return {str(name): MASK if item and is_secret(str(name))
                else mask(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [mask(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _LOGIN.sub(f'//{MASK}@', str(value))


def shown(value: object) -> str:
    """Return the ``repr`` of *value* for a message, cut off if it is long."""
    try:
        text = repr(value)
    except Exception:
        # Python writes no integer of thousands of digits; and a class of a user may
        # have a repr that fails.
        text = f'<{type(value).__name__}>'
    return text if len(text) <= MOST_SHOWN else f'{text[:MOST_SHOWN - 1]}…'
