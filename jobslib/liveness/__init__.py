"""Liveness: when did the job last succeed, whichever machine it was on.

:class:`BaseLiveness` is what a liveness has to offer; subclass it to add a
kind of your own, and name the class in ``LIVENESS['backend']``.
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

    With ``runjob``, :meth:`write` is called in a thread of its own, so that
    it may take its time.  Whatever cannot be done raises
    :class:`jobslib.exceptions.LivenessError`.

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

        That is what the loop calls.  Unless it is overridden it is
        :meth:`write`, which is some seconds late after an outage.
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
        """Return what ``check()`` makes of what ``read()`` returned.

        A success that is more than *max_age* ahead of this machine's clock
        does not count: one of the clocks is wrong.
        """
        return record is not None and abs(age_of(record)) <= max_age

    def make_record(self, at: float) -> dict[str, Any]:
        """Return what is noted of a success at *at*.

        To be extended by subclasses; the values must fit into JSON.
        """
        return {'fqdn': self.context.fqdn, **shown(at)}

    def get_state(self) -> dict[str, Any]:
        """Return what is noted of a success just now, as in jobslib 3."""
        return self.make_record(time.time())

    def make_observer(self) -> Observer:
        """Return who listens to the loop, and calls ``write_at()``."""
        from jobslib.liveness.observer import LivenessObserver
        return LivenessObserver(self)

    def close(self) -> None:
        """Close what was opened."""


def age_of(record: dict[str, Any]) -> float:
    """Return how old *record* is, in seconds."""
    age: float = time.time() - record['timestamp']
    return age
