"""``runjob exec``: any program as a job, under a lock, in real processes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import pytest
from support import (
    DEADLINE,
    STEADY,
    Job,
    environment,
    is_free,
    run_job,
    until,
    write_module,
)

from jobslib.exitcodes import ExitCode
from jobslib.testing import ConsulStandIn

#: Says who it is, and its child as well, and what each got; then ends.
FAMILY = '''
trap 'echo parent is told; wait; exit 0' TERM
sh -c 'trap "echo child is told; exit" TERM; echo child; while :; do sleep 0.1; done' &
echo parent $$
while :; do sleep 0.02; done
'''
#: Writes its process id, and does not obey.
STUBBORN = ("trap 'echo told' TERM; echo stubborn $$; "
            "while :; do sleep 0.02; done")
#: Is killed the first time, with a child that goes on.
KILLED = '''
test -e once && exit
touch once
sleep 60 &
echo child $!
kill -USR1 $$
'''
TASK = '''
from jobslib import BaseTask, argument


class Own(BaseTask):
    name = 'own'
    arguments = (argument('--name', required=True),)

    def task(self):
        print('name', self.args.name)
'''
ONCE = ('exec', '--name', 'job', '--run-once', '--')
FOR_EVER = ('exec', '--name', 'job', '--sleep-interval', '0.01', '--')


def status(folder: pathlib.Path, *args: str) -> dict[str, Any]:
    """Return what ``runjob status`` knows of the job."""
    done = run_job(folder, 'status', '--json', '--name', 'job', *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def last_run(folder: pathlib.Path) -> tuple[str, str | None]:
    """Return outcome and error of the last run."""
    run = status(folder)['last_run']
    return run['outcome'], run['error']


def has_ended(pid: int) -> bool:
    """Return whether a process is gone, or will be when it is waited for."""
    try:
        return ') Z ' in pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return True


def pid_in(job: Job, word: str) -> int:
    """Return the process id that the program has written after *word*."""
    job.wait_for(f'{word} ')
    until(lambda: job.output.partition(f'{word} ')[2].partition('\n')[1])
    return int(job.output.partition(f'{word} ')[2].split()[0])


# A run.

def test_streams_and_arguments(tmp_path: pathlib.Path) -> None:
    """What the program writes is left as it is, and so are its arguments."""
    args = ['--run-once', 'status', '-s', 'none', '--help', '--', '-5', 'é']
    code = 'import sys; print(sys.argv[1:]); print("there", file=sys.stderr)'
    done = run_job(tmp_path, *ONCE, sys.executable, '-c', code, *args)
    assert (done.returncode, done.stdout) == (0, f'{args}\n')
    assert done.stderr.splitlines().count('there') == 1
    assert last_run(tmp_path) == ('succeeded', None)


def test_environment(tmp_path: pathlib.Path) -> None:
    """The program knows its job, its slot and its fencing token."""
    code = ('import os; print(os.environ["JOBSLIB_JOB"], '
            'os.environ.get("JOBSLIB_SLOT"), '
            'os.environ["JOBSLIB_FENCING_TOKEN"])')
    with Job(tmp_path, 'exec', '--schedule', '* * * * * *', '--time-zone',
             'Asia/Kathmandu', '--name', 'job', '--', sys.executable, '-c',
             code) as job:
        job.wait_for('run succeeded')
        # Another run may have ended by now, and has written its line as well.
        token = status(tmp_path)['last_run']['token']
        lines = [line.split() for line in job.output.splitlines()
                 if line.startswith('job ')]
        assert lines[0][1].endswith('+05:45')
        assert token in [int(words[2]) for words in lines]


def test_program_of_jobslib(tmp_path: pathlib.Path) -> None:
    """A program may be a runjob itself; the variables do not disturb it."""
    done = run_job(tmp_path, *ONCE, sys.executable, '-m', 'jobslib', 'exec',
                   '--name', 'other', '--run-once', '--', 'echo', 'inside')
    assert (done.returncode, done.stdout) == (0, 'inside\n')


def test_exit_code(tmp_path: pathlib.Path) -> None:
    """An exit code other than 0 fails the run, in one line."""
    done = run_job(tmp_path, *ONCE, 'sh', '-c', 'exit 3')
    assert done.returncode == ExitCode.TASK_FAILED
    assert done.stderr.endswith(': exit code 3\n')
    assert last_run(tmp_path) == ('failed', 'TaskError: exit code 3')


def test_killed(tmp_path: pathlib.Path) -> None:
    """A run is killed as its program is, and what that started goes too."""
    with Job(tmp_path, *FOR_EVER, 'sh', '-c', KILLED) as job:
        child = pid_in(job, 'child')
        job.wait_for('run killed')
        job.wait_for('run succeeded')
        assert has_ended(child)
        assert 'killed by SIGUSR1' in job.output
        runs = status(tmp_path)['history']
    assert [(run['outcome'], run['error']) for run in runs[:2]] == [
        ('killed', 'killed by SIGUSR1'), ('succeeded', None)]


@pytest.mark.parametrize('content, why', [
    (b'\x7fELF, but only nearly', 'Exec format error (a script has to name '
                                  'its interpreter first: #!/bin/sh)'),
    (b'#!/no/such/sh\n', 'No such file or directory (it, or the interpreter '
                         'that its first line names)')])
def test_no_program(tmp_path: pathlib.Path, content: bytes, why: str) -> None:
    """A program that cannot be executed after all fails the run, and what to
    look at is said."""
    program = tmp_path / 'program'
    program.write_bytes(content)
    program.chmod(0o755)
    done = run_job(tmp_path, *ONCE, './program')
    assert done.returncode == ExitCode.TASK_FAILED
    assert done.stderr.endswith(f": './program' cannot be executed: {why}\n")


def test_output_is_closed(tmp_path: pathlib.Path) -> None:
    """A job that was started without an output runs its program all the
    same."""
    done = subprocess.run(
        ['sh', '-c', 'exec "$@" >&-', 'sh', sys.executable, '-m', 'jobslib',
         *ONCE, 'touch', 'made'], cwd=tmp_path, timeout=DEADLINE,
        env=environment(tmp_path / 'run'), stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'made').exists()


def test_again_and_again(tmp_path: pathlib.Path) -> None:
    """The program is started anew for each run, whatever became of the last.
    """
    with Job(tmp_path, *FOR_EVER, 'sh', '-c',
             'echo x >> runs; test $(wc -l < runs) != 2') as job:
        job.wait_for('run failed')
        job.wait_for('run succeeded', 3)


def test_one_instance(tmp_path: pathlib.Path) -> None:
    """Jobs of one name exclude each other."""
    with Job(tmp_path, *ONCE, 'sh', '-c', 'echo begun; read line') as job:
        job.wait_for('begun')
        done = run_job(tmp_path, *ONCE, 'echo', 'twice')
        assert (done.returncode, done.stdout) == (
            ExitCode.LOCK_NOT_AVAILABLE, '')
        job.stdin.write(b'\n')
        job.stdin.flush()
        assert job.wait() == ExitCode.DONE


def test_settings_are_loaded_in_the_run(tmp_path: pathlib.Path) -> None:
    """The run's process alone loads the settings, as for a task."""
    write_module(tmp_path, 'settings', 'import os; print("by", os.getpid())')
    done = run_job(tmp_path, '-s', 'settings', *ONCE, 'sh', '-c', 'echo $PPID',
                   'status', PYTHONUNBUFFERED='')
    # What they print comes before what the program does.
    by, loader, parent = done.stdout.split()
    assert (by, loader) == ('by', parent)


