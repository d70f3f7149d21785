"""Tests that mostly wait, run at the same time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from integration import workers
from integration.agents import Agent

Scenario = Callable[[Agent], None]
TIMEOUT = 150.0


class Together:
    """Runs scenarios, each in a thread of its own, with one agent for all."""

    def __init__(self, scenarios: list[Scenario], agent: Agent) -> None:
        self._pool = ThreadPoolExecutor(max(len(scenarios), 1))
        self._futures: dict[Scenario, Future[None]] = {
            scenario: self._pool.submit(scenario, agent) for scenario in scenarios}

    def result(self, scenario: Scenario) -> None:
        """Wait for a scenario; raises what it raised."""
        self._futures[scenario].result(TIMEOUT)

    def close(self) -> None:
        """End what still runs."""
        if not all(future.done() for future in self._futures.values()):
            for pair in list(workers.LIVE):
                pair.close()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def together(scenario: Scenario) -> Callable[[Together], None]:
    """Make a test of a scenario that is started with the others of its module.

    The test itself waits for the result. What it measures must not mind a busy
    machine.
    """
    def test(running: Together) -> None:
        running.result(scenario)

    test.__name__ = scenario.__name__
    test.__qualname__ = scenario.__qualname__
    test.__doc__ = scenario.__doc__
    setattr(test, 'scenario', scenario)
    return test
