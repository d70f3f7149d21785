"""How commands show things: tables for people, JSON for programs.

On a terminal a table has colours, unless ``$NO_COLOR`` is set, and long cells
are folded to its width.  Elsewhere it is plain text, one line for each row,
with nothing folded or cut off; then the library ``rich`` is not loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ['Cell', 'bad', 'dim', 'good', 'is_terminal', 'make_console',
           'make_table', 'plain_table', 'print_heading', 'print_json',
           'print_table', 'printable', 'warn']


class Cell(NamedTuple):
    """A text and its style, as ``rich`` calls it (``'bold red'``)."""

    text: str
    style: str = ''


def good(text: object) -> Cell:
    """Return a cell that says that all is well."""
    return Cell(str(text), 'green')


def bad(text: object) -> Cell:
    """Return a cell that says that something is wrong."""
    return Cell(str(text), 'bold red')


def warn(text: object) -> Cell:
    """Return a cell that deserves a look."""
    return Cell(str(text), 'yellow')


def dim(text: object) -> Cell:
    """Return a cell of little interest."""
    return Cell(str(text), 'dim')


def is_terminal() -> bool:
    """Return whether a person reads the output."""
    return sys.stdout.isatty()


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print *value*, one JSON document; what JSON lacks becomes a text."""
    import json

    def dump(value: Any, ascii_only: bool = False) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only,
                          default=str, allow_nan=False)

    try:
        text = dump(value)
    except ValueError:
        # Python writes and reads numbers that JSON lacks: NaN, Infinity.
        value = json.loads(json.dumps(value, default=str), parse_constant=str)
        text = dump(value)
    try:
        text.encode(sys.stdout.encoding or 'utf-8')
    except UnicodeEncodeError:
        text = dump(value, ascii_only=True)
    print(text, flush=True)


def print_heading(text: str) -> None:
    """Print the heading of what follows, after an empty line."""
    if is_terminal():
        from rich.text import Text
        make_console().print(Text(f'\n{printable(text)}', 'bold'))
    else:
        print(f'\n{printable(text)}')


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]],
) -> None:
    """Print a table; cells are :class:`Cell` or anything with a text."""
    if is_terminal():
        make_console().print(make_table(headings, rows))
    else:
        print(plain_table(headings, rows))


def make_console() -> Console:
    """Return what prints on a terminal."""
    from rich.console import Console
    return Console(highlight=False, markup=False, emoji=False)


def make_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]],
) -> Table:
    """Return a table for :func:`make_console`, or to be followed live."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow='fold')
    for row in rows:
        table.add_row(*(Text(printable(cell.text), cell.style)
                        for cell in map(_cell, row)))
    return table


def plain_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]],
) -> str:
    """Return a table as text, one line for each row, whatever its length."""
    lines = [[heading.upper() for heading in headings]]
    lines += [[printable(_cell(cell).text) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '.join(text.ljust(width) for text, width
                  in zip(line, widths, strict=True)).rstrip()
        for line in lines)


def printable(text: str) -> str:
    """Return *text* with what is no printable character escaped.

    What others wrote, into a key of Consul for example, cannot then move the
    cursor of who reads it, or begin a line.
    """
    return ''.join(char if char.isprintable() else ascii(char)[1:-1]
                   for char in text)


def _cell(value: object) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell('' if value is None else str(value))
