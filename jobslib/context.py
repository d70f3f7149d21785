"""What a task shares over its runs: the lock, and its own resources."""

from __future__ import annotations

from functools import cached_property

from jobslib.exceptions import JobsLibError
from jobslib.machine import fqdn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from jobslib.config import BackendConfig, Config
    from jobslib.liveness import BaseLiveness
    from jobslib.metrics import BaseMetrics
    from jobslib.oneinstance import BaseLock

__all__ = ['Context']


class Context:
    """Resources of a task; subclass it to add your own.

    It is made once, before the task, and closed when the process ends.

    :param config: the configuration of the job.
    """

    def __init__(self, config: Config) -> None:
        self.config: Any = config
        self.initialize()

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return a context for *config*."""
        return cls(config)

    def initialize(self) -> None:
        """Open what the task needs; to be overridden."""

    def close(self) -> None:
        """Close what was opened; to be overridden.

        Called once, when the process ends, after the lock was released.
        """

    @cached_property
    def fqdn(self) -> str:
        """The full name of this machine."""
        return fqdn()

    @cached_property
    def one_instance_lock(self) -> BaseLock:
        """The lock that keeps the task to one instance.

        In a run everything can be read of it, but only ``runjob`` acquires and
        releases it.
        """
        one_instance = self.config.one_instance
        if self.config.link is not None:
            supervised: BaseLock = self.config.link.make_lock(
                one_instance.backend_class, self, one_instance.options)
            return supervised
        lock: BaseLock = self._make_backend(one_instance)
        return lock

    @cached_property
    def liveness(self) -> BaseLiveness:
        """Where successful runs are noted."""
        configured = self.config.liveness
        if configured.raw_value('backend') is None:
            from jobslib.liveness.dummy import DummyLiveness
            return DummyLiveness(self, configured.options)
        liveness: BaseLiveness = self._make_backend(configured)
        return liveness

    @cached_property
    def metrics(self) -> BaseMetrics:
        """Where metrics go, see :class:`jobslib.metrics.BaseMetrics`.

        Its ``push()`` returns at once, whatever the server does.  If no backend
        is configured, what is pushed is dropped.
        """
        metrics = self.config.metrics
        if metrics.raw_value('backend') is None:
            from jobslib.metrics.dummy import DummyMetrics
            return DummyMetrics(self, metrics.options)
        if self.config.link is not None:
            supervised: BaseMetrics = self.config.link.make_metrics(
                self, metrics.options)
            return supervised
        from jobslib.metrics.background import BackgroundMetrics
        return BackgroundMetrics(self._make_backend(metrics))

    def _make_backend(self, configured: BackendConfig) -> Any:
        """Return the backend that is configured.

        :raises ConfigError: the class of a user has raised an exception, which
            is the cause of this one.
        """
        try:
            return configured.backend_class(self, configured.options)
        except JobsLibError:
            raise
        except Exception as exc:
            raise configured.error(
                'backend', 'it cannot be made, see above') from exc
