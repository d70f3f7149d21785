"""What is known of the job, or of all jobs, at one moment."""

from __future__ import annotations

import time

from jobslib.commands.common import is_default_lock, make_lock
from jobslib.commands.jobs import describe
from jobslib.commands.jobtables import (
    JobTable,
    demands,
    details,
    overview,
    runs,
)
from jobslib.config import Config
from jobslib.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.documents import Document

__all__ = ['Look', 'tables']


class Look:
    """What is known of the job, or of all jobs, at one moment.

    :raises LockUnavailableError: it cannot be found out.
    """

    def __init__(self, config: Config) -> None:
        self.time = time.time()
        self.jobs: list[Document] = []
        #: Lines for people about what the tables do not show.
        self.notes: list[str] = []
        #: Why jobs may be missing that may not be read; empty if none is.
        self.missing = ''
        if config.task_cls is None:
            self._find_all(config)
        else:
            lock = make_lock(config)
            try:
                place = {**lock.place, 'default': is_default_lock(config)}
                self.jobs.append(describe(
                    config.task_name, lock.look(), place=place,
                    plan=config.make_plan(config.task_name)))
            finally:
                lock.close()

    def _find_all(self, config: Config) -> None:
        one_instance = config.one_instance
        backend = one_instance.backend_class
        found = backend.find_all(
            Context(config), one_instance.options, config.args.prefix)
        # A lock of a user may return a plain dict instead of FoundLocks.
        address = getattr(found, 'address', None)
        self.missing = getattr(found, 'missing', '')
        prefix = getattr(found, 'prefix', '')
        for key, state in found.items():
            self.jobs.append(describe(state.owner.task or key, state, place={
                'backend': f'{backend.__module__}.{backend.__qualname__}',
                'address': address, 'key': key,
                'default': is_default_lock(config)}))
        self.jobs.sort(key=lambda job: (job['task'], job['lock']['key']))
        if not self.jobs:
            begin = f' whose lock begins with {prefix!r}' if prefix else ''
            self.notes.append(f'no job{begin} has been run yet, as far as is '
                              f'known to {address or backend.__qualname__}')
        self.notes += demands(self.jobs)
        if self.missing:
            self.notes.append(self.missing)


def tables(config: Config, jobs: list[dict[str, object]]) -> list[JobTable]:
    """Return the tables to show."""
    if config.task_cls is None:
        return [overview(jobs)] if jobs else []
    return [details(jobs[0]), runs(jobs[0])]
