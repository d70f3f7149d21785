"""Metrics for Prometheus."""

from __future__ import annotations

import os
import re
import threading
import weakref

from jobslib.config import option
from jobslib.exceptions import ConfigError
from jobslib.metrics import BaseMetrics, check_url, require, samples_of
from jobslib.metrics.names import HELP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import Metric

    from jobslib.backends import BackendContext
    from jobslib.metrics import Metrics, Series

__all__ = ['PrometheusMetrics']


class PrometheusMetrics(BaseMetrics):
    """An endpoint that Prometheus scrapes, or a push gateway.

    The endpoint is for jobs that run all the time; it shows the state of the loop
    at the moment of the request.  With ``--run-once``, or when no port is given,
    metrics go to the push gateway, grouped by ``job`` and ``instance`` (the
    machine).

    Metrics whose names end in ``_total`` are counters, all others are gauges.
    Characters that are not allowed in a name become ``_``.
    """

    class OptionsConfig(BaseMetrics.OptionsConfig):
        """Options of :class:`PrometheusMetrics`."""

        host = option(
            attrtype=str, default='0.0.0.0',
            env='JOBSLIB_METRICS_PROMETHEUS_HOST',
            help='Address that the endpoint listens on.')
        port = option(
            attrtype=int, minimum=1, maximum=65535,
            env='JOBSLIB_METRICS_PROMETHEUS_PORT',
            help='Port that the endpoint listens on.')
        push_gateway = option(
            attrtype=str, env='JOBSLIB_METRICS_PROMETHEUS_PUSH_GATEWAY',
            metavar='URL',
            help='URL of a push gateway, for ``--run-once``.')
        job = option(
            attrtype=str, env='JOBSLIB_METRICS_PROMETHEUS_JOB',
            help='Name of the job at the push gateway (default: that of the '
                 'task).')
        user = option(
            attrtype=str, env='JOBSLIB_METRICS_PROMETHEUS_USER',
            help='User at the push gateway (basic authentication).')
        password = option(
            attrtype=str, secret=True,
            env='JOBSLIB_METRICS_PROMETHEUS_PASSWORD',
            help='Password of the user.')
        timeout = option(
            attrtype=float, above=0, default=5.0,
            env='JOBSLIB_METRICS_PROMETHEUS_TIMEOUT', metavar='SECONDS',
            help='How long one push to the gateway may take.')

        def validate(self) -> None:
            """Refuse options that lead nowhere."""
            if self.push_gateway is not None:
                check_url(self, 'push_gateway')
            elif self.port is None:
                raise ConfigError(
                    f'{self._location or "metrics"}: neither port nor '
                    f'push_gateway is given; give one of them, or both')
            if (self.user is None) != (self.password is None):
                raise ConfigError(
                    f'{self._location or "metrics"}: user and password go '
                    f'together; give both or none')

    def __init__(self, context: BackendContext, options: Any) -> None:
        super().__init__(context, options)
        # Imported here, so that a missing package is noticed at the start, and
        # nothing is being imported when the process forks later.
        self._client = require('prometheus_client', 'prometheus')
        self._core = require('prometheus_client.core', 'prometheus')
        self._samples: dict[Series, float] = {}
        self._read: Callable[[], list[Metrics]] | None = None
        self._server: WSGIServer | None = None
        self._is_forked = False
        run_once = getattr(context.config, 'run_once', False)
        self._pushes = options.push_gateway is not None and (
            run_once or options.port is None)
        self._registry = self._client.CollectorRegistry()
        self._registry.register(self)
        forked = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(
            after_in_child=lambda: (method := forked()) and method())

    def push(self, metrics: Metrics) -> None:
        self.push_many([metrics])

    def push_many(self, batches: Iterable[Metrics]) -> None:
        for metrics in batches:
            for series, value in samples_of(metrics):
                self._samples[_clean(series)] = value
        if self._pushes:
            self._push_to_gateway()
        elif self._server is None and not self._is_forked:
            self._open_endpoint()

    def watch(self, read: Callable[[], list[Metrics]]) -> bool:
        self._read = read
        return not self._pushes

    def close(self) -> None:
        if self._server is not None:
            # It takes up to half a second, for which nothing needs to wait.
            threading.Thread(
                target=_stop, args=(self._server,), daemon=True).start()
            self._server = None

    def collect(self) -> Iterator[Metric]:
        """Return all metrics as they are now, for ``prometheus_client``."""
        samples = self._samples.copy()
        for metrics in self._read() if self._read else ():
            for series, value in samples_of(metrics):
                samples[_clean(series)] = value
        by_name: dict[str, list[tuple[dict[str, str], float]]] = {}
        for (name, pairs), value in samples.items():
            by_name.setdefault(name, []).append((dict(pairs), value))
        for name, found in by_name.items():
            family = (self._core.CounterMetricFamily
                      if name.endswith('_total')
                      else self._core.GaugeMetricFamily)
            # All series of a name have the same labels here; to Prometheus, an
            # empty label is the same as none.
            labels = sorted({label for tags, _value in found
                             for label in tags})
            metric = family(name, HELP.get(name, ''), labels=labels)
            for tags, value in found:
                metric.add_metric(
                    [tags.get(label, '') for label in labels], value)
            yield metric

    def _open_endpoint(self) -> None:
        host, port = self.options.host, self.options.port
        try:
            self._server, _thread = self._client.start_http_server(
                port, host, self._registry)
        except OSError as exc:
            raise OSError(f'endpoint {host}:{port}: {exc.strerror}') from exc

    def _push_to_gateway(self) -> None:
        options = self.options

        def handler(*args: object, **kwargs: object) -> Callable[[], None]:
            send: Callable[[], None] = (
                self._client.exposition.basic_auth_handler(
                    *args, **kwargs, username=options.user,
                    password=options.password))
            return send

        # This way of pushing leaves metrics of other names there, so that after a
        # failure the time of the last success can still be read.
        try:
            self._client.pushadd_to_gateway(
                options.push_gateway,
                job=options.job or self.context.config.task_name,
                registry=self._registry, timeout=options.timeout,
                grouping_key={'instance': self.context.fqdn},
                handler=handler)
        except OSError as exc:
            raise OSError(f'{options.push_gateway}: {exc}') from exc

    def _after_fork(self) -> None:
        """Leave the endpoint to the process that it belongs to."""
        self._is_forked = True
        self._samples = {}
        self._read = None
        if self._server is not None:
            self._server.socket.close()
            self._server = None


def _stop(server: WSGIServer) -> None:
    server.shutdown()
    server.server_close()


def _clean(series: Series) -> Series:
    """Return *series* with names that Prometheus allows."""
    name, tags = series
    return (_clean_name(name, ':'),
            tuple((_clean_name(tag), text) for tag, text in tags))


def _clean_name(name: str, also: str = '') -> str:
    name = re.sub(f'[^a-zA-Z0-9_{also}]', '_', name)
    return f'_{name}' if name[:1].isdigit() else name
