"""What the benchmarks measure is installed for them."""

import importlib
import subprocess
import sys

import pytest
from pages import ROOT

from jobslib import __version__


def test_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This checkout is installed in an environment of its own, and leaves nothing."""
    # Not installed with the library, and not beside the tests.
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module('benchmarks.candidates')
    with module.candidates(None) as [this]:
        done = subprocess.run(
            this.runjob('--version'), env=this.environment(module.DUMMY_LOCK),
            capture_output=True, text=True, check=True)
        assert done.stdout == f'jobslib {__version__}\n'
        assert (this.folder / 'bin').is_dir()
    assert not this.folder.exists()


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='not a repository')
def test_revision_that_is_not_there() -> None:
    """A revision that git does not know is refused."""
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks', '--beside', 'no-such-revision'],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("--beside: 'no-such-revision' is not to be had")
