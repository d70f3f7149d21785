"""What every lock has to do, as tests that its author inherits."""

from jobslib.testing.contract_base import make_lock
from jobslib.testing.contract_end import EndContract
from jobslib.testing.contract_operate import OperateContract
from jobslib.testing.contract_use import UseContract

__all__ = ['LockContract', 'make_lock']


class LockContract(UseContract, EndContract, OperateContract):
    """The tests of a lock; to be inherited by a test class of pytest.

    The subclass provides :meth:`make_lock`, and says by its attributes what
    the lock cannot do; it is then held to not doing it::

        class TestMyLock(LockContract):
            has_owner_info = False

            def make_lock(self, name):
                return make_lock(MyLock, name, server='localhost')

    What :meth:`make_lock` needs besides, say a temporary folder, a fixture
    of the subclass with ``autouse`` can put into ``self``.

    The attributes that say what a lock can do are all true but where the
    subclass says otherwise: :attr:`exclusive`, :attr:`has_fencing_token`,
    :attr:`has_owner_info`, :attr:`has_history`, :attr:`can_be_asked`,
    :attr:`frees_on_death`.  :attr:`death_timeout` and :attr:`slack` give it
    more time, or less.

    Some tests fork the process of the tests, so :meth:`make_lock` is called
    in child processes, too.  Nothing but pytest is needed to run them; it is
    not imported.
    """
