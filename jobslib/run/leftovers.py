"""What a run has left running: finding it, and ending it gently."""

from __future__ import annotations

import time

from jobslib.clock import now
from jobslib.keeper import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ['end_gently', 'end_with', 'left_below', 'remain']

#: How long a process may take to end by itself, in seconds.
PATIENCE = 0.2
# How often it is looked whether it has, in seconds.
TICK = 0.02


def left_below(root: int, keep: Iterable[int] = ()) -> set[tuple[int, int]]:
    """Return the processes that *root* has started and that still live.

    Keepers do not count, nor do the :mod:`multiprocessing` helpers of *root*
    and of the processes that are kept: they end by themselves.

    :param keep: process ids that do not count; processes below them do.
    :returns: pairs of process id and start time.
    """
    return set(processes.leftovers(root, frozenset({root, *keep})))


def remain(root: int, keep: Iterable[int],
           tick: Callable[[], object]) -> bool:
    """Return whether something that :func:`left_below` finds goes on.

    A process that is about to end by itself gets the time to do so.

    :param tick: called at least four times a second while it waits.
    """
    keep = frozenset(keep)
    ends = now() + PATIENCE
    while left_below(root, keep):
        if now() >= ends:
            return True
        tick()
        time.sleep(TICK)
    return False


def end_gently(root: int, marker: str, keep: Iterable[int], grace: float,
               tick: Callable[[], object],
               report: Callable[[str], None] | None = None) -> list[str]:
    """End what :func:`left_below` finds: SIGTERM, then SIGKILL.

    :param marker: see :func:`.marks.mark`.
    :param grace: seconds between the two.
    :param tick: called at least four times a second while it waits.
    :param report: called with a line that says what is waited for.
    :returns: what was ended, each as ``COMMAND (pid PID)``.
    """
    keep = frozenset(keep)
    if not remain(root, keep, tick):
        return []
    ended = processes.end_gently(
        root, marker, set(), frozenset({root, *keep}), grace, tick, report)
    return [_shown(pid, name) for pid, name in ended]


def end_with(root: int, marker: str, owners: Iterable[int], since: int,
             tick: Callable[[], object],
             report: Callable[[str], None]) -> list[str]:
    """Kill *owners*, which *root* has started, and what :func:`left_below`
    finds beside them.

    :param marker: see :func:`.marks.mark`.
    :param since: see :func:`.processes.find`.
    :param tick: called at least four times a second while it waits.
    :param report: called with a line that says what is waited for.
    :returns: what was ended but *owners*, each as ``COMMAND (pid PID)``.
    """
    # Looked at before the kill, because afterwards it is not known any more which
    # process a helper belongs to.
    left = processes.leftovers(root, frozenset({root, *owners}))
    processes.end(root, None, marker, set(), tick, since, report=report)
    return [_shown(pid, name) for (pid, _), name in sorted(left.items())]


def _shown(pid: int, name: str) -> str:
    return f'{name} (pid {pid})'
