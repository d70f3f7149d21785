"""Waiting until the threads of a run are over."""

from __future__ import annotations

import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set
    from queue import SimpleQueue

__all__ = ['wait_for']

# How often it is looked whether threads of executors are idle, in seconds.
LOOK = 0.05

EXECUTORS = 'concurrent.futures.thread'
PROCESS_EXECUTORS = 'concurrent.futures.process'


def begun_since(before: Set[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that live and are not among *before*."""
    return [thread for thread in threading.enumerate()
            if thread not in before
            and thread is not threading.current_thread()]


def wait_for(before: Set[threading.Thread]) -> None:
    """Wait for the threads that Python waits for at the end of a program.

    These are all that are not daemons.  Python also ends the threads of
    executors, which would wait for work for ever.  Here those that have nothing
    to do are left alone, because the next run may use the executor again.
    """
    idle: set[threading.Thread] = set()
    while True:
        waiting = [thread for thread in begun_since(before)
                   if not thread.daemon]
        now_idle = {thread for thread in waiting
                    if _is_idle_worker(thread) or _is_idle_manager(thread)}
        # A worker counts as idle when it was so twice in a row: it looks idle
        # for an instant between taking a piece of work and beginning it.
        busy = [thread for thread in waiting
                if thread not in now_idle or thread not in idle]
        if not busy:
            return
        idle = now_idle
        others = [thread for thread in busy
                  if _queue_of(thread) is None and not _is_manager(thread)]
        # An interrupt ends the wait, because its handler raises it in here.
        if others:
            others[0].join()
        else:
            busy[0].join(LOOK)


def _is_idle_worker(thread: threading.Thread) -> bool:
    """Return whether *thread* belongs to an executor and waits for work."""
    queue = _queue_of(thread)
    if queue is None or not queue.empty():
        return False
    frame = sys._current_frames().get(thread.ident or 0)
    # While it works, its innermost frame is in the function that it was given.
    return (frame is not None and frame.f_code.co_name == '_worker'
            and frame.f_globals.get('__name__') == EXECUTORS
            and frame.f_locals.get('work_item') is None)


def _is_manager(thread: threading.Thread) -> bool:
    """Return whether *thread* looks after the processes of an executor."""
    module = sys.modules.get(PROCESS_EXECUTORS)
    return thread in getattr(module, '_threads_wakeups', {})


def _is_idle_manager(thread: threading.Thread) -> bool:
    """Return whether the executor of *thread* has no work in hand."""
    return _is_manager(thread) and not getattr(
        thread, 'pending_work_items', None)


def _queue_of(thread: threading.Thread) -> SimpleQueue[object] | None:
    """Return the queue of work of *thread*, if an executor has started it."""
    module = sys.modules.get(EXECUTORS)
    queue: SimpleQueue[object] | None = getattr(
        module, '_threads_queues', {}).get(thread)
    return queue
