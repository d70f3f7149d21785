"""What is done to a task of `integration.cases`, and what has to come of it."""

import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from integration import stamps
from integration.agents import Agent
from integration.cases.base import HELPER, HOOK
from integration.report import COMPANY, allowed
from integration.stamps import now
from integration.trial import DEADLINE, GRACE, LOCK_DELAY, Trial, role_of
from integration.workers import Worker, all_pids, read_proc, session_of

#: From the interrupt to another's begin, in seconds, with all that has to be killed.
OVER = GRACE + 0.6
#: For how long a command runs until its request is seen, in seconds.
ASKS = 2.0
# Many jobs run at the same time: their pauses leave time to the others.
PAUSE = 0.5
LOOP = ('--keep-lock', '--sleep-interval', f'{PAUSE:g}')
#: Outcomes of runs.
DONE, FAILED, KILLED = ('succeeded',), ('failed',), ('killed',)
STOPS = ('interrupted', 'killed')
#: Nothing can be asked of a process that has closed our connection to it.
CLOSES = ('streams.ClosesMost', 'streams.ClosesAll', 'streams.Scribbles')


def shell(words: str) -> tuple[str, ...]:
    """A shell that becomes runjob when it has done something."""
    return ('sh', '-c', words, 'sh')


THROUGH = {
    'no-stdin': shell('exec "$@" <&-'),
    'no-stdout': shell('exec "$@" >&-'),
    'no-stderr': shell('exec "$@" 2>&-'),
    'no-streams': shell('exec "$@" <&- >&- 2>&-'),
    'no-status': (sys.executable, '-c', (
        'import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); '
        'os.execvp(sys.argv[1], sys.argv[1:])')),
    'ignored': shell('trap "" INT HUP; exec "$@"'),
}


@dataclass(frozen=True)
class Case:
    """A task of `integration.cases`, under a lock, and what is done to it.

    `works` is the role in which it works when it is disturbed; `says` what it prints
    in the end. `outcomes`, `error` (a pattern) and the exit code `code` are what has
    to come of it. `through` names a shell that it is started by, or tells one case
    from another.
    """

    scenario: Callable[['Case', Agent], None]
    task: str
    lock: str
    fault: str = ''
    works: str = 'main'
    outcomes: tuple[str, ...] = ()
    error: str = ''
    says: tuple[str, ...] = ()
    through: str = ''
    code: int = 0
    env: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = LOOP

    def __call__(self, agent: Agent) -> None:
        """Do it."""
        self.scenario(self, agent)

    def __str__(self) -> str:
        words = (self.task, self.through, self.fault, self.lock)
        return '-'.join(filter(None, words))

    def trial(self, agent: Agent, *options: str) -> Trial:
        """Prepare it."""
        return Trial(self.task, self.lock, agent, options or self.options,
                     dict(self.env))


# Runs that go on for ever, and what ends them

def send(signum: signal.Signals) -> Callable[[Trial], float]:
    """Have the job end."""
    return lambda trial: trial.workers[0].send(signum)


def send_all(signum: signal.Signals) -> Callable[[Trial], float]:
    """Signal the whole group, as Ctrl-C and process managers do."""
    return lambda trial: trial.workers[0].signal_all(signum)


def hand_over(trial: Trial) -> float:
    """Ask the holder for the lock, and have its run interrupted."""
    at = now()
    trial.command('handover', '--interrupt')
    return at


FAULTS: dict[str, Callable[[Trial], float]] = {
    'handover': hand_over,
    'SIGTERM': send(signal.SIGTERM), 'SIGINT': send(signal.SIGINT),
    'Ctrl-C': send_all(signal.SIGINT), 'killed': send(signal.SIGKILL),
    'lost': Trial.lose_lock,
}
ENDED = ('SIGTERM', 'SIGINT', 'Ctrl-C')


def hands_over(case: Case, agent: Agent) -> None:
    """The run is wholly gone before anybody else begins, and is remembered."""
    with case.trial(agent, '--keep-lock') as trial:
        a = trial.start()
        trial.wait_for(case.works, stamps.ALIVE)
        b = trial.start_standby()
        at = FAULTS[case.fault](trial)
        begin = trial.wait_for('main', stamps.BEGIN, 'b', after=at)
        trial.watch()
        trial.assert_apart()
        over = OVER + {'lost': LOCK_DELAY, 'handover': ASKS}.get(case.fault, 0.0)
        assert begin.at - at <= allowed(over, COMPANY, since=at), trial.logs()
        if case.fault in ENDED:
            trial.assert_ended(a)
        for words in case.says:
            assert f'SAYS {words}\n' in a.log_text(), trial.logs()
        # The run of the holder before is in the history when another has ended.
        b.terminate()
        b.wait(DEADLINE)
        history = trial.history()
        runs = [run for run in history if run['pid'] == a.pid]
        assert [run['outcome'] in case.outcomes for run in runs] == [True], history
        assert [run['run'] for run in history] == [1, 2]


def limited(case: Case, agent: Agent) -> None:
    """A run that takes too long ends, and the next begins in a new process."""
    with case.trial(agent, *LOOP, '--max-run-time', '1') as trial:
        a = trial.start()
        trial.wait_for(case.works, stamps.ALIVE)
        first, second = trial.wait_for_runs(2)[:2]
        assert first.pid != second.pid
        most = allowed(1.0 + OVER + PAUSE, COMPANY, since=first.at)
        assert second.at - first.at <= most, trial.logs()
        trial.watch()
        trial.assert_apart()
        run = trial.history()[0]
        assert run['outcome'] in case.outcomes, run
        assert 'longer than 1 s' in a.log_text()
        trial.assert_ends()


