"""When a run is interrupted, when it is killed, and when its ward is.

Decisions only: times and states go in, actions come out.  There is no clock
here, no thread and no socket; :mod:`jobslib.keeper.keeper` carries out
what is decided.  Standard library only, see there.

The *ward* is the process that the lease belongs to.  As a rule it is the run
itself: a program with a lock of its own.  A *supervised* ward runs no code of
users; its run is one of its descendants.  Then a run that does not stop is
killed first and alone, and the ward has some time to say that it has noticed;
it is killed only when it does not, or when it stands still.

All times are in seconds, those at which something happens of
:func:`jobslib.clock.now`.
"""

from __future__ import annotations

__all__ = ['FINE', 'LOST', 'STOPPING', 'UNPROTECTED_GRACE', 'Decisions',
           'Interrupt', 'Kill', 'Loss']

#: What the run has to know: nothing; it must stop; the lease is lost, too.
FINE, STOPPING, LOST = 0, 1, 2

#: A key that was deleted, or that another session holds, is protected by no
#: lock-delay.
UNPROTECTED_GRACE = 0.2
# A ward says twice a second that it is at work, and may be late: a machine
# can be busy.
SHORTEST_SILENCE = 2.0
# The most of the time between two looks that counts as silence of the ward.
# The keeper looks four times a second; where more passed, it was not awake
# itself, as when the whole machine stood still.
LONGEST_LOOK = 0.5


class Loss:
    """How the lease was lost.

    :param reason: for people.
    :param hold: the hold that ended; ``None``: the session itself did.
    :param protected: nobody else is granted the lock for a while.
    """

    def __init__(self, reason: str, hold: object | None = None,
                 protected: bool = True) -> None:
        self.reason = reason
        self.hold = hold
        self.protected = protected