# The end of a run.

@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_interrupt(tmp_path: pathlib.Path, signum: signal.Signals) -> None:
    """The program is told to end, and what it started, and is waited for."""
    with Job(tmp_path, *FOR_EVER, 'sh', '-c', FAMILY) as job:
        job.wait_for('child\n')
        parent = pid_in(job, 'parent')
        job.send(signum)
        assert job.wait() == ExitCode.TERMINATED
        assert 'parent is told' in job.output
        assert 'child is told' in job.output
        assert has_ended(parent)
    assert last_run(tmp_path) == (
        'interrupted', f'Terminate: signal {signum.name}')
    assert is_free(tmp_path, 'job')


def test_orphans_are_told(tmp_path: pathlib.Path) -> None:
    """What the program has set adrift is told too."""
    child = FAMILY.splitlines()[2].removesuffix('&')
    with Job(tmp_path, *FOR_EVER, 'sh', '-c',
             f'({child} &); exec sleep 60') as job:
        job.wait_for('child\n')
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED
        assert 'child is told' in job.output


def test_signal_to_all(tmp_path: pathlib.Path) -> None:
    """A program that a signal to the group has ended was interrupted."""
    with Job(tmp_path, *FOR_EVER, 'sh', '-c',
             'echo pid $$; exec sleep 60') as job:
        program = pid_in(job, 'pid')
        os.kill(program, signal.SIGTERM)
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED
    assert last_run(tmp_path) == ('interrupted', 'Terminate: signal SIGTERM')


def test_grace(tmp_path: pathlib.Path) -> None:
    """A program that does not obey is killed after the grace time."""
    write_module(tmp_path, 'settings',
                 "ONE_INSTANCE = {'options': {'grace': 0.3}}")
    with Job(tmp_path, '-s', 'settings', *FOR_EVER, 'sh', '-c',
             STUBBORN) as job:
        program = pid_in(job, 'stubborn')
        job.send(signal.SIGTERM)
        assert job.wait() == ExitCode.TERMINATED
        assert 'told\n' in job.output
        assert has_ended(program)
    assert last_run(tmp_path)[0] == 'killed'


def test_too_long(tmp_path: pathlib.Path) -> None:
    """A run that takes too long is ended, and the next one begins."""
    with Job(tmp_path, '--max-run-time', '0.3', *FOR_EVER, 'sh', '-c',
             'test -e once && exit; touch once; exec sleep 60') as job:
        job.wait_for('run interrupted')
        job.wait_for('run succeeded')


