"""``runjob exec``: any program as a job.

It is no command like the others: it is carried out as a run is, with the class
that :mod:`jobslib.run.program` makes for its task.
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

#: Its help has all options of a run: it is one.
OPTIONS = None
#: There is no class to be named.
TAKES_TASK = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that no other command has: there are none."""
