"""The API of the ``consul`` package, without its HTTP layer.

That layer is not used here, and ``requests``, which it loads, would take
longer than all the rest of a start.  Of py-consul only those parts are loaded
that are used.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jobslib.documents import Document

    #: What the package raises, and what makes a client of an HTTP layer.
    Api = tuple[type[Exception], Callable[[object], object]]

__all__ = ['import_api']

# The modules of py-consul's API that are used, and their classes.
PARTS = {'agent': 'Agent', 'catalog': 'Catalog', 'kv': 'KV',
         'session': 'Session', 'txn': 'Txn'}


def import_api() -> Api:
    """Import the package: its parts, else its base, else all of it.

    Where parts or the base will do, the package's ``__init__``, which loads the
    HTTP layer, does not run, and nothing is left in ``sys.modules``: who
    imports the package later gets all of it, and with it classes of its own.

    :raises ImportError: there is no such package.
    """
    # Another thread that imports the package meanwhile would get it empty.
    if 'consul' not in sys.modules and threading.active_count() == 1:
        for load in _load_parts, _load_base:
            try:
                return _alone(load)
            except (ImportError, AttributeError):
                # A version that is made differently.
                continue
    return _load_base()


def _alone(load: Callable[[], Api]) -> Api:
    spec = find_spec('consul')
    if spec is None:
        raise ModuleNotFoundError("No module named 'consul'", name='consul')
    sys.modules['consul'] = module_from_spec(spec)
    try:
        return load()
    finally:
        for name in list(sys.modules):
            if name == 'consul' or name.startswith('consul.'):
                del sys.modules[name]


def _load_parts() -> Api:
    # A part asks the package for it.
    vars(sys.modules['consul'])['Check'] = import_module('consul.check').Check
    parts = {name: getattr(import_module(f'consul.api.{name}'), part)
             for name, part in PARTS.items()}
    failure: type[Exception] = import_module('consul.exceptions').ConsulException
    return failure, lambda http: _Client(http, parts)


class _Client:
    """What the parts of the package need of its client."""

    dc = None
    consistency = 'default'

    def __init__(self, http: object, parts: Document) -> None:
        self.http = http
        for name, part in parts.items():
            setattr(self, name, part(self))

    def prepare_headers(self, token: str | None = None) -> dict[str, str]:
        """Return no headers: the token is the HTTP layer's."""
        return {}


def _load_base() -> Api:
    base: Any = import_module('consul.base')

    class Client(base.Consul):  # type: ignore[misc]
        """The client of the package, with another HTTP layer."""

        def __init__(self, http: object) -> None:
            self._http = http
            super().__init__()

        # py-consul asks for its HTTP layer by the one name, python-consul by
        # the other.
        def http_connect(self, *_: object, **__: object) -> object:
            return self._http

        connect = http_connect

    return base.ConsulException, Client
