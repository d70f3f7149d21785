"""``runjob status --watch`` on a terminal."""

import contextlib
import fcntl
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from typing import Self

import pytest
from support import DEADLINE, environment, run_job, until, write_module

from jobslib.exitcodes import ExitCode
from jobslib.oneinstance.consul import ConsulLock
from jobslib.testing import ConsulStandIn, make_lock

JOBS = """
from jobslib import BaseTask

class Quick(BaseTask):
    name = 'quick'
    def task(self):
        pass
"""
# A control sequence, with its parameters and its last letter, or else a character.
WRITTEN = re.compile(r'\x1b\[([?0-9;]*)([A-Za-z])|([^\x1b])', re.DOTALL)


class Screen:
    """What stands on a terminal to which *written* text was written."""

    def __init__(self, written: str, lines: int) -> None:
        self.rows = [''] * lines
        self.scrolled = 0
        self.has_cursor = True
        row = column = 0
        for match in WRITTEN.finditer(written):
            value, what, char = match.groups()
            if what == 'A':
                row = max(0, row - int(value or 1))
            elif what == 'K':
                self.rows[row] = '' if value == '2' else self.rows[row][:column]
            elif what in ('h', 'l') and value == '?25':
                self.has_cursor = what == 'h'
            elif what is not None:
                assert what == 'm', f'{match.group()!r} is not known'
            elif char == '\r':
                column = 0
            elif char == '\n':
                row += 1
                if row == lines:
                    self.rows = [*self.rows[1:], '']
                    self.scrolled += 1
                    row -= 1
            else:
                text = self.rows[row].ljust(column)
                self.rows[row] = text[:column] + char + text[column + 1:]
                column += 1

    @property
    def text(self) -> str:
        """What can be read, line by line."""
        return '\n'.join(row.rstrip() for row in self.rows)


class Watching:
    """``runjob status --watch`` on a terminal of this size."""

    def __init__(self, folder: pathlib.Path, *args: str, lines: int = 24,
                 columns: int = 80) -> None:
        self.lines = lines
        self._ours, theirs = pty.openpty()
        self._written: list[bytes] = []
        self.resize(lines, columns)
        variables = environment(folder / 'run', TERM='xterm')
        for name in ('NO_COLOR', 'COLUMNS', 'LINES'):
            variables.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, '-c', 'import fcntl, sys, termios; '
             'fcntl.ioctl(0, termios.TIOCSCTTY, 0); '
             'from jobslib.main import main; sys.exit(main())', *args],
            cwd=folder, env=variables, stdin=theirs, stdout=theirs,
            stderr=theirs, start_new_session=True)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        # An error says that nobody has the other end any more.
        with contextlib.suppress(OSError):
            while piece := os.read(self._ours, 65536):
                self._written.append(piece)

    @property
    def written(self) -> str:
        """All that was written."""
        return b''.join(self._written).decode(errors='replace')

    @property
    def screen(self) -> Screen:
        """What stands on the terminal."""
        return Screen(self.written, self.lines)

    def wait_for(self, text: str) -> None:
        """Wait until *text* can be read, folded or not."""
        until(lambda: text in ' '.join(self.screen.text.split()), f'for {text!r}')

    def resize(self, lines: int, columns: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ,
                    struct.pack('HHHH', lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the command."""
        self._process.send_signal(signum)

    def wait(self) -> int:
        """Wait for the end; return the exit code, with everything read."""
        code = self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a job that has run once."""
    write_module(tmp_path, 'jobs', JOBS)
    assert run_job(tmp_path, '--run-once', 'jobs.Quick').returncode == 0
    return tmp_path


def clocks(screen: Screen) -> list[str]:
    """Return the times of day that stand in a line of their own."""
    return re.findall(r'^\d\d:\d\d:\d\d$', screen.text, re.MULTILINE)


def test_drawn_in_place(folder: pathlib.Path) -> None:
    """Each picture takes the place of the one before; the last one stays when
    Ctrl-C is pressed, and the cursor is there again."""
    with Watching(folder, 'status', '--watch', 'jobs.Quick', lines=40) as watching:
        watching.wait_for('succeeded')
        [first] = clocks(watching.screen)
        until(lambda: clocks(watching.screen) not in ([], [first]),
              'for another picture')
        screen = watching.screen
        assert len(clocks(screen)) == 1
        assert screen.text.count('fencing token') == 1
        assert not screen.has_cursor and not screen.scrolled
        watching.type(b'\x03')
        assert watching.wait() == ExitCode.DONE
        screen = watching.screen
        assert screen.text.count('fencing token') == 1
        assert screen.has_cursor
        assert 'Traceback' not in watching.written


def test_ended_by_sigterm(folder: pathlib.Path) -> None:
    """SIGTERM leaves the terminal as it should be, too."""
    with Watching(folder, 'status', '--watch', 'jobs.Quick') as watching:
        watching.wait_for('quick')
        watching.send(signal.SIGTERM)
        assert watching.wait() == ExitCode.TERMINATED
        assert watching.screen.has_cursor
        assert 'Traceback' not in watching.written


def test_resized(folder: pathlib.Path) -> None:
    """The next picture is fitted to the new width."""
    with Watching(folder, 'status', '--watch', 'jobs.Quick', lines=60) as watching:
        watching.wait_for('outcome')
        assert 'reason' not in watching.screen.text
        watching.resize(60, 160)
        watching.wait_for('reason')
        watching.type(b'\x03')
        assert watching.wait() == ExitCode.DONE


@contextlib.contextmanager
def watched_consul(folder: pathlib.Path) -> Iterator[ConsulStandIn]:
    """A Consul with the lock of the job, and settings that lead there."""
    with ConsulStandIn() as consul:
        lock = make_lock(ConsulLock, 'quick', **consul.options())
        assert lock.acquire() and lock.release()
        lock.close()
        write_module(folder, 'settings', f"""
            ONE_INSTANCE = {consul.one_instance(timeout=1, retry_max_attempts=1)}
        """)
        yield consul


def test_trouble_on_a_small_terminal(folder: pathlib.Path) -> None:
    """That what is shown is old can be read, however little of it there is
    room for."""
    with watched_consul(folder) as consul, Watching(
            folder, '-s', 'settings', 'status', '--watch', 'jobs.Quick',
            lines=8) as watching:
        watching.wait_for('jobs/quick/lock')
        with consul.partition(refuse=True):
            watching.wait_for('cannot refresh: ')
            watching.wait_for('shown is what was seen')
            screen = watching.screen
            assert clocks(screen) and not screen.scrolled
        until(lambda: 'cannot refresh' not in watching.screen.text, 'to go on')
        assert 'jobs/quick/lock' in watching.screen.text
        watching.type(b'\x03')
        assert watching.wait() == ExitCode.DONE
