"""Importing by dotted path."""

import collections
import os
import os.path
import pathlib

import pytest
from support import write_module

from jobslib.exceptions import ImportNameError
from jobslib.imports import import_module, import_object


@pytest.fixture
def folder(tmp_path: pathlib.Path,
           monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder that modules are imported from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_module() -> None:
    """A module is imported by its dotted path."""
    assert import_module('os.path') is os.path


def test_object() -> None:
    """An object is imported by the path of its module and its name."""
    assert import_object('collections.OrderedDict') is collections.OrderedDict


@pytest.mark.parametrize(('name', 'missing'), [
    ('no_such_module', 'no_such_module'),
    ('no_such_package.module', 'no_such_package'),
    ('collections.no_such_module', 'collections.no_such_module'),
    ('os.path.no_such_module', 'os.path.no_such_module'),
    ('os.', 'os.'),
])
def test_missing_module(name: str, missing: str) -> None:
    """A module that does not exist is an error that names what is missing."""
    with pytest.raises(ImportNameError) as caught:
        import_module(name)
    where = '' if '.' in missing else (
        f' in {os.getcwd()} or where Python has its packages')
    assert str(caught.value) == f'no module named {missing!r}{where}'


@pytest.mark.parametrize('name', ['', '.', '.relative', '..relative'])
def test_no_module_name(name: str) -> None:
    """A name that is empty or relative is an error that says so."""
    with pytest.raises(ImportNameError) as caught:
        import_module(name)
    assert str(caught.value) == f'{name!r} is not a dotted path'


@pytest.mark.parametrize('path', ['', 'os', '.os', 'os.', '.'])
def test_no_path(path: str) -> None:
    """A path without a module or without a name is an error that says so."""
    with pytest.raises(ImportNameError) as caught:
        import_object(path)
    assert str(caught.value) == (
        f'{path!r} is not a dotted path (package.module.Name)')


def test_missing_name() -> None:
    """A name that its module lacks is an error that names both."""
    with pytest.raises(ImportNameError) as caught:
        import_object('os.path.no_such_name')
    assert str(caught.value) == "module 'os.path' has no 'no_such_name'"


@pytest.mark.parametrize(('path', 'hint'), [
    ('shopjob.Copy', "'shopjobs'"), ('shopjobs.Copi', "'shopjobs.Copy'"),
    ('shopjobs.copy', "'shopjobs.Copy'"),
    ('shopjobs.py:Copy', "'shopjobs.Copy'"), ('shopjobs:Copy', "'shopjobs.Copy'"),
    ('./shop/jobs.py', "'shop.jobs'"), ('joblib.BaseTask', "'jobslib'"),
    ('jobslib.oneinstance.konsul.ConsulLock',
     "'jobslib.oneinstance.consul'"),
])
def test_guess(folder: pathlib.Path, path: str, hint: str) -> None:
    """What is likely meant is said."""
    write_module(folder, 'shopjobs', 'class Copy: pass')
    with pytest.raises(ImportNameError) as caught:
        import_object(path)
    assert str(caught.value).endswith(f' (did you mean {hint}?)')


def test_file_in_place_of_a_name(folder: pathlib.Path) -> None:
    """Who names the file of a module is told which classes are in it."""
    write_module(folder, 'shopjobs', 'class Copy: pass')
    with pytest.raises(ImportNameError) as caught:
        import_object('shopjobs.py')
    assert str(caught.value) == "module 'shopjobs' has no 'py' (it has Copy)"


def test_no_guess_of_what_is_not_there(folder: pathlib.Path) -> None:
    """A file that is not there is not guessed."""
    with pytest.raises(ImportNameError) as caught:
        import_module('shopsettings.py')
    assert 'did you mean' not in str(caught.value)


def test_what_there_is(folder: pathlib.Path) -> None:
    """Where nothing is like it, the classes of the module are said."""
    write_module(folder, 'shopjobs', 'class Copy: pass')
    with pytest.raises(ImportNameError) as caught:
        import_object('shopjobs.Unlike')
    assert str(caught.value) == (
        "module 'shopjobs' has no 'Unlike' (it has Copy)")


@pytest.mark.parametrize(('text', 'error'), [
    ('1 / 0', ZeroDivisionError),
    ('raise TypeError("inside")', TypeError),
    ('raise ValueError("inside")', ValueError),
    ('raise SystemExit(3)', SystemExit),
    ('import no_such_module', ModuleNotFoundError),
    ('import collections.no_such_module', ModuleNotFoundError),
    ('from os import no_such_name', ImportError),
])
def test_broken_module(folder: pathlib.Path, text: str,
                       error: type[BaseException]) -> None:
    """What a module raises while it is imported passes through unchanged."""
    write_module(folder, 'broken_inside', text)
    with pytest.raises(error) as caught:
        import_object('broken_inside.Name')
    assert type(caught.value) is error


def test_sibling_missing_inside(folder: pathlib.Path) -> None:
    """A module that imports a missing sibling is broken, not missing."""
    (folder / 'sample_package').mkdir()
    write_module(folder / 'sample_package', '__init__', '')
    write_module(folder / 'sample_package', 'module',
                 'import sample_package.other')
    with pytest.raises(ModuleNotFoundError) as caught:
        import_module('sample_package.module')
    assert caught.value.name == 'sample_package.other'
