"""What a job needs of the kernel is tried before anything is locked."""

import _thread
import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest
from support import environment, make_context

from jobslib import needs
from jobslib.commands import check
from jobslib.exceptions import LockUnavailableError
from jobslib.exitcodes import ExitCode
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.diagnosis import FAILED, OK
from jobslib.testing import ConsulStandIn, make_lock

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_nothing_is_missing() -> None:
    """Where the tests run, a job can work; and nothing is left open."""
    before = len(os.listdir('/proc/self/fd'))
    assert needs.missing() is None
    assert [error for _, error in needs.examine()] == [None] * 8
    assert len(os.listdir('/proc/self/fd')) == before


@pytest.mark.parametrize(('module', 'name', 'what'), [
    (os, 'pidfd_open', 'watch processes'),
    (os, 'memfd_create', 'share memory'),
    (os, 'eventfd', 'wake processes'),
    (signal, 'pidfd_send_signal', 'end processes'),
])
@pytest.mark.parametrize('error', [
    OSError(38, 'Function not implemented'), AttributeError('no such call')])
def test_call_that_is_refused(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, what: str,
    error: Exception,
) -> None:
    """The line says what is not to be had, why, and what is needed."""
    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(module, name, refuse)
    line = needs.missing() or ''
    assert line.startswith(f'this machine does not let a job {what} ({name})')
    assert getattr(error, 'strerror', str(error)) in line
    assert 'Linux 5.4' in line
    assert '\n' not in line


def test_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of threads is found out, whichever of them is refused."""
    start = _thread.start_new_thread
    over: list[_thread.LockType] = []

    def refuse(run: Callable[..., object], args: tuple[_thread.LockType]) -> int:
        if len(over) == 2:
            raise RuntimeError("can't start new thread")
        over.extend(args)
        return start(run, args)

    monkeypatch.setattr(_thread, 'start_new_thread', refuse)
    assert "start a few threads: can't start new thread; needed: more room, " \
        'see ulimit -u' in (needs.missing() or '')
    # None of them is left: each has let go of its own, and was waited for.
    assert [each.locked() for each in over] == [True, True]


def run(program: str) -> list[str]:
    """Return the lines that a program prints."""
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program)],
        capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.splitlines()


def test_too_few_files() -> None:
    """A limit of open files is found out."""
    [line] = run('''
        import resource
        from jobslib import needs
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        print(needs.missing())
        ''')
    assert 'open a few files: Too many open files; needed: more room, ' in line
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 16


# A filter that refuses one system call: load its number, compare, return.
SECCOMP = '''
    import ctypes, errno, struct
    libc = ctypes.CDLL(None)
    def refuse(number):
        program = b''.join(struct.pack('HBBI', *each) for each in (
            (0x20, 0, 0, 0), (0x15, 0, 1, number),
            (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7fff0000)))
        buffer = ctypes.create_string_buffer(program)
        class Program(ctypes.Structure):
            _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
        filter = Program(4, ctypes.addressof(buffer))
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
    from jobslib import needs
'''


@pytest.mark.parametrize(('number', 'call'), [
    (434, 'pidfd_open'), (424, 'pidfd_send_signal')])
def test_sandbox(number: int, call: str) -> None:
    """What a sandbox refuses is found out."""
    [line] = run(textwrap.dedent(SECCOMP) + f'''
refuse({number})
print(needs.missing())
''')
    assert f'({call}): Operation not permitted; needed: ' in line


def run_job(folder: pathlib.Path, prepare: str,
            *args: str) -> tuple[int, str, str]:
    """Run a job after *prepare*; returns its exit code and what it prints."""
    done = subprocess.run(
        [sys.executable, '-c', prepare + textwrap.dedent('''
            import sys
            from jobslib.main import main
            sys.exit(main(sys.argv[1:]))
            '''), *args],
        capture_output=True, text=True, timeout=30, cwd=folder,
        env=environment(folder, PYTHONPATH=str(ROOT)))
    return done.returncode, done.stdout, done.stderr


LIMITED = '''
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
'''
WITHOUT = {
    'pidfd_open': textwrap.dedent(SECCOMP) + 'refuse(434)\n',
    'pidfd_send_signal': textwrap.dedent(SECCOMP) + 'refuse(424)\n',
    'open a few files': LIMITED,
}
if os.uname().machine == 'x86_64':
    WITHOUT |= {
        'memfd_create': textwrap.dedent(SECCOMP) + 'refuse(319)\n',
        'eventfd': textwrap.dedent(SECCOMP) + 'refuse(290)\n',
        'prctl': textwrap.dedent(SECCOMP) + 'import ctypes\nrefuse(157)\n',
    }


@pytest.mark.parametrize('what', WITHOUT)
def test_job_ends_at_once(tmp_path: pathlib.Path, what: str) -> None:
    """A job that cannot work here says so in one line, and runs nothing."""
    code, out, err = run_job(
        tmp_path, WITHOUT[what], '--run-once', 'examples.hello.Hello')
    assert code == ExitCode.LOCK_SERVICE_UNAVAILABLE, err
    assert out == ''
    [line] = err.splitlines()
    assert line.startswith('runjob: error: this machine does not let a job ')
    assert what in line


@pytest.fixture
def consul() -> Iterator[ConsulStandIn]:
    """A stand-in of Consul."""
    with ConsulStandIn() as stand_in:
        yield stand_in


def refuse_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no memory be shared."""
    def refuse(*args: object) -> None:
        raise OSError(38, 'Function not implemented')

    monkeypatch.setattr(os, 'memfd_create', refuse)


def test_nothing_is_asked_of_consul(
    consul: ConsulStandIn, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock that cannot be kept is not taken, and no session is made."""
    refuse_memory(monkeypatch)
    lock = make_lock(ConsulLock, 'needs', **consul.options())
    try:
        with pytest.raises(LockUnavailableError, match='share memory'):
            lock.acquire()
    finally:
        lock.close()
    assert all(request.method == 'GET' for request in consul.requests)


@pytest.mark.parametrize('lacks', [False, True])
def test_check_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    lacks: bool,
) -> None:
    """``runjob check`` tries it, whatever the lock is."""
    if lacks:
        refuse_memory(monkeypatch)
    report = check.examine(make_context({'ONE_INSTANCE': {
        'backend': 'jobslib.oneinstance.dummy.DummyLock'}}).config)
    [finding] = report.system
    check.show(report)
    assert '\nSystem\n' in capsys.readouterr().out
    if lacks:
        assert finding.what == 'share memory (memfd_create)'
        assert finding.result == FAILED
        assert report.code == ExitCode.LOCK_SERVICE_UNAVAILABLE
    else:
        assert finding.what == 'have what a job needs of the system'
        assert finding.result == OK
        assert report.code == ExitCode.DONE
