"""Fixtures of the tests that need a real Consul."""

import pathlib
import signal
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import pytest

from integration import report, stalls, workers
from integration.agents import HOST, LIVE, Agent, Cluster, close_all, free_ports
from integration.fetch_consul import FetchError, find_consul
from integration.proxy import Proxy
from integration.together import Together, scenario_of

# What they assert is shown in full, as in the tests themselves.
pytest.register_assert_rewrite('integration.scenarios', 'integration.trial')

LOG_TAIL = 60  # lines of each agent's log in the report of a failed test


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM end the run as Ctrl-C does, with every fixture torn down."""
    stalls.start()
    # A shell ignores SIGINT for its background jobs, and so would all that is
    # started here.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    previous = signal.signal(signal.SIGTERM, _interrupt)

    def restore() -> None:
        workers.close_all()
        close_all()
        signal.signal(signal.SIGTERM, previous)

    config.add_cleanup(restore)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the scenarios first, so that the other tests have a quiet machine."""
    items.sort(key=lambda item: scenario_of(item) is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the end of the agents' logs to the report of a failed test."""
    report = yield
    if report.failed:
        for agent in _agents_of(item):
            tail = '\n'.join(agent.log_text().splitlines()[-LOG_TAIL:])
            report.sections.append((f'Consul log of {agent.name}', tail))
    return report


def _agents_of(item: pytest.Item) -> list[Agent]:
    """The agents of a test's fixtures, and those it has not closed."""
    values: dict[str, Any] = getattr(item, 'funcargs', {})
    agents = list(LIVE)
    for value in values.values():
        agents += value.agents if isinstance(value, Cluster) else []
        agents += [value] if isinstance(value, Agent) else []
    return list(dict.fromkeys(agents))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> None:
    """Print what the faults did."""
    if report.ROWS:
        terminalreporter.section('faults (times in seconds)')
        terminalreporter.write_line('\n'.join(report.table(report.LONGEST)))
        report.save()


@pytest.fixture(scope='session')
def consul_bin() -> pathlib.Path:
    """A Consul binary; without one the whole run ends, for nothing is tested."""
    try:
        return find_consul()
    except FetchError as exc:
        pytest.exit(f'No Consul to test against: {exc}', returncode=1)


@pytest.fixture(scope='session')
def agent(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server in memory, shared by the tests: leave it running, use own keys."""
    with Agent(binary=consul_bin) as running:
        yield running


@pytest.fixture
def fresh_agent(consul_bin: pathlib.Path) -> Iterator[Agent]:
    """A server in memory that the test may do anything to."""
    with Agent(binary=consul_bin) as running:
        yield running


@pytest.fixture
def proxy(agent: Agent) -> Iterator[Proxy]:
    """A proxy of the test's own in front of the shared server."""
    with Proxy(agent.http_addr) as running:
        yield running


@pytest.fixture
def unreachable() -> tuple[str, int]:
    """An address where nobody listens."""
    return HOST, free_ports(1)[0]


@pytest.fixture(scope='session')
def running(request: pytest.FixtureRequest, agent: Agent) -> Iterator[Together]:
    """The scenarios of all selected tests, begun at once."""
    scenarios = filter(None, map(scenario_of, request.session.items))
    with Together(list(scenarios), agent) as started:
        yield started
