"""What differs between the versions of Consul that the stand-in can be.

1.8 is as a real agent was measured.  The others are 1.8 and, on top, what
Consul's changelogs, pull requests and source say that has changed since.
"""

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

__all__ = ['PROFILES', 'Profile', 'profile_of']

STRICT_NAME = re.compile(r'[a-zA-Z0-9,_./\-?&=]+')


@dataclass(frozen=True)
class Profile:
    """A version of Consul; times are in seconds, sizes in bytes."""

    #: What the agent says of itself.
    version: str = '1.8.7'
    #: Which names of keys ``/v1/kv`` takes: ``any``, those that are
    #: ``strict``ly made of some ASCII characters, or all but a few that are
    #: ``unclear``.  ``/v1/txn`` takes any.
    key_names: str = 'any'
    #: Whether an agent that is no server refuses to make a session in another
    #: datacenter.
    sessions_at_home: bool = False
    #: Whether reads say that something was left out for want of rights.
    marks_filtered: bool = False
    #: Whether requests can be refused because there are too many of them.
    limits_requests: bool = False
    #: An answer that takes longer is cut.
    longest_answer: float | None = None
    #: A connection without a request for so long is closed.
    idle_timeout: float | None = None
    #: How many connections one address may have.
    max_connections: int = 200
    #: Whether one more gets an answer, 429, before it is closed.
    explains_limit: bool = False
    #: The most that a request to ``/v1/agent`` may carry.
    max_agent_body: int | None = None

    def takes_name(self, key: str) -> bool:
        """Return whether ``/v1/kv`` takes *key*, which may be ``''``, the
        beginning of all keys."""
        if not key:
            return True
        if self.key_names == 'strict':
            return STRICT_NAME.fullmatch(key) is not None
        if self.key_names == 'any':
            return True
        return not any(each != each.strip(' ') or '..' in each.split('/')
                       for each in (key, unquote(key)))


_NEWER = Profile(
    version='1.21.5', key_names='strict', sessions_at_home=True,
    marks_filtered=True, limits_requests=True, explains_limit=True)
_V1_22 = replace(_NEWER, version='1.22.4', key_names='unclear',
                 longest_answer=30.0, idle_timeout=120.0)

#: The profiles by the name that they are asked for.
PROFILES = {
    '1.8': Profile(),
    '1.21.5': _NEWER,
    '1.22': _V1_22,
    '2.1': replace(_V1_22, version='2.1.0', longest_answer=900.0,
                   max_agent_body=512 * 1024),
}


def profile_of(version: str) -> Profile:
    """Return the profile of *version*.

    :raises ValueError: there is none.
    """
    if version not in PROFILES:
        raise ValueError(f'version: {version!r} is not allowed; allowed: one '
                         f'of {", ".join(PROFILES)}')
    return PROFILES[version]
