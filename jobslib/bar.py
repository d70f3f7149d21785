"""The progress bar on a terminal.  Loads rich; see :mod:`jobslib.progress`."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jobslib.logs import handlers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TextIO

    from jobslib.runs import ProgressReport

    class ReportingTask(Protocol):
        """What is used of a :class:`jobslib.BaseTask`."""

        name: str
        context: Any
        stdout: TextIO
        stderr: TextIO

        @property
        def logger(self) -> logging.Logger: ...

__all__ = ['Bar']


class Bar:
    """A progress bar on standard error.

    Until it is closed, whatever goes to the terminal by the standard streams, or
    by handlers of :mod:`logging`, appears above it.

    :param task: the task.
    """

    def __init__(self, task: ReportingTask) -> None:
        self._console = _Console(file=sys.stderr)
        # It has no thread of its own, and is drawn when something is reported.
        self._progress = Progress(
            TextColumn('{task.description}', markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn('{task.fields[count]}', markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn('{task.fields[message]}', markup=False),
            console=self._console, auto_refresh=False,
            redirect_stdout=False, redirect_stderr=False)
        self._id = self._progress.add_task(
            task.name, total=None, count='', message='')
        self._above: dict[object, _Above] = {}
        self._restore: list[Callable[[], object]] = []
        self._progress.start()
        try:
            self._redirect(task)
        except BaseException:
            self.close()
            raise

    def show(self, latest: ProgressReport) -> None:
        """Show this report."""
        done, total = latest.done, latest.total
        count = '' if done is None else f'{done:,}'
        self._progress.update(
            self._id, completed=done, message=latest.message,
            count=count if total is None else f'{count}/{total:,}')
        # Set here, because update() takes None for "leave it as it is".
        self._progress.tasks[0].total = total
        self._progress.refresh()

    def close(self) -> None:
        """Leave the bar as it is, and the streams as they were."""
        try:
            for above in self._above.values():
                above.finish()
            self._progress.stop()
        finally:
            while self._restore:
                self._restore.pop()()

    def _redirect(self, task: object) -> None:
        for owner in (sys, task):
            for name in ('stdout', 'stderr'):
                stream = getattr(owner, name)
                if _is_terminal(stream):
                    setattr(owner, name, self._put_above(stream))
                    self._restore.append(
                        partial(setattr, owner, name, stream))
        for handler in handlers():
            if (isinstance(handler, logging.StreamHandler)
                    and handler.stream in self._above):
                stream = handler.stream
                handler.setStream(self._put_above(stream))
                self._restore.append(partial(handler.setStream, stream))

    def _put_above(self, stream: TextIO) -> _Above:
        if stream not in self._above:
            self._above[stream] = _Above(stream, self._console)
        return self._above[stream]


class _Console(Console):
    """A console that does not hide the cursor.

    If the process was killed, nobody would show it again.
    """

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _Above:
    """A stream to the terminal whose lines appear above the bar."""

    def __init__(self, stream: TextIO, console: Console) -> None:
        self._stream = stream
        self._console = console
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._begun = ''

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the lines that *text* completes."""
        if os.getpid() != self._pid:
            # In a forked child the lock of the console may stay locked.
            self._stream.write(text)
            return len(text)
        with self._lock:
            lines, newline, self._begun = (
                self._begun + text).rpartition('\n')
            if newline:
                # The terminal wraps long lines, so that they stay lines.
                self._console.print(Text.from_ansi(lines), soft_wrap=True)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write all of *lines*."""
        self.write(''.join(lines))

    def finish(self) -> None:
        """Write a line that was begun."""
        if self._begun:
            self.write('\n')


def _is_terminal(stream: TextIO) -> bool:
    try:
        return bool(stream.isatty()) and not isinstance(stream, _Above)
    except (AttributeError, ValueError):
        return False
