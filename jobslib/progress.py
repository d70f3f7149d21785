"""How far a run is: on a terminal, in the log, and to the lock."""

from __future__ import annotations

import os
import sys
import threading

from jobslib.clock import Clock
from jobslib.exceptions import OneInstanceWatchdogError
from jobslib.runs import ProgressReport
from jobslib.runs import describe as describe_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from jobslib.bar import Bar, ReportingTask

__all__ = ['Progress', 'describe']

# The least time between two looks at what was reported, between two lines of the
# log, and between two reports to the lock, in seconds.
TICK = 0.1
LINE_PAUSE = 5.0
REPORT_PAUSE = 5.0
# The pause between two heartbeats, as a share of what is allowed.
BEAT_SHARE = 0.1


class Progress:
    """The progress of one run.

    Something wrong in a report is left out, see
    :class:`~jobslib.runs.ProgressReport`, and does not make the run fail.

    :param task: the task.
    :param clock: the clock that pauses are measured with.
    """

    def __init__(self, task: ReportingTask, clock: Clock | None = None) -> None:
        self._task = task
        self._lock = task.context.one_instance_lock
        self._clock = clock or Clock()
        self._now = self._clock.now
        self._pid = os.getpid()
        heartbeat = self._lock.watchdog.heartbeat
        self._pause = min(TICK, BEAT_SHARE * (heartbeat or TICK / BEAT_SHARE))
        self._latest: tuple[object, object, object, float] | None = None
        self._next = float('-inf')
        # The first line and the first report come after a pause, so that a short
        # run writes one line, at its end, and nothing to the lock.
        self._next_line = self._now() + LINE_PAUSE
        self._next_report = self._now() + REPORT_PAUSE
        self._complete = False
        self._line = ''
        self._busy = threading.Lock()
        self._closed = False
        self._bar: Bar | None = None
        self._has_bar = _on_terminal()
        self._complained = False

    @property
    def latest(self) -> ProgressReport | None:
        """The last report, ``None`` before the first."""
        if self._latest is None:
            return None
        done, total, message, when = self._latest
        return ProgressReport(done, total, message, round(
            self._clock.wall() - (self._now() - when), 3))

    def report(self, done: object, total: object = None, message: object = '') -> None:
        """Take note of a report, and show it if it is time to.

        In a forked child this does nothing.

        :raises OneInstanceWatchdogError: the lock is lost.
        """
        # A task may call this for each of millions of records, so it does nothing
        # more than this before it knows that it is time to.
        now = self._now()
        self._latest = (done, total, message, now)
        try:
            if now < self._next and (self._complete or done != total):
                return
        except Exception:
            # The task has reported objects that cannot be compared.
            return
        self._look(now)

    def close(self) -> None:
        """The run is over: show the last report."""
        if os.getpid() != self._pid or self._latest is None:
            return
        # With a timeout, because the lock stays locked when an interrupt came in
        # the instant after it was acquired.
        acquired = self._busy.acquire(timeout=1)
        try:
            self._closed = True
            self._safely(self._show_last)
        finally:
            if acquired:
                self._busy.release()

    def _look(self, now: float) -> None:
        if os.getpid() != self._pid:
            return
        self._next = now + self._pause
        if self._lock.held and not self._lock.refresh():
            self._next = float('-inf')
            raise OneInstanceWatchdogError('the lock is lost')
        if self._busy.acquire(blocking=False):
            try:
                if not self._closed:
                    self._safely(lambda: self._show(now))
            finally:
                self._busy.release()

    def _safely(self, call: Callable[[], None]) -> None:
        """Call *call*, whose failure must not be that of the run."""
        try:
            call()
        except Exception as exc:
            if not self._complained:
                self._complained = True
                self._task.logger.warning(
                    'progress cannot be shown: %s', describe_error(exc))

    def _show(self, now: float) -> None:
        latest = self.latest
        assert latest is not None
        self._complete = latest.is_complete
        self._show_bar(latest)
        if now >= self._next_line:
            self._next_line = now + LINE_PAUSE
            self._log(latest)
        if now >= self._next_report:
            self._next_report = now + REPORT_PAUSE
            # The lock of a user need not have this method.
            tell = getattr(self._lock, 'report_progress', None)
            if tell is not None:
                tell(latest.export())

    def _show_last(self) -> None:
        latest = self.latest
        assert latest is not None
        try:
            self._show_bar(latest)
        finally:
            bar, self._bar = self._bar, None
            if bar is not None:
                bar.close()
        self._log(latest)

    def _show_bar(self, latest: ProgressReport) -> None:
        if not self._has_bar:
            return
        # Switched off while it is shown, so that after an exception there is no bar
        # any more; then there are lines in the log instead.
        self._has_bar = False
        if self._bar is None:
            from jobslib.bar import Bar
            self._bar = Bar(self._task)
        self._bar.show(latest)
        self._has_bar = True

    def _log(self, latest: ProgressReport) -> None:
        line = describe(latest)
        if line and line != self._line and not self._has_bar:
            self._line = line
            self._task.logger.info('progress: %s', line,
                                   extra={'progress': latest.export()})


def describe(latest: ProgressReport) -> str:
    """Return the report for people to read."""
    done, total = latest.done, latest.total
    count = ''
    if done is not None and total is not None:
        count = (f'{_show_number(done)} of {_show_number(total)} '
                 f'({int(100 * done / total)} %)')
    elif done is not None:
        count = _show_number(done)
    return ', '.join(filter(None, (count, latest.message)))


def _show_number(number: float) -> str:
    return str(number) if isinstance(number, int) else f'{number:g}'


def _on_terminal() -> bool:
    """Return whether standard error is a terminal that can show a bar."""
    try:
        return (sys.stderr.isatty()
                and os.environ.get('TERM', '') not in ('', 'dumb', 'unknown'))
    except (AttributeError, ValueError):
        return False
