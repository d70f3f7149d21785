"""The locks that come with jobslib keep the contract of locks."""

import pathlib
from collections.abc import Iterator

import pytest

from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.dummy import DummyLock
from jobslib.oneinstance.file import FileLock
from jobslib.testing import ConsulStandIn, LockContract, make_lock


class TestDummyLock(LockContract):
    """A lock that locks nothing, and says so."""

    exclusive = False
    has_fencing_token = False
    has_owner_info = False

    def make_lock(self, name: str) -> BaseLock:
        return make_lock(DummyLock, name)


class TestFileLock(LockContract):
    """The lock of one machine."""

    @pytest.fixture(autouse=True)
    def use_folder(self, tmp_path: pathlib.Path) -> None:
        """Put the lock files into a folder of the test."""
        self.folder = tmp_path / 'locks'

    def make_lock(self, name: str) -> BaseLock:
        return make_lock(FileLock, name, folder=str(self.folder))


@pytest.fixture(scope='module')
def consul() -> Iterator[ConsulStandIn]:
    """A Consul that the tests share."""
    with ConsulStandIn() as running:
        yield running


class TestConsulLock(LockContract):
    """The lock across machines, with the stand-in for Consul."""

    @pytest.fixture(autouse=True)
    def use_consul(self, consul: ConsulStandIn) -> None:
        """Use the shared Consul."""
        self.consul = consul

    def make_lock(self, name: str) -> BaseLock:
        return make_lock(ConsulLock, name, **self.consul.options())
