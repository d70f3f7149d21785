"""Never two at once, with tasks as people write them.

Each kind of `integration.cases` under each lock, disturbed in each way that applies.
They mostly wait, and so run at the same time.
"""

from collections.abc import Iterator

import pytest

from integration.agents import Agent
from integration.scenarios import (
    DONE,
    FAILED,
    KILLED,
    LOOP,
    STOPS,
    Case,
    goes_on,
    hands_over,
    leaves,
    limited,
    logs,
    loses_process,
    once,
    stays_deaf,
)
from integration.together import Scenario, Together
from integration.trial import CONSUL, LOCKS

#: So many run at the same time: unlike most others they also work.
AT_ONCE = 8

#: A run with handlers of its own may have done all of its work.
OWN_WAY = ('handlers.Own', 'handlers.Served', 'handlers.Waits')
OWN = ('interrupted', 'succeeded')
THREADS = ['Plain', 'Joined', 'Daemon', 'Unknown', 'Executor', 'Waited', 'ToThread',
           'Alarms', 'First']
CHILDREN = ['Forked', 'ForkedOff', 'Unwound', 'Deaf', 'Shell', 'Session', 'Twice',
            'Chain', 'Pool', 'SpawnPool', 'ServedPool', 'Futures', 'Stopped',
            'FromThread']
HANDLERS = ['Handled', 'Ignoring', 'Default', 'Blocked', 'Swallows', 'SwallowsOnce',
            'Tidies', 'Own', 'Served', 'Waits', 'Registered', 'Stops', 'Apart',
            'Stubborn']


def endless(lock: str) -> Iterator[Case]:
    """The kinds that go on for ever, with what ends them.

    SIGTERM ends each under both locks, SIGINT and a limit under one; operators ask
    for the lock of every other one.
    """
    kinds = ([(f'threads.{name}', 'thread') for name in THREADS]
             + [(f'children.{name}', 'child') for name in CHILDREN]
             + [(f'handlers.{name}', 'main') for name in HANDLERS]
             + [('children.Zombies', 'main'), ('ends.BecomesForEver', 'child')])
    for number, (task, works) in enumerate(kinds, LOCKS.index(lock)):
        own = task in OWN_WAY
        faults = ['SIGTERM']
        if number % 2:
            # To the loop alone, or to the whole group.
            faults.append('Ctrl-C' if number % 4 == 1 else 'SIGINT')
        for fault in faults:
            yield Case(hands_over, task, lock, fault, works, OWN if own else STOPS,
                       says=says_last(task))
        if lock == CONSUL:
            yield Case(hands_over, task, lock, 'lost', works, STOPS)
        if number % 4 == 3:
            yield Case(hands_over, task, lock, 'handover', works, STOPS)
        if number % 2 == 0:
            yield Case(limited, task, lock, 'too-long', works, STOPS)
        if number % 4 == 0:
            yield Case(loses_process, task, lock, 'process-killed', works)


def says_last(task: str) -> tuple[str, ...]:
    """What a task prints that may end its own way."""
    if task == 'handlers.Tidies':
        return ('cleaned up',)
    if task in OWN_WAY:
        return ('stopped its own way',)
    return ()


# The supervisor is killed: nobody is left to be asked

def beheaded(lock: str) -> Iterator[Case]:
    """Kinds whose runs end with the process that looks after them."""
    tasks = [('threads.Plain', 'thread'), ('threads.Daemon', 'thread'),
             ('handlers.Blocked', 'main'), ('handlers.Swallows', 'main'),
             ('handlers.Outlives', 'main'), ('children.Copies', 'child')]
    # With FileLock the next holder ends what has no parent.
    tasks += [(f'children.{name}', 'child')
              for name in CHILDREN[LOCKS.index(lock)::2]]
    for task, works in tasks:
        yield Case(hands_over, task, lock, 'killed', works, ('killed',))


