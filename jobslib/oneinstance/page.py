"""What the lease keeper and its process know of each other at any moment.

Standard library only, see :mod:`jobslib.oneinstance.keeper`.  Times are
those of :func:`jobslib.clock.now`.
"""

from __future__ import annotations

import mmap
import struct

__all__ = ['Page']


class Page:
    """Memory that the keeper and its process share.

    :param fd: of a file of at least :attr:`SIZE` bytes.
    """

    SIZE = 4096
    FINE, STOPPING, LOST = 0, 1, 2

    _LAYOUT = struct.Struct('q')
    _UNTIL, _ALIVE, _BEAT, _HELD, _STATE, _VERSION = 0, 8, 16, 24, 32, 40
    _REASON, _CONTROL = 48, 512

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, self.SIZE)

    def _get(self, offset: int) -> float:
        return float(self._LAYOUT.unpack_from(self._memory, offset)[0]) / 1e9

    def _set(self, offset: int, seconds: float) -> None:
        self._LAYOUT.pack_into(self._memory, offset, int(seconds * 1e9))

    @property
    def until(self) -> float:
        """Until when the lease is certainly ours; the keeper writes it."""
        return self._get(self._UNTIL)

    @until.setter
    def until(self, value: float) -> None:
        self._set(self._UNTIL, value)

    @property
    def alive(self) -> float:
        """When the keeper was last at work; the keeper writes it."""
        return self._get(self._ALIVE)

    @alive.setter
    def alive(self, value: float) -> None:
        self._set(self._ALIVE, value)

    @property
    def beat(self) -> float:
        """The last heartbeat of the run; its process writes it."""
        return self._get(self._BEAT)

    @beat.setter
    def beat(self, value: float) -> None:
        self._set(self._BEAT, value)

    @property
    def held(self) -> bool:
        """Whether there may be a run that needs the lease; the keeper
        writes it."""
        return bool(self._LAYOUT.unpack_from(self._memory, self._HELD)[0])

    @held.setter
    def held(self, value: bool) -> None:
        self._LAYOUT.pack_into(self._memory, self._HELD, value)

    @property
    def state(self) -> int:
        """FINE, STOPPING (the run must stop) or LOST (the lease, too)."""
        return int(self._LAYOUT.unpack_from(self._memory, self._STATE)[0])

    @property
    def reason(self) -> str:
        """Why the run must stop."""
        text = self._memory[self._REASON:self._CONTROL].split(b'\0', 1)[0]
        return text.decode('utf-8', 'replace')

    def set_state(self, state: int, reason: str = '') -> None:
        """Set the state; the reason is complete before it can be seen."""
        self._write(self._REASON, self._CONTROL, reason.encode())
        self._LAYOUT.pack_into(self._memory, self._STATE, state)

    @property
    def version(self) -> int:
        """Counts what the keeper has read of the control key; 0: nothing
        yet.  Never the same for two values."""
        return max(self._count(), 0)

    def read_control(self) -> tuple[int, bytes]:
        """Return :attr:`version` and the value of the control key.

        What is read while it is being written has an older version, so it
        is read again.
        """
        version = self.version
        return version, self._memory[self._CONTROL:].split(b'\0', 1)[0]

    def write_control(self, value: bytes) -> None:
        """Set the value of the control key, if it is not that already."""
        if not self.version or value != self.read_control()[1]:
            self._write(self._CONTROL, self.SIZE, value)
            self._LAYOUT.pack_into(
                self._memory, self._VERSION, abs(self._count()) + 1)

    def forget_control(self) -> None:
        """Nothing has been read of the control key."""
        self._LAYOUT.pack_into(
            self._memory, self._VERSION, -abs(self._count()))

    def _count(self) -> int:
        # Negative: of a hold before, or of a keeper before.
        return int(self._LAYOUT.unpack_from(self._memory, self._VERSION)[0])

    def _write(self, start: int, end: int, text: bytes) -> None:
        self._memory[start:end] = text[:end - start - 1].ljust(
            end - start, b'\0')
