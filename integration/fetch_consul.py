#!/usr/bin/env python3
"""Find a Consul binary, or get the one that Debian packages.

Run as a script it prints the path of the binary. The package is downloaded by
apt into folders of its own: the machine's package lists, its cache and its
installed packages stay as they are, and root is not needed.
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

VERSION = '1.8.7'
SUITE = 'bullseye'  # the newest release of Debian with a Consul package
APT = pathlib.Path('/etc/apt')
KEYRINGS = ('debian-archive-keyring.gpg', 'debian-archive-keyring.pgp')
RELEASES = frozenset((
    'buster', 'bullseye', 'bookworm', 'trixie', 'forky', 'sid',
    'oldoldstable', 'oldstable', 'stable', 'testing', 'unstable',
))
ADVICE = (
    f'Install Consul (the tests are written against {VERSION}) and put it on '
    'PATH, or set CONSUL_BIN to its path.'
)
# Hooks of the machine's own configuration have no business with our lists.
APT_CONFIG = '''\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources.list.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{root}/preferences.d";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "2";
APT::Update::Error-Mode "any";
'''


class FetchError(Exception):
    """There is no Consul to be had; the message says what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f'{reason}.\n{ADVICE}')


@dataclass(frozen=True)
class Source:
    """One entry of apt's sources; `signed_by` is '' where none is given."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ''


def parse_deb822(text: str) -> list[Source]:
    """Entries of a `.sources` file that are enabled and hold binary packages."""
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    sources = []
    for stanza in re.split(r'\n\s*\n', '\n'.join(lines)):
        fields = _fields(stanza)
        enabled = fields.get('enabled', 'yes').strip().lower()
        if 'deb' not in fields.get('types', '').split():
            continue
        if enabled not in ('no', 'false', '0', 'off', 'without', 'disable'):
            sources.append(Source(
                uris=tuple(fields.get('uris', '').split()),
                suites=tuple(fields.get('suites', '').split()),
                components=tuple(fields.get('components', '').split()),
                signed_by=fields.get('signed-by', '').strip(' \n'),
            ))
    return sources


def _fields(stanza: str) -> dict[str, str]:
    """Fields of one deb822 stanza, their names in lower case."""
    fields: dict[str, str] = {}
    name = ''
    for line in stanza.splitlines():
        if line[:1].isspace():
            fields[name] = f'{fields.get(name, "")}\n{line}'
        elif ':' in line:
            name, value = line.split(':', 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def parse_one_line(text: str) -> list[Source]:
    """Entries of a `.list` file that hold binary packages."""
    pattern = re.compile(
        r'deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)'
        r'(?P<components>[^#]*)'
    )
    sources = []
    for line in text.splitlines():
        if match := pattern.match(line.strip()):
            signed = re.search(r'signed-by=(\S+)', match['options'] or '', re.I)
            sources.append(Source(
                uris=(match['uri'],),
                suites=(match['suite'],),
                components=tuple(match['components'].split()),
                signed_by=signed[1].replace(',', ' ') if signed else '',
            ))
    return sources


def read_sources(folder: pathlib.Path = APT) -> list[Source]:
    """Every entry of the machine's apt sources, in apt's order."""
    parts = folder / 'sources.list.d'
    files = [folder / 'sources.list', *sorted(parts.glob('*'))]
    sources = []
    for path in files:
        parse = {'.list': parse_one_line, '.sources': parse_deb822}.get(path.suffix)
        if parse is not None and path.is_file():
            sources += parse(path.read_text(encoding='utf-8', errors='replace'))
    return sources


def debian_archive(sources: Iterable[Source]) -> Source | None:
    """The entry that names Debian's main archive, as far as one can tell."""
    found = [source for source in sources if _is_archive(source)]
    # A path that ends in /debian is the archive rather than a vendor who
    # names the suites of his own repository after Debian's releases.
    return max(found, key=lambda source: _names_debian(source.uris), default=None)


def _is_archive(source: Source) -> bool:
    return (
        not RELEASES.isdisjoint(source.suites)
        and 'main' in source.components
        and bool(source.uris)
        and not any(uri.startswith('cdrom:') for uri in source.uris)
        and not _foreign_key(source.signed_by)
    )


def _foreign_key(signed_by: str) -> bool:
    """Whether the entry is signed with a key file that is not Debian's."""
    return signed_by.startswith('/') and 'debian' not in signed_by


