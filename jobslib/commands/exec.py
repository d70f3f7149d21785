"""``runjob exec``: any program as a job.

It is not a command like the others.  It is carried out like the run of a task,
with a task class that :mod:`jobslib.run.program` makes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

__all__ = ['DESCRIPTION', 'NAME_HELP', 'USAGE', 'add_arguments']

DESCRIPTION = ('Run any program, in place of a task: what stands after "--" '
               'is started for each run, as it is.')
USAGE = 'runjob exec --name NAME [options] -- COMMAND [ARGUMENT ...]'
NAME_HELP = ('names the job in logs, and its lock: jobs of one name exclude '
             'each other')

#: Its help lists all options of a run, because it is one.
OPTIONS = None
#: There is no task class that could be named.
TAKES_TASK = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command, which has none of its own."""
