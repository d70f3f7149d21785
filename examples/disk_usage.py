"""Records how full this machine's disk is, in SQLite.

    runjob examples.disk_usage.DiskUsage --run-once --database usage.sqlite3

The database checks the fencing token: once a run with a newer token has
written, what an older one still tries to write is refused.  That covers the
moment after a frozen machine has woken up, when its run does not know yet
that the lock went to somebody else.
"""

import contextlib
import shutil
import sqlite3
import time
from typing import NamedTuple

from jobslib import BaseTask, TaskError, argument

__all__ = ['DiskUsage', 'Sample', 'StaleTokenError', 'record']

# The longest wait for another writer, in seconds.
BUSY_TIMEOUT = 20.0

SCHEMA = """
    CREATE TABLE IF NOT EXISTS fence (
        name TEXT PRIMARY KEY,
        token INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS disk_usage (
        time REAL NOT NULL,
        path TEXT NOT NULL,
        used INTEGER NOT NULL,
        total INTEGER NOT NULL,
        token INTEGER NOT NULL
    );
"""

# Changes no row when the token in the table is newer.
RAISE_FENCE = """
    INSERT INTO fence (name, token) VALUES (:name, :token)
    ON CONFLICT (name) DO UPDATE SET token = excluded.token
        WHERE excluded.token >= fence.token
"""

INSERT_SAMPLE = """
    INSERT INTO disk_usage (time, path, used, total, token)
    VALUES (:time, :path, :used, :total, :token)
"""


class StaleTokenError(TaskError):
    """Somebody with a newer token has written already."""


class Sample(NamedTuple):
    """How full a disk is."""

    #: When it was measured, UNIX time.
    time: float
    #: A path on the disk.
    path: str
    #: Bytes in use.
    used: int
    #: Bytes in all.
    total: int


def measure(path: str) -> Sample:
    """Return how full the disk is that *path* is on."""
    usage = shutil.disk_usage(path)
    return Sample(time.time(), path, usage.used, usage.total)


def record(database: str, sample: Sample, name: str, token: int) -> None:
    """Write *sample* into *database*, unless *token* is out of date.

    :param name: of the lock that the token comes from.
    :param token: the fencing token of the run.
    :raises StaleTokenError: a newer token has written before; nothing was
        changed.
    """
    with contextlib.closing(
            sqlite3.connect(database, timeout=BUSY_TIMEOUT)) as connection:
        connection.executescript(SCHEMA)
        # One transaction: nobody can raise the fence between the check and
        # the write.
        with connection:
            raised = connection.execute(
                RAISE_FENCE, {'name': name, 'token': token})
            if raised.rowcount == 0:
                raise StaleTokenError(
                    f'refused: a newer fencing token than {token} has '
                    f'written to {database}')
            connection.execute(
                INSERT_SAMPLE, sample._asdict() | {'token': token})


class DiskUsage(BaseTask):
    """Records one sample in each run."""

    name = 'disk-usage'
    description = 'Record how full a disk is, in an SQLite database.'
    arguments = (
        argument('--database', default='disk_usage.sqlite3', metavar='FILE',
                 help='the database, made if missing (default: %(default)s)'),
        argument('--path', default='/',
                 help='a path on the disk (default: %(default)s)'),
    )

    def task(self) -> None:
        token = self.fencing_token
        if token is None:
            raise TaskError('this lock has no fencing token to write with')
        sample = measure(self.args.path)
        record(self.args.database, sample, self.name, token)
        self.logger.info('%s: %.1f %% of %.1f GB used', sample.path,
                         100 * sample.used / sample.total,
                         sample.total / 1e9)
