"""What it means for a call of a lock or a command that a request has failed."""

from __future__ import annotations

from jobslib.consul.refusals import BAD_TTL, NO_NODE, Refused
from jobslib.consul.transactions import MAY_NOT, SESSION_LOST
from jobslib.consul.transport import TransportError
from jobslib.exceptions import ConfigError, LockError, LockUnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ['PermissionDeniedError', 'SessionLostError', 'give_up', 'is_passing',
           'is_settled', 'is_undone']

# Texts of Consul's refusals, in lower case.  The status is 500 whatever the
# cause, so the text decides.
_NO_LEADER = ('no cluster leader',)
_BAD_NAME = ('invalid key name',)
# It is of no use to try again what was refused with one of these.
_FINAL = MAY_NOT + SESSION_LOST + NO_NODE + BAD_TTL + _BAD_NAME + (
    'missing check ', 'failed session lookup', 'cross datacenter lock')


class PermissionDeniedError(LockUnavailableError):
    """The token does not allow the call, or Consul does not know the token."""


class SessionLostError(LockError):
    """The session that the call was made for has ended."""


def is_passing(exc: Exception) -> bool:
    """Tell whether the same call may succeed in a moment."""
    if isinstance(exc, Refused):
        return exc.status == 429 or exc.status >= 500 and not exc.says(_FINAL)
    return isinstance(exc, TransportError)


def is_undone(exc: BaseException) -> bool:
    """Tell whether a call has certainly not been carried out, and may succeed in
    a moment."""
    if isinstance(exc, Refused):
        return exc.status == 429 or exc.status >= 500 and exc.says(_NO_LEADER)
    return isinstance(exc, TransportError) and not exc.sent


def is_settled(exc: BaseException) -> bool:
    """Tell whether a call that failed so is not carried out, now or later."""
    # Other statuses can come from something between here and Consul, which does
    # not know what became of the request.
    return is_undone(exc) or isinstance(exc, Refused) and (
        exc.status in (400, 401, 403, 409, 413)
        or exc.status >= 500 and exc.says(_FINAL))


def give_up(what: str, exc: Exception) -> NoReturn:
    """Raise the error for those who wanted *what*, which has failed with *exc*.

    :raises ConfigError: it is refused whenever it is tried.
    :raises LockError: otherwise; see its subclasses here.
    """
    if isinstance(exc, Refused) and exc.says(_BAD_NAME):
        # The status is that of a fault that passes, but this one does not.
        raise ConfigError(
            f'key: not allowed by this version of Consul: cannot {what}: {exc}; '
            f'allowed by 1.21.5: ASCII letters, digits and ,_./-?&= '
            f'(versions before it, and those from 1.21.6 on, take more): '
            f'choose another name for the task, or another key') from None
    raise _translated(what, exc) from exc


def _translated(what: str, exc: Exception) -> LockError:
    message = f'cannot {what}: {exc}'
    if isinstance(exc, Refused):
        if exc.is_denied:
            return PermissionDeniedError(message)
        if exc.says(SESSION_LOST):
            return SessionLostError(message)
    if isinstance(exc, TransportError | Refused):
        return LockUnavailableError(message)
    return LockUnavailableError(
        f'cannot {what}: not an answer of Consul: {type(exc).__name__}: {exc!s:.200}')
