"""Importing by dotted path, telling what is missing from what is broken."""

from __future__ import annotations

import importlib
from types import ModuleType

from jobslib.exceptions import ImportNameError

# Not typing.TYPE_CHECKING: importing typing takes a tenth of the start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['import_module', 'import_object']


def import_module(name: str) -> ModuleType:
    """Import the module *name*.

    :raises ImportNameError: no such module.  What a module that does exist
        raises while it is imported passes through unchanged.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ''
        if name == missing or name.startswith(f'{missing}.'):
            raise ImportNameError(f'no module named {missing!r}') from None
        raise
    except (TypeError, ValueError):
        # Empty or relative names, which importlib refuses in these ways.
        if name and not name.startswith('.'):
            raise
        raise ImportNameError(f'{name!r} is no dotted path') from None


def import_object(path: str) -> Any:
    """Return what the dotted *path* ``package.module.name`` names.

    :raises ImportNameError: the path has no dot, or names nothing.
    """
    module_name, _, name = path.rpartition('.')
    if not module_name or not name:
        raise ImportNameError(
            f'{path!r} is no dotted path (package.module.Name)')
    module = import_module(module_name)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ImportNameError(
            f'module {module_name!r} has no {name!r}') from None
