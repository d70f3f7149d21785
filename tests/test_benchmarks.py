"""What the benchmarks measure is installed for them."""

import subprocess
import sys

import pytest
from pages import ROOT

from benchmarks.candidates import DUMMY_LOCK, candidates
from jobslib import __version__


def test_installed() -> None:
    """This checkout is installed in an environment of its own, and leaves nothing."""
    with candidates(None) as [this]:
        done = subprocess.run(
            this.runjob('--version'), env=this.environment(DUMMY_LOCK),
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
