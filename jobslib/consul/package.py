"""``consul.base``: the API of the ``consul`` package, without its HTTP layer.

That layer is not used here, and ``requests``, which it loads, would take
longer than all the rest of a start.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

__all__ = ['import_base']


def import_base() -> ModuleType:
    """Import ``consul.base``, by itself if possible.

    By itself means that the package's ``__init__``, which loads the HTTP
    layer, does not run, and that nothing is left in ``sys.modules``: who
    imports the package later gets all of it, and with it a ``consul.base``
    of its own.

    :raises ImportError: there is no such package.
    """
    # Another thread that imports the package meanwhile would get it empty.
    if 'consul' in sys.modules or threading.active_count() > 1:
        return import_module('consul.base')
    try:
        return _import_alone()
    except ImportError:
        # A version that is made differently.
        return import_module('consul.base')


def _import_alone() -> ModuleType:
    spec = find_spec('consul')
    if spec is None:
        raise ModuleNotFoundError("No module named 'consul'", name='consul')
    package = sys.modules['consul'] = module_from_spec(spec)
    try:
        if find_spec('consul.check') is not None:
            # py-consul's base asks the package for it.
            vars(package)['Check'] = import_module('consul.check').Check
        return import_module('consul.base')
    finally:
        for name in list(sys.modules):
            if name == 'consul' or name.startswith('consul.'):
                del sys.modules[name]
