"""What contributors read names what is there."""

import configparser
import pathlib
import re

import pytest
from pages import ROOT

GUIDE = ROOT / 'CONTRIBUTING.md'
LINK = re.compile(r'\[[^]]*\]\((?P<target>[^)\s:]+)\)')
CODE = re.compile(r'`([^`\n]+)`')
NO_PATH = re.compile(r'[* ]|_build')
KEPT = {'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'README.md', 'SECURITY.md',
        'tox.ini', '.editorconfig', '.pre-commit-config.yaml'}
#: Folders of the repository, as the first part of a path.
FOLDERS = ('benchmarks', 'docs', 'examples', 'integration', 'jobslib', 'tests')


def environments() -> set[str]:
    """Return the environments of tox that are written out."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / 'tox.ini')
    return {name.partition(':')[2] for name in tox.sections()
            if name.startswith('testenv:')}


def test_environments_are_there() -> None:
    """Each environment that the guide names is one of tox's."""
    named = set(re.findall(r'tox -e ([\w-]+)', GUIDE.read_text()))
    known = environments() | {'py312', 'py313'}
    assert named and named <= known
    assert 'py3{12,13}' in known


def test_environments_are_named() -> None:
    """Each environment of tox is in the guide, so that somebody runs it."""
    named = set(re.findall(r'tox -e ([\w-]+)', GUIDE.read_text()))
    assert environments() - {'py3{12,13}'} <= named


@pytest.mark.parametrize('page', ['CONTRIBUTING.md', 'SECURITY.md', 'README.md'])
def test_files_are_there(page: str) -> None:
    """What a page links to, and the files that it names, are there."""
    text = (ROOT / page).read_text()
    paths = {path.partition('#')[0] for path in LINK.findall(text)} - {''}
    paths |= {code for code in CODE.findall(text)
              if code.split('/')[0] in FOLDERS and not NO_PATH.search(code)}
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_modules_are_there() -> None:
    """The table of modules has every folder of the package, and no other."""
    table = GUIDE.read_text().partition('| Module |')[2].partition('\n\n')[0]
    named = {word for line in table.splitlines()
             for word in CODE.findall(line.partition('|')[2].partition('|')[0])}
    package = ROOT / 'jobslib'
    folders = {f'{path.parent.name}/' for path in package.glob('*/__init__.py')}
    assert {name for name in named if name.endswith('/')} == folders
    assert not [name for name in named if not is_module(package, name)]


def is_module(package: pathlib.Path, name: str) -> bool:
    """Return whether a folder or a module is in the package."""
    return (package / name).is_dir() or (package / f'{name}.py').is_file()


def test_source_package_has_it_all() -> None:
    """What lies at the top of the repository, and is kept, is in the sdist."""
    listed = set((ROOT / 'MANIFEST.in').read_text().split())
    assert KEPT <= listed
    assert not [name for name in KEPT if not (ROOT / name).is_file()]
