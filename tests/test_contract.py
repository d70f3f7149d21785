"""The locks that come with jobslib keep the contract of locks."""

import pathlib
from collections.abc import Iterator

import pytest
from support import STEADY

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
    has_history = False
    can_be_asked = False

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


@pytest.mark.parametrize('test', [
    'test_contender', 'test_release_of_contender', 'test_fencing_token',
    'test_token_is_constant', 'test_owner_info', 'test_previous_record',
    'test_wait_for_held_lock', 'test_close_of_contender', 'test_one_of_many',
    'test_death', 'test_history_goes_with_the_release',
    'test_saved_history_is_seen', 'test_progress_is_seen', 'test_look',
    'test_history_is_kept_by_those_that_have_none',
])
def test_contract_is_not_kept(test: str) -> None:
    """A lock that locks nothing fails when it does not say so."""
    class Contract(TestDummyLock):
        exclusive = True
        has_fencing_token = True
        has_owner_info = True
        has_history = True
        slack = 0.1

    contract = Contract()
    contract.setup_method()
    with pytest.raises(AssertionError):
        getattr(contract, test)()
    contract.teardown_method()


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
        return make_lock(ConsulLock, name, **self.consul.options(**STEADY))
