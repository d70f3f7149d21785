"""A systemd of the tests' own: the first process of namespaces, with a root of its own.

It starts nothing but the units that it is given, and changes nothing of the machine:
its root is a file system in memory, with /usr and what the tests import read-only
in it, and its processes are in a control group that goes with it.  The network is the
machine's.
"""

import errno
import functools
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from typing import Self, TypeVar

import jobslib
from integration.agents import HOST, Agent, wait_until
from integration.locks import ROOT
from integration.workers import DEADLINE, children, is_guard, is_keeper, read_proc

__all__ = ['Systemd', 'Unit', 'inner_id', 'missing']

T = TypeVar('T')
_numbers = itertools.count(1)

EXAMPLES = ROOT / 'examples/systemd'
BINARY = pathlib.Path('/lib/systemd/systemd')
PROGRAMS = ('unshare', 'nsenter', 'setpriv', 'pivot_root', 'systemctl', 'journalctl')
UNSHARE = ('unshare', '--fork', '--pid', '--mount', '--ipc', '--uts', '--cgroup')
#: What a system has of its own in /etc that programs need.
ETC = ('passwd', 'group', 'nsswitch.conf', 'ld.so.cache', 'ld.so.conf', 'hosts',
       'resolv.conf', 'localtime')
#: What units without `DefaultDependencies=no` refer to, and the journal.
TARGETS = ('jobs', 'sysinit', 'basic', 'shutdown', 'network-online', 'timers')
JOURNAL = ('systemd-journald.service', 'systemd-journald.socket')

#: Makes the root, moves to it and becomes systemd.  That takes /sys and /proc/sys
#: to be writable to mean that it may set up the machine, so they are not.
INIT = r'''
set -e
folder=$1 python=$2 binary=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$folder/root"
cd "$folder/root"
mkdir -p dev etc home opt/jobs opt/python proc run sys usr var/log var/lib old
mkdir -m 700 root
mkdir -m 1777 tmp var/tmp
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then cp -P "/$name" "$name"
    elif [ -d "/$name" ]; then
        mkdir "$name"
        mount --bind "/$name" "$name"
        mount -o remount,bind,ro "$name"
    fi
done
mount --rbind /usr usr
mount -o remount,bind,ro usr
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -o remount,bind,ro sys
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
cp -a "$folder/etc/." etc
mount --bind "$folder/opt" opt/jobs
mount --bind "$python" opt/python
mount -o remount,bind,ro opt/python
number=0
while read -r path; do
    mount --bind "$path" "opt/jobs/path/$number"
    mount -o remount,bind,ro "opt/jobs/path/$number"
    number=$((number + 1))
done < "$folder/path"
pivot_root . old
umount -l old
rmdir old
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=tests \
    SYSTEMD_UNIT_PATH=/etc/systemd/system \
    "$binary" --system --show-status=0 --log-target=console --unit=jobs.target
'''

RUNJOB = '''\
#!/opt/jobs/.venv/bin/python
import sys
from jobslib.main import main
sys.exit(main())
'''


@functools.cache
def missing() -> str | None:
    """What is needed to start a systemd and is not here, None if nothing is."""
    if os.geteuid() != 0:
        return 'root'
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        return ', '.join(lacking)
    if not BINARY.exists():
        return str(BINARY)
    if _cgroup_root() is None:
        return 'a mounted cgroup2'
    with tempfile.TemporaryDirectory() as folder:
        # In namespaces of its own that are gone with it.
        done = subprocess.run(
            [*UNSHARE, 'mount', '-t', 'cgroup2', 'cgroup2', folder],
            capture_output=True, text=True)
    return f'namespaces ({done.stderr.strip()})' if done.returncode else None


def _cgroup_root() -> pathlib.Path | None:
    for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
        fields, _, kind = line.partition(' - ')
        if kind.startswith('cgroup2 '):
            path = pathlib.Path(fields.split()[4])
            return path if os.access(path, os.W_OK) else None
    return None


