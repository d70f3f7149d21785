"""What a lock says of itself before it is used, see ``runjob check``."""

from typing import NamedTuple

__all__ = ['DENIED', 'DOUBTFUL', 'FAILED', 'NOT_TRIED', 'OK', 'Finding']

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
