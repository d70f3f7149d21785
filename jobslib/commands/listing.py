"""All options of a configuration, with their values and sources."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jobslib.config import ConfigGroup, option

__all__ = ['MASK', 'Shown', 'list_options', 'mask']

#: What is shown in place of a secret.
MASK = '***'

# Options that nobody has declared secret, and names in dicts.
_SECRET = re.compile(
    r'(^|_)(api_?key|auth|credentials?|passwd|password|secret(_?key)?|token)s?$')
_LOGIN = re.compile(r'//[^/@\s]+@')
# A part of the settings that is shown option by option.
_PARTS = {'raw_options'}


class Shown(NamedTuple):
    """An option of a configuration, with no secret in it.

    *name* is a path with dots, *value* is fit for JSON.
    """

    name: str
    value: Any
    source: str
    allowed: str


def list_options(group: ConfigGroup, prefix: str = '') -> Iterator[Shown]:
    """Return all options of *group*, then those of nested groups."""
    nested = {}
    for name, declared in group.declared().items():
        value = getattr(group, name)
        if isinstance(value, ConfigGroup):
            nested[name] = value
        elif name not in _PARTS:
            yield Shown(prefix + name, _value(declared, value),
                        group.source(name), declared.allowed())
    for name, value in nested.items():
        yield from list_options(value, f'{prefix}{name}.')


def mask(value: Any) -> Any:
    """Return *value* fit for JSON, with what looks like a secret masked."""
    if isinstance(value, dict):
        return {str(name): MASK if item and _SECRET.search(str(name).lower())
                else mask(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [mask(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _LOGIN.sub(f'//{MASK}@', str(value))


def _value(declared: option, value: Any) -> Any:
    if value and (declared.secret or _SECRET.search(declared.name)):
        return MASK
    return mask(value)
