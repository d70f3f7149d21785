"""The API of the ``consul`` package, without its HTTP layer.

That layer is not used here, and it loads ``requests``, which takes longer than
all the rest of a start.  Of py-consul only the parts that are used are loaded.
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

    #: What the package raises, and what makes a client on an HTTP layer.
    Api = tuple[type[Exception], Callable[[object], object]]

__all__ = ['import_api']

# The modules of py-consul's API that are used, and their classes.
PARTS = {'agent': 'Agent', 'catalog': 'Catalog', 'kv': 'KV',
         'session': 'Session', 'txn': 'Txn'}


def import_api() -> Api:
    """Import the parts of the package that are used, or else all of it.

    The package's ``__init__``, which loads the HTTP layer, is avoided where that
    is possible.  Then nothing is left in ``sys.modules``: code that imports the
    package later gets all of it, with classes of its own.

    :raises ImportError: there is no such package.
    """
    # If there were other threads, one could import the package meanwhile, and
    # would get an empty one.
    if 'consul' not in sys.modules and threading.active_count() == 1:
        for load in _load_parts, _load_base:
            try:
                return _alone(load)
            except (ImportError, AttributeError):
                # This version of the package has other modules.
                continue
    return _load_base()


def _alone(load: Callable[[], Api]) -> Api:
    """Call *load* with a package ``consul`` whose ``__init__`` did not run."""
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
    # One of the parts imports this from the package itself.
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
        """Return no headers: the transport adds the token."""
        return {}


def _load_base() -> Api:
    base: Any = import_module('consul.base')

    class Client(base.Consul):  # type: ignore[misc]
        """The client of the package, with another HTTP layer."""

        def __init__(self, http: object) -> None:
            self._http = http
            super().__init__()

        # py-consul asks for its HTTP layer by this name, python-consul by the
        # one below.
        def http_connect(self, *_: object, **__: object) -> object:
            return self._http

        connect = http_connect

    return base.ConsulException, Client