def loses_process(case: Case, agent: Agent) -> None:
    """A run whose process is killed is over, and the job goes on with the next."""
    with case.trial(agent) as trial:
        trial.start()
        trial.wait_for(case.works, stamps.ALIVE)
        first = trial.wait_for_runs(1)[0]
        os.kill(first.pid, signal.SIGKILL)
        second = trial.wait_for_runs(2)[1]
        trial.watch()
        trial.assert_apart()
        assert second.token == first.token
        run = trial.history()[0]
        assert run['outcome'] == 'killed' and 'SIGKILL' in run['error'], run
        trial.assert_ends()


# Runs that end by themselves

def goes_on(case: Case, agent: Agent) -> None:
    """The outcome of each run is known, the loop goes on, a kept lock is kept."""
    with case.trial(agent) as trial:
        a = trial.start(through=THROUGH.get(case.through, ()))
        begins = trial.wait_for_runs(3)
        tokens = {begin.token for begin in begins}
        assert len(tokens) == (1 if '--keep-lock' in case.options else len(begins))
        processes = len({begin.pid for begin in begins[:3]})
        if case.task not in CLOSES:
            dies = (case.outcomes == KILLED or case.task == 'handlers.LeavesAlarm'
                    or str(case).startswith('children.KeptPool-not-kept'))
            assert processes == (3 if dies else 1), trial.logs()
        for run in trial.history()[:2]:
            assert run['outcome'] in case.outcomes, run
            assert re.search(case.error, run['error'] or ''), run
        for words in case.says:
            assert a.log_text().count(f'SAYS {words}\n') >= 2, trial.logs()
        if case.outcomes == DONE and case.task != 'children.Raises':
            assert 'Traceback' not in a.log_text(), trial.logs()
        trial.assert_apart()
        assert_hooks(trial)
        assert not [each for each in trial.timeline.stamps
                    if each.event == stamps.REFUSED]
        assert_standard_descriptors(a)
        trial.assert_ends()


def assert_hooks(trial: Trial) -> None:
    """Hooks were called in the process of the run alone, once for each run."""
    hooks = [stamp for stamp in trial.timeline.stamps if role_of(stamp) == HOOK]
    runs = [stamp.role for stamp in hooks]
    assert len(runs) == len(set(runs)), trial.logs()
    for stamp in hooks:
        assert stamp.role == f'{HOOK}:{stamp.pid}.{stamp.role.rpartition(".")[2]}'


def assert_standard_descriptors(worker: Worker) -> None:
    """No file of ours is a standard descriptor of a process of the worker's.

    A keeper and its guard read from their standard input, and run no code of
    others; both are named for what they are.
    """
    for pid in all_pids():
        if session_of(pid) != worker.pid or read_proc(
                pid, 'comm').startswith(b'jobslib-'):
            continue
        for number in range(3):
            try:
                target = os.readlink(f'/proc/{pid}/fd/{number}')
            except OSError:
                continue
            assert target == os.devnull or target.endswith('.log'), (
                pid, read_proc(pid, 'cmdline'), number, target)


# What a run that has succeeded leaves running

def leaves(case: Case, agent: Agent) -> None:
    """It lives on while the lock is kept, and is gone before the lock goes.

    A process is named in the log, a thread goes with its process.
    """
    with case.trial(agent, *LOOP) as trial:
        a = trial.start()
        begins = trial.wait_for_runs(3)
        assert len({begin.pid for begin in begins}) == 1, trial.logs()
        pid = trial.wait_for(HELPER, stamps.ALIVE, after=begins[2].at).pid
        trial.start_standby()
        at = FAULTS[case.fault](trial)
        begin = trial.wait_for('main', stamps.BEGIN, 'b', after=at)
        trial.watch()
        trial.assert_apart()
        over = LOCK_DELAY + OVER if case.fault == 'lost' else OVER
        assert begin.at - at <= allowed(over + 0.5, COMPANY, since=at), trial.logs()
        assert pid == begins[0].pid or f'{pid}' in a.log_text(), trial.logs()
        if case.fault in ENDED:
            trial.assert_ended(a)


# One run alone

def once(case: Case, agent: Agent) -> None:
    """The exit code says what became of the run, and the lock is free."""
    with case.trial(agent, '--run-once') as trial:
        a = trial.start()
        if case.fault:
            trial.wait_for(case.works, stamps.ALIVE)
            FAULTS[case.fault](trial)
        assert a.wait(DEADLINE) == case.code, trial.logs()
        trial.assert_apart()
        assert_hooks(trial)
        status = trial.status()
        assert status['state'] == 'free'
        assert [run['outcome'] in case.outcomes for run in status['history']] == [True]
        ended = now()
        trial.watch()
        trial.timeline.update()
        assert [each for each in trial.timeline.of('a') if each.at > ended] == []


# Logging, and what was ignored from the start

def logs(case: Case, agent: Agent) -> None:
    """The lines of the loop appear, in the format that was asked for."""
    with case.trial(agent) as trial:
        a = trial.start()
        trial.wait_for_runs(4)
        lines = [line for line in a.log_text().splitlines() if 'run succeeded' in line]
        assert len(lines) >= 3, trial.logs()
        assert all(line.startswith('{') for line in lines), trial.logs()
        for words in case.says:
            assert f'"message": "{words}"' in a.log_text(), trial.logs()
        trial.assert_ends()


def stays_deaf(case: Case, agent: Agent) -> None:
    """A signal that was ignored when the job was started stays ignored."""
    with case.trial(agent) as trial:
        a = trial.start(through=THROUGH['ignored'])
        trial.wait_for_runs(1)
        for signum in (signal.SIGINT, signal.SIGHUP):
            a.signal_all(signum)
        trial.wait_for_runs(len(trial.begins()) + 2)
        assert {run['outcome'] for run in trial.history()} == {'succeeded'}
        trial.assert_ends()
