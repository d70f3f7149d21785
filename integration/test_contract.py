"""The lock across machines keeps the contract of locks, with a real Consul."""

import pytest

from integration.agents import Agent
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.consul import ConsulLock
from jobslib.testing import LockContract, make_lock


class TestConsulLock(LockContract):
    """The tests that the lock passes with the stand-in, too."""

    @pytest.fixture(autouse=True)
    def use_agent(self, agent: Agent) -> None:
        """Use the shared server."""
        self.agent = agent

    def make_lock(self, name: str) -> BaseLock:
        host, port = self.agent.http_addr
        return make_lock(ConsulLock, name, host=host, port=port)
