"""A child process of a test."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

__all__ = ['Child']

DEADLINE = 30.0


class Child:
    """A fork of this process that runs *function*, and is killed at the end.

    The function is called with another one, by which it reports a value that JSON
    can hold.  When it returns, the child ends without clearing up.
    """

    def __init__(
        self, function: Callable[[Callable[[object], None]], object],
    ) -> None:
        self._reader, writer = os.pipe()
        with warnings.catch_warnings():
            # Python warns that this process has threads; none of them holds a lock
            # that the child needs.
            warnings.simplefilter('ignore', DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _run(function, writer)
        os.close(writer)
        self._buffer = b''
        self._ended = False

    def report(self) -> Any:
        """Return the next value that the child reports.

        :raises RuntimeError: it failed, or ended without one.
        :raises TimeoutError: it reports nothing.
        """
        while b'\n' not in self._buffer:
            if not select.select([self._reader], [], [], DEADLINE)[0]:
                raise TimeoutError(f'no report within {DEADLINE:g} s')
            data = os.read(self._reader, 1 << 16)
            if not data:
                raise RuntimeError('the child process ended without a report')
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b'\n')
        message = json.loads(line)
        if 'error' in message:
            raise RuntimeError(f'in the child process: {message["error"]}')
        return message['value']

    def kill(self) -> None:
        """End the child by SIGKILL, and wait until it is gone."""
        if not self._ended:
            self._ended = True
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def close(self) -> None:
        """Leave nothing of the child; may be called twice."""
        self.kill()
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _run(function: Callable[[Callable[[Any], None]], object],
         writer: int) -> None:
    """Run the function, report, and end the process."""
    def send(message: Mapping[str, object]) -> None:
        os.write(writer, json.dumps(message).encode() + b'\n')

    try:
        function(lambda value: send({'value': value}))
    except BaseException:
        send({'error': traceback.format_exc()})
    finally:
        os._exit(0)
