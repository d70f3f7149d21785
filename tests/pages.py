"""The pages of the documentation, and what is in them."""

import pathlib
import re
import subprocess
import sys
import textwrap
from typing import NamedTuple

from support import DEADLINE, environment

import jobslib

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(
    page for page in DOCS.rglob('*.rst') if '_build' not in page.parts)
PACKAGE = pathlib.Path(jobslib.__file__).parent

BLOCK = re.compile(
    r'^\.\. code-block:: (?P<language>\w+)\n'
    r'(?P<options>(?:   :.*\n)*)\n'
    r'(?P<code>(?:   .*\n|\n)+)', re.MULTILINE)
# What differs from run to run, and from machine to machine.
CHANGING = re.compile(
    r'lock file \S+:|FileLock \S+ \(this machine, \S+\);|'
    r'from \S+, fencing|\d+')


class Block(NamedTuple):
    """A block of code in a page."""

    language: str
    options: str
    code: str

    @property
    def caption(self) -> str | None:
        """The name of the file that the block is."""
        found = re.search(r':caption: (\S+)', self.options)
        return found[1] if found else None


def blocks(page: pathlib.Path, language: str) -> list[Block]:
    """Return the blocks of *page* in this language."""
    found = [Block(each['language'], each['options'],
                   textwrap.dedent(each['code']))
             for each in BLOCK.finditer(page.read_text() + '\n')]
    return [block for block in found if block.language == language]


def name(page: pathlib.Path) -> str:
    """Return how a test calls *page*."""
    return str(page.relative_to(DOCS))


def write_files(page: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Write the blocks that are files into *folder*; return their names."""
    files = []
    for block in blocks(page, 'python'):
        if block.caption:
            path = folder / block.caption
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.code)
            files.append(block.caption)
    return files


def run(folder: pathlib.Path, *args: str) -> str:
    """Run Python in *folder*, which must succeed; return what it wrote."""
    locks = folder / 'locks'
    locks.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, text=True,
        env=environment(locks), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=20 * DEADLINE)
    assert done.returncode == 0, done.stdout
    return done.stdout


def commands(text: str) -> list[tuple[list[str], str]]:
    """Return the commands of a console, each with what it wrote."""
    parts = re.split(r'^\$ (.*)\n', text.strip() + '\n', flags=re.MULTILINE)
    return [(command.split(), output)
            for command, output in zip(parts[1::2], parts[2::2], strict=True)]


def masked(text: str) -> str:
    """Return *text* without what changes."""
    return CHANGING.sub('...', text)
