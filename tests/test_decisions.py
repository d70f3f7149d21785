"""When the keeper interrupts and kills, by a clock that the test moves."""

import pytest

from jobslib.keeper.decisions import (
    FINE,
    LOST,
    STOPPING,
    Decisions,
    Interrupt,
    Kill,
    Loss,
)

GRACE, KILL, WINDOW = 3.0, 0.5, 15.0
#: How often the keeper looks.
LOOK = 0.25
NOT_RENEWED = 'the lease could not be renewed in time'


class World:
    """A ward with the lock, a lease that is renewed or not, and a clock."""

    def __init__(self, supervised: bool = False, state: int = FINE,
                 reason: str = '') -> None:
        self.time = 1000.0
        self.renewed = True
        self.until = self.time + WINDOW
        self.beat = self.time
        #: Whether the ward gives signs of life, and the last one.
        self.lively = True
        self.sign = self.time
        self.loss: Loss | None = None
        self.decisions = Decisions(GRACE, KILL, supervised)
        self.decisions.hold_begins(self.time, state, reason)

    def look(self) -> list[Interrupt | Kill]:
        """Return what is to be done now."""
        if self.renewed:
            self.until = self.time + WINDOW
        if self.lively:
            self.sign = self.time
        return self.decisions.decide(
            self.time, self.until, self.beat, self.sign, self.loss)

    def next(self, within: float) -> tuple[float, Interrupt | Kill]:
        """Look until there is something to do; return after how long."""
        began = self.time
        while self.time <= began + within:
            if actions := self.look():
                assert len(actions) == 1
                return self.time - began, actions[0]
            self.time += LOOK
        raise AssertionError(f'nothing to do within {within} s')

    def nothing(self, seconds: float) -> None:
        """Assert that there is nothing to do for so long."""
        ends = self.time + seconds
        while self.time < ends:
            assert self.look() == []
            self.time += LOOK


def test_renewed_for_ever() -> None:
    """A lease that is renewed, and a run without limits: nothing to do."""
    World().nothing(100)


def test_not_renewed() -> None:
    """The run is told grace and kill before the end, and killed kill before."""
    world = World()
    world.renewed = False
    assert world.next(WINDOW) == (
        WINDOW - GRACE - KILL, Interrupt(LOST, NOT_RENEWED))
    assert world.next(WINDOW) == (GRACE, Kill(True, NOT_RENEWED))
    assert world.time == world.until - KILL


def test_renewed_at_last() -> None:
    """What was told to stop is killed even if the lease was renewed since."""
    world = World()
    world.renewed = False
    world.next(WINDOW)
    world.renewed = True
    assert world.next(WINDOW) == (GRACE, Kill(True, NOT_RENEWED))


def test_session_ended() -> None:
    """A loss that the lock-delay protects leaves the grace time."""
    world = World()
    world.loss = Loss('the session has ended')
    assert world.next(0) == (0, Interrupt(LOST, 'the session has ended'))
    assert world.next(WINDOW) == (GRACE, Kill(True, 'the session has ended'))


def test_unprotected_loss() -> None:
    """A key that anybody may take leaves next to no time."""
    world = World()
    world.loss = Loss('the key was deleted', object(), protected=False)
    world.next(0)
    assert world.next(1) == (0.25, Kill(True, 'the key was deleted'))


def test_lost_with_little_left() -> None:
    """The end of the lease counts, where it is nearer than the grace time."""
    world = World()
    world.renewed = False
    world.until = world.time + 2
    world.loss = Loss('the session has ended')
    world.next(0)
    assert world.next(WINDOW)[0] == 2 - KILL


def test_run_takes_too_long() -> None:
    """The longest run ends in an interrupt, then in a kill."""
    world = World()
    world.decisions.run_begins(world.time, 10.0, None)
    reason = 'the run took longer than 10 s'
    assert world.next(20) == (10, Interrupt(STOPPING, reason))
    assert world.next(20) == (GRACE, Kill(True, reason))


def test_silent_run() -> None:
    """A run without a heartbeat is told to stop, one with it is not."""
    world = World()
    world.decisions.run_begins(world.time, None, 5.0)
    world.nothing(4)
    world.beat = world.time
    assert world.next(20) == (
        5, Interrupt(STOPPING, 'the run was silent for 5 s'))


def test_lost_while_stopping() -> None:
    """A loss is told to who is stopping, without a second signal."""
    world = World()
    world.decisions.run_begins(world.time, 10.0, None)
    world.next(20)
    world.time += 1
    world.loss = Loss('the key was deleted', object(), protected=False)
    assert world.look() == [
        Interrupt(LOST, 'the key was deleted', signal=False)]
    assert world.next(1) == (0.25, Kill(True, 'the key was deleted'))


def test_told_by_the_ward() -> None:
    """A run that its own process told to stop has the grace time."""
    world = World()
    world.decisions.run_is_told(world.time)
    assert world.next(20) == (
        GRACE, Kill(True, 'the run did not stop when told to'))


