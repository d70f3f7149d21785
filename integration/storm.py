"""Groups of workers under faults that a random generator draws."""

import contextlib
import os
import pathlib
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from integration import stamps
from integration.agents import Agent
from integration.lines import LINES
from integration.proxy import Proxy
from integration.stamps import Stamp, now
from integration.timeline import JOIN, merge, running
from integration.workers import LOCK_DELAY, TTL, Worker

LABELS = 'abc'

#: What the workers run, drawn anew whenever one is started; none of it ends by
#: itself, and each writes its stamps in a way of its own.
TASKS = (
    'Stamping', 'Shell', 'Forking',
    *(f'integration.cases.{name}' for name in (
        'threads.Plain', 'threads.Executor', 'children.Forked', 'children.Session',
        'children.FromThread', 'children.Deaf', 'handlers.Swallows', 'handlers.Tidies',
        'handlers.Ignoring')))

#: Those whose children are in sessions of their own.
APART = {'integration.cases.children.Session'}

#: The job has to be running so soon after the last fault is over: everything
#: lost, a standby that waits for an answer that was lost, and the loops' pauses.
BACK = 2 * TTL + LOCK_DELAY + 40.0 + 15.0

#: Most faults are short; what is longer than the lease goes to another worker.
SHORT, LONG = (0.1, 5.0), (6.0, 16.0)
LONG_SHARE = 0.25
TWO_SHARE = 0.3
HOLDER_SHARE = 0.7

# A machine that freezes for longer than its lease can run beside another for a
# moment, as the design says.
FREEZE = 4.0

Heal = Callable[[], object]


class Storm:
    """When the groups are to end."""

    def __init__(self, seconds: float, faults: int) -> None:
        self.ends = time.monotonic() + seconds if not faults else float('inf')
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.failed = False

    @property
    def over(self) -> bool:
        """Whether there have been enough faults, or there is no use in more."""
        return (self.failed or time.monotonic() > self.ends
                or bool(self.faults and self.counts.total() >= self.faults))


class Group:
    """Three workers of one key, each with a line of its own to Consul."""

    def __init__(self, agent: Agent, name: str, storm: Storm, seed: str) -> None:
        self.agent = agent
        self.api = agent.new_api()
        self.key = f'storm/{name}'
        self.storm = storm
        self.random = random.Random(f'{seed}/{name}')
        self.folder = tempfile.TemporaryDirectory(prefix='jobslib-storm-')
        self.path = pathlib.Path(self.folder.name) / 'stamps'
        self.history: list[str] = []
        self.began = now()
        self._offset = 0
        self.last: Stamp | None = None
        self.proxies = {label: Proxy(agent.http_addr) for label in LABELS}
        self.workers: dict[str, Worker] = {}
        # What each of them runs.
        self.tasks: dict[str, str] = {}

    def run(self) -> None:
        """Apply faults until the storm is over; the job runs in the end."""
        try:
            self._start_missing()
            self._wait_until_back()
            while not self.storm.over:
                self._apply_some()
                self._start_missing()
                self._wait_until_back()
        except BaseException:
            self.storm.failed = True
            raise

    def note(self, text: str) -> None:
        """Add to the history."""
        self.history.append(f'{now():.3f} {text}')

    def _start_missing(self) -> None:
        for label in LABELS:
            worker = self.workers.get(label)
            if worker is not None and worker.process.poll() is None:
                continue
            if worker is not None:
                self.note(f'{label} had ended: {worker.process.returncode}')
            task = self.random.choice(TASKS)
            self.note(f'{label} starts: {task}')
            self.tasks[label] = task
            self.workers[label] = Worker(
                label, task, self.path.parent, self.key, self.proxies[label].addr)

    def _apply_some(self) -> None:
        """One fault, or two on different workers, and their end."""
        labels = self.random.sample(LABELS, 3)
        if self.last and self.random.random() < HOLDER_SHARE:
            labels.sort(key=lambda label: label != self.last_label)
        count = 2 if self.random.random() < TWO_SHARE else 1
        heals = [heal for label in labels[:count] if (heal := self._apply(label))]
        low, high = LONG if self.random.random() < LONG_SHARE else SHORT
        self._pass(self.random.uniform(low, high))
        for heal in heals:
            heal()
        self.note('healed')

    def _apply(self, label: str) -> Heal | None:
        name = self.random.choice(list(FAULTS))
        self.note(f'{name}: {label}')
        try:
            heal = FAULTS[name](self, label)
        except (ProcessLookupError, LookupError):
            self.note('nobody to hit')
            return None
        self.storm.counts[name] += 1
        return heal

    @property
    def last_label(self) -> str:
        """The worker that ran last."""
        return self.last.label if self.last else ''

    def _pass(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not self.storm.failed:
            time.sleep(0.05)

    def _wait_until_back(self) -> None:
        healed = now()
        while self.last is None or self.last.at < healed:
            if self.storm.failed:
                return
            if now() > healed + BACK:
                raise TimeoutError(f'the job did not come back\n{self}')
            time.sleep(0.1)
            self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open('rb') as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b'\n') + 1
        self._offset += end
        for line in reversed(data[:end].splitlines()):
            stamp = Stamp.parse(line)
            if stamp.event != stamps.GONE:
                self.last = stamp
                break

    def close(self) -> None:
        """Clear everything away."""
        for worker in self.workers.values():
            worker.close()
        for proxy in self.proxies.values():
            proxy.close()
        self.api.close()
        self.folder.cleanup()

    def __str__(self) -> str:
        logs = [f'--- log of {worker.label}\n{worker.log_text()[-4000:]}'
                for worker in self.workers.values()]
        return '\n'.join([self.key, *self.history[-20:], str(self.last), *logs])


