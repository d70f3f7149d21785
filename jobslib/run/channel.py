"""Messages between the supervisor and the run's process."""

from __future__ import annotations

# The module socket is built on this one, and takes ten times as long to import.
import _socket as socket
import fcntl
import json
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from jobslib.documents import Document

__all__ = ['Channel', 'descriptors', 'fill_standard', 'pair', 'shed']

#: The longest packet, in bytes; a message that is longer takes several.
PACKET = 32 * 1024
# What a packet begins with: more of the message follows, or this is its end.
MORE, LAST = b'+', b'.'
# How many descriptors can be sent with a message.
MAX_DESCRIPTORS = 8


class Channel:
    """One end of a connection that carries messages: dicts that JSON can hold.

    A task may close any descriptor, and open a file that gets its number.  So
    before each use it is made sure that the descriptor is still the channel's.
    """

    def __init__(self, end: socket.socket) -> None:
        # The standard streams may be closed.  The descriptor must not get one of
        # their numbers, or what the task prints would go into the channel.
        self._fd = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
        end.close()
        self._inode = os.fstat(self._fd).st_ino
        self._begun = b''
        self._socket = socket.socket(fileno=self._fd)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    @property
    def is_intact(self) -> bool:
        """Whether the descriptor is still that of the channel."""
        try:
            return os.fstat(self._fd).st_ino == self._inode
        except OSError:
            return False

    def send(self, message: Mapping[str, object],
             descriptors: Sequence[int] = ()) -> None:
        """Send *message*, and copies of *descriptors* with it.

        :raises ConnectionError: one of the two ends was closed.
        """
        self._expect_intact()
        data = json.dumps(message).encode()
        packets = [data[begin:begin + PACKET]
                   for begin in range(0, len(data), PACKET)]
        try:
            for packet in packets[:-1]:
                self._socket.send(MORE + packet)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                          struct.pack(f'{len(descriptors)}i', *descriptors))]
            self._socket.sendmsg([LAST + packets[-1]],
                                 ancillary if descriptors else [])
        except OSError as exc:
            raise ConnectionError(str(exc)) from exc

    def receive(self) -> tuple[Document, list[int]] | None:
        """Wait for the next message; return it and the descriptors with it.

        It is ``None`` when one of the two ends was closed, and when what came is
        not a message, because a task has written to a descriptor that is not
        its own.
        """
        while True:
            if not self.is_intact:
                return None
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    PACKET + 1, socket.CMSG_LEN(4 * MAX_DESCRIPTORS),
                    socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                # The other end was closed without having read everything.  The
                # socket says so once; what the other end had sent before is
                # still to be read.
                continue
            except OSError:
                return None
            if data[:1] not in (MORE, LAST):
                return None
            self._begun += data[1:]
            if data[:1] == LAST:
                whole, self._begun = self._begun, b''
                try:
                    message = json.loads(whole)
                except ValueError:
                    return None
                if not isinstance(message, dict):
                    return None
                return message, _descriptors(ancillary)

    def close(self) -> None:
        """Close this end, if it is still ours."""
        if self.is_intact:
            self._socket.close()
        else:
            self._socket.detach()

    def _expect_intact(self) -> None:
        if not self.is_intact:
            raise ConnectionError('the descriptor of the channel was closed')


def pair() -> tuple[Channel, Channel]:
    """Return the two ends of a new connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)


def fill_standard() -> None:
    """Open the standard streams that are closed, as the null device.

    Otherwise the next file that is opened here would get the number of one of
    them, and what a task prints would be written into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # open() takes the lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def descriptors() -> list[int]:
    """Return the descriptors that are open."""
    found = []
    for fd in map(int, os.listdir('/proc/self/fd')):
        try:
            os.fstat(fd)
        except OSError:
            # It was open for the list of the folder, and is closed by now.
            continue
        found.append(fd)
    return found


def shed(keep: Container[int]) -> None:
    """Make all descriptors but those to *keep* lead to the null device.

    The run's process does so with those that it has inherited, such as the
    connections of the supervisor to the keeper and to the lock service: a task
    must not be able to write to them.  They are not closed, because there are
    Python objects that would later close whatever gets the same numbers.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in descriptors():
        if fd not in keep and fd != nowhere:
            os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += struct.unpack_from(f'{len(data) // 4}i', data)
    return [_above_standard(fd) for fd in found]


def _above_standard(fd: int) -> int:
    """Return *fd*, or a copy of it where its number is that of a standard stream.

    A task that has closed the stream would print into it, and may close it once
    more.
    """
    if fd > 2:
        return fd
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return copy