def test_dead_supervisor(tmp_path: pathlib.Path) -> None:
    """Nothing is left of the program when its supervisor is killed."""
    with Job(tmp_path, *FOR_EVER, 'sh', '-c', STUBBORN) as job:
        program = pid_in(job, 'stubborn')
        job.send(signal.SIGKILL)
        job.wait()
        until(lambda: has_ended(program), 'for the program to end')


def test_lease_keeper_is_spared(tmp_path: pathlib.Path) -> None:
    """What is told to end is the program, and nothing of jobslib's own."""
    with ConsulStandIn() as consul:
        write_module(tmp_path, 'settings',
                     f'ONE_INSTANCE = {consul.one_instance(**STEADY)}')
        with Job(tmp_path, '-s', 'settings', *FOR_EVER, 'sh', '-c',
                 FAMILY) as job:
            job.wait_for('child\n')
            done = run_job(tmp_path, '-s', 'settings', 'pause', '--interrupt',
                           '--name', 'job')
            assert done.returncode == 0, done.stderr
            job.wait_for('run interrupted')
            job.wait_for('not run: paused')
            assert 'child is told' in job.output
            run_job(tmp_path, '-s', 'settings', 'resume', '--name', 'job')
            job.wait_for('child\n', 2)
            job.send(signal.SIGTERM)
            assert job.wait() == ExitCode.TERMINATED
            assert 'keeper' not in job.output
            runs = status(tmp_path, '-s', 'settings')['history']
    assert [run['outcome'] for run in runs] == ['interrupted'] * 2


# The commands.

def test_commands_take_its_name(tmp_path: pathlib.Path) -> None:
    """Its name does for a command what the task does for others."""
    with Job(tmp_path, '--keep-lock', *FOR_EVER, 'true') as job:
        job.wait_for('run succeeded')
        for command, said in [
            (['check'], '"task": "job"'), (['status'], '"task": "job"'),
            (['pause'], 'paused; '), (['resume'], '"resumed"'),
            (['release'], '"done": true'),
            (['handover', '--timeout', '0'], '"task": "job"'),
        ]:
            done = run_job(tmp_path, *command, '--name', 'job', '--json')
            assert said in done.stdout, (command, done.stdout, done.stderr)


def test_own_name_is_the_tasks(tmp_path: pathlib.Path) -> None:
    """A task with a --name of its own keeps it, in commands too."""
    write_module(tmp_path, 'jobs', TASK)
    done = run_job(tmp_path, '--run-once', 'jobs.Own', '--name', 'x')
    assert done.stdout == 'name x\n', done.stderr
    done = run_job(tmp_path, 'status', '--json', 'jobs.Own', '--name', 'x')
    assert json.loads(done.stdout)['task'] == 'own', done.stderr


# What is refused.

@pytest.mark.parametrize(('args', 'said'), [
    ('exec --name job -- no-such-command', 'it is in no folder of PATH'),
    ('exec --name job -- ./no-such-file', 'there is no such file'),
    ('exec --name job -- ./folder', 'it is a folder'),
    ('exec --name job -- ./plain', 'it is not executable'),
    ('exec --name job --', 'exec: a command after "--" is missing; allowed: '
     'runjob exec --name NAME [options] -- COMMAND'),
    ('exec --name job ls -l', 'a command after "--" is missing'),
    ('exec', 'a command after "--" is missing'),
    ('exec -- ls', 'exec: --name is missing; allowed: runjob exec'),
    ('exec --name= -- ls', "--name: '' is not allowed"),
    ('exec --name job --run-interval x -- ls', "run_interval: 'x'"),
    ('exec --name job --schedul x -- ls', 'did you mean --schedule?'),
    ('exec --name job word -- ls', 'unrecognized arguments: word'),
    ('status --name job jobs.Own.task', 'jobs.Own.task'),
    ('check-liveness --max-age 9 --name job', 'no liveness is configured'),
    ('pause --name job jobs.Other', 'pause: --name job is for a job of'),
    ('status --name=', "--name: '' is not allowed"),
    ('exek --name job -- ls', "did you mean 'exec'?"),
])
def test_refused(tmp_path: pathlib.Path, args: str, said: str) -> None:
    """What cannot be meant is refused at the start, with what is wrong."""
    write_module(tmp_path, 'jobs', TASK + '''
class Other(BaseTask):
    def task(self):
        pass
''')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'plain').touch()
    done = run_job(tmp_path, *args.split())
    assert done.returncode == ExitCode.USAGE
    assert said in done.stderr
    assert 'Traceback' not in done.stderr
    assert done.stdout == ''


def test_help(tmp_path: pathlib.Path) -> None:
    """The help has the options of a run."""
    done = run_job(tmp_path, 'exec', '--help')
    assert done.returncode == 0
    assert done.stdout.startswith('usage: runjob exec --name NAME [options] --')
    assert '--schedule CRON' in done.stdout
    done = run_job(tmp_path, '--help')
    assert 'runjob exec --name NAME' in done.stdout