def test_run_that_stopped() -> None:
    """A run that stopped in time is cleared away, and the lock is kept."""
    world = World()
    world.decisions.run_begins(world.time, 10.0, 5.0)
    world.next(20)
    assert world.decisions.run_ends(stopped=True)
    assert world.decisions.is_cleared(world.time, world.until, False) == FINE
    world.nothing(20)


def test_run_that_succeeded() -> None:
    """A run that ended by itself is not cleared away."""
    world = World()
    world.decisions.run_begins(world.time, 10.0, None)
    assert not world.decisions.run_ends(stopped=False)
    world.nothing(20)


@pytest.mark.parametrize('lost', [True, False])
def test_lock_is_lost_after_the_run(lost: bool) -> None:
    """Cleared away too late, or with the lease lost: the lock is not kept."""
    world = World()
    world.decisions.run_is_told(world.time)
    world.decisions.run_ends(stopped=True)
    time = world.time if lost else world.until - GRACE - KILL
    assert world.decisions.is_cleared(time, world.until, lost) == LOST
    world.renewed = False
    world.nothing(WINDOW)


def test_kill_that_another_began() -> None:
    """What a keeper has begun, the next one goes on with."""
    world = World(state=STOPPING, reason='the run took longer than 10 s')
    assert world.next(20) == (
        GRACE, Kill(True, 'the run took longer than 10 s'))


def test_nothing_held() -> None:
    """Without the lock nobody is told anything."""
    world = World()
    world.decisions.hold_ends()
    world.renewed = False
    world.loss = Loss('the session has ended')
    world.nothing(2 * WINDOW)


def test_supervised_run_is_killed_alone() -> None:
    """A supervisor that says that its run is gone lives on with the lock."""
    world = World(supervised=True)
    world.decisions.run_begins(world.time, 10.0, None)
    reason = 'the run took longer than 10 s'
    assert world.next(20)[1] == Interrupt(STOPPING, reason)
    assert world.next(20) == (GRACE, Kill(False, reason))
    world.decisions.run_is_killed(world.time)
    world.nothing(1)
    assert world.decisions.run_ends(stopped=False)
    assert world.decisions.is_cleared(world.time, world.until, False) == FINE
    world.nothing(20)


def test_supervisor_that_does_not_notice() -> None:
    """One that does not say so is killed when its time is over."""
    world = World(supervised=True)
    world.decisions.run_is_told(world.time)
    world.next(20)
    world.decisions.run_is_killed(world.time)
    after, action = world.next(20)
    assert after == GRACE
    assert isinstance(action, Kill)
    assert action.ward


@pytest.mark.parametrize(('loss', 'by'), [
    (None, KILL / 2),
    (Loss('the key was deleted', object(), protected=False), KILL / 2),
    (Loss('the session has ended'), GRACE)])
def test_supervisor_has_time_as_long_as_nobody_else_has_the_lock(
    loss: Loss | None, by: float,
) -> None:
    """A lease that has run out, or a key that was taken, leaves little."""
    world = World(supervised=True)
    world.renewed = False
    world.loss = loss
    world.next(WINDOW)
    assert world.next(WINDOW)[1] == Kill(False, world.decisions.reason)
    world.decisions.run_is_killed(world.time)
    after, action = world.next(WINDOW)
    assert after == by
    assert isinstance(action, Kill)
    assert action.ward


def test_supervisor_stands_still() -> None:
    """A supervisor that is silent for longer than the grace time is ended."""
    world = World(supervised=True)
    world.nothing(10)
    world.lively = False
    after, action = world.next(20)
    assert action == Kill(True, 'it stands still')
    assert GRACE - LOOK <= after <= GRACE


def test_ward_that_is_not_supervised_owes_no_signs() -> None:
    """A program of users may be silent for ever."""
    world = World()
    world.lively = False
    world.nothing(100)


def test_whole_machine_stood_still() -> None:
    """What passed while the keeper itself stood still is no silence."""
    world = World(supervised=True)
    world.look()
    for _ in range(4):
        # Frozen, and awake for a moment that the ward has not seen yet.
        world.time += 60
        world.lively = False
        assert world.look() == []
    world.lively = True
    world.nothing(10)


def test_announced_silence() -> None:
    """A supervisor that has said so may be silent until then."""
    world = World(supervised=True)
    world.lively = False
    world.sign = world.time + 30
    after, _ = world.next(60)
    assert 30 + GRACE - LOOK <= after <= 30 + GRACE


def test_message_is_a_sign_of_life() -> None:
    """Whoever sends a message is at work."""
    world = World(supervised=True)
    world.lively = False
    world.nothing(2)
    world.decisions.heard()
    world.nothing(GRACE - LOOK)
    assert world.next(1)[1] == Kill(True, 'it stands still')
