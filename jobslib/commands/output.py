"""How commands show things: tables for people, JSON for programs.

On a terminal a table has colours, unless ``$NO_COLOR`` is set, and fits its width:
columns that can be spared are left out, and long texts are cut off or folded.
Elsewhere it is plain text, one line for each row, with nothing folded or cut off,
and the library ``rich`` is not loaded.  With ``$FORCE_COLOR`` it has colours there
as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from jobslib.folding import folded

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ['Cell', 'bad', 'dim', 'fit', 'good', 'is_coloured', 'is_terminal',
           'make_console', 'make_table', 'plain_table', 'print_heading',
           'print_json', 'print_line', 'print_table', 'printable', 'warn']


# The space between the columns of a table, in characters.
GAP = 3
# How much of a text that can be cut off is left at least, in characters, while other
# columns can be left out for it, and when none can.
ENOUGH = 24
LEAST = 8
# The width of an output that is not a terminal.
UNLIMITED = 10000


class Cell(NamedTuple):
    """A text and its style, as ``rich`` calls it (``'bold red'``)."""

    text: str
    style: str = ''

    def cut(self, room: int) -> Cell:
        """Return it with *room* characters at most."""
        if len(self.text) <= room:
            return self
        return Cell(f'{self.text[:room - 1]}…', self.style)


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


def is_coloured() -> bool:
    """Return whether tables are to have colours, and are made with rich."""
    return is_terminal() or bool(os.environ.get('FORCE_COLOR'))


def print_json(value: object, indent: int | None = 2) -> None:
    """Print *value* as one JSON document; what JSON cannot hold becomes a string."""
    import json

    def dump(value: object, ascii_only: bool = False) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only,
                          default=str, allow_nan=False)

    try:
        text = dump(value)
    except ValueError:
        # Python writes and reads NaN and Infinity, which JSON does not have.
        value = json.loads(json.dumps(value, default=str), parse_constant=str)
        text = dump(value)
    try:
        text.encode(sys.stdout.encoding or 'utf-8')
    except UnicodeEncodeError:
        text = dump(value, ascii_only=True)
    print(text, flush=True)


def print_heading(text: str) -> None:
    """Print the heading of what follows, after an empty line."""
    if is_coloured():
        from rich.text import Text
        make_console().print(Text(f'\n{printable(text)}', 'bold'))
    else:
        print(f'\n{printable(text)}')


def print_line(text: str, file: TextIO | None = None) -> None:
    """Print a sentence, folded between words on a terminal.

    :param file: where to, by default standard output.
    """
    file = file or sys.stdout
    print(folded(printable(text), file), file=file)


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]],
    less: Sequence[str] = (), short: Sequence[str] = (),
) -> None:
    """Print a table; a cell is a :class:`Cell`, or anything that has a text.

    :param less: columns that can be left out on a narrow terminal, the least
        important first.
    :param short: columns whose texts can be cut off there, the first one first.
    """
    if is_coloured():
        console = make_console()
        shown, cells = fit(headings, list(rows), less, short, console.width)
        if _least_width(shown, cells) > console.width:
            # In columns that are so narrow, words would be broken in the middle.
            _print_stacked(console, shown, cells)
        else:
            console.print(make_table(shown, cells))
    else:
        print(plain_table(headings, rows))


def _least_width(headings: Sequence[str],
                 rows: Sequence[Sequence[Cell]]) -> int:
    """Return how many columns a table takes with every word whole."""
    def longest(text: str) -> int:
        return max(map(len, text.split()), default=0)

    return GAP * (len(headings) - 1) + sum(
        max([longest(heading), *(longest(row[place].text) for row in rows)])
        for place, heading in enumerate(headings))


def _print_stacked(console: Console, headings: Sequence[str],
                   rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table as lines: the first two cells of each row on one line, each
    of the others on a line of its own."""
    from rich.text import Text
    for name, value, *others in rows:
        console.print(Text.assemble((f'{name.text}: ', name.style), value))
        for heading, cell in zip(headings[2:], others, strict=True):
            if cell.text:
                console.print(Text.assemble((f'  {heading}: ', 'dim'), cell))


def make_console() -> Console:
    """Return a console that prints on a terminal."""
    from rich.console import Console
    if not is_terminal():
        return Console(highlight=False, markup=False, emoji=False,
                       force_terminal=True, width=UNLIMITED)
    return Console(highlight=False, markup=False, emoji=False)


def fit(
    headings: Sequence[str], rows: Sequence[Sequence[object]],
    less: Sequence[str], short: Sequence[str], width: int,
) -> tuple[list[str], list[list[Cell]]]:
    """Return a table that is *width* characters wide, as far as possible.

    :param less: headings of columns that are left out until it fits.
    :param short: headings of columns whose texts are cut off then.
    """
    shown = list(headings)
    cells = [[Cell(printable(cell.text), cell.style)
              for cell in map(_cell, row)] for row in rows]

    def widest(place: int) -> int:
        return max([len(shown[place]), *(len(row[place].text) for row in cells)])

    def excess(cut: int | None = None) -> int:
        widths = [min(widest(place), cut or width) if name in short
                  else widest(place) for place, name in enumerate(shown)]
        return sum(widths) + GAP * (len(shown) - 1) - width

    for name in less:
        if excess(ENOUGH) > 0 and name in shown:
            place = shown.index(name)
            del shown[place]
            for row in cells:
                del row[place]
    for name in short:
        if name in shown and excess() > 0:
            place = shown.index(name)
            others = excess() - min(widest(place), width)
            room = max(-others, len(name), LEAST)
            for row in cells:
                row[place] = row[place].cut(room)
    return shown, cells


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
    """Return *text* with all characters escaped that are not printable.

    So what others have written, for instance to a key of Consul, can neither move
    the reader's cursor nor begin a new line.
    """
    return ''.join(char if char.isprintable() else ascii(char)[1:-1]
                   for char in text)


def _cell(value: object) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell('' if value is None else str(value))
