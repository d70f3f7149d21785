"""Metrics of `runjob` in real servers, and with servers that are down."""

import http.server
import pathlib
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from integration.agents import HOST, Agent, free_ports, wait_until
from integration.fetch_debian import INFLUXDB, PROMETHEUS, PUSHGATEWAY, find
from integration.locks import Program
from integration.runjobs import job as consul_job
from integration.servers import InfluxDB, Prometheus, PushGateway

TASKS = '''
import time
from jobslib import BaseTask, TaskError, argument
from jobslib.oneinstance.file import FileLock

class Task(BaseTask):
    arguments = (argument('--fail', action='store_true'),)
    def task(self):
        self.context.metrics.push(
            {'rows': {'value': 42, 'tags': {'table': 'orders'}}})
        if self.args.fail:
            raise TaskError('no')

class Lock(FileLock):
    """Has a lease that is always as long as the clock says."""
    def lease_left(self):
        return time.time()
'''
BACKEND = 'jobslib.metrics.{}Metrics'
DEADLINE = 30.0


@pytest.fixture(scope='module')
def binaries() -> dict[str, pathlib.Path]:
    """The binaries of the servers, by the name of their package."""
    packages = (PROMETHEUS, PUSHGATEWAY, INFLUXDB)
    return dict(zip((each.name for each in packages), find(*packages), strict=True))


class Servers:
    """All servers, started at once; each is waited for when it is used."""

    def __init__(self, binaries: dict[str, pathlib.Path],
                 folder: pathlib.Path, stack: ExitStack) -> None:
        self.target = free_ports(1)[0]
        for name in ('prometheus', 'gateway', 'influxdb'):
            (folder / name).mkdir()
        self.prometheus = stack.enter_context(Prometheus(
            binaries['prometheus'], folder / 'prometheus', self.target))
        self.gateway = stack.enter_context(PushGateway(
            binaries['prometheus-pushgateway'], folder / 'gateway'))
        self.influxdb = stack.enter_context(InfluxDB(
            binaries['influxdb'], folder / 'influxdb'))
        for each in (self.gateway, self.influxdb, self.prometheus):
            each.wait_ready()
        self.influxdb.create_users()


