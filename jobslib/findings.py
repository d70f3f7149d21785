"""What is found out about a lock before it is used, see ``runjob check``."""

from typing import NamedTuple

__all__ = ['DENIED', 'DOUBTFUL', 'FAILED', 'NOT_TRIED', 'OK', 'Finding']

#: It works.
OK = 'ok'
#: The token, or the user, has no right to it.
DENIED = 'denied'
#: It does not work, for another reason.
FAILED = 'failed'
#: It could not be tried, or is not needed.
NOT_TRIED = 'not tried'
#: It works, but probably not as it is meant to; the detail is a warning.
DOUBTFUL = 'doubtful'


class Finding(NamedTuple):
    """One thing that a lock needs, and whether it works."""

    #: What was tried.
    what: str
    #: One of the five words above.
    result: str
    #: What was found, or why not.
    detail: str = ''
    #: What to grant when it was denied: the text of a rule.
    grant: str = ''
