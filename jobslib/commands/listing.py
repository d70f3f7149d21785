"""All options of a configuration, with their values and sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jobslib.config import ConfigGroup, option
from jobslib.masking import MASK, is_secret, mask

__all__ = ['Shown', 'list_options']

# Left out, because what is in it is shown option by option.
_PARTS = {'raw_options'}


class Shown(NamedTuple):
    """An option of a configuration, with no secret in it.

    *name* is a path with dots; JSON can hold *value*.
    """

    name: str
    value: object
    source: str
    allowed: str


def list_options(group: ConfigGroup, prefix: str = '') -> Iterator[Shown]:
    """Return all options of *group*, then those of nested groups."""
    nested = {}
    for name, declared in group.declared().items():
        value = group.raw_value(name)
        if isinstance(value, ConfigGroup):
            nested[name] = value
        elif name not in _PARTS:
            yield Shown(prefix + name, _value(declared, value),
                        group.source(name), declared.allowed())
    for name, value in nested.items():
        yield from list_options(value, f'{prefix}{name}.')


def _value(declared: option[object], value: object) -> object:
    if value and (declared.secret or is_secret(declared.name)):
        return MASK
    return mask(value)