@pytest.fixture(scope='module')
def servers(binaries: dict[str, pathlib.Path]) -> Iterator[Servers]:
    """The servers, shared by the tests."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix='jobslib-metrics-'))
    try:
        with ExitStack() as stack:
            yield Servers(binaries, folder, stack)
    finally:
        shutil.rmtree(folder)


@contextmanager
def job(folder: pathlib.Path, backend: str, *args: str,
        **options: object) -> Iterator[Program]:
    """Run a task with metrics that go to the backend.

    Without a name of a task among the arguments it is `tasks.Task`.
    """
    if 'tasks.Task' not in args:
        args = (*args, 'tasks.Task')
    (folder / 'tasks.py').write_text(TASKS)
    prefix = f'JOBSLIB_METRICS_{backend.partition(".")[0].upper()}_'
    env = {prefix + name.upper(): str(value) for name, value in options.items()}
    with Program.job(folder, *args, XDG_RUNTIME_DIR=str(folder / 'run'),
                     JOBSLIB_ONE_INSTANCE_BACKEND='tasks.Lock',
                     JOBSLIB_METRICS_BACKEND=BACKEND.format(backend),
                     **env) as program:
        yield program


def influxdb_options(server: InfluxDB) -> dict[str, str]:
    """The options that let a job write to the server."""
    return {'url': server.url, 'database': 'jobs', 'user': server.writer[0],
            'password': server.writer[1]}


def succeed(folder: pathlib.Path, backend: str, *args: str,
            **options: object) -> str:
    """Run a task once, successfully; returns what it wrote."""
    with job(folder, backend, '--run-once', *args, **options) as program:
        assert program.wait() == 0, program.output
        return program.output


# Servers that are up

def test_push_gateway_has_the_result(servers: Servers, tmp_path: pathlib.Path) -> None:
    """A run that is over is at the gateway; a failure keeps the last success."""
    def value(name: str, **labels: str) -> float | None:
        [group] = servers.gateway.groups()
        assert group['labels']['job'] == 'backup' and group['labels']['instance']
        found = [float(each['value']) for each in group.get(name, {'metrics': ()})[
            'metrics'] if each['labels'].items() >= labels.items()]
        return found[0] if found else None

    options = {'push_gateway': servers.gateway.url, 'job': 'backup', 'port': 1}
    succeed(tmp_path, 'prometheus.Prometheus', **options)
    last = value('jobslib_last_success_timestamp_seconds', task='tasks.Task')
    assert last and value('rows', table='orders') == 42
    assert value('jobslib_run_seconds', outcome='succeeded') is not None
    with job(tmp_path, 'prometheus.Prometheus', '--run-once', 'tasks.Task', '--fail',
             **options) as program:
        assert program.wait() == 1
    # The second process has it from the history, in milliseconds.
    assert value('jobslib_last_success_timestamp_seconds') == pytest.approx(
        last, abs=0.001)
    assert value('jobslib_runs_total', outcome='failed') == 1
    assert value('jobslib_lock_held') == 0


def test_influxdb_has_the_result(servers: Servers, tmp_path: pathlib.Path) -> None:
    """A run that is over is in the database, with its tags."""
    influxdb = servers.influxdb
    output = succeed(tmp_path, 'influxdb.InfluxDB', prefix='once.',
                     **influxdb_options(influxdb))
    assert 'metrics' not in output
    assert influxdb.last('once.rows', table='orders') == 42
    assert influxdb.last('once.jobslib_lock_held', task='tasks.Task') == 0
    assert influxdb.last('once.jobslib_runs_total', outcome='succeeded') == 1
    assert influxdb.last('once.jobslib_runs_total', outcome='failed') == 0


class Relay(http.server.BaseHTTPRequestHandler):
    """Passes writes of InfluxDB 2 on to InfluxDB 1, as its version 1.8 does."""

    influxdb: InfluxDB

    def do_POST(self) -> None:
        """Pass one on."""
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        kind, _, token = self.headers['Authorization'].partition(' ')
        assert (parts.path, kind, query['org']) == ('/api/v2/write', 'Token', ['us'])
        response = requests.post(
            f'{self.influxdb.url}/write', timeout=5,
            params={'db': query['bucket'][0], 'precision': query['precision'][0]},
            auth=('writer', token),
            data=self.rfile.read(int(self.headers['Content-Length'])))
        self.send_response(response.status_code)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Be silent."""


def test_influxdb_by_bucket(servers: Servers, tmp_path: pathlib.Path) -> None:
    """What is written with the interface of InfluxDB 2 is what a server takes."""
    relay = type('Handler', (Relay,), {'influxdb': servers.influxdb})
    with http.server.ThreadingHTTPServer((HOST, 0), relay) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            succeed(tmp_path, 'influxdb.InfluxDB', prefix='v2.', bucket='jobs',
                    url=f'http://{HOST}:{server.server_port}', org='us',
                    token=servers.influxdb.writer[1])
        finally:
            server.shutdown()
            thread.join()
    assert servers.influxdb.last('v2.rows', table='orders') == 42
    assert servers.influxdb.last('v2.jobslib_runs_total', outcome='succeeded') == 1


# Servers that are down

def test_refused_password(servers: Servers, tmp_path: pathlib.Path) -> None:
    """A refusal is logged once, without the password, and fails no run."""
    options = influxdb_options(servers.influxdb) | {'password': 'wrong-one'}
    output = succeed(tmp_path, 'influxdb.InfluxDB', **options)
    assert output.count('metrics are not pushed: OSError: 401') == 1
    assert 'wrong-one' not in output