# Faults; each returns what ends it, if it does not end by itself.

def send(group: Group, label: str, signum: signal.Signals) -> None:
    """A signal to the supervisor."""
    group.workers[label].send(signum)


# Who of a worker is killed or stopped, singly and together
SUPERVISOR, RUN, KEEPER = 'the supervisor', 'the run', 'the keeper'
TARGETS = (
    (SUPERVISOR,), (RUN,), (KEEPER,), (SUPERVISOR, RUN), (SUPERVISOR, KEEPER),
    (RUN, KEEPER), (SUPERVISOR, RUN, KEEPER))


def find(group: Group, label: str, targets: tuple[str, ...]) -> list[int]:
    """The process ids of some processes of a worker."""
    worker = group.workers[label]
    finders = {SUPERVISOR: lambda: worker.pid, RUN: worker.run_process,
               KEEPER: worker.keeper}
    return [finders[target]() for target in targets]


def send_to(pids: list[int], signum: signal.Signals) -> None:
    """A signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def kill(*targets: str) -> Callable[[Group, str], None]:
    """SIGKILL to some processes of a worker."""
    return lambda group, label: send_to(find(group, label, targets), signal.SIGKILL)


def stop(*targets: str) -> Callable[[Group, str], Heal]:
    """SIGSTOP to some processes of a worker, and SIGCONT in the end."""
    def fault(group: Group, label: str) -> Heal:
        pids = find(group, label, targets)
        send_to(pids, signal.SIGSTOP)
        return lambda: send_to(pids, signal.SIGCONT)
    return fault


def kill_all(group: Group, label: str) -> None:
    """SIGKILL to all three, to the guard, and to what runs in their group.

    A child in a session of its own outlives that, as the guarantees say: who
    runs one keeps its guard.
    """
    if group.tasks[label] in APART:
        kill(SUPERVISOR, RUN, KEEPER)(group, label)
    else:
        group.workers[label].signal_all(signal.SIGKILL)


def freeze(group: Group, label: str) -> None:
    """Everything of a worker stands still for a moment."""
    worker = group.workers[label]
    worker.signal_all(signal.SIGSTOP)
    try:
        time.sleep(group.random.uniform(0.1, FREEZE))
    finally:
        worker.signal_all(signal.SIGCONT)


def destroy(group: Group, label: str) -> None:
    """The session of the holder is destroyed."""
    entry = group.api.kv(group.key)
    if entry and entry.get('Session'):
        group.api.destroy_session(entry['Session'])


def break_line(mode: str) -> Callable[[Group, str], Heal]:
    """A fault of the line."""
    def fault(group: Group, label: str) -> Heal:
        LINES[mode](group.proxies[label])
        return group.proxies[label].pass_through
    return fault


FAULTS: dict[str, Callable[[Group, str], Heal | None]] = {
    'SIGTERM': lambda group, label: send(group, label, signal.SIGTERM),
    'SIGINT': lambda group, label: send(group, label, signal.SIGINT),
    **{f'SIGKILL to {" and ".join(targets)}': kill(*targets) for targets in TARGETS},
    'SIGKILL to all': kill_all,
    # Keeper and supervisor stopped for longer than the lease are a machine that
    # freezes, which `freeze` does for as long as can be promised.
    **{f'SIGSTOP to {" and ".join(targets)}': stop(*targets)
       for targets in TARGETS if not {SUPERVISOR, KEEPER} <= set(targets)},
    'SIGSTOP to all': freeze,
    'session destroyed': destroy,
    **{mode: break_line(mode) for mode in LINES},
}


@dataclass
class Figures:
    """What the stamps of a group say; times in seconds."""

    seconds: float = 0.0
    runs: int = 0
    overlap: float = 0.0
    #: Stamps of a run after the first one of a younger run.
    late: int = 0
    standstill: float = 0.0
    stood: float = 0.0
    problems: list[str] = field(default_factory=list)


def read_figures(group: Group) -> Figures:
    """Read all stamps of a group that has ended."""
    found = Figures(seconds=now() - group.began)
    youngest = 0
    runs: dict[int, dict[int, list[Stamp]]] = {}
    for stamp in sorted(read_stamps(group.path)):
        runs.setdefault(stamp.token, {}).setdefault(stamp.pid, []).append(stamp)
        if stamp.token < youngest:
            found.late += 1
            found.problems.append(f'{stamp} after one of token {youngest}')
        youngest = max(youngest, stamp.token)
    found.runs = len(runs)
    times = {
        token: merge(interval for process in processes.values()
                     for interval in running(process, JOIN))
        for token, processes in runs.items()}
    edges = sorted(
        (at, change) for intervals in times.values() for start, end in intervals
        for at, change in ((start, 1), (end, -1)))
    count, since = 0, 0.0
    for at, change in edges:
        if count > 1:
            found.overlap += at - since
        elif count == 0 and since:
            found.standstill = max(found.standstill, at - since)
            found.stood += at - since
        count, since = count + change, at
    return found


def read_stamps(path: pathlib.Path) -> Iterator[Stamp]:
    """All stamps of tasks and their children."""
    with path.open('rb') as file:
        for line in file:
            if not line.endswith(b'\n'):
                break  # it is being written
            stamp = Stamp.parse(line)
            if stamp.event != stamps.GONE:
                yield stamp
