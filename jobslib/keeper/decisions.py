"""When a run is interrupted, when it is killed, and when its ward is killed.

Decisions only: times and states go in, actions come out.  There is no clock
here, no thread and no socket; :mod:`jobslib.keeper.keeper` carries out
what is decided.  Standard library only, see there.

The *ward* is the process that the lease belongs to.  In a program with a lock of
its own it is the run itself.  A *supervised* ward is a supervisor: it runs no
code of users, and its run is a process below it.  There a run that does not
stop is killed first, without the ward, which then has some time to say that it
has noticed.  The ward is killed only when it does not say so, or when it stands
still.

Durations are in seconds; points in time are those of :func:`jobslib.clock.now`.
"""

from __future__ import annotations

__all__ = ['FINE', 'LOST', 'STOPPING', 'UNPROTECTED_GRACE', 'Decisions',
           'Interrupt', 'Kill', 'Loss']

#: How a run stands: all is well; it must stop, while the lease is still ours;
#: it must stop because the lease is lost.
FINE, STOPPING, LOST = 0, 1, 2

#: The grace of a run whose lock nothing protects: its key was deleted, or
#: another session holds it, so that no lock-delay keeps others from it.
UNPROTECTED_GRACE = 0.2
# How long a ward may say nothing before it is taken to stand still.  It says
# twice a second that it is at work, and on a busy machine it may be late.
SHORTEST_SILENCE = 2.0
# How much of the time between two looks at the ward counts as its silence.
# The keeper looks four times a second.  When more time passed, the keeper was
# not awake itself, as when the whole machine stood still, and the ward could
# not have said anything either.
LONGEST_LOOK = 0.5


class Loss:
    """How the lease was lost.

    :param reason: for people.
    :param hold: the hold that ended; ``None`` when the session has ended, and
        with it whatever it held.
    :param protected: whether the service still keeps others from the lock for
        a while.
    """

    def __init__(self, reason: str, hold: object | None = None,
                 protected: bool = True) -> None:
        self.reason = reason
        self.hold = hold
        self.protected = protected


class Action:
    """Something to be carried out; actions of one class compare by value."""

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
    :param signal: whether to send the signal; not when it was sent before.
    """

    def __init__(self, state: int, reason: str, signal: bool = True) -> None:
        self.state = state
        self.reason = reason
        self.signal = signal


class Kill(Action):
    """Kill what does not stop.

    :param ward: whether to kill the ward itself with all that it started, and
        to give up the lock; otherwise only its run is killed.
    :param reason: for people.
    """

    def __init__(self, ward: bool, reason: str) -> None:
        self.ward = ward
        self.reason = reason


class Decisions:
    """Decides for one ward, from what it was told.

    :param grace: from the interrupt to the kill.
    :param kill: how long a kill may take until all processes are gone.
    :param supervised: whether the ward is a supervisor.
    """

    def __init__(self, grace: float, kill: float,
                 supervised: bool = False) -> None:
        self.grace = grace
        self.kill = kill
        self.supervised = supervised
        #: One of :data:`FINE`, :data:`STOPPING`, :data:`LOST`.
        self.state = FINE
        #: Why the run was told to stop, or was killed; it keeps the reason of
        #: the last run to which that happened.
        self.reason = ''
        #: Whether the ward holds the lock.
        self.held = False
        self._kill_at: float | None = None
        # When the run of a supervised ward was killed and gone.
        self._killed_at: float | None = None
        # How long the ward may take from there to notice it.
        self._patience = grace
        self._run_ends: float | None = None
        self._max_run_time = 0.0
        self._heartbeat: float | None = None
        # The last sign of life of the ward, for how long there has been no
        # other since, and when that was last looked at.
        self._sign = 0.0
        self._silence = 0.0
        self._looked: float | None = None

    # What happens.

    def hold_begins(self, time: float, state: int, reason: str) -> None:
        """The ward has the lock.

        :param state: :data:`FINE`, or what the keeper before this one has
            left: an interrupt that it began is taken over, with a new grace.
        """
        self.held = True
        self.state = state
        self._kill_at = self._killed_at = None
        self._patience = self.grace
        self.heard()
        if state != FINE:
            self._limit(time + self.grace, reason)

    def hold_ends(self) -> None:
        """The ward does not hold the lock, or is about to release it."""
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

        :param stopped: whether it was told to stop.
        :returns: whether what the run has left behind must be killed; when
            that is done, :meth:`is_cleared` is to be called.
        """
        self._run_ends = self._heartbeat = None
        clear = stopped or self._kill_at is not None
        self._kill_at = self._killed_at = None
        return clear

    def is_cleared(self, time: float, until: float, lost: bool) -> int:
        """Nothing is left of a run that was stopped.

        :param until: until when the lease is certainly ours.
        :param lost: whether this hold was lost.
        :returns: :data:`FINE` if another run may begin, else :data:`LOST`.
        """
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
        """Return when a run must be told to stop if *until* comes no later."""
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
        # The end of the lease brings the kill forward.  A renewal that succeeds
        # meanwhile does not put it off again.
        self._kill_at = min(self._kill_at, until - self.kill)
        if time < self._kill_at:
            return None
        return Kill(not self.supervised, self.reason)

    def _report_by(self, killed_at: float, until: float) -> float:
        """Return by when a ward must have noticed that its run is gone.

        Nothing is left that could work beside the next holder, so the ward
        gets its full patience, but not beyond the end of the lease.
        """
        return max(killed_at + self.kill / 2,
                   min(killed_at + self._patience, until - self.kill / 2))

    def _is_silent(self, time: float, sign: float) -> bool:
        """Tell whether a supervised ward has been silent for too long.

        Silence is added up look by look, so that time in which the keeper
        itself was not awake does not count; see :data:`LONGEST_LOOK`.
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
