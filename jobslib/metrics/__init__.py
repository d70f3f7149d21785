"""Metrics: what a job reports to a monitoring server.

To add a backend of your own, subclass :class:`BaseMetrics` and name the class in
``METRICS['backend']``.

Metrics are a dict, one entry for each metric::

    {'rows': {'value': 42, 'tags': {'table': 'orders'}}}

The value is a number.  The tags are strings, and may be left out.
"""

from __future__ import annotations

from functools import cached_property

from jobslib.config import ConfigGroup, option
from jobslib.exceptions import ConfigError, ImportNameError
from jobslib.imports import import_module
from jobslib.runs import encodable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType
    from typing import Any

    from jobslib.backends import BackendContext

    Metrics = dict[str, dict[str, Any]]
    #: The name and the sorted tags, which together identify a series.
    Series = tuple[str, tuple[tuple[str, str], ...]]

__all__ = ['BaseMetrics']


class BaseMetrics:
    """Where metrics go.  Override :meth:`push`.

    ``runjob`` calls :meth:`push` in a thread of its own, one call at a time.  It
    may block.  When it raises an exception, that is logged and the call is tried
    again, so a server that is down does not concern the runs.

    :param context: the context of the task.
    :param options: the options of the backend, an ``OptionsConfig``.
    """

    class OptionsConfig(ConfigGroup):
        """Options that every backend has; subclass it to add more."""

        interval = option(
            attrtype=float, minimum=1, default=10.0,
            env='JOBSLIB_METRICS_INTERVAL', metavar='SECONDS',
            help='Pause between two pushes of what changes by itself, such '
                 'as what is left of the lease; events are pushed at once.')

    def __init__(self, context: BackendContext, options: Any) -> None:
        self.context = context
        self.options = options

    @cached_property
    def logger(self) -> logging.Logger:
        """The logger of the backend."""
        import logging
        return logging.getLogger(type(self).__module__)

    def push(self, metrics: Metrics) -> None:
        """Send *metrics*; to be overridden.

        :raises Exception: they did not arrive.
        """
        raise NotImplementedError(f'{type(self).__name__}.push')

    def push_many(self, batches: Iterable[Metrics]) -> None:
        """Send several dicts of metrics, since metrics of one name that differ in
        their tags cannot be in the same dict.

        To be overridden where one request can carry all of them.
        """
        for metrics in batches:
            self.push(metrics)

    def watch(self, read: Callable[[], list[Metrics]]) -> bool:
        """Take note of *read*, which returns metrics as they are now.

        It may be called at any time, in any thread.  To be overridden by
        backends that are asked for metrics instead of sending them.

        :returns: whether the backend calls *read* itself; if not, what it
            returns is pushed, at each event and after each ``interval``.
        """
        return False

    def wake(self) -> None:
        """Take note that what :meth:`watch` was given returns something new.

        The loop calls it at each event.  To be overridden by backends that read
        in their own time, and want to do so now.
        """

    def close(self) -> None:
        """Close what was opened; nothing is pushed any more."""


def samples_of(metrics: Metrics) -> Iterator[tuple[Series, float]]:
    """Return the series in *metrics*, each with its value.

    :raises ValueError: they do not have the form of metrics.
    """
    for name, entry in metrics.items():
        if not (isinstance(name, str) and name and isinstance(entry, dict)
                and {'value'} <= entry.keys() <= {'value', 'tags'}):
            raise ValueError(
                f"metric {name!r}: {entry!r} is not of the form "
                f"{{'value': NUMBER, 'tags': {{NAME: TEXT}}}}")
        value, tags = entry['value'], entry.get('tags') or {}
        if not isinstance(tags, dict):
            raise ValueError(f'metric {name!r}: tags {tags!r} are not a dict')
        if not isinstance(value, int | float):
            raise ValueError(f'metric {name!r}: value {value!r} is not a number')
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f'metric {name!r}: value is too large') from None
        # Names and tags are made encodable here, because one that is not would
        # keep all other metrics from being sent.
        yield (encodable(name), tuple(sorted(
            (encodable(str(tag)), encodable(str(text)))
            for tag, text in tags.items()))), value


def batches_of(samples: Iterable[tuple[Series, float]]) -> list[Metrics]:
    """Return *samples* as metrics, in as few dicts as can hold them."""
    batches: list[Metrics] = []
    depth: dict[str, int] = {}
    for (name, tags), value in samples:
        number = depth[name] = depth.get(name, -1) + 1
        if number == len(batches):
            batches.append({})
        batches[number][name] = {'value': value, 'tags': dict(tags)}
    return batches


def require(module: str, extra: str) -> ModuleType:
    """Return the *module* of an optional package.

    :param extra: the extra of jobslib that installs it.
    :raises ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportNameError:
        package = module.partition('.')[0]
        # The message does not name "jobslib[...]", by which pip might install
        # another version of jobslib.
        raise ConfigError(
            f'metrics: the package {package} is not installed; to install '
            f'it: pip install {package.replace("_", "-")} (the extra {extra} '
            f'of jobslib)') from None


def check_url(group: ConfigGroup, name: str) -> None:
    """Refuse the option *name* of *group* unless it is a URL of a server.

    :raises ConfigError: it is not one, or has a password in it.
    """
    from urllib.parse import urlsplit
    try:
        parts = urlsplit(getattr(group, name))
        good = parts.scheme in ('http', 'https') and bool(parts.hostname)
        good = good and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if good and '@' in parts.netloc:
        # The value is not shown, because it may have a password in it.
        raise ConfigError(
            f'{name}: user and password from {group.source(name)} are not '
            f'allowed in a URL; give them as the options user and password')
    if not good:
        raise group.error(
            name, 'it is not a URL; allowed: http://HOST:PORT or https://…')
