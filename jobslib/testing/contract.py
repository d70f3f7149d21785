"""What every lock has to do, as tests that its author inherits."""

from jobslib.testing.contract_base import make_lock
from jobslib.testing.contract_end import EndContract
from jobslib.testing.contract_use import UseContract

__all__ = ['LockContract', 'make_lock']


class LockContract(UseContract, EndContract):
    """The tests of a lock; to be inherited by a test class of pytest.

    The subclass provides :meth:`make_lock`, and says by its attributes what
    the lock cannot do; it is then held to not doing it::

        class TestMyLock(LockContract):
            has_owner_info = False

            def make_lock(self, name):
                return make_lock(MyLock, name, server='localhost')

    What :meth:`make_lock` needs besides, say a temporary folder, a fixture
    of the subclass with ``autouse`` can put into ``self``.  A failed assert
    shows its values after
    ``pytest.register_assert_rewrite('jobslib.testing.contract')`` in a
    ``conftest.py``.
    """
