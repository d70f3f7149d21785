"""Liveness: when the job succeeded last, on whichever machine.

To add a kind of your own, subclass :class:`BaseLiveness` and name the class in
``LIVENESS['backend']``.
"""

from __future__ import annotations

import time
from functools import cached_property

from jobslib.clock import shown
from jobslib.config import ConfigGroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.observers import Observer

__all__ = ['BaseLiveness', 'age_of']


class BaseLiveness:
    """Notes successful runs, and tells how long ago the last one was.

    ``runjob`` calls :meth:`write` in a thread of its own, so it may take its time.
    Whatever cannot be done raises :class:`jobslib.exceptions.LivenessError`.

    :param context: the context of the task.
    :param options: the liveness's options, an ``OptionsConfig``.
    """

    class OptionsConfig(ConfigGroup):
        """Options of the liveness; subclass it to add some."""

    def __init__(self, context: BackendContext, options: Any) -> None:
        self.context = context
        self.options = options

    @cached_property
    def logger(self) -> logging.Logger:
        """The logger of the liveness."""
        import logging
        return logging.getLogger(type(self).__module__)

    def write(self) -> None:
        """Note that a run succeeded just now.

        :raises LivenessError: it could not be noted.
        """
        raise NotImplementedError

    def write_at(self, at: float) -> None:
        """Note that a run succeeded at the UNIX time *at*.

        This is the method that the loop calls.  Unless it is overridden it calls
        :meth:`write`, which after an outage notes a time that is too late.
        """
        self.write()

    def read(self) -> dict[str, object] | None:
        """Return the last success: ``fqdn``, ``timestamp`` (UNIX),
        ``time_utc``, ``time_local``; ``None`` if there is none.

        :raises LivenessError: it could not be read.
        """
        raise NotImplementedError

    def check(self, max_age: float) -> bool:
        """Return whether the last success is at most *max_age* seconds old.

        :raises LivenessError: it could not be read.
        """
        return self.judge(self.read(), max_age)

    def judge(self, record: dict[str, object] | None, max_age: float) -> bool:
        """Return whether the success in *record*, which was read, is at most
        *max_age* seconds old.

        A success that is more than *max_age* in the future does not count, since
        one of the clocks must be wrong.
        """
        return record is not None and abs(age_of(record)) <= max_age

    def make_record(self, at: float) -> dict[str, Any]:
        """Return what is noted of a success at the UNIX time *at*.

        To be extended by subclasses; JSON must be able to hold the values.
        """
        return {'fqdn': self.context.fqdn, **shown(at)}

    def get_state(self) -> dict[str, Any]:
        """Return what is noted of a success just now, as in jobslib 3."""
        return self.make_record(time.time())

    def make_observer(self) -> Observer:
        """Return the observer of the loop that calls
        :meth:`jobslib.liveness.BaseLiveness.write_at`."""
        from jobslib.liveness.observer import LivenessObserver
        return LivenessObserver(self)

    def close(self) -> None:
        """Close what was opened."""


def age_of(record: dict[str, Any]) -> float:
    """Return how old *record* is, in seconds."""
    age: float = time.time() - record['timestamp']
    return age
