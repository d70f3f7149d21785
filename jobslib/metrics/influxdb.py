"""Metrics for InfluxDB."""

from __future__ import annotations

import math

from jobslib.config import Given, option
from jobslib.exceptions import ConfigError
from jobslib.legacy import aliased, superseded
from jobslib.metrics import BaseMetrics, check_url, require, samples_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from jobslib.backends import BackendContext
    from jobslib.config import ConfigGroup
    from jobslib.metrics import Metrics

__all__ = ['InfluxDBMetrics']

NO_RETRY = ('it has no effect: what does not arrive is pushed with the next '
            'metrics; leave it out')


def _url_of_host(group: ConfigGroup) -> Given | None:
    """Return the URL that jobslib 3 made of host and port, if it had any."""
    declared = group.declared()
    given = declared['host'].given(group) or declared['port'].given(group)
    if given is None:
        return None
    host = group.raw_value('host') or 'localhost'
    host = f'[{host}]' if ':' in host else host
    return Given(f'http://{host}:{group.raw_value("port") or 8086}',
                 given.source)


def _username(group: ConfigGroup) -> Given | None:
    return group.declared()['username'].given(group)


class InfluxDBMetrics(BaseMetrics):
    """Writes each metric to a measurement of its name in InfluxDB, as the field
    ``value``.

    With a ``bucket`` it uses the interface of InfluxDB 2, which InfluxDB 1.8 and
    3 have as well; with a ``database`` the interface of InfluxDB 1, for any 1.x.
    """

    class OptionsConfig(BaseMetrics.OptionsConfig):
        """Options of :class:`InfluxDBMetrics`."""

        url = option(
            attrtype=str, default='http://127.0.0.1:8086',
            fallback=_url_of_host,
            env='JOBSLIB_METRICS_INFLUXDB_URL', metavar='URL',
            help='URL of the server.')
        bucket = option(
            attrtype=str, env='JOBSLIB_METRICS_INFLUXDB_BUCKET',
            help='Bucket to write to.')
        org = option(
            attrtype=str, default='-', env='JOBSLIB_METRICS_INFLUXDB_ORG',
            help='Organization that the bucket belongs to.')
        token = option(
            attrtype=str, secret=True, env='JOBSLIB_METRICS_INFLUXDB_TOKEN',
            help='Token that may write.')
        database = aliased(
            attrtype=str, env='JOBSLIB_METRICS_INFLUXDB_DATABASE',
            old=('JOBSLIB_METRICS_INFLUXDB_DBNAME',),
            help='Database to write to, instead of a bucket.')
        user = option(
            attrtype=str, env='JOBSLIB_METRICS_INFLUXDB_USER',
            fallback=_username,
            help='User that may write to the database.')
        password = option(
            attrtype=str, secret=True,
            env='JOBSLIB_METRICS_INFLUXDB_PASSWORD',
            help='Password of the user.')
        prefix = option(
            attrtype=str, default='', env='JOBSLIB_METRICS_INFLUXDB_PREFIX',
            help='What the names of all measurements begin with.')
        ca_cert = option(
            attrtype=str, env='JOBSLIB_METRICS_INFLUXDB_CA_CERT',
            metavar='PATH',
            help='File with the certificates of the authorities to trust.')
        timeout = option(
            attrtype=float, above=0, default=5.0,
            env='JOBSLIB_METRICS_INFLUXDB_TIMEOUT', metavar='SECONDS',
            help='How long the server may take to answer.')

        host = superseded(
            attrtype=str, env='JOBSLIB_METRICS_INFLUXDB_HOST',
            instead='write url', help='Host of the server, in place of url.')
        port = superseded(
            attrtype=int, minimum=1, maximum=65535,
            env='JOBSLIB_METRICS_INFLUXDB_PORT',
            instead='write url', help='Port of the server, in place of url.')
        username = superseded(
            attrtype=str, env='JOBSLIB_METRICS_INFLUXDB_USERNAME',
            instead='write user', help='The same as user.')
        retry_max_attempts = superseded(
            attrtype=int, env='JOBSLIB_METRICS_INFLUXDB_RETRY_MAX_ATTEMPTS',
            instead=NO_RETRY, help='Has no effect.')
        retry_wait_multiplier = superseded(
            attrtype=int, env='JOBSLIB_METRICS_INFLUXDB_RETRY_WAIT_MULTIPLIER',
            instead=NO_RETRY, help='Has no effect.')

        def validate(self) -> None:
            """Refuse options that contradict each other."""
            where = self._location or 'metrics'
            self._refuse_both('url', 'host', 'port')
            self._refuse_both('user', 'username')
            check_url(self, 'url')
            if (self.bucket is None) == (self.database is None):
                raise ConfigError(
                    f'{where}: give a bucket or a database, one of them')
            if (self.user is None) != (self.password is None):
                raise ConfigError(
                    f'{where}: user and password go together; give both or '
                    f'none')
            if self.user is not None and (
                    self.database is None or self.token is not None):
                raise ConfigError(
                    f'{where}: user and password go with a database and '
                    f'without a token')

        def _refuse_both(self, name: str, *olds: str) -> None:
            """Refuse an option together with those that it replaces."""
            for old in olds:
                declared = self.declared()
                if declared[old].given(self) and declared[name].given(self):
                    raise self.error(
                        old, f'{name} from {self.source(name)} is given as '
                             f'well; give {name} alone')

    def __init__(self, context: BackendContext, options: object) -> None:
        super().__init__(context, options)
        # Imported here, so that a missing package is noticed at the start, and
        # nothing is being imported when the process forks later.
        self._client = require('influxdb_client', 'influxdb')
        self._requests = require('requests', 'influxdb')

    def push(self, metrics: Metrics) -> None:
        self.push_many([metrics])

    def push_many(self, batches: Iterable[Metrics]) -> None:
        points = [self._point(name, tags, value)
                  for metrics in batches
                  for (name, tags), value in samples_of(metrics)
                  # InfluxDB does not know infinity and NaN.
                  if math.isfinite(value)]
        if not points:
            return
        if self.options.bucket is not None:
            self._write_to_bucket(points)
        else:
            self._write_to_database(points)

    def _point(self, name: str, tags: tuple[tuple[str, str], ...],
               value: float) -> object:
        point = self._client.Point(self.options.prefix + name)
        for tag, text in tags:
            point.tag(tag, text)
        # The value is always a float, because a field cannot change its type.
        return point.field('value', value)

    def _write_to_bucket(self, points: list[object]) -> None:
        options = self.options
        # Each push has its own connection, so that none is shared with a process
        # that is forked later.
        with self._client.InfluxDBClient(
                options.url, token=options.token, org=options.org,
                timeout=round(1000 * options.timeout),
                ssl_ca_cert=options.ca_cert) as client:
            api = client.write_api(
                write_options=self._client.client.write_api.SYNCHRONOUS)
            try:
                api.write(bucket=options.bucket, record=points)
            except self._client.rest.ApiException as exc:
                raise OSError(
                    f'{exc.status} {exc.reason}: {exc.message}') from None

    def _write_to_database(self, points: list[Any]) -> None:
        # The interface that the client has for this needs InfluxDB 1.8.
        options = self.options
        headers = {'Content-Type': 'text/plain; charset=utf-8'}
        if options.token is not None:
            headers['Authorization'] = f'Token {options.token}'
        response = self._requests.post(
            f'{options.url.rstrip("/")}/write',
            params={'db': options.database}, headers=headers,
            data='\n'.join(
                point.to_line_protocol() for point in points).encode(),
            # Encoded here, because requests would encode strings as Latin-1.
            auth=(None if options.user is None else
                  (options.user.encode(), options.password.encode())),
            verify=options.ca_cert or True, timeout=options.timeout)
        if not response.ok:
            raise OSError(f'{response.status_code} {response.reason}: '
                          f'{response.text.strip()}')
