"""What is found out before a lock is used, see ``runjob check``."""

import os

from jobslib import needs
from jobslib.findings import (
    DENIED,
    DOUBTFUL,
    FAILED,
    NOT_TRIED,
    OK,
    Finding,
)

__all__ = ['DENIED', 'DOUBTFUL', 'FAILED', 'NOT_TRIED', 'OK', 'Finding',
           'examine_system']


def examine_system() -> list[Finding]:
    """Return what the kernel, or a sandbox, does not let a job do.

    When nothing is missing, it is one finding that says so.
    """
    missing = [Finding(what, FAILED, error)
               for what, error in needs.examine() if error is not None]
    system = os.uname()
    return missing or [Finding('have what a job needs of the system', OK,
                               f'{system.sysname} {system.release}')]
