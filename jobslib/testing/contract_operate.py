"""The contract of locks: what operators see, and what they ask for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.control import Control
from jobslib.oneinstance.requests import Pause, Request
from jobslib.testing.contract_base import ContractBase, raises, until

__all__ = ['OperateContract']

PAUSED = Control(Pause('somebody', 5.0))
HISTORY = {'token': 1, 'runs': 1, 'failures': 0, 'succeeded': 5.0,
           'acquired': 4.0, 'due': 6.0, 'newest': [{'run': 1, 'error': 'ä"'}]}


class OperateContract(ContractBase):
    """The history of runs, and the requests of operators."""

    def test_history_goes_with_the_release(self) -> None:
        """The history that a holder leaves is there for the next one."""
        lock, other = self.held_lock(), self.new_lock()
        lock.history = dict(HISTORY)
        lock.release()
        assert other.acquire() is True
        assert other.previous_history == (
            HISTORY if self.has_history else None)

    def test_saved_history_is_seen(self) -> None:
        """The history is seen by others while the lock is kept."""
        lock, other = self.held_lock(), self.new_lock()
        lock.history = dict(HISTORY)
        lock.save_history()
        if self.has_history:
            self._until_seen(lambda: other.look().history == HISTORY)
        else:
            assert other.look().history is None

    def test_history_is_kept_by_those_that_have_none(self) -> None:
        """A holder that says nothing of a history does not remove it."""
        first, second, third = (self.new_lock() for _ in range(3))
        first.acquire()
        first.history = dict(HISTORY)
        first.release()
        second.acquire()
        second.release()
        third.acquire()
        assert third.previous_history == (
            HISTORY if self.has_history else None)

    def test_progress_is_seen(self) -> None:
        """How far a run is can be seen by others, and not after its end."""
        lock, other = self.held_lock(), self.new_lock()
        progress = {'done': 1, 'total': 2, 'message': 'half', 'time': 5.0}
        lock.report_progress(progress)
        if not self.has_history:
            assert other.look().progress is None
            return

        def seen() -> bool:
            found = other.look().progress
            return (found is not None
                    and progress.items() <= found.export().items())
        self._until_seen(seen)

    def test_look(self) -> None:
        """Others see whether the lock is held, by whom, and with what token.
        """
        lock, other = self.new_lock(), self.new_lock()
        assert other.look().held is False
        lock.acquire()
        state = other.look()
        if self.has_owner_info:
            assert state.held is True and state.record is not None
            assert state.record['pid'] == os.getpid()
            assert state.token == lock.fencing_token
        lock.release()
        assert other.look().held is False
        assert other.look().token is None

    def test_what_cannot_be_asked_is_refused(self) -> None:
        """A lock that cannot be asked says so; nothing is asked at first."""
        lock = self.held_lock()
        assert lock.control.export() == Control().export()
        assert lock.look().control.export() == Control().export()
        if not self.can_be_asked:
            with raises(NotImplementedError):
                lock.ask(PAUSED, Control())

    def test_holder_sees_what_is_asked(self) -> None:
        """A holder sees within a second what is asked of it."""
        lock, operator = self.held_lock(), self.new_lock()
        if not self._may_ask(operator, PAUSED):
            return
        until(lambda: lock.control.paused == PAUSED.paused, 1 + self.slack,
              'the holder sees the pause')
        assert operator.look().control.export() == PAUSED.export()
        assert operator.ask(Control(), PAUSED) is True
        until(lambda: lock.control.paused is None, 1 + self.slack,
              'the holder sees the end of the pause')

    def test_two_operators(self) -> None:
        """Who has not seen what another one asked cannot overwrite it."""
        one, two = self.new_lock(), self.new_lock()
        if not self._may_ask(one, PAUSED):
            return
        other = Control(None, Request('release', 1, 'two'))
        assert two.ask(other, Control()) is False
        assert two.look().control.export() == PAUSED.export()

    def test_pause_bars(self) -> None:
        """Nobody takes the lock of a job that is paused."""
        lock, operator = self.new_lock(), self.new_lock()
        if not self._may_ask(operator, PAUSED):
            return
        assert lock.acquire() is False
        assert lock.barred == 'paused by somebody'
        assert operator.ask(Control(), PAUSED) is True
        assert lock.acquire() is True
        assert lock.barred is None

    def test_wait_for_the_end_of_a_pause(self) -> None:
        """Who waits for the lock of a paused job waits for its end."""
        lock, operator = self.new_lock(), self.new_lock()
        if not self._may_ask(operator, PAUSED):
            return
        assert lock.acquire() is False
        done: list[bool] = []

        def wait() -> None:
            lock.wait(60)
            done.append(True)
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        waiting.join(0.2)
        assert not done
        operator.ask(Control(), PAUSED)
        until(lambda: done, 1 + self.slack, 'the wait is over')
        assert lock.acquire() is True

    def test_release_when_asked(self) -> None:
        """Who gave up the lock when asked lets others have it first."""
        lock, other, operator = (self.new_lock() for _ in range(3))
        lock.acquire()
        request = Control(None, Request(
            'handover', lock.fencing_token, 'somebody',
            to=f'not-{lock.machine()}'))
        if not self._may_ask(operator, request):
            return
        until(lambda: lock.control.demand(lock.fencing_token),
              1 + self.slack, 'the holder sees the request')
        lock.release()
        assert other.acquire() is False
        assert other.barred == f'the lock is handed over to not-{lock.machine()}'

    def _may_ask(self, operator: BaseLock, control: Control) -> bool:
        """Ask *control* if the lock can be asked; return whether it can."""
        if self.can_be_asked:
            assert operator.ask(control, Control()) is True
        return self.can_be_asked

    def _until_seen(self, condition: Callable[[], object]) -> None:
        until(condition, self.slack, 'others see it')