def _names_debian(uris: Iterable[str]) -> bool:
    return any(uri.rstrip('/').endswith('/debian') for uri in uris)


def stanza(source: Source, architecture: str, keyring: str) -> str:
    """The entry as deb822, for the suite of the package, always verified."""
    return (
        'Types: deb\n'
        f'URIs: {" ".join(source.uris)}\n'
        f'Suites: {SUITE}\n'
        'Components: main\n'
        f'Architectures: {architecture}\n'
        f'Signed-By: {source.signed_by or keyring}\n'
    )


def find_keyring(folder: pathlib.Path = pathlib.Path('/usr/share/keyrings')) -> str:
    """The key file of Debian's archive on this machine."""
    for name in KEYRINGS:
        if (folder / name).is_file():
            return str(folder / name)
    raise FetchError('There is no debian-archive-keyring to verify the package with')


def cached() -> pathlib.Path:
    """Where the fetched binary is kept in the user's cache folder."""
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    folder = f'{VERSION}-{platform.machine()}'
    return pathlib.Path(base) / 'jobslib' / 'consul' / folder / 'consul'


def fetch() -> pathlib.Path:
    """The cached binary, downloaded first where there is none.

    Raises `FetchError`.
    """
    target = cached()
    if _executable(target):
        return target
    for tool in ('apt-get', 'dpkg', 'dpkg-deb'):
        if shutil.which(tool) is None:
            raise FetchError(f'This system has no {tool} to get Consul with')
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the rename is atomic: of two processes that
    # fetch at once, each installs a whole file.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix='.fetch-') as folder:
        binary = _download(pathlib.Path(folder))
        if VERSION not in _run([str(binary), 'version']):
            raise FetchError(f'The package does not hold Consul {VERSION}')
        os.replace(binary, target)
    return target


def _download(root: pathlib.Path) -> pathlib.Path:
    """Let apt download and verify the package; returns the binary in it."""
    source = debian_archive(read_sources())
    if source is None:
        raise FetchError(f'No entry under {APT} names the archive of Debian')
    architecture = _run(['dpkg', '--print-architecture']).strip()
    for name in ('state/lists/partial', 'cache/archives/partial',
                 'sources.list.d', 'preferences.d'):
        (root / name).mkdir(parents=True)
    (root / 'status').touch()
    (root / 'apt.conf').write_text(APT_CONFIG.format(root=root))
    (root / 'sources.list.d' / 'debian.sources').write_text(
        stanza(source, architecture, '' if source.signed_by else find_keyring())
    )
    apt = ['apt-get', '-q', '-c', str(root / 'apt.conf')]
    if os.geteuid() == 0:
        # The unprivileged user apt would change to may not enter our folder.
        apt += ['-o', 'APT::Sandbox::User=root']
    _run([*apt, 'update'], root)
    _run([*apt, 'download', f'consul={VERSION}*'], root)
    packages = list(root.glob('consul_*.deb'))
    if len(packages) != 1:
        raise FetchError(f'apt-get left {len(packages)} packages, not one')
    _run(['dpkg-deb', '-x', str(packages[0]), str(root / 'package')])
    return root / 'package' / 'usr' / 'bin' / 'consul'


def _run(command: Sequence[str], folder: pathlib.Path | None = None) -> str:
    """Standard output of a command that must succeed."""
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, 'LC_ALL': 'C'}, timeout=600,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace',
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise FetchError(f'{command[0]} failed: {exc}') from exc
    if done.returncode != 0:
        tail = '\n'.join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise FetchError(f'{command[0]} failed, exit code {done.returncode}: {tail}')
    return done.stdout


def find_consul() -> pathlib.Path:
    """The binary named by CONSUL_BIN, else the one on PATH, else a fetched one.

    Raises `FetchError`.
    """
    if named := os.environ.get('CONSUL_BIN'):
        path = pathlib.Path(named).absolute()
        if not _executable(path):
            raise FetchError(f'CONSUL_BIN is {named!r}, which is no executable file')
        return path
    found = shutil.which('consul')
    return pathlib.Path(found).absolute() if found else fetch()


def _executable(path: pathlib.Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def main() -> int:
    """Print the path of a Consul binary; 1 and one message when there is none."""
    try:
        print(find_consul())
    except FetchError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
