"""What the lease keeper and its ward know of each other at any moment.

Each writes its own fields, and the others read them when they like, without a
message and without waiting.  The ward must be able to see that the lease is
lost while the keeper is busy, and the keeper that the run is silent while the
ward does not answer.

Standard library only, see :mod:`jobslib.keeper.keeper`.  Times are
those of :func:`jobslib.clock.now`.
"""

from __future__ import annotations

import mmap
import struct

from jobslib.clock import now
from jobslib.keeper.decisions import FINE, LOST, STOPPING

__all__ = ['LeaseMemory']


class LeaseMemory:
    """Memory that is shared by the keeper, its ward, its guard and the run.

    A process maps it by its file descriptor, which it has inherited or was
    sent.  Each number is written as a whole, so it needs no lock.

    :param fd: the descriptor of a file of at least :attr:`SIZE` bytes; it may
        be closed afterwards.
    """

    SIZE = 4096
    FINE, STOPPING, LOST = FINE, STOPPING, LOST

    _LAYOUT = struct.Struct('q')
    _UNTIL, _ALIVE, _BEAT, _HELD, _STATE, _VERSION = 0, 8, 16, 24, 32, 40
    _WARD, _CLEARED, _REASON, _CONTROL = 48, 56, 64, 512

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
    def ward_alive(self) -> float:
        """The last sign of life of a supervised ward; the ward writes it.

        A time in the future says that it will be silent until then.
        """
        return self._get(self._WARD)

    @ward_alive.setter
    def ward_alive(self, value: float) -> None:
        self._set(self._WARD, value)

    @property
    def held(self) -> bool:
        """Whether there may be a run that needs the lease.

        The keeper writes it, and the ward where there is no keeper.
        """
        return bool(self._LAYOUT.unpack_from(self._memory, self._HELD)[0])

    @held.setter
    def held(self, value: bool) -> None:
        self._LAYOUT.pack_into(self._memory, self._HELD, value)

    @property
    def cleared(self) -> bool:
        """Whether the run of a supervised ward was killed, with all that it
        started, so that the guard has nothing left to end.

        The keeper writes it.
        """
        return bool(self._LAYOUT.unpack_from(self._memory, self._CLEARED)[0])

    @cleared.setter
    def cleared(self, value: bool) -> None:
        self._LAYOUT.pack_into(self._memory, self._CLEARED, value)

    @property
    def state(self) -> int:
        """How the run stands: FINE, STOPPING (it must stop, and the lease is
        still ours) or LOST (it must stop, because the lease is lost)."""
        return int(self._LAYOUT.unpack_from(self._memory, self._STATE)[0])

    def is_valid(self) -> bool:
        """Return whether the lease is certainly ours at this moment."""
        return self.state != self.LOST and now() < self.until

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
        """How often the control key has had another value, or 0 while the
        keeper at work has not read it for this hold."""
        return max(self._count(), 0)

    def _count(self) -> int:
        return int(self._LAYOUT.unpack_from(self._memory, self._VERSION)[0])

    def read_control(self) -> tuple[int, bytes]:
        """Return :attr:`version` and the value of the control key.

        A value that is read while it is being written comes with the version
        before it, so the reader sees the new version later, and reads again.
        """
        version = self.version
        return version, self._memory[self._CONTROL:].split(b'\0', 1)[0]

    def write_control(self, value: bytes) -> None:
        """Set the value of the control key, unless it is the same as before."""
        if not self.version or value != self.read_control()[1]:
            self._write(self._CONTROL, self.SIZE, value)
            self._LAYOUT.pack_into(
                self._memory, self._VERSION, abs(self._count()) + 1)

    def forget_control(self) -> None:
        """Nothing has been read of the control key for this hold."""
        # The count turns negative, which reads as version 0, and is not lost:
        # a number that came again would make a new value look like an old one.
        self._LAYOUT.pack_into(
            self._memory, self._VERSION, -abs(self._count()))

    def _write(self, start: int, end: int, text: bytes) -> None:
        self._memory[start:end] = text[:end - start - 1].ljust(
            end - start, b'\0')
