"""Find the binary of a server, or get the one that Debian packages.

The packages are downloaded by apt into folders of its own: the machine's
package lists, its cache and its installed packages stay as they are, and root
is not needed. The servers are written in Go: they need no other package.
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

APT = pathlib.Path('/etc/apt')
KEYRINGS = ('debian-archive-keyring.gpg', 'debian-archive-keyring.pgp')
RELEASES = frozenset((
    'buster', 'bullseye', 'bookworm', 'trixie', 'forky', 'sid',
    'oldoldstable', 'oldstable', 'stable', 'testing', 'unstable',
))
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
    """A binary cannot be had; the message says why, and what to do."""


@dataclass(frozen=True)
class Package:
    """A package of Debian with one binary that is wanted.

    `variable` names the environment variable with the path of another one;
    an empty `version` is that of the suite.
    """

    name: str
    title: str
    binary: str
    variable: str
    suite: str
    version: str = ''

    @property
    def cached(self) -> pathlib.Path:
        """Where the fetched binary is kept in the user's cache folder."""
        base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
        folder = f'{self.version or self.suite}-{platform.machine()}'
        return pathlib.Path(base) / 'jobslib' / self.name / folder / self.binary

    def error(self, reason: str) -> FetchError:
        """The error that says what to do instead."""
        tested = f' (the tests are written against {self.version})'
        return FetchError(
            f'{reason}.\nInstall {self.title}{tested if self.version else ""} and put '
            f'it on PATH, or set {self.variable} to its path.')


CONSUL = Package(
    'consul', 'Consul', 'consul', 'CONSUL_BIN',
    'bullseye', '1.8.7')  # the newest release of Debian with this package
PROMETHEUS = Package(
    'prometheus', 'Prometheus', 'prometheus', 'PROMETHEUS_BIN', 'bookworm')
PUSHGATEWAY = Package(
    'prometheus-pushgateway', 'the push gateway of Prometheus',
    'prometheus-pushgateway', 'PUSHGATEWAY_BIN', 'bookworm')
INFLUXDB = Package(
    'influxdb', 'InfluxDB 1', 'influxd', 'INFLUXD_BIN', 'bookworm')


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


def stanza(source: Source, suite: str, architecture: str, keyring: str) -> str:
    """The entry as deb822, for the suite of a package, always verified."""
    return (
        'Types: deb\n'
        f'URIs: {" ".join(source.uris)}\n'
        f'Suites: {suite}\n'
        'Components: main\n'
        f'Architectures: {architecture}\n'
        f'Signed-By: {source.signed_by or keyring}\n'
    )


def find_keyring(folder: pathlib.Path = pathlib.Path('/usr/share/keyrings')) -> str:
    """The key file of Debian's archive on this machine."""
    for name in KEYRINGS:
        if (folder / name).is_file():
            return str(folder / name)
    raise FetchError('There is no debian-archive-keyring to verify packages with')


def find(*packages: Package) -> list[pathlib.Path]:
    """The binaries of packages of one suite.

    Each is the one that its variable names, else the one on PATH, else a fetched
    one. Raises `FetchError`.
    """
    found = {package: _find(package) for package in packages}
    missing = [package for package, path in found.items() if path is None]
    if missing:
        _fetch(missing)
    return [path or package.cached for package, path in found.items()]


def _find(package: Package) -> pathlib.Path | None:
    if named := os.environ.get(package.variable):
        path = pathlib.Path(named).absolute()
        if not _executable(path):
            raise package.error(
                f'{package.variable} is {named!r}, which is no executable file')
        return path
    if found := shutil.which(package.binary):
        return pathlib.Path(found).absolute()
    return package.cached if _executable(package.cached) else None


def _fetch(packages: Sequence[Package]) -> None:
    """Download packages of one suite, and keep their binaries."""
    first = packages[0]
    for tool in ('apt-get', 'dpkg', 'dpkg-deb'):
        if shutil.which(tool) is None:
            raise first.error(f'This system has no {tool} to get {first.title} with')
    # Beside the target, so that the rename is atomic: of two processes that
    # fetch at once, each installs a whole file.
    cache = first.cached.parents[2]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix='.fetch-') as folder:
        root = pathlib.Path(folder)
        try:
            apt = _prepare_apt(root, first.suite)
            binaries = [_download(apt, root, package) for package in packages]
        except FetchError as exc:
            raise first.error(str(exc)) from exc
        for package, binary in zip(packages, binaries, strict=True):
            package.cached.parent.mkdir(parents=True, exist_ok=True)
            os.replace(binary, package.cached)


def _prepare_apt(root: pathlib.Path, suite: str) -> list[str]:
    """Fetch the lists of the suite; returns how to call apt-get for it."""
    source = debian_archive(read_sources())
    if source is None:
        raise FetchError(f'No entry under {APT} names the archive of Debian')
    architecture = _run(['dpkg', '--print-architecture']).strip()
    for name in ('state/lists/partial', 'cache/archives/partial',
                 'sources.list.d', 'preferences.d'):
        (root / name).mkdir(parents=True)
    (root / 'status').touch()
    (root / 'apt.conf').write_text(APT_CONFIG.format(root=root))
    keyring = '' if source.signed_by else find_keyring()
    (root / 'sources.list.d' / 'debian.sources').write_text(
        stanza(source, suite, architecture, keyring))
    apt = ['apt-get', '-q', '-c', str(root / 'apt.conf')]
    if os.geteuid() == 0:
        # The unprivileged user apt would change to may not enter our folder.
        apt += ['-o', 'APT::Sandbox::User=root']
    _run([*apt, 'update'], root)
    return apt


def _download(apt: list[str], root: pathlib.Path, package: Package) -> pathlib.Path:
    """Let apt download and verify the package; returns the binary in it."""
    wanted = f'={package.version}*' if package.version else ''
    _run([*apt, 'download', f'{package.name}{wanted}'], root)
    files = list(root.glob(f'{package.name}_*.deb'))
    if len(files) != 1:
        raise FetchError(f'apt-get left {len(files)} packages, not one')
    unpacked = root / package.name
    _run(['dpkg-deb', '-x', str(files[0]), str(unpacked)])
    binary = unpacked / 'usr' / 'bin' / package.binary
    if not _executable(binary):
        raise FetchError(f'The package {package.name} holds no {package.binary}')
    return binary


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


def _executable(path: pathlib.Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
