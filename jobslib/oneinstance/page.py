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

    SIZE = 512
    FINE, STOPPING, LOST = 0, 1, 2

    _LAYOUT = struct.Struct('q')
    _UNTIL, _ALIVE, _BEAT, _HELD, _STATE, _REASON = 0, 8, 16, 24, 32, 40

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
        text = self._memory[self._REASON:].split(b'\0', 1)[0]
        return text.decode('utf-8', 'replace')

    def set_state(self, state: int, reason: str = '') -> None:
        """Set the state; the reason is complete before it can be seen."""
        text = reason.encode()[:self.SIZE - self._REASON - 1]
        self._memory[self._REASON:] = text.ljust(
            self.SIZE - self._REASON, b'\0')
        self._LAYOUT.pack_into(self._memory, self._STATE, state)
