"""Tasks for units of systemd; what they print is in the journal."""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from jobslib import BaseTask

FOR_EVER = 3600.0
LEFTOVER = 'leftover'
INITIALIZED = 'initialized'

#: The least id of a dynamic user.
LEAST_DYNAMIC = 61184
# A system call that is not in @system-service; its number is the same everywhere.
PIDFD_GETFD = 438
# Of <linux/sched.h> and <linux/personality.h>.
CLONE_NEWUSER = 0x10000000
ADDR_NO_RANDOMIZE = 0x0040000


def say(*words: object) -> None:
    """Print a line at once."""
    print(*words, flush=True)


class Tidy(BaseTask):
    """Starts slowly, runs until it is told to end, and then cleans up."""

    def initialize(self) -> None:
        """Take half a second."""
        time.sleep(0.5)
        pathlib.Path(os.environ['STATE_DIRECTORY'], INITIALIZED).touch()

    def task(self) -> None:
        """Leave a program running in a session of its own, and wait."""
        subprocess.Popen(['sleep', '3600'], start_new_session=True)
        say('BEGIN', os.getpid(), os.getppid())
        try:
            time.sleep(FOR_EVER)
        except BaseException as exc:
            say('SEEN', type(exc).__name__)
            time.sleep(0.2)
            say('CLEANED')
            raise


class Deaf(BaseTask):
    """Minds no interrupt."""

    def task(self) -> None:
        """Go on whatever comes."""
        say('BEGIN')
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(FOR_EVER)


class Leaving(BaseTask):
    """Has a daemon that minds no SIGTERM, and says whose daemons are there."""

    def task(self) -> None:
        """Look for those of others, start one, and wait."""
        found = [path.parent.name for path in pathlib.Path('/proc').glob('*/cmdline')
                 if _is_leftover(path)]
        daemon = subprocess.Popen(
            [sys.executable, '-c', 'import signal, time; '
             'signal.signal(signal.SIGTERM, signal.SIG_IGN); '
             f'print("DEAF", flush=True); time.sleep({FOR_EVER})', LEFTOVER],
            start_new_session=True, stdout=subprocess.PIPE)
        assert daemon.stdout is not None
        daemon.stdout.readline()
        say('BEGIN, left by others:', *found)
        time.sleep(FOR_EVER)


def _is_leftover(path: pathlib.Path) -> bool:
    try:
        return path.read_bytes().endswith(f'\0{LEFTOVER}\0'.encode())
    except OSError:
        return False


class Blocking(BaseTask):
    """Keeps the interpreter for four seconds, in one call into C."""

    def task(self) -> None:
        """Count, in a thread, how often another thread of it can run."""
        counted = 0
        ends = threading.Event()

        def count() -> None:
            nonlocal counted
            while not ends.wait(0.05):
                counted += 1

        say('BLOCKS')
        thread = threading.Thread(target=count)
        thread.start()
        before = counted
        ctypes.PyDLL(None).usleep(4_000_000)
        after = counted
        ends.set()
        thread.join()
        # One may have run between the two looks and the call.
        say('BLOCKED', 'no other thread ran' if after <= before + 2 else 'nothing')


class Speaking(BaseTask):
    """Tells systemd what it has no right to tell."""

    def task(self) -> None:
        """Say it, from this process and from a program."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for field in ('STATUS=the task', 'MAINPID=1', 'STOPPING=1'):
                sender.sendto(field.encode(), '/run/systemd/notify')
        done = subprocess.run(['systemd-notify', '--status=a program'])
        say('SPOKEN', done.returncode, 'NOTIFY_SOCKET' in os.environ)
        time.sleep(FOR_EVER)


class Probing(BaseTask):
    """Tries what the unit forbids."""

    def task(self) -> None:
        """Say, as JSON, what came of it."""
        say('PROBED', json.dumps({name: _tried(probe) for name, probe in {
            'NoNewPrivileges': lambda: _status('NoNewPrivs'),
            'CapabilityBoundingSet': lambda: _status('CapBnd'),
            'DynamicUser': lambda: os.getuid() >= LEAST_DYNAMIC,
            'SystemCallFilter': lambda: _call(
                'syscall', PIDFD_GETFD, os.pidfd_open(os.getpid()), 0, 0),
            'StateDirectory': lambda: oct(os.stat(
                os.environ['STATE_DIRECTORY']).st_mode & 0o777),
            'UMask': lambda: _status('Umask'),
            'ProtectSystem': lambda: bool(
                os.statvfs('/etc').f_flag & os.ST_RDONLY),
            'ProtectHome': lambda: os.listdir('/home'),
            'PrivateTmp': lambda: os.listdir('/tmp'),
            'PrivateDevices': lambda: bool(
                os.statvfs('/dev').f_flag & os.ST_NOEXEC),
            'ProtectProc': lambda: os.path.exists('/proc/1'),
            'RestrictAddressFamilies': lambda: socket.socket(socket.AF_NETLINK),
            'RestrictNamespaces': lambda: _call('unshare', CLONE_NEWUSER),
            'RestrictRealtime': lambda: os.sched_setscheduler(
                0, os.SCHED_FIFO, os.sched_param(1)),
            'RestrictSUIDSGID': _make_setuid,
            'LockPersonality': lambda: _call('personality', ADDR_NO_RANDOMIZE),
            'MemoryDenyWriteExecute': lambda: mmap.mmap(
                -1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
        }.items()}))
        time.sleep(FOR_EVER)


def _tried(probe: Callable[[], object]) -> object:
    try:
        found = probe()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return found if isinstance(found, str | bool | list) else 'possible'


def _status(name: str) -> str:
    text = pathlib.Path('/proc/self/status').read_text()
    return text.partition(f'\n{name}:')[2].split()[0]


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def _make_setuid() -> None:
    path = pathlib.Path(os.environ['STATE_DIRECTORY'], 'setuid')
    path.touch()
    path.chmod(0o4700)
