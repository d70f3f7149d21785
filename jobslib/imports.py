"""Importing by dotted path, telling what is missing from what is broken."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from jobslib.exceptions import ImportNameError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ['import_module', 'import_object']

#: How many names are listed when none is like the one that was asked for.
LISTED = 6


def import_module(name: str) -> ModuleType:
    """Import the module *name*.

    :raises ImportNameError: there is no such module.  An exception that is raised
        while a module is imported passes unchanged.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ''
        if name == missing or name.startswith(f'{missing}.'):
            raise ImportNameError(
                f'no module named {missing!r}{_where(missing)}'
                f'{_guess_module(name, missing)}') from None
        raise
    except (TypeError, ValueError):
        # importlib raises these for empty and for relative names.
        if name and not name.startswith('.'):
            raise
        raise ImportNameError(
            f'{name!r} is not a dotted path{_guess_from_path(name)}') from None


def import_object(path: str) -> Any:
    """Return what the dotted *path* ``package.module.name`` names.

    :raises ImportNameError: the path has no dot, or names nothing.
    """
    module_name, _, name = path.rpartition('.')
    if not module_name or not name:
        raise ImportNameError(
            f'{path!r} is not a dotted path (package.module.Name)'
            f'{_guess_from_path(path)}')
    module = import_module(module_name)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ImportNameError(
            f'module {module_name!r} has no {name!r}'
            f'{_guess_name(module, name)}') from None


def _where(missing: str) -> str:
    """Return where a module was looked for, if its name does not say so."""
    if '.' in missing:
        return ''
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        folder = 'the current folder, which is gone,'
    return f' in {folder} or where Python has its packages'


def _guess_module(name: str, missing: str) -> str:
    """Return what may be meant in place of a module that is not there."""
    found = _guess_from_path(name)
    if found and missing not in found:
        return found
    import pkgutil

    from jobslib.slips import nearest
    parent = missing.rpartition('.')[0]
    places = list(getattr(sys.modules.get(parent), '__path__', ()))
    if not parent:
        # Only the first folder, because among all that is installed there is
        # always something with a similar name.
        places = sys.path[:1]
    known = {each.name for each in pkgutil.iter_modules(places)}
    if not parent:
        known.add('jobslib')
    near = nearest(missing.rpartition('.')[2], known)
    if near is None:
        return ''
    meant = f'{parent}.{near}' if parent else near
    return f' (did you mean {meant + name[len(missing):]!r}?)'


def _guess_from_path(name: str) -> str:
    """Return the dotted path that is meant by the path of a file."""
    text = name.removeprefix('./')
    if os.path.isabs(name) or '..' in name.split('/'):
        folder, file = os.path.split(os.path.abspath(name))
        try:
            here = os.getcwd()
        except FileNotFoundError:
            here = ''
        if folder != here and not folder.startswith(f'{here}/'):
            return (f' (did you mean {file.removesuffix(".py")!r}, with '
                    f'PYTHONPATH={folder}?)')
        text = os.path.relpath(os.path.join(folder, file), here)
    dotted = '.'.join(part for part in text.replace('.py', '.').replace(
        '/', '.').replace(':', '.').split('.') if part)
    if dotted != name and dotted and (
            name.endswith('.py') or {'/', ':'} & set(name)):
        return f' (did you mean {dotted!r}?)'
    return ''


def _guess_name(module: ModuleType, name: str) -> str:
    """Return what may be meant in place of a name that a module lacks."""
    from jobslib.slips import nearest
    if name == 'py':
        return f' (did you mean {module.__name__!r}?)'
    classes = _classes(module)
    near = nearest(name, classes)
    if near is not None:
        return f' (did you mean {f"{module.__name__}.{near}"!r}?)'
    own = [each for each in classes
           if getattr(module, each).__module__ == module.__name__]
    return f' (it has {", ".join(own[:LISTED])})' if own else ''


def _classes(module: ModuleType) -> Iterable[str]:
    return [name for name, value in vars(module).items()
            if isinstance(value, type) and not name.startswith('_')]
