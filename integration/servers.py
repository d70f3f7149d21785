"""Servers that take metrics: Prometheus, its push gateway, InfluxDB 1."""

import pathlib
import subprocess
from typing import Any, Self

import requests

from integration.agents import HOST, free_ports, wait_until

DEADLINE = 60.0

PROMETHEUS_CONFIG = '''\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
- job_name: jobslib
  static_configs: [{{targets: ['{target}']}}]
'''
INFLUXDB_CONFIG = '''\
reporting-disabled = true
bind-address = "{host}:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
[monitor]
store-enabled = false
[http]
bind-address = "{host}:{port}"
auth-enabled = true
log-enabled = false
'''


class Server:
    """A server in the background; started, stopped and started again.

    It keeps its port, and its data in the folder. The end of its block stops it.
    """

    def __init__(self, folder: pathlib.Path, ready: str) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        self.url = f'http://{HOST}:{self.port}'
        self._ready = ready
        self._popen: subprocess.Popen[bytes] | None = None
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy of the machine's

    def command(self) -> list[str]:
        """The command that starts it; to be overridden."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        self._http.close()

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        with (self.folder / 'log').open('ab') as log:
            self._popen = subprocess.Popen(
                self.command(), cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)

    def stop(self) -> None:
        """Stop it."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def wait_ready(self) -> None:
        """Wait until it answers."""
        def is_ready() -> bool:
            assert self._popen is not None
            log = (self.folder / 'log').read_text(errors='replace')
            assert self._popen.poll() is None, log[-3000:]
            return self.get(self._ready).ok
        wait_until(is_ready, DEADLINE, f'{type(self).__name__} is ready')

    def get(self, path: str, **params: str) -> requests.Response:
        """GET, with the parameters in the query."""
        return self._http.get(f'{self.url}{path}', params=params, timeout=5)


class Prometheus(Server):
    """A Prometheus that scrapes one port of this machine."""

    def __init__(self, binary: pathlib.Path, folder: pathlib.Path,
                 target: int) -> None:
        super().__init__(folder, '/-/ready')
        self._binary = binary
        (folder / 'prometheus.yml').write_text(
            PROMETHEUS_CONFIG.format(target=f'{HOST}:{target}'))

    def command(self) -> list[str]:
        """The command that starts it."""
        return [str(self._binary), '--config.file=prometheus.yml',
                '--storage.tsdb.path=data',
                f'--web.listen-address={HOST}:{self.port}']

    def value(self, query: str) -> float | None:
        """The value of the query's one series, None when there is none."""
        found = self.get('/api/v1/query', query=query).json()['data']['result']
        assert len(found) < 2, found
        return float(found[0]['value'][1]) if found else None


class PushGateway(Server):
    """A push gateway."""

    def __init__(self, binary: pathlib.Path, folder: pathlib.Path) -> None:
        super().__init__(folder, '/-/ready')
        self._binary = binary

    def command(self) -> list[str]:
        """The command that starts it."""
        return [str(self._binary), '--persistence.file=',
                f'--web.listen-address={HOST}:{self.port}']

    def groups(self) -> list[dict[str, Any]]:
        """What was pushed, group by group."""
        found: list[dict[str, Any]] = self.get('/api/v1/metrics').json()['data']
        return found


class InfluxDB(Server):
    """An InfluxDB 1 with the user `admin`, and one that may write."""

    admin = ('admin', 'hidden')
    writer = ('writer', 'geheim')

    def __init__(self, binary: pathlib.Path, folder: pathlib.Path) -> None:
        super().__init__(folder, '/ping')
        self._binary = binary
        (folder / 'influxdb.conf').write_text(INFLUXDB_CONFIG.format(
            host=HOST, folder=folder, port=self.port, rpc=free_ports(1)[0]))

    def command(self) -> list[str]:
        """The command that starts it."""
        return [str(self._binary), 'run', '-config', 'influxdb.conf']

    def create_users(self) -> None:
        """Create the users, and the database `jobs`."""
        self.query('CREATE USER {} WITH PASSWORD {} WITH ALL PRIVILEGES'
                   .format(self.admin[0], repr(self.admin[1])))
        self.query('CREATE DATABASE jobs')
        self.query('CREATE USER {} WITH PASSWORD {}'
                   .format(self.writer[0], repr(self.writer[1])))
        self.query(f'GRANT WRITE ON jobs TO {self.writer[0]}')

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series that the query of the database `jobs` returns."""
        response = self._http.post(
            f'{self.url}/query', params={'db': 'jobs', 'q': text},
            auth=self.admin, timeout=5)
        [result] = response.json()['results']
        assert 'error' not in result, result
        series: list[dict[str, Any]] = result.get('series', [])
        return series

    def last(self, measurement: str, **tags: str) -> float | None:
        """The newest value with these tags, None when there is none."""
        where = ''.join(
            f'{" AND" if number else " WHERE"} "{tag}" = \'{text}\''
            for number, (tag, text) in enumerate(tags.items()))
        found = self.query(f'SELECT last("value") FROM "{measurement}"{where}')
        return float(found[0]['values'][0][1]) if found else None
