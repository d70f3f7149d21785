"""Checks the links between the pages that were built.

    python docs/check_links.py docs/_build/html

Every link, picture and script that is not of another site has to lead to a
file, and its anchor to something in that file.
"""

import pathlib
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

__all__ = ['Page', 'broken', 'main']


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {''}
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(
            self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ('id', 'name'):
                self.anchors.add(value)
            elif value and name in ('href', 'src'):
                self.links.append(value)


def broken(folder: pathlib.Path) -> Iterator[str]:
    """Return the links in the pages of *folder* that lead nowhere."""
    pages = {path.resolve(): Page(path.read_text())
             for path in folder.rglob('*.html')}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
            known = pages.get(target)
            if not target.exists() or (known and unquote(parts.fragment)
                                       not in known.anchors):
                yield f'{path.relative_to(folder.resolve())}: {link}'


def main(folder: str) -> int:
    """Print what is broken in *folder*; return the exit code."""
    found = sorted(set(broken(pathlib.Path(folder))))
    print('\n'.join(found), end='\n' * bool(found))
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1]))
