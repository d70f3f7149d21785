"""The functions that jobslib 3 had to show times, for tasks that import them."""

from __future__ import annotations

import time

__all__ = ['get_current_time', 'to_local', 'to_utc']

FORMAT = '%Y-%m-%d %H:%M:%S'


def get_current_time() -> int:
    """Return the UNIX time, in whole seconds."""
    return int(time.time())


def to_utc(seconds: float, format_string: str = FORMAT) -> str:
    """Return the UNIX time *seconds* as text, in UTC."""
    return time.strftime(format_string, time.gmtime(int(seconds)))


def to_local(seconds: float, format_string: str = FORMAT) -> str:
    """Return the UNIX time *seconds* as text, in this machine's time zone."""
    return time.strftime(format_string, time.localtime(int(seconds)))
