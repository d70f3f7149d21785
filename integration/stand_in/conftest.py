"""What the tests run against: a real agent, and the stand-in."""

import time
from collections.abc import Iterator

import pytest

from integration.agents import Agent
from integration.stand_in.servers import TTL, Server
from jobslib.testing import ConsulStandIn
from jobslib.testing.consul_profiles import PROFILES


@pytest.fixture(scope='package', params=[
    'agent', *(f'stand-in {version}' for version in PROFILES)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A real agent that takes short TTLs, then each version of the stand-in.

    What is tested here is the same in all of them.
    """
    _, _, version = request.param.partition(' ')
    if version:
        with ConsulStandIn(ttl_min=TTL, version=version) as consul:
            yield Server(consul.url, consul.advance)
    else:
        binary = request.getfixturevalue('consul_bin')
        config = {'session_ttl_min': f'{TTL:g}s', 'disable_coordinates': True}
        with Agent(binary=binary, config=config) as agent:
            yield Server(agent.url, time.sleep)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes long and is the same in the versions after 1.8."""
    items[:] = [each for each in items if not (
        'query' in each.name and '[stand-in ' in each.name
        and '[stand-in 1.8]' not in each.name)]


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key that no other test has."""
    return f'stand-in/{request.node.originalname}/{time.monotonic_ns()}'


@pytest.fixture(autouse=True)
def own_sessions(server: Server) -> Iterator[None]:
    """No session is left that would end, and cost something, in a later test."""
    yield
    for session in server.api.sessions():
        server.api.destroy_session(session['ID'])
