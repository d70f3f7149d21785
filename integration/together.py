"""Tests that mostly wait, run at the same time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import pytest

from integration import workers
from integration.agents import Agent

Scenario = Callable[[Agent], None]
TIMEOUT = 400.0

#: So many run at the same time: what two processors carry with ease.
AT_ONCE = 16


class Together:
    """Runs scenarios in threads, in their order, with one agent for all."""

    def __init__(self, scenarios: list[Scenario], agent: Agent,
                 at_once: int = AT_ONCE) -> None:
        self._pool = ThreadPoolExecutor(at_once)
        self._futures: dict[Scenario, Future[None]] = {
            scenario: self._pool.submit(scenario, agent) for scenario in scenarios}

    def result(self, scenario: Scenario) -> None:
        """Wait for a scenario; raises what it raised.

        To be called in their order: what is waited for has then begun.
        """
        self._futures[scenario].result(TIMEOUT)

    def close(self) -> None:
        """End what still runs, and begin no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if not all(future.done() for future in self._futures.values()):
            for pair in list(workers.LIVE):
                pair.close()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def together(scenario: Scenario) -> Callable[[Together], None]:
    """Make a test of a scenario that runs at the same time as others.

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


def scenario_of(item: pytest.Item) -> Scenario | None:
    """The scenario that a test is made of, if it is."""
    return getattr(getattr(item, 'function', None), 'scenario', None)
