"""Find a Consul binary, or get the one that Debian packages.

``python -m integration.fetch_consul`` prints the path of the binary.
"""

import pathlib
import sys

from integration import fetch_debian
from integration.fetch_debian import CONSUL, FetchError

__all__ = ['FetchError', 'find_consul']


def find_consul() -> pathlib.Path:
    """The binary named by CONSUL_BIN, else the one on PATH, else a fetched one.

    Raises `FetchError`.
    """
    return fetch_debian.find(CONSUL)[0]


def main() -> int:
    """Print the path of a Consul binary; 1 and one message when there is none."""
    try:
        print(find_consul())
    except FetchError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