SHORT = {
    'threads.Returns': (DONE, '', ()),
    'threads.LeavesDaemon': (DONE, '', ()),
    'children.Returns': (DONE, '', ('child ended with 0',)),
    'children.Raises': (DONE, '', ('child ended with 1',)),
    'children.Exits': (DONE, '', ('child ended with 3',)),
    'children.OsExits': (DONE, '', ('child ended with 4',)),
    'children.Late': (DONE, '', ()),
    'children.LeavesZombies': (DONE, '', ()),
    'children.Terminated': (DONE, '', ('child ended with -15',)),
    'children.Interrupted': (DONE, '', ('child ended with 5',)),
    'children.WaitsForAll': (DONE, '', ('waited for 3',)),
    'children.Reaps': (DONE, '', ('waited for 3',)),
    'children.Left': (DONE, '', ('left',)),
    'children.LeftSpawn': (DONE, '', ('left',)),
    'children.LeftFutures': (DONE, '', ('left',)),
    'children.Kept': (DONE, '', ('8',)),
    'children.KeptPool': (DONE, '', ('8',)),
    'handlers.LeavesHandler': (DONE, '', ()),
    'handlers.LeavesIgnored': (DONE, '', ()),
    'handlers.LeavesBlocked': (DONE, '', ()),
    'handlers.IgnoresChildren': (DONE, '', ('a child was reaped',)),
    'handlers.Alarm': (DONE, '', ('rung 1',)),
    'handlers.Interval': (DONE, '', ('rung often enough',)),
    'handlers.Dumps': (KILLED, r'\b1\b', ()),
    'streams.Looks': (DONE, '', ()),
    'streams.ClosesMost': (DONE, '', ()),
    'streams.ClosesAll': (DONE, '', ()),
    'streams.Scribbles': (DONE, '', ()),
    'streams.ClosesStandard': (DONE, '', ()),
    'streams.ClosesStreams': (DONE, '', ()),
    'streams.Redirects': (DONE, '', ()),
    'streams.NoStreams': (DONE, '', ()),
    'ends.Faults': (KILLED, 'SIGSEGV', ()),
    'ends.Killed': (KILLED, 'SIGKILL', ()),
    'ends.Aborts': (KILLED, 'SIGABRT', ()),
    'ends.OsExits': (KILLED, r'\b0\b', ()),
    'ends.OsExitsWith': (KILLED, r'\b7\b', ()),
    'ends.ThreadExits': (KILLED, r'\b9\b', ()),
    'ends.Becomes': (KILLED, r'\b0\b', ()),
    'ends.Exits': (DONE, '', ()),
    'ends.ExitsWith': (FAILED, r'\b3\b', ()),
    'ends.ExitsSaying': (FAILED, 'something is missing', ()),
    'ends.ThreadLeaves': (DONE, '', ()),
    'ends.Breaks': (FAILED, 'KeyboardInterrupt', ()),
    'ends.RaisesOdd': (FAILED, 'Odd', ()),
    'ends.RaisesHuge': (FAILED, 'ValueError: xxx', ()),
    'ends.Limits': (DONE, '', ()),
    'ends.Moves': (DONE, '', ()),
}


def short(lock: str) -> Iterator[Case]:
    """The kinds that end by themselves."""
    for task, (outcomes, error, says) in SHORT.items():
        yield Case(goes_on, task, lock, outcomes=outcomes, error=error, says=says)
    yield Case(goes_on, 'handlers.LeavesAlarm', lock, outcomes=DONE,
               options=LOOP)
    for task in ('threads.Returns', 'children.Returns', 'children.Left',
                 'children.KeptPool',
                 'handlers.LeavesIgnored', 'ends.Faults'):
        outcomes, error, says = SHORT[task]
        yield Case(goes_on, task, lock, through='not-kept', outcomes=outcomes,
                   error=error, says=says, options=LOOP[1:])
    for through in ('no-stdin', 'no-stdout', 'no-stderr', 'no-streams', 'no-status'):
        yield Case(goes_on, 'streams.Looks', lock, outcomes=DONE, through=through)


def helpers(lock: str) -> Iterator[Case]:
    """The kinds that leave something running."""
    for task in ('threads.LeavesDaemon', 'children.Helper', 'children.HelperOfSession',
                 'children.HelperForked', 'children.HelperDeaf'):
        yield Case(leaves, task, lock, 'SIGTERM')
        # A daemon thread lives as long as its process, which becomes a standby.
        if lock == CONSUL and task.startswith('children.'):
            yield Case(leaves, task, lock, 'lost')


ONCE = {
    'ends.Returns': (0, DONE), 'ends.Exits': (0, DONE), 'ends.ExitsWith': (1, FAILED),
    'ends.Faults': (1, KILLED), 'ends.OsExits': (1, KILLED), 'ends.Killed': (1, KILLED),
    'threads.Returns': (0, DONE), 'threads.LeavesDaemon': (0, DONE),
    'children.Returns': (0, DONE), 'children.Late': (0, DONE),
    'children.Left': (0, DONE), 'children.WaitsForAll': (0, DONE),
    'children.Helper': (0, DONE), 'children.HelperDeaf': (0, DONE),
    'children.HelperForked': (0, DONE), 'streams.ClosesAll': (0, DONE),
}


def single(lock: str) -> Iterator[Case]:
    """Kinds with --run-once, each under one of the locks."""
    for task, (code, outcomes) in list(ONCE.items())[LOCKS.index(lock)::2]:
        yield Case(once, task, lock, through='once', code=code, outcomes=outcomes)
    for task, works in (('threads.Plain', 'thread'), ('children.Twice', 'child'),
                        ('handlers.Swallows', 'main'), ('handlers.Ignoring', 'main')):
        yield Case(once, task, lock, 'SIGTERM', works, STOPS, through='once', code=143)


def others(lock: str) -> Iterator[Case]:
    """What tasks do to logging, and nohup."""
    json_lines = (('JOBSLIB_LOG_FORMAT', 'json'),)
    yield Case(logs, 'imports.Logs', lock, env=json_lines,
               says=('the task is working', 'an order was sent'))
    for name in ('Disables', 'Clears', 'Configures'):
        yield Case(logs, f'logs.{name}', lock, env=json_lines)
    yield Case(stays_deaf, 'ends.Returns', lock, through='ignored')


CASES = [case for lock in LOCKS
         for kind in (endless, beheaded, short, helpers, single, others)
         for case in kind(lock)]


@pytest.fixture(scope='module')
def trials(request: pytest.FixtureRequest, agent: Agent) -> Iterator[Together]:
    """The selected cases, begun at once."""
    cases: list[Scenario] = [
        case for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
        and isinstance(case := item.callspec.params['case'], Case)]
    with Together(cases, agent, AT_ONCE) as started:
        yield started


@pytest.mark.parametrize('case', CASES, ids=str)
def test_case(trials: Together, case: Case) -> None:
    """What the scenario of the case says."""
    trials.result(case)