class Systemd:
    """A systemd that runs, and all that it started, until it is closed.

    `/opt/jobs` has an environment in `.venv` with `runjob`, as the examples want it.
    """

    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='jobslib-systemd-'))
        root = _cgroup_root()
        assert root is not None, missing()
        self._cgroup = root / self.folder.name
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        for name in ('root', 'etc', 'opt/.venv/bin'):
            (self.folder / name).mkdir(parents=True)
        units = self.folder / 'etc/systemd/system'
        units.mkdir(parents=True)
        for name in ETC:
            if (path := pathlib.Path('/etc', name)).exists():
                shutil.copy(path, self.folder / 'etc')
        (self.folder / 'etc/machine-id').write_text('a' * 32 + '\n')
        for name in JOURNAL:
            shutil.copy(BINARY.parent / 'system' / name, units)
        for name in TARGETS:
            (units / f'{name}.target').write_text(
                '[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service\n')
        self._prepare_python()
        shutil.copy(ROOT / 'integration/unit_jobs.py', self.folder / 'opt/jobs.py')
        (self.folder / 'init').write_text(INIT)
        for path in [self.folder / 'opt', *self.folder.glob('opt/**/*')]:
            if not path.is_symlink():
                # Jobs have users of their own, whatever the umask of the tests.
                path.chmod(0o755)

    def _prepare_python(self) -> None:
        """Make an environment that imports what the tests import."""
        venv, opt = self.folder / 'opt/.venv', self.folder / 'opt'
        version = f'python{sys.version_info[0]}.{sys.version_info[1]}'
        paths = [str(pathlib.Path(jobslib.__file__).parents[1])]
        paths += [path for path in sys.path if os.path.isdir(path)
                  and path not in paths and not _is_standard(path)]
        for number in range(len(paths)):
            (opt / f'path/{number}').mkdir(parents=True)
        (self.folder / 'path').write_text(''.join(f'{path}\n' for path in paths))
        packages = venv / 'lib' / version / 'site-packages'
        packages.mkdir(parents=True)
        (packages / 'jobs.pth').write_text(''.join(
            f'/opt/jobs/path/{number}\n' for number in range(len(paths))))
        (venv / 'bin/python').symlink_to(f'/opt/python/bin/{version}')
        (venv / 'pyvenv.cfg').write_text('home = /opt/python/bin\n')
        (venv / 'bin/runjob').write_text(RUNJOB)

    def _start(self) -> None:
        self._cgroup.mkdir()
        # The namespace of control groups begins where its first process is.
        with open(self.folder / 'log', 'wb') as log:
            self._process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', 'sh', '-c',
                 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(self._cgroup),
                 *UNSHARE, '--kill-child', 'bash', str(self.folder / 'init'),
                 str(self.folder), sys.base_prefix, str(BINARY)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        try:
            self.pid = wait_until(self._find, DEADLINE, 'the start of systemd')
            wait_until(lambda: self.ctl('is-active', 'jobs.target', check=False)
                       == 'active', DEADLINE, 'jobs.target')
            self.ctl('log-target', 'journal')
        except TimeoutError as exc:
            log_text = (self.folder / 'log').read_text(errors='replace')
            raise TimeoutError(f'{exc}\n{log_text}') from None

    def _find(self) -> int | None:
        assert self._process is not None
        if self._process.poll() is not None:
            log_text = (self.folder / 'log').read_text(errors='replace')
            raise RuntimeError(f'systemd ended\n{log_text}')
        for pid in children(self._process.pid):
            if read_proc(pid, 'comm').strip() == b'systemd':
                return pid
        return None

    def run(self, *command: str, check: bool = True,
            stdin: str = '') -> subprocess.CompletedProcess[str]:
        """Run a command there, as root."""
        done = subprocess.run(
            ['nsenter', '-t', str(self.pid), '-m', '-p', '-u', '-i', '-C', '-r', '-w',
             'env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', *command],
            input=stdin, capture_output=True, text=True, timeout=120)
        if check and done.returncode:
            raise RuntimeError(f'{" ".join(command)}: {done.returncode}\n'
                               f'{done.stdout}{done.stderr}')
        return done

    def ctl(self, *arguments: str, check: bool = True) -> str:
        """What `systemctl` says."""
        return self.run('systemctl', '--no-pager', *arguments,
                        check=check).stdout.strip()

    def journal(self, *units: str) -> str:
        """What units, and systemd about them, logged, without times and names."""
        chosen = [word for unit in units for word in ('-u', unit)]
        # What was written before is in it then.
        self.run('journalctl', '--sync')
        return self.run('journalctl', '--no-pager', '--quiet', '-o', 'cat',
                        *chosen).stdout

    def path(self, path: str) -> pathlib.Path:
        """A path there, seen from here."""
        return pathlib.Path(f'/proc/{self.pid}/root{path}')

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file there."""
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(textwrap.dedent(text))
        self.path(path).chmod(mode)

    def processes(self, cgroup: str) -> list[int]:
        """The processes of a control group, by their ids here."""
        try:
            text = (self._cgroup / cgroup.strip('/') / 'cgroup.procs').read_text()
        except FileNotFoundError:
            return []
        return [int(word) for word in text.split()]

    def close(self) -> None:
        """Kill all of it, and remove what was made for it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self.pid:
            # The namespace is gone when its first process is.
            wait_until(lambda: not os.path.exists(f'/proc/{self.pid}'), DEADLINE,
                       'the end of systemd')
        for path, _, _ in os.walk(self._cgroup, topdown=False):
            wait_until(functools.partial(_removed, path), DEADLINE,
                       f'{path} is empty')
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Unit:
    """An instance of the example's template, under a name of its own.

    The files are those of `examples`, as they stand.  With `consul` the lock is in
    Consul, by the drop-in and with the token.  `env` is for the file of variables
    that the template reads, `override` is a drop-in's section [Service].
    """

    def __init__(
        self, systemd: Systemd, task: str, *, consul: Agent | None = None,
        token: str = '', env: Mapping[str, object] | None = None, override: str = '',
    ) -> None:
        self.systemd = systemd
        self.consul = consul
        template = f'jobslib{next(_numbers)}'
        self.key = f'jobs/{template}/lock'
        self.name = f'{template}@jobs.{task}.service'
        self._template = f'/etc/systemd/system/{template}@.service'
        self._env = f'/etc/jobs/jobs.{task}.env'
        given: dict[str, object] = {}
        systemd.write(self._template, (EXAMPLES / 'jobslib@.service').read_text())
        if consul is not None:
            given |= {'CONSUL_HTTP_ADDR': f'{HOST}:{consul.ports.http}',
                      'JOBSLIB_ONE_INSTANCE_CONSUL_KEY': self.key}
            systemd.write('/etc/jobs/consul-token', token, 0o600)
            systemd.write(f'{self._template}.d/consul.conf',
                          (EXAMPLES / 'consul.conf').read_text())
        given |= env or {}
        if override:
            systemd.write(f'{self._template}.d/override.conf',
                          f'[Service]\n{override}\n')
        systemd.write(self._env, ''.join(f'{name}={given[name]}\n' for name in given))
        systemd.ctl('daemon-reload')

    def ctl(self, verb: str, *, check: bool = True) -> str:
        """What `systemctl` says of it."""
        return self.systemd.ctl(verb, self.name, check=check)

    def show(self, name: str) -> str:
        """A property, as `systemctl show` has it."""
        return self.systemd.ctl('show', '--property', name, '--value', self.name)

    def log(self) -> str:
        """What it and systemd logged about it, without times and names."""
        return self.systemd.journal(self.name)

    def until(self, condition: Callable[[], T | None], what: str,
              timeout: float = DEADLINE) -> T:
        """The first true value of a condition; the error has the end of the journal."""
        try:
            return wait_until(condition, timeout, what)
        except TimeoutError as exc:
            raise TimeoutError(f'{exc}\n{self.systemd.journal()[-4000:]}') from None

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Wait until a text was logged so many times."""
        self.until(lambda: self.log().count(text) >= times, f'{times} x {text!r}')

    def processes(self) -> list[int]:
        """All its processes, by their ids here."""
        return self.systemd.processes(
            f'system.slice/system-{self.name.partition("@")[0]}.slice/{self.name}')

    def main(self) -> int:
        """Its main process, by its id here."""
        pid = int(self.show('MainPID'))
        for each in self.processes():
            if inner_id(each) == pid:
                return each
        raise LookupError(f'{self.name} has no process {pid}\n{self.log()}')

    def run_process(self) -> int:
        """The run's process, by its id here."""
        return next(pid for pid in sorted(children(self.main()))
                    if not is_keeper(pid) and not is_guard(pid))

    def keeper(self) -> int:
        """The lease keeper, by its id here."""
        return next(filter(is_keeper, self.processes()))

    def close(self) -> None:
        """End it, in whatever state it is, and remove what it left."""
        self.systemd.ctl('kill', '--signal', 'KILL', self.name, check=False)
        self.systemd.ctl('stop', self.name)
        shutil.rmtree(self.systemd.path('/var/lib/private/jobslib'),
                      ignore_errors=True)
        self.systemd.path(self._env).unlink()
        shutil.rmtree(self.systemd.path(f'{self._template}.d'), ignore_errors=True)
        self.systemd.path(self._template).unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def inner_id(pid: int) -> int:
    """The id that a process has in its own namespace."""
    found = re.search(rb'^NSpid:.*?(\d+)$', read_proc(pid, 'status'), re.MULTILINE)
    return int(found[1]) if found else 0


def _is_standard(path: str) -> bool:
    """Whether a folder comes with the interpreter."""
    return pathlib.Path(path).is_relative_to(sys.base_prefix) and not path.endswith(
        'packages')


def _removed(folder: str) -> bool:
    """Whether a control group could be removed: not while it has processes."""
    try:
        os.rmdir(folder)
    except OSError as exc:
        return exc.errno == errno.ENOENT
    return True
