"""The API of the ``consul`` package, without its HTTP layer.

That layer is not used here, and ``requests``, which it loads, would take
longer than all the rest of a start.  Of py-consul only those parts are loaded
that are used; of what is made differently, as python-consul is, all of it.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    #: What the package raises, and what makes a client of an HTTP layer.
    Api = tuple[type[Exception], Callable[[Any], Any]]

__all__ = ['import_api']

# The modules of py-consul's API that are used, and their classes.
PARTS = {'agent': 'Agent', 'catalog': 'Catalog', 'kv': 'KV',
         'session': 'Session', 'txn': 'Txn'}


def import_api() -> Api:
    """Import the package, by parts if possible.

    By parts means that the package's ``__init__``, which loads the HTTP
    layer, does not run, and that nothing is left in ``sys.modules``: who
    imports the package later gets all of it, and with it classes of its own.

    :raises ImportError: there is no such package.
    """
    # Another thread that imports the package meanwhile would get it empty.
    if 'consul' in sys.modules or threading.active_count() > 1:
        return _whole(import_module('consul.base'))
    try:
        return _import_parts()
    except (ImportError, AttributeError):
        # One that is made differently.
        return _whole(import_module('consul.base'))


def _import_parts() -> Api:
    spec = find_spec('consul')
    if spec is None:
        raise ModuleNotFoundError("No module named 'consul'", name='consul')
    package = sys.modules['consul'] = module_from_spec(spec)
    try:
        # A part asks the package for it.
        vars(package)['Check'] = import_module('consul.check').Check
        parts = {name: getattr(import_module(f'consul.api.{name}'), part)
                 for name, part in PARTS.items()}
        failure = import_module('consul.exceptions').ConsulException
    finally:
        for name in list(sys.modules):
            if name == 'consul' or name.startswith('consul.'):
                del sys.modules[name]
    return failure, lambda http: _Client(http, parts)


class _Client:
    """What the parts of the package need of its client."""

    dc = None
    consistency = 'default'

    def __init__(self, http: Any, parts: dict[str, Any]) -> None:
        self.http = http
        for name, part in parts.items():
            setattr(self, name, part(self))

    def prepare_headers(self, token: str | None = None) -> dict[str, str]:
        """Return no headers: the token is the HTTP layer's."""
        return {}


def _whole(base: ModuleType) -> Api:
    class Client(base.Consul):  # type: ignore[name-defined, misc]
        """The client of the package, with another HTTP layer."""

        def __init__(self, http: Any) -> None:
            self._http = http
            super().__init__()

        # py-consul asks for its HTTP layer by the one name, python-consul by
        # the other.
        def http_connect(self, *_: Any, **__: Any) -> Any:
            return self._http

        connect = http_connect

    return base.ConsulException, Client
