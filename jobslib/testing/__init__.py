"""What tests of jobs and of locks need.

Nothing in here is used by ``runjob`` itself.
"""

from jobslib.testing.consul import ConsulStandIn
from jobslib.testing.consul_api import Request
from jobslib.testing.contract import LockContract, make_lock

__all__ = ['ConsulStandIn', 'LockContract', 'Request', 'make_lock']
