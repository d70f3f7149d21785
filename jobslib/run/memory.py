"""The memory that the supervisor and the run's process share.

A task cannot lose it, whatever it does to its descriptors, and a signal handler
can read it.  Each field has one writer.
"""

from __future__ import annotations

import json
import mmap
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ['Memory']

DOUBLE = struct.Struct('<d')
LONG = struct.Struct('<q')

# The offsets of numbers, and of documents, each of which follows its length.
BEAT, TOKEN, ASKED, HELD, FINISHED = range(0, 40, 8)
INTERRUPT, STOP, RESULT = 64, 4096, 8192
SIZE = 8192 + 512 * 1024

# The longest reason, in characters; in JSON each may take up to twelve bytes.
MAX_REASON = 300


class Memory:
    """Memory without a name, which a child shares with the parent that forked it.

    It lives as long as one of the two does.
    """

    #: The most that a result may take, in bytes.
    MAX_RESULT = SIZE - RESULT - LONG.size

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SIZE)

    # Written by the run's process.

    @property
    def beat(self) -> float:
        """When the run gave its last sign of life, see ``clock.now()``."""
        value: float = DOUBLE.unpack_from(self._memory, BEAT)[0]
        return value

    @beat.setter
    def beat(self, time: float) -> None:
        DOUBLE.pack_into(self._memory, BEAT, time)

    def finish(self, number: int, result: object) -> None:
        """Leave the *result* of the request *number*.

        :raises ValueError: it takes more than :attr:`MAX_RESULT`.
        """
        data = _encode(result)
        if len(data) > self.MAX_RESULT:
            raise ValueError(f'a result of {len(data)} bytes is too large')
        self._put(RESULT, data)
        self._set(FINISHED, number)

    # Written by the supervisor.

    @property
    def token(self) -> int | None:
        """The fencing token, ``None`` when the lock has none."""
        return self._get(TOKEN) - 1 if self._get(TOKEN) else None

    @property
    def held(self) -> bool:
        """Whether the supervisor holds the lock."""
        return bool(self._get(HELD))

    def set_lock(self, held: bool, token: int | None) -> None:
        """Show the state of the lock to the run's process."""
        self._set(TOKEN, 0 if token is None else token + 1)
        self._set(HELD, held)

    def ask_to_stop(self, reason: str) -> None:
        """Ask the run to return by itself."""
        self._put(STOP, _encode(reason[:MAX_REASON]))

    @property
    def stop_reason(self) -> str | None:
        """Why the run is asked to return by itself, ``None`` if it is not."""
        reason: str | None = self._load(STOP)
        return reason

    def ask(self, kind: str, reason: str) -> None:
        """Write down that the next signal is an interrupt of the run.

        :param kind: the name of the interrupt's class.
        :param reason: for people.
        """
        self._put(INTERRUPT, _encode((kind, reason[:MAX_REASON])))
        self._set(ASKED, 1)

    def forget(self) -> None:
        """Clear what concerned the request before, since another one begins."""
        self._set(ASKED, 0)
        self._put(STOP, b'')
        self._set(FINISHED, 0)

    @property
    def interrupt(self) -> tuple[str, str] | None:
        """Kind and reason of the interrupt that was asked for."""
        if not self._get(ASKED):
            return None
        kind, reason = self._load(INTERRUPT)
        return kind, reason

    def result(self, number: int) -> Any:
        """Return the result of request *number*, ``None`` before its end."""
        return self._load(RESULT) if self._get(FINISHED) == number else None

    def _get(self, offset: int) -> int:
        value: int = LONG.unpack_from(self._memory, offset)[0]
        return value

    def _set(self, offset: int, value: int) -> None:
        LONG.pack_into(self._memory, offset, value)

    def _put(self, offset: int, data: bytes) -> None:
        self._set(offset, 0)
        begin = offset + LONG.size
        self._memory[begin:begin + len(data)] = data
        self._set(offset, len(data))

    def _load(self, offset: int) -> Any:
        length, begin = self._get(offset), offset + LONG.size
        return (json.loads(self._memory[begin:begin + length])
                if length else None)


def _encode(value: object) -> bytes:
    return json.dumps(value).encode()
