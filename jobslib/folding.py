"""Lines for people: on a terminal they are folded between words."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ['folded']


def folded(text: str, file: TextIO | None) -> str:
    """Return *text*, one line, as it is to be written to *file*.

    For a terminal, which would break it in the middle of a word, it is folded.
    Otherwise it stays one line.
    """
    if file is None or not file.isatty():
        return text
    import shutil
    import textwrap
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, max(width, 1), break_long_words=False,
                         break_on_hyphens=False)
