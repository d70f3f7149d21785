"""Tells the process manager how the job is: readiness, status, watchdog.

The protocol is that of systemd, ``sd_notify(3)``, which others speak as well.  It
takes a datagram to the socket named by ``$NOTIFY_SOCKET``, so no library is used.
The existing ones either block, or leave the watchdog to the caller, and most of this
module is about that.
"""

from __future__ import annotations

import os
import socket
import threading
import time

from jobslib.environment import NOTIFY_SOCKET, WATCHDOG
from jobslib.observers import Observer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Self

    from jobslib.runs import Run

__all__ = ['NotifyObserver']

#: After how many seconds it is tried again to send what could not be sent.
RETRY = 1.0

#: The bounds of the time between two pings, in seconds.
SHORTEST, LONGEST = 0.01, 1e6

UNTOLD = 'the process manager cannot be told: %s'

FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class NotifyObserver(Observer):
    """Tells the process manager what the loop does.

    It never waits for the process manager; what cannot be sent is reported
    once, as a debug message, and tried again a second later.

    The watchdog is told that all is well for as long as the supervisor is at
    work, whatever the task does: a run that hangs is dealt with by its
    heartbeat and by ``--max-run-time``.

    :param address: the address of the socket, as in ``$NOTIFY_SOCKET``.
    :param watchdog: the longest silence that the process manager accepts,
        in seconds; ``None`` if it has no watchdog.
    :param logger: where it reports what is wrong with the socket.
    """

    def __init__(self, address: str, watchdog: float | None,
                 logger: logging.Logger) -> None:
        self._address = _parse(address)
        self._interval = (None if watchdog is None else
                          min(max(watchdog / 2, SHORTEST), LONGEST))
        self._logger = logger
        self._reported = False
        # What has not been sent yet.
        self._unsent: dict[str, str] = {}
        self._has_thread = False
        self._sending = threading.RLock()
        self._last = ''

    @classmethod
    def from_environment(cls, logger: logging.Logger) -> Self | None:
        """Return the observer that the environment asks for, if any.

        The variables are removed, so that what the task starts does not
        speak in the name of the job.
        """
        address = os.environ.pop(NOTIFY_SOCKET, '')
        pid, usec = (os.environ.pop(name, '') for name in WATCHDOG)
        if not address:
            return None
        if not _parse(address):
            logger.debug(UNTOLD, f'{NOTIFY_SOCKET}={address} is not '
                                 f'supported')
            return None
        # If another process id is named, another process is watched.
        watched = pid in ('', str(os.getpid())) and usec.isdecimal()
        watchdog = int(usec[:20]) / 1e6 if watched else 0.0
        return cls(address, watchdog or None, logger)

    def started(self) -> None:
        self._send(READY='1', STATUS='started')
        if self._interval is not None:
            self._start_thread()

    def waiting(self, due: float) -> None:
        self._say(f'waiting until {_local_time(due)}', self._last)

    def standby(self, reason: str) -> None:
        self._say(f'standby: {reason}', self._last)

    def run_begins(self, run: Run) -> None:
        self._say(f'running since {_local_time(run.started)}', self._last)

    def run_ended(self, run: Run) -> None:
        # The error is left out, because everybody may read the status, but not the
        # log.
        self._last = f'last run {run.outcome.value}'
        if run.duration is not None:
            self._last += f' after {run.duration:.3f} s'
        self._say(self._last)

    def lost(self, reason: str) -> None:
        self._say(f'the lock was lost: {reason}', self._last)

    def closed(self) -> None:
        # The thread goes on until the process ends, because the context, which is
        # closed next, may take its time.
        self._send(STOPPING='1', STATUS='; '.join(
            filter(None, ['ended', self._last])))

    def _say(self, *parts: str) -> None:
        # A line break would begin another field.
        self._send(STATUS=' '.join('; '.join(filter(None, parts)).split()))

    def _send(self, **fields: str) -> None:
        """Send *fields*, and what could not be sent before."""
        with self._sending:
            self._unsent |= fields
            message = ''.join(
                f'{name}={value}\n' for name, value in self._unsent.items())
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                    sender.sendto(message.encode('utf-8', 'replace'),
                                  FLAGS, self._address)
            except (OSError, ValueError) as exc:
                self._failed(exc)
            else:
                self._unsent.clear()

    def _failed(self, exc: Exception) -> None:
        if not self._reported:
            self._reported = True
            self._logger.debug(UNTOLD, exc)
        # A ping is not sent late; the next one takes its place.
        self._unsent.pop('WATCHDOG', None)
        self._start_thread()

    def _start_thread(self) -> None:
        if not self._has_thread:
            self._has_thread = True
            threading.Thread(target=self._keep_sending, daemon=True,
                             name='jobslib-notify').start()

    def _keep_sending(self) -> None:
        while (pause := self._send_if_due()) is not None:
            time.sleep(pause)

    def _send_if_due(self) -> float | None:
        """Send what is due; return how long to wait, ``None`` for ever."""
        with self._sending:
            if self._interval is not None:
                self._send(WATCHDOG='1')
            elif self._unsent:
                self._send()
            if self._interval is None:
                self._has_thread = bool(self._unsent)
                return RETRY if self._unsent else None
            return (min(RETRY, self._interval / 4) if self._unsent
                    else self._interval)


def _parse(address: str) -> bytes:
    """Return *address* in the form of the system, empty if it is not an address."""
    name = os.fsencode(address)
    if name.startswith(b'@'):
        # "@" stands for the zero byte at the beginning of abstract names of Linux.
        return b'\0' + name[1:]
    return name if name.startswith(b'/') else b''


def _local_time(timestamp: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(timestamp))
