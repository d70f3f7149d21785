"""What a lock can say of itself before it is used, see ``runjob check``."""

import os
from typing import NamedTuple

from jobslib import needs

__all__ = ['DENIED', 'DOUBTFUL', 'FAILED', 'NOT_TRIED', 'OK', 'Finding',
           'examine_system']

OK = 'ok'
#: The token, or the user, has no right to it.
DENIED = 'denied'
#: It went wrong for another reason.
FAILED = 'failed'
#: It could not be asked, or is not needed.
NOT_TRIED = 'not tried'
#: It works, and is probably not meant to be so; the detail is a warning.
DOUBTFUL = 'doubtful'


class Finding(NamedTuple):
    """One thing that a lock needs, and whether it is there."""

    #: What was tried.
    what: str
    #: One of the five words above.
    result: str
    #: What was found, or why not.
    detail: str = ''
    #: What to grant when it was denied: the text of a rule.
    grant: str = ''


def examine_system() -> list[Finding]:
    """Return what the kernel, or a sandbox, does not let a job do.

    It is one line when nothing is missing.
    """
    missing = [Finding(what, FAILED, error)
               for what, error in needs.examine() if error is not None]
    system = os.uname()
    return missing or [Finding('have what a job needs of the system', OK,
                               f'{system.sysname} {system.release}')]
