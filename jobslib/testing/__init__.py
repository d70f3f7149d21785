"""A stand-in for Consul and the contract of locks, for tests of jobs and locks.

``runjob`` itself uses none of it.
"""

from jobslib.testing.consul import ConsulStandIn
from jobslib.testing.consul_api import Request
from jobslib.testing.contract import LockContract, make_lock

__all__ = ['ConsulStandIn', 'LockContract', 'Request', 'make_lock']
