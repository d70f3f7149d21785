"""The API of the consul package, without what the package loads beside."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(code: str, *options: str) -> str:
    """Return what *code* prints in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, *options, '-c',
         f'import sys, threading; sys.path.insert(0, {str(ROOT)!r})\n{code}'],
        capture_output=True, text=True, check=True).stdout.strip()


def test_http_layer_is_not_loaded() -> None:
    """The client neither loads requests nor leaves half a package behind."""
    assert run(
        'import jobslib.consul.client\n'
        'print([name for name in sys.modules if name.partition(".")[0] in '
        '("consul", "requests", "urllib3")])') == '[]'


def test_imported_later() -> None:
    """Who imports the package after the client gets all of it."""
    assert run(
        'import jobslib.consul.client\n'
        'import consul\n'
        'print(consul.Consul.__name__, consul.Check.__name__, '
        'sys.modules["consul.base"] is consul.base, '
        'issubclass(consul.Consul, consul.base.Consul))'
    ) == 'Consul Check True True'


def test_imported_before() -> None:
    """A package that is loaded already is used, and stays."""
    assert run(
        'import consul\n'
        'from jobslib.consul.package import import_api\n'
        'failure, client = import_api()\n'
        'print(failure is consul.ConsulException, '
        'issubclass(client, consul.base.Consul), '
        'sys.modules["consul"] is consul)') == 'True True True'


def test_other_threads() -> None:
    """With other threads about, which may import it, all of it is imported."""
    assert run(
        'done = threading.Event()\n'
        'threading.Thread(target=done.wait, daemon=True).start()\n'
        'from jobslib.consul.package import import_api\n'
        'print(issubclass(import_api()[1], sys.modules["consul"].base.Consul), '
        '"requests" in sys.modules)') == 'True True'


def test_one_that_is_made_differently(tmp_path: pathlib.Path) -> None:
    """A package without such parts is used as a whole."""
    package = tmp_path / 'consul'
    package.mkdir()
    (package / '__init__.py').write_text('NEEDED = 1\n')
    (package / 'base.py').write_text(
        'from consul import NEEDED\n'
        'class ConsulException(Exception): pass\n'
        'class Consul:\n'
        '    def __init__(self): self.http = self.connect("127.0.0.1", 8500)\n')
    assert run(
        f'sys.path.insert(0, {str(tmp_path)!r})\n'
        'from jobslib.consul.package import import_api\n'
        'failure, client = import_api()\n'
        'import consul.base\n'
        'print(failure is consul.base.ConsulException, client("http").http)'
    ) == 'True http'


def test_no_package() -> None:
    """Without the package, the error is the usual one."""
    assert run(
        'from jobslib.consul.package import import_api\n'
        'try: import_api()\n'
        'except ModuleNotFoundError as exc: print(exc.name, exc)',
        '-I', '-S') == "consul No module named 'consul'"
