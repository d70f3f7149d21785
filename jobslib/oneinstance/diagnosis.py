"""What a lock can say of itself before it is used, see ``runjob check``."""

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

    It is one line when nothing is missing.
    """
    missing = [Finding(what, FAILED, error)
               for what, error in needs.examine() if error is not None]
    system = os.uname()
    return missing or [Finding('have what a job needs of the system', OK,
                               f'{system.sysname} {system.release}')]
