"""The architecture: imports point down only, and the package is light."""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import jobslib

PACKAGE = pathlib.Path(jobslib.__file__).parent

#: From the top down; modules of one line may import each other.
LAYERS = [
    {'jobslib.__main__', 'jobslib.testing'},
    {'jobslib.main'},
    {'jobslib.configure'},
    {'jobslib.commands'},
    {'jobslib.strictness'},
    {'jobslib', 'jobslib.cmdlineparser', 'jobslib.parsing'},
    {'jobslib.loop'},
    {'jobslib.run'},
    {'jobslib.tasks'},
    {'jobslib.context'},
    {'jobslib.liveness', 'jobslib.metrics', 'jobslib.notify'},
    {'jobslib.oneinstance'},
    {'jobslib.config'},
    {'jobslib.scheduleoptions'},
    {'jobslib.consul'},
    {'jobslib.legacy'},
    {'jobslib.options'},
    {'jobslib.masking'},
    {'jobslib.bar', 'jobslib.logs', 'jobslib.progress'},
    # The agenda reads owner records, which have the ledger of the schedule.
    {'jobslib.background', 'jobslib.history', 'jobslib.observers',
     'jobslib.owner', 'jobslib.runs', 'jobslib.schedule.agenda'},
    {'jobslib.interrupts', 'jobslib.keeper', 'jobslib.schedule'},
    {'jobslib.backends', 'jobslib.clock', 'jobslib.documents', 'jobslib.environment',
     'jobslib.exceptions', 'jobslib.exitcodes', 'jobslib.findings',
     'jobslib.folding', 'jobslib.imports', 'jobslib.logging', 'jobslib.machine',
     'jobslib.needs', 'jobslib.reading', 'jobslib.resolver', 'jobslib.slips',
     'jobslib.time'},
]
#: What everybody may have from the package itself.
FREE = {'__version__'}


def modules() -> dict[str, pathlib.Path]:
    """Return all modules of the package by name."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
        found['.'.join(parts).removesuffix('.__init__')] = path
    return found


MODULES = modules()


def layer(module: str) -> int:
    """Return the number of the layer that *module* is in."""
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
        if module.rpartition('.')[0] in names - {'jobslib'}:
            return number
    raise AssertionError(f'{module} has no layer yet: give it one')


def imports(node: ast.AST, package: str = '') -> Iterator[str]:
    """Return the dotted paths that *node* imports, for types too.

    :param package: the package that relative imports start from.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split('.') if node.level else []
        parts = parts[:len(parts) + 1 - node.level]
        parts += [node.module] if node.module else []
        yield from ('.'.join([*parts, alias.name]) for alias in node.names)
    else:
        for child in ast.iter_child_nodes(node):
            yield from imports(child, package)


def imported_modules(module: str) -> Iterator[str]:
    """Return the modules of the package that *module* imports."""
    path = MODULES[module]
    package = (module if path.name == '__init__.py'
               else module.rpartition('.')[0])
    for name in imports(ast.parse(path.read_text()), package):
        if name.split('.')[0] != 'jobslib':
            continue
        parent, _, last = name.rpartition('.')
        if parent == 'jobslib' and last in FREE:
            continue
        yield name if name in MODULES else parent


@pytest.mark.parametrize('module', MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports only from its own layer and from those below."""
    wrong = [name for name in imported_modules(module)
             if layer(name) < layer(module)]
    assert wrong == []


def circle(graph: dict[str, set[str]]) -> set[str]:
    """Return modules that import each other, none if there is no circle."""
    left = dict(graph)
    while free := {name for name, found in left.items()
                   if not found & set(left) - {name}}:
        left = {name: found for name, found in left.items() if name not in free}
    return set(left)


def test_no_circles() -> None:
    """No module imports itself by way of others, in functions and for types too."""
    assert not circle({name: set(imported_modules(name)) for name in MODULES})
    assert circle({'a': {'b'}, 'b': {'c'}, 'c': {'b'}, 'd': set()}) >= {'b', 'c'}


def test_every_layer_is_there() -> None:
    """No layer is left of a module that is gone."""
    assert set().union(*LAYERS) <= set(MODULES)


@pytest.mark.parametrize(('source', 'found'), [
    ('import jobslib.main', ['jobslib.main']),
    ('import os, jobslib.main as m', ['os', 'jobslib.main']),
    ('from jobslib import main', ['jobslib.main']),
    ('def f():\n from jobslib.main import main', ['jobslib.main.main']),
    ('class A:\n async def f(self):\n  try:\n   import jobslib.main\n'
     '  except E: import b', ['jobslib.main', 'b']),
    ('if TYPE_CHECKING:\n import a\nelse:\n import b', ['a', 'b']),
    ('with c: import d', ['d']),
    ('from . import x\nfrom .y import z', ['pkg.sub.x', 'pkg.sub.y.z']),
    ('from .. import x\nfrom ..y import z', ['pkg.x', 'pkg.y.z']),
])
def test_imports_are_found(source: str, found: list[str]) -> None:
    """Imports are found wherever they stand, those for type checkers too."""
    assert list(imports(ast.parse(source), 'pkg.sub')) == found


#: Types alone, which no process loads.
TYPES = {'jobslib.documents'}
#: The lease, whatever the lock service is.
LEASE = {'jobslib.clock', 'jobslib.keeper'} | {
    module for module in MODULES if module.startswith('jobslib.keeper.')}
#: The ward's part of it, which the keeper does not load.
WARD = {'jobslib.keeper.handle', 'jobslib.keeper.lease', 'jobslib.keeper.timings'}


@pytest.mark.parametrize('module', sorted(LEASE - WARD))
def test_keeper_stands_alone(module: str) -> None:
    """The keeper is made of these modules alone, and the standard library."""
    assert set(imported_modules(module)) <= LEASE - WARD | TYPES


@pytest.mark.parametrize('module', sorted(LEASE))
def test_lease_knows_no_lock_service(module: str) -> None:
    """What the lease is made of imports nothing that speaks with one."""
    assert set(imported_modules(module)) <= LEASE | TYPES | {'jobslib.exceptions'}
    source = MODULES[module].read_text()
    names = set(imports(ast.parse(source)))
    assert not {name for name in names if name.startswith('http')}
    assert 'consul' not in re.sub('jobslib.consul.engine', '', source.lower())


HEAVY = {'requests', 'consul', 'asyncio', 'ssl', 'http', 'argparse',
         'logging', 'socket', 'json', 'urllib', 'threading', 'subprocess'}


def loaded(code: str) -> set[str]:
    """Return the modules that *code* loads in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, '-c',
         f'import sys; before = set(sys.modules); {code}; '
         f'print(*set(sys.modules) - before)'],
        capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    """Importing jobslib loads nothing heavy, no logging and no parser."""
    assert loaded('import jobslib') & HEAVY == set()


def test_cmdlineparser_is_light() -> None:
    """Importing the parser's module makes no parser, and reads nothing."""
    assert loaded('import jobslib.cmdlineparser') & HEAVY == set()


def test_public_names() -> None:
    """The public names are there, sorted, and no others."""
    assert jobslib.__all__ == sorted(jobslib.__all__)
    assert set(jobslib.__all__) == {
        'BaseTask', 'Config', 'ConfigGroup', 'Context', 'argument', 'option',
        'cached_property', 'OneInstanceWatchdogError', 'Terminate',
        'TaskError', 'JobsLibError'}
    for name in jobslib.__all__:
        assert getattr(jobslib, name) is not None