class Action:
    """Something to be carried out; two that say the same are equal."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        fields = ', '.join(f'{name}={value!r}'
                           for name, value in vars(self).items())
        return f'{type(self).__name__}({fields})'


class Interrupt(Action):
    """Tell the run to stop.

    :param state: :data:`STOPPING` or :data:`LOST`.
    :param reason: for people.
    :param signal: whether to send the signal; not if it was sent before.
    """

    def __init__(self, state: int, reason: str, signal: bool = True) -> None:
        self.state = state
        self.reason = reason
        self.signal = signal


class Kill(Action):
    """End what does not stop.

    :param ward: the ward itself and all that it started, and give up the
        lock; else only what it started: the run.
    :param reason: for people.
    """

    def __init__(self, ward: bool, reason: str) -> None:
        self.ward = ward
        self.reason = reason


class Decisions:
    """Decides for one ward, by what it is told.

    :param grace: from the interrupt to the kill.
    :param kill: allowance for the kill to be done.
    :param supervised: the ward runs no code of users.
    """

    def __init__(self, grace: float, kill: float,
                 supervised: bool = False) -> None:
        self.grace = grace
        self.kill = kill
        self.supervised = supervised
        #: One of :data:`FINE`, :data:`STOPPING`, :data:`LOST`.
        self.state = FINE
        #: Why the run was told to stop, or killed; of the last one, too.
        self.reason = ''
        #: Whether the ward holds the lock.
        self.held = False
        self._kill_at: float | None = None
        # When the run of a supervised ward was killed, and was gone.
        self._killed_at: float | None = None
        # How long a ward may take to notice that.
        self._patience = grace
        self._run_ends: float | None = None
        self._max_run_time = 0.0
        self._heartbeat: float | None = None
        # The last sign of life of the ward, and for how long there was none.
        self._sign = 0.0
        self._silence = 0.0
        self._looked: float | None = None

    # What happens.

    def hold_begins(self, time: float, state: int, reason: str) -> None:
        """The ward has the lock.

        :param state: what the keeper before this one left, if it is not
            :data:`FINE`: that is gone on with.
        """
        self.held = True
        self.state = state
        self._kill_at = self._killed_at = None
        self._patience = self.grace
        self.heard()
        if state != FINE:
            self._limit(time + self.grace, reason)

    def hold_ends(self) -> None:
        """The ward does not have the lock, or is about to release it."""
        self.held = False

    def run_begins(self, time: float, max_run_time: float | None,
                   heartbeat: float | None) -> None:
        """A run began at *time*, with these limits."""
        self._max_run_time = max_run_time or 0.0
        self._run_ends = None if max_run_time is None else time + max_run_time
        self._heartbeat = heartbeat

    def run_is_told(self, time: float) -> None:
        """The ward told its run to stop."""
        self._limit(time + self.grace, 'the run did not stop when told to')

    def run_ends(self, stopped: bool) -> bool:
        """The ward says that its run is over.

        :param stopped: it was told to stop.
        :returns: whether what it left has to be ended; then
            :meth:`is_cleared` is to be called.
        """
        self._run_ends = self._heartbeat = None
        clear = stopped or self._kill_at is not None
        self._kill_at = self._killed_at = None
        return clear

    def is_cleared(self, time: float, until: float, lost: bool) -> int:
        """Nothing is left of a run that was stopped; return the state."""
        fine = not lost and time < self.stop_at(until)
        self.state = FINE if fine else LOST
        return self.state

    def run_is_killed(self, time: float) -> None:
        """A :class:`Kill` that spares the ward was carried out."""
        self._killed_at = time

    def heard(self) -> None:
        """The ward said something."""
        self._silence = 0.0

    # What is to be done.

    def stop_at(self, until: float) -> float:
        """Return when a run has to be told to stop, at the latest."""
        return until - self.grace - self.kill

    def decide(self, time: float, until: float, beat: float, sign: float,
               loss: Loss | None) -> list[Interrupt | Kill]:
        """Return what is to be done at *time*.

        :param until: until when the lease is certainly ours.
        :param beat: the last heartbeat of the run.
        :param sign: the last sign of life of a supervised ward.
        :param loss: how this hold was lost, if it was.
        """
        if not self.held:
            return []
        interrupt = self._find_interrupt(time, until, beat, loss)
        kill = self._find_kill(time, until, self._is_silent(time, sign))
        return [action for action in (interrupt, kill) if action is not None]

    def _find_interrupt(self, time: float, until: float, beat: float,
                        loss: Loss | None) -> Interrupt | None:
        if self.state == LOST:
            return None
        if loss is not None:
            if not loss.protected:
                self._patience = 0.0
            return self._stop(time, LOST, loss.reason, self.grace
                              if loss.protected else UNPROTECTED_GRACE)
        if time >= self.stop_at(until):
            return self._stop(
                time, LOST, 'the lease could not be renewed in time')
        if self.state == STOPPING:
            return None
        if self._run_ends is not None and time >= self._run_ends:
            return self._stop(time, STOPPING, 'the run took longer than '
                              f'{self._max_run_time:g} s')
        if self._heartbeat is not None and time >= beat + self._heartbeat:
            return self._stop(time, STOPPING, 'the run was silent for '
                              f'{self._heartbeat:g} s')
        return None

    def _stop(self, time: float, state: int, reason: str,
              grace: float | None = None) -> Interrupt:
        was_told = self.state == STOPPING
        self.state = state
        self._limit(time + min(self.grace if grace is None else grace,
                               self.grace), reason)
        return Interrupt(state, reason, not was_told)

    def _limit(self, kill_at: float, reason: str) -> None:
        if self._kill_at is None or kill_at < self._kill_at:
            self._kill_at = kill_at
            self.reason = reason

    def _find_kill(self, time: float, until: float,
                   is_silent: bool) -> Kill | None:
        if is_silent:
            self.reason = self.reason or 'its supervisor stands still'
            return Kill(True, 'it stands still')
        if self._kill_at is None:
            return None
        if self._killed_at is not None:
            due = time >= self._report_by(self._killed_at, until)
            return Kill(True, f'{self.reason}; it does not notice that '
                              f'the run is gone') if due else None
        # A lease that was renewed meanwhile does not put it off.
        self._kill_at = min(self._kill_at, until - self.kill)
        if time < self._kill_at:
            return None
        return Kill(not self.supervised, self.reason)

    def _report_by(self, killed_at: float, until: float) -> float:
        """Return until when a ward has to have noticed that its run is gone.

        It is in no hurry as long as nobody else can have the lock: nothing
        is left that could work beside the next holder.
        """
        return max(killed_at + self.kill / 2,
                   min(killed_at + self._patience, until - self.kill / 2))

    def _is_silent(self, time: float, sign: float) -> bool:
        """Tell whether a supervised ward has been silent for too long.

        Only what the keeper has seen itself counts, look by look.
        """
        passed = 0.0 if self._looked is None else time - self._looked
        self._looked = time
        if not self.supervised:
            return False
        if sign != self._sign or time < sign:
            self._sign = sign
            self._silence = 0.0
        else:
            self._silence += min(passed, LONGEST_LOOK)
        return self._silence >= max(self.grace, SHORTEST_SILENCE)
