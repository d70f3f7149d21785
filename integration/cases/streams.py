"""Descriptors and standard streams. Right: the outcome of the run is known."""

import os
import stat
import sys
from contextlib import suppress

from integration import stamps
from integration.cases.base import Case

LAST = 4096


class Looks(Case):
    """Looks at its standard descriptors, of which some may be closed.

    Right: no file of another's is one of them.
    """

    def work(self) -> None:
        """Write a stamp for each that is something else."""
        for number in range(3):
            with suppress(OSError):
                target = os.readlink(f'/proc/self/fd/{number}')
                if target != os.devnull and not target.endswith('.log'):
                    self.marks.mark(stamps.REFUSED)


class ClosesMost(Case):
    """Closes all descriptors but the standard ones, as daemonizing code does."""

    def work(self) -> None:
        """Close them."""
        os.closerange(3, LAST)


class ClosesAll(Case):
    """Closes all descriptors."""

    def work(self) -> None:
        """Close them."""
        os.closerange(0, LAST)


class Scribbles(Case):
    """Writes to all sockets that it finds among its descriptors."""

    def work(self) -> None:
        """Write to them."""
        for number in map(int, os.listdir('/proc/self/fd')):
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.write(number, b'.garbage')


class ClosesStandard(Case):
    """Closes the standard descriptors."""

    def work(self) -> None:
        """Close them."""
        for number in range(3):
            with suppress(OSError):
                os.close(number)


class ClosesStreams(Case):
    """Closes the standard streams of Python's."""

    def work(self) -> None:
        """Close them."""
        sys.stdin.close()
        sys.stdout.close()
        sys.stderr.close()


class Redirects(Case):
    """Has the standard descriptors lead nowhere."""

    def work(self) -> None:
        """Redirect them."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        os.close(nowhere)


class NoStreams(Case):
    """Has no standard streams in Python, as under pythonw."""

    def work(self) -> None:
        """Take them away."""
        sys.stdout = sys.stderr = sys.stdin = None