@pytest.mark.parametrize('backend', ['influxdb.InfluxDB', 'prometheus.Prometheus'])
def test_server_that_never_answers(backend: str, tmp_path: pathlib.Path) -> None:
    """Runs go on while a push hangs; the end gives it up after 2 s."""
    with socket.create_server((HOST, 0), backlog=1000) as silent:
        url = f'http://{HOST}:{silent.getsockname()[1]}'
        options = ({'url': url, 'database': 'jobs'} if 'influx' in backend
                   else {'push_gateway': url})
        with job(tmp_path, backend, '--sleep-interval', '0.01', timeout=600,
                 **options) as program:
            silent.settimeout(DEADLINE)
            connection, _address = silent.accept()
            with connection:
                program.wait_for('run succeeded', times=50)
                silent.setblocking(False)
                with pytest.raises(BlockingIOError):
                    silent.accept()  # the first push hangs to this moment
                program.send(signal.SIGTERM)
                assert program.wait() == 143
    assert 'the last metrics are given up after 2 s' in program.output
    times = re.findall(r'run succeeded after ([\d.]+) s', program.output)
    assert sorted(map(float, times))[len(times) // 2] < 0.1


def test_server_that_comes_back(
        servers: Servers, binaries: dict[str, pathlib.Path],
        tmp_path: pathlib.Path) -> None:
    """While nobody listens runs go on; then pushing goes on."""
    influxdb = servers.influxdb
    influxdb.stop()
    with job(tmp_path, 'influxdb.InfluxDB', '--sleep-interval', '0.01',
             prefix='back.', **influxdb_options(influxdb)) as program:
        program.wait_for('metrics are not pushed: ConnectionError')
        program.wait_for('run succeeded', times=50)
        influxdb.start()
        influxdb.wait_ready()
        wait_until(lambda: (influxdb.last(
            'back.jobslib_runs_total', outcome='succeeded') or 0) >= 50,
            DEADLINE, 'the runs in InfluxDB')
        program.wait_for('metrics are pushed again')
        assert program.output.count('metrics are not pushed') == 1


# The lease of a real lock

def test_slack_of_consul_lock(agent: Agent, tmp_path: pathlib.Path) -> None:
    """The endpoint tells what is left of the lease while the task runs on."""
    port = free_ports(1)[0]
    env = {'JOBSLIB_METRICS_BACKEND': BACKEND.format('prometheus.Prometheus'),
           'JOBSLIB_METRICS_PROMETHEUS_PORT': str(port)}
    pattern = re.compile(r'^jobslib_lease_slack_seconds{.*} (.+)$', re.MULTILINE)

    def read() -> float:
        text = requests.get(f'http://{HOST}:{port}/metrics', timeout=5).text
        found = pattern.search(text)
        return float(found[1]) if found else 0.0

    with consul_job(tmp_path, agent.http_addr, 'metrics/slack', 'tasks.Task',
                    '--seconds', '60', env=env, ttl=10, lock_delay=10) as program:
        seen = [wait_until(read, DEADLINE, 'a lease at the endpoint')]
        assert 5 < seen[0] <= 10

        def look() -> float:
            seen.append(read())
            return seen[-1]

        wait_until(lambda: 0 < look() < max(seen) - 1, DEADLINE, 'less of the lease')
        wait_until(lambda: look() > max(seen) - 0.5, DEADLINE, 'a renewed lease')
        program.send(signal.SIGTERM)
        assert program.wait() == 143


# After the others: Prometheus needs 5 s until it scrapes.

def test_prometheus_scrapes(servers: Servers, tmp_path: pathlib.Path) -> None:
    """Prometheus has the loop's metrics, the task's, and those of the moment."""
    prometheus = servers.prometheus
    with job(tmp_path, 'prometheus.Prometheus', '--keep-lock',
             '--sleep-interval', '3600', host=HOST, port=servers.target) as program:
        wait_until(lambda: prometheus.value(
            'jobslib_runs_total{task="tasks.Task", outcome="succeeded"}') == 1,
            DEADLINE, 'the run in Prometheus')
        # A scrape that takes too long makes all values vanish until the next one.
        wait_until(lambda: prometheus.value('jobslib_lock_held') == 1,
                   DEADLINE, 'the lock in Prometheus')
        wait_until(lambda: prometheus.value('rows{table="orders"}') == 42,
                   DEADLINE, "the task's metric in Prometheus")
        ages = wait_until(lambda: [age for age in [prometheus.value(
            'time() - jobslib_last_success_timestamp_seconds{fqdn!=""}',
        )] if age is not None], DEADLINE, 'the success in Prometheus')
        assert 0 <= ages[0] < 2 * DEADLINE
        # Nothing happens any more, but the lease goes on.
        wait_until(lambda: (prometheus.value(
            'changes(jobslib_lease_slack_seconds[1m])') or 0) >= 2,
            DEADLINE, 'the slack in Prometheus')
        program.send(signal.SIGTERM)
        assert program.wait() == 143
        assert 'Traceback' not in program.output
