"""The reference of the API: what is public in the code stands in it."""

import importlib
import inspect
import pkgutil
import re
from typing import Any

import pytest
from pages import DOCS

import jobslib
from jobslib.commands import COMMANDS
from jobslib.config import ConfigGroup, option
from jobslib.consul.connection import ConsulConnection

# What works behind the names in the reference; nobody else imports it.
INTERNAL = re.compile(r"""jobslib\.(
    bar
    | configure
    | folding
    | documents
    | environment
    | legacy
    | machine
    | masking
    | parsing
    | reading
    | resolver
    | run(\.\w+)?
    | slips
    | strictness
    | needs
    | commands\.(asking | check_liveness | exec | handover | jobs | jobtables
                 | completion | looking | pause | release | resume | run | status
                 | skip | stop | watching)
    | findings
    | oneinstance\.(consulview | filediagnosis | lockfolder | record)
    | consul(\.(?!connection)\w+)?
    | keeper(\.(?!timings)\w+)?
    | loop(\.\w+)?
    | testing\.(consul | contract)_\w+
    | testing\.fork
)""", re.VERBOSE)
DIRECTIVE = re.compile(
    r'^\.\. auto(?P<kind>\w+):: (?P<path>[\w.]+)\n'
    r'(?P<options>(?:   :.*\n)*)', re.MULTILINE)


def public_modules() -> list[str]:
    """Return the modules of the package that say what is public in them."""
    found = pkgutil.walk_packages(jobslib.__path__, 'jobslib.')
    names = ['jobslib', *(module.name for module in found)]
    return [each for each in names
            if each != 'jobslib.__main__' and not INTERNAL.fullmatch(each)]


def public_objects(module: str) -> dict[str, Any]:
    """Return the classes and functions that *module* says are public."""
    loaded = importlib.import_module(module)
    named = {each: getattr(loaded, each) for each in loaded.__all__}
    return {each: found for each, found in named.items()
            if getattr(found, '__module__', '').startswith('jobslib')
            and (inspect.isclass(found) or inspect.isfunction(found))}


def documented_objects() -> set[Any]:
    """Return what the directives of the reference's page show."""
    found: set[Any] = set()
    pages = [*DOCS.glob('reference/api*.rst'), DOCS / 'reference/exitcodes.rst']
    for text in (page.read_text() for page in pages):
        for each in DIRECTIVE.finditer(text):
            if each['kind'] != 'module':
                module, _, attribute = each['path'].rpartition('.')
                loaded = importlib.import_module(module)
                found.add(getattr(loaded, attribute))
            elif ':no-members:' not in each['options']:
                found |= set(public_objects(each['path']).values())
    return found


@pytest.mark.parametrize('module', public_modules())
def test_public_names_are_in_the_reference(module: str) -> None:
    """What a module says is public stands in the reference."""
    documented = documented_objects()
    missing = [each for each, found in public_objects(module).items()
               if found not in documented]
    assert not missing


def test_what_is_internal_is_not_in_the_reference() -> None:
    """What stands in the reference is what users may call, and no more."""
    shown = {each['path'] for page in DOCS.glob('reference/api*.rst')
             for each in DIRECTIVE.finditer(page.read_text())
             if each['kind'] == 'module'}
    assert shown
    assert not [each for each in shown if INTERNAL.fullmatch(each)]


@pytest.mark.parametrize('module', public_modules())
def test_public_names_say_what_they_are(module: str) -> None:
    """What is public has a docstring, and so have its public methods."""
    silent = [f'{each}.{name}' for each, found in public_objects(module).items()
              for name, member in [('', found), *own_members(found)]
              if not inspect.getdoc(member)]
    assert not silent


def own_members(found: Any) -> list[tuple[str, Any]]:
    """Return the public methods and properties that are jobslib's own."""
    return [(name, getattr(owner, name))
            for owner in getattr(found, '__mro__', ())
            if owner.__module__.startswith('jobslib')
            for name, member in vars(owner).items()
            if not name.startswith('_') and (
                inspect.isfunction(member) or isinstance(
                    member, property | classmethod | staticmethod))]


def option_groups() -> list[type[ConfigGroup]]:
    """Return the groups of options that jobslib has, the nested ones too."""
    found: list[type[ConfigGroup]] = []
    for module in public_modules():
        for each in vars(importlib.import_module(module)).values():
            for group in (each, getattr(each, 'OptionsConfig', None)):
                if inspect.isclass(group) and issubclass(group, ConfigGroup):
                    found.append(group)
    return found


def options_of(group: type[ConfigGroup]) -> set[option[object]]:
    """Return the options of *group* that somebody can give."""
    return {each for each in group.declared().values() if not each.function}


def test_every_option_is_in_the_table() -> None:
    """The table is made of all groups of options that there are."""
    text = (DOCS / 'reference' / 'options.rst').read_text()
    shown: set[option[object]] = set()
    for path in re.findall(r'^   (jobslib[\w.]+) \| ', text, re.MULTILINE):
        first, *rest = re.split(r'\.(?=[A-Z])', path)
        found: Any = importlib.import_module(first)
        for name in rest:
            found = getattr(found, name)
        shown |= options_of(found)
    groups = option_groups()
    assert len(groups) > 10
    # This one is subclassed, with names for the environment, and not used.
    assert {group for group in groups if options_of(group) - shown} == {
        ConsulConnection}


@pytest.mark.parametrize('page', ['cli.rst', 'exitcodes.rst'])
def test_every_command_is_in_the_reference(page: str) -> None:
    """Each command has its place in the pages about the command line."""
    text = (DOCS / 'reference' / page).read_text()
    mark = '   :func: {}\n' if page == 'cli.rst' else '``{}``'
    assert not [name for name in COMMANDS if mark.format(name) not in text]
