"""What is measured: this checkout, and perhaps another revision beside it."""

import io
import os
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ['CONSUL_LOCK', 'DUMMY_LOCK', 'FILE_LOCK', 'Candidate', 'candidates']

ROOT = pathlib.Path(__file__).resolve().parents[1]
DUMMY_LOCK = 'jobslib.oneinstance.dummy.DummyLock'
FILE_LOCK = 'jobslib.oneinstance.file.FileLock'
CONSUL_LOCK = 'jobslib.oneinstance.consul.ConsulLock'

# As pip writes it.
SCRIPT = """\
#!{python}
import re
import sys
from jobslib.main import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""


@dataclass(frozen=True)
class Candidate:
    """A revision of jobslib, in an environment of its own.

    The *tree* is its source, the *folder* what is made for it.
    """

    name: str
    tree: pathlib.Path
    folder: pathlib.Path

    @property
    def python(self) -> str:
        """The interpreter."""
        return str(self.folder / 'bin' / 'python')

    def runjob(self, *arguments: str) -> list[str]:
        """The command ``runjob``."""
        return [str(self.folder / 'bin' / 'runjob'), *arguments]

    def environment(self, backend: str, address: tuple[str, int] | None = None,
                    key: str = 'lock', **variables: str) -> dict[str, str]:
        """The environment of a job with the lock *backend*.

        A *key* of its own has a job that nobody has run before.
        """
        env = {name: value for name, value in os.environ.items()
               if not name.startswith(('JOBSLIB_', 'CONSUL_', 'PYTHON'))}
        env['JOBSLIB_ONE_INSTANCE_BACKEND'] = backend
        if backend == FILE_LOCK:
            env['JOBSLIB_ONE_INSTANCE_FILE_FOLDER'] = str(self.folder / 'locks')
        if address is not None:
            env['CONSUL_HTTP_ADDR'] = f'{address[0]}:{address[1]}'
            # Revisions do not read each other's records.
            env['JOBSLIB_ONE_INSTANCE_CONSUL_KEY'] = f'{self.name}/{key}'
        return env | variables

    def knows(self, word: str) -> bool:
        """Whether the source has a word in it."""
        return any(word in path.read_text()
                   for path in (self.tree / 'jobslib').rglob('*.py'))


@contextmanager
def candidates(beside: str | None) -> Iterator[list[Candidate]]:
    """This checkout, and the revision *beside*; in a folder with the tasks.

    Each has a new environment with nothing in it but jobslib and a way to what
    it needs: what is installed beside it is loaded by every Python that starts,
    ``python -c pass`` included, and would make the ratios smaller.
    """
    with tempfile.TemporaryDirectory(prefix='jobslib-benchmark-') as name:
        folder = pathlib.Path(name)
        (folder / 'benchmarks').symlink_to(ROOT / 'benchmarks')
        found = [_install('this', ROOT, folder)]
        if beside is not None:
            _export(beside, folder / 'source')
            found.append(_install(beside, folder / 'source', folder))
        before = pathlib.Path.cwd()
        os.chdir(folder)
        try:
            yield found
        finally:
            os.chdir(before)


def _export(revision: str, tree: pathlib.Path) -> None:
    """Write the source of a revision.  Raises `SystemExit`."""
    done = subprocess.run(['git', 'archive', revision, 'jobslib'], cwd=ROOT,
                          capture_output=True)
    if done.returncode:
        sys.exit(f'--beside: {revision!r} is not to be had from git in {ROOT}: '
                 f'{done.stderr.decode().strip()}; allowed: a commit, tag or '
                 f'branch')
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tree)


def _install(name: str, tree: pathlib.Path, folder: pathlib.Path) -> Candidate:
    candidate = Candidate(name, tree, folder / f'env-{name.replace("/", "-")}')
    venv.create(candidate.folder, symlinks=True)
    version = f'python{sys.version_info.major}.{sys.version_info.minor}'
    packages = candidate.folder / 'lib' / version / 'site-packages'
    (packages / 'jobslib').symlink_to(tree / 'jobslib')
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    script = candidate.folder / 'bin' / 'runjob'
    script.write_text(SCRIPT.format(python=candidate.python))
    script.chmod(0o755)
    return candidate
