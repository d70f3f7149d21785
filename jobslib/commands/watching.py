"""The state of jobs, shown again and again."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from jobslib.commands.jobs import iso, since
from jobslib.commands.looking import Look, tables
from jobslib.commands.output import (
    fit,
    is_terminal,
    make_console,
    make_table,
    plain_table,
    print_json,
    printable,
)
from jobslib.config import Config
from jobslib.exceptions import LockUnavailableError
from jobslib.exitcodes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ['INTERVAL', 'watch']

#: How often the state is shown, in seconds.
INTERVAL = 2.0

#: Shows what was found out last, ``None`` if nothing was, and what has gone wrong
#: since, which is empty if nothing has.
Show = Callable[[Look | None, str], None]


def watch(config: Config) -> None:
    """Show the state of the jobs every :data:`INTERVAL`, until Ctrl-C.

    When it cannot be found out, what was found out last stays, with its age.
    """
    last: Look | None = None
    # Ctrl-C is the usual way to end it, and leads to the exit code 0; SIGTERM
    # leads to the code of a command that was ended.
    signal.signal(signal.SIGTERM, _terminate)
    with _shower(config) as show, contextlib.suppress(KeyboardInterrupt):
        while True:
            problem = ''
            try:
                last = Look(config)
            except LockUnavailableError as exc:
                problem = str(exc)
            show(last, problem)
            time.sleep(INTERVAL)


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(ExitCode.TERMINATED)


@contextlib.contextmanager
def _shower(config: Config) -> Iterator[Show]:
    if config.args.json:
        yield _show_line
    elif not is_terminal():
        yield lambda last, problem: _show_plainly(config, last, problem)
    else:
        from rich.live import Live
        with Live(console=make_console(), auto_refresh=False) as live:
            yield lambda last, problem: live.update(
                _picture(config, last, problem, live.console.width),
                refresh=True)


def _show_line(last: Look | None, problem: str) -> None:
    now = time.time()
    print_json({'time': now, 'time_utc': iso(now), 'error': problem or None,
                'age': None if last is None else round(now - last.time, 3),
                'jobs': None if last is None else last.jobs}, None)


def _show_plainly(config: Config, last: Look | None, problem: str) -> None:
    for table in tables(config, last.jobs) if last else ():
        print(plain_table(table.headings, table.rows))
    for note in last.notes if last else ():
        print(printable(note))
    if problem:
        print(_explain(last, problem))
    print(flush=True)


def _picture(config: Config, last: Look | None, problem: str,
             width: int) -> RenderableType:
    """Return all that is shown on a terminal."""
    from rich.console import Group
    from rich.text import Text
    # What is too long for the terminal is cut off at its end, so the age of what is
    # shown and what people have to act upon come first.
    parts: list[RenderableType] = [Text(time.strftime('%H:%M:%S'), 'dim')]
    if problem:
        parts.append(Text(_explain(last, problem), 'bold red'))
    parts += [Text(printable(note), 'yellow')
              for note in (last.notes if last else ())]
    parts += [make_table(*fit(*table, width=width))
              for table in (tables(config, last.jobs) if last else ())]
    return Group(*parts)


def _explain(last: Look | None, problem: str) -> str:
    shown = f'; shown is what was seen {since(last.time)}' if last else ''
    return printable(f'cannot refresh: {problem}{shown}')
