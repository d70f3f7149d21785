"""Real Consul servers for the tests: started, disturbed and always cleared away."""

import atexit
import base64
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import requests

from integration.fetch_consul import find_consul

HOST = '127.0.0.1'
#: A server that is not ready after so many seconds never is, however busy the machine.
STARTED = 60.0
T = TypeVar('T')
LIVE: list['Agent'] = []  # agents not closed yet, the oldest first
_names = itertools.count(1)
_candidates = iter(random.sample(range(12000, 32000), 20000))
_owner = os.getpid()
# Servers gossip with whoever has the port of one that they know; those of another
# run of the tests on this machine are kept out by it.
_gossip_key = base64.b64encode(os.urandom(32)).decode()


def wait_until(
    condition: Callable[[], T | None], timeout: float, what: str, pause: float = 0.05,
) -> T:
    """The first true value of `condition`, asked every `pause` seconds.

    An answer that did not come or made no sense counts as "not yet". Raises
    `TimeoutError` after `timeout` seconds, naming `what` and the last problem.
    """
    deadline = time.monotonic() + timeout
    while True:
        problem = 'the condition stayed false'
        try:
            if value := condition():
                return value
        except (requests.RequestException, KeyError, ValueError) as exc:
            problem = repr(exc)
        if time.monotonic() > deadline:
            raise TimeoutError(f'not within {timeout:g} s: {what} ({problem})')
        time.sleep(pause)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, neither with TCP nor with UDP.

    They lie below the range that systems take client ports from, so that no
    connection settles on a port between here and its use, or during a restart;
    and no port is given twice, for who has it may be down for a while.
    """
    ports = list(itertools.islice(filter(_is_free, _candidates), count))
    if len(ports) < count:
        raise OSError(f'no {count} free ports')
    return ports


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                return False
    return True


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files: a private CA, a server's and a client's certificate."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str


def make_tls(folder: pathlib.Path) -> TlsFiles:
    """Make a private CA and two certificates in the folder, valid for two days."""
    def openssl(*arguments: str) -> None:
        subprocess.run(['openssl', *arguments], cwd=folder, check=True,
                       stdin=subprocess.DEVNULL, capture_output=True)

    new_key = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes')
    (folder / 'openssl.cnf').write_text(
        '[req]\nprompt = no\ndistinguished_name = name\n[name]\nCN = jobslib\n'
        '[ca]\nbasicConstraints = critical, CA:TRUE\n'
        'keyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n'
        '[server]\n'
        'subjectAltName = IP:127.0.0.1, DNS:localhost, DNS:server.dc1.consul\n'
        'extendedKeyUsage = serverAuth, clientAuth\n'
        'authorityKeyIdentifier = keyid\nsubjectKeyIdentifier = hash\n'
        '[client]\nextendedKeyUsage = clientAuth\n'
        'authorityKeyIdentifier = keyid\nsubjectKeyIdentifier = hash\n'
    )
    openssl('req', '-x509', *new_key, '-days', '2', '-config', 'openssl.cnf',
            '-extensions', 'ca', '-keyout', 'ca.key', '-out', 'ca.pem')
    for name in ('server', 'client'):
        openssl('req', *new_key, '-config', 'openssl.cnf', '-subj', f'/CN={name}',
                '-keyout', f'{name}.key', '-out', f'{name}.csr')
        openssl('x509', '-req', '-in', f'{name}.csr', '-days', '2',
                '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial',
                '-extfile', 'openssl.cnf', '-extensions', name, '-out', f'{name}.pem')
    return TlsFiles(*(str(folder / name) for name in (
        'ca.pem', 'server.pem', 'server.key', 'client.pem', 'client.key')))


class Api:
    """Consul's HTTP API without any interpretation; `path` is what follows /v1/.

    Flags among the parameters are given as ''. `cert` is the client's
    certificate and key, `timeout` is in seconds.
    """

    def __init__(
        self, url: str, *, token: str | None = None, ca: str | None = None,
        cert: tuple[str, str] | None = None, timeout: float = 10.0,
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy of the machine's
        self._http.verify = ca or True
        self._http.cert = cert
        if token is not None:
            self._http.headers['X-Consul-Token'] = token

    def get(self, path: str, **params: object) -> requests.Response:
        """GET, with the parameters in the query."""
        return self._request('GET', path, params)

    def put(
        self, path: str, body: object = None, **params: object,
    ) -> requests.Response:
        """PUT; a body that is neither text nor bytes is sent as JSON."""
        return self._request('PUT', path, params, body)

    def delete(self, path: str, **params: object) -> requests.Response:
        """DELETE, with the parameters in the query."""
        return self._request('DELETE', path, params)

    def _request(
        self, method: str, path: str, params: Mapping[str, object], body: object = None,
    ) -> requests.Response:
        data = body if isinstance(body, str | bytes | None) else json.dumps(body)
        return self._http.request(
            method, f'{self.url}/v1/{path}', params={k: str(params[k]) for k in params},
            data=data, timeout=self.timeout,
        )

    def kv(self, key: str) -> dict[str, Any] | None:
        """The entry of the key with its Value as bytes, None where there is none."""
        response = self.get(f'kv/{key}', consistent='')
        if response.status_code == 404:
            return None
        entry: dict[str, Any] = _checked(response)[0]
        entry['Value'] = base64.b64decode(entry['Value'] or '')
        return entry

    def sessions(self) -> list[dict[str, Any]]:
        """Every session that the token may see."""
        found: list[dict[str, Any]] = _checked(self.get('session/list', consistent=''))
        return found

    def create_session(self, **fields: object) -> str:
        """Id of a new session; without fields it has no TTL."""
        return str(_checked(self.put('session/create', fields))['ID'])

    def destroy_session(self, session: str) -> None:
        """Destroy the session; one that does not exist is all right."""
        _checked(self.put(f'session/destroy/{session}'))

    def create_token(self, rules: str) -> str:
        """Secret of a new ACL token that may do what the rules (HCL) say."""
        name = f'policy-{next(_names)}-{os.getpid()}'
        _checked(self.put('acl/policy', {'Name': name, 'Rules': rules}))
        return str(_checked(self.put('acl/token', {'Policies': [{'Name': name}]}))
                   ['SecretID'])

    def close(self) -> None:
        """Close the kept connections."""
        self._http.close()


def _checked(response: requests.Response, empty: bool = False) -> Any:
    if not response.ok:
        raise requests.HTTPError(
            f'{response.status_code} {response.text.strip()}', response=response)
    return None if empty else response.json()


@dataclass(frozen=True)
class Ports:
    """The ports one server listens on."""

    http: int
    server: int
    serf_lan: int
    serf_wan: int

    @classmethod
    def free(cls, agents: int = 1) -> list[Self]:
        """Free ports for some agents."""
        ports = free_ports(4 * agents)
        return [cls(*ports[at:at + 4]) for at in range(0, len(ports), 4)]


class Agent:
    """A Consul server on 127.0.0.1, in a process and a folder of its own.

    In memory by default (`-dev`); `on_disk` keeps its data over `restart()`.
    With `acl` everything is denied by default and `management_token` is the
    bootstrapped one; with `tls` it speaks https alone and wants a certificate.
    `config` is merged into the configuration, one level deep. `servers` is the
    number that elect a leader together: with more than one, or with
    `wait=False`, the constructor does not wait until the agent is ready.
    """

    def __init__(
        self, *, on_disk: bool = False, name: str | None = None, servers: int = 1,
        acl: bool = False, tls: TlsFiles | None = None, ports: Ports | None = None,
        config: Mapping[str, Any] | None = None, wait: bool = True,
        binary: pathlib.Path | None = None, timeout: float = STARTED,
    ) -> None:
        self.name = name or f'node-{next(_names)}'
        self.on_disk = on_disk
        self.stopped = False
        self.management_token: str | None = None
        self.ports = ports or Ports.free()[0]
        self.http_addr = (HOST, self.ports.http)
        self.url = f'{"https" if tls else "http"}://{HOST}:{self.ports.http}'
        self._acl = acl
        self._tls = tls
        self._servers = servers
        self._binary = binary or find_consul()
        self._log = ''
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='jobslib-consul-'))
        LIVE.append(self)
        self.api = self.new_api()
        try:
            self._configure(config or {})
            self._start()
            if wait and servers == 1:
                self.wait_ready(timeout)
        except BaseException:
            self.close()
            raise

    def _configure(self, overrides: Mapping[str, Any]) -> None:
        """Write the configuration file."""
        ports = self.ports
        config: dict[str, Any] = {
            'server': True, 'node_name': self.name, 'log_level': 'DEBUG',
            'bind_addr': HOST, 'client_addr': HOST, 'advertise_addr': HOST,
            'ports': {
                'http': -1 if self._tls else ports.http,
                'https': ports.http if self._tls else -1,
                'server': ports.server, 'serf_lan': ports.serf_lan,
                'serf_wan': ports.serf_wan, 'dns': -1, 'grpc': -1,
            },
            'performance': {'raft_multiplier': 1}, 'retry_interval': '1s',
            'disable_update_check': True, 'disable_host_node_id': True,
            'encrypt': _gossip_key,
        }
        if self.on_disk:
            config['data_dir'] = str(self.folder / 'data')
            config['bootstrap_expect'] = self._servers
        if self._acl:
            config['acl'] = {'enabled': True, 'default_policy': 'deny',
                             'enable_token_persistence': True}
        if self._tls:
            config |= {
                'ca_file': self._tls.ca, 'cert_file': self._tls.server_cert,
                'key_file': self._tls.server_key, 'verify_incoming': True,
            }
        for key, value in overrides.items():
            known = config.get(key)
            if isinstance(known, dict) and isinstance(value, Mapping):
                value = {**known, **value}
            config[key] = value
        (self.folder / 'config.json').write_text(json.dumps(config, indent=2))

    def _start(self) -> None:
        mode = [] if self.on_disk else ['-dev']
        command = [str(self._binary), 'agent', *mode, '-config-file=config.json']
        # Consul's own variables would change what the configuration says.
        env = {k: v for k, v in os.environ.items() if not k.startswith('CONSUL_')}
        with open(self.folder / 'log', 'ab') as log:
            # A session of its own: Ctrl-C on the tests is not for the agent,
            # which fixtures close when they are done with it.
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )

    def wait_ready(self, timeout: float = STARTED) -> None:
        """Wait until a key can be written and a session be created here.

        Raises `TimeoutError` with the end of the log after `timeout` seconds,
        and at once when the process ends.
        """
        try:
            wait_until(self._is_ready, timeout, f'{self.name} ready')
        except TimeoutError as exc:
            raise TimeoutError(f'{exc}\n{self.log_text()[-3000:]}') from exc

    def _is_ready(self) -> bool:
        if not self.running:
            raise RuntimeError(f'{self.name} ended\n{self.log_text()[-3000:]}')
        if self._acl and self.management_token is None:
            self._bootstrap()
        # The agent fills in what the leader wrote of its node: an entry in the
        # Raft log that nobody should count as his own.
        node = _checked(self.api.get(f'catalog/node/{self.name}')) or {'Node': {}}
        key = f'kv/harness/{self.name}'
        if not node['Node'].get('Meta') or not self.api.put(key, '').ok:
            return False
        self.api.destroy_session(self.api.create_session())
        return self.api.delete(key).ok

    def _bootstrap(self) -> None:
        """Get the management token and let the agent act with it."""
        token = str(_checked(self.api.put('acl/bootstrap'))['SecretID'])
        self.management_token = token
        self.api.close()
        self.api = self.new_api(token)
        # Without one the agent may not even register its own node.
        _checked(self.api.put('agent/token/agent', {'Token': token}), empty=True)

    def new_api(self, token: str | None = None, with_cert: bool = True) -> Api:
        """A client of its own; the attribute `api` is one with every right."""
        tls = self._tls
        cert = (tls.client_cert, tls.client_key) if tls and with_cert else None
        return Api(self.url, token=token, ca=tls.ca if tls else None, cert=cert)

    @property
    def pid(self) -> int:
        """Process id of the running agent."""
        if self._process is None:
            raise RuntimeError(f'{self.name} does not run')
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, be it stopped."""
        return self._process is not None and self._process.poll() is None

    def raft_index(self) -> int:
        """Index of the last entry in this server's Raft log.

        Without anybody's doing it grows by one every 60 s, and with each update
        of the coordinates, about every 20 s; the configuration
        `disable_coordinates` avoids the latter.
        """
        about = _checked(self.api.get('agent/self'))
        return int(about['Stats']['raft']['last_log_index'])

    def log_text(self) -> str:
        """What the agent logged so far, also after `close()`."""
        try:
            return (self.folder / 'log').read_text(errors='replace')
        except FileNotFoundError:
            return self._log

    def terminate(self, timeout: float = 20.0) -> None:
        """SIGTERM, and wait until the process is gone."""
        self._signal(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self._signal(signal.SIGKILL, 10.0)

    def _signal(self, signum: signal.Signals, timeout: float) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(signum)
            self._process.wait(timeout)
        self.stopped = False

    def stop(self) -> None:
        """SIGSTOP, and wait until every thread stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        self.stopped = True

    def cont(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self.stopped = False

    def restart(self, wait: bool = True, timeout: float = STARTED) -> None:
        """Start again with the same data and ports, terminating it if it runs."""
        if not self.on_disk:
            raise RuntimeError(f'{self.name} keeps its data in memory')
        if self.stopped:
            self.cont()
        self.terminate()
        self._start()
        if wait:
            self.wait_ready(timeout)

    def close(self) -> None:
        """Leave neither the process nor the folder; may be called twice."""
        self.kill()
        self.api.close()
        self._log = self.log_text()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in LIVE:
            LIVE.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Cluster:
    """Three servers with their data on disk, ready when the constructor returns.

    `config` is merged into the configuration of each.
    """

    def __init__(self, *, config: Mapping[str, Any] | None = None,
                 binary: pathlib.Path | None = None, timeout: float = STARTED) -> None:
        ports = Ports.free(3)
        join = {'retry_join': [f'{HOST}:{each.serf_lan}' for each in ports]}
        self.agents: list[Agent] = []
        try:
            for each in ports:
                self.agents.append(Agent(
                    on_disk=True, servers=3, ports=each, binary=binary,
                    config={**join, **(config or {})},
                ))
            self.wait_ready(timeout)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Agent]:
        return iter(self.agents)

    def alive(self) -> list[Agent]:
        """The servers that run and are not stopped."""
        return [agent for agent in self.agents if agent.running and not agent.stopped]

    def wait_ready(self, timeout: float = STARTED) -> None:
        """Wait until keys and sessions can be written through every live server."""
        deadline = time.monotonic() + timeout
        for agent in self.alive():
            agent.wait_ready(max(0.0, deadline - time.monotonic()))

    def leader(self, timeout: float = STARTED) -> Agent:
        """The live server that every live server takes for the leader."""
        return wait_until(self._agreed_leader, timeout, 'one leader in the cluster')

    def _agreed_leader(self) -> Agent | None:
        alive = self.alive()
        named = {agent.api.get('status/leader').json() for agent in alive}
        for agent in alive:
            if named == {f'{HOST}:{agent.ports.server}'}:
                return agent
        return None

    def followers(self, timeout: float = STARTED) -> list[Agent]:
        """The live servers that are not the leader."""
        leader = self.leader(timeout)
        return [agent for agent in self.alive() if agent is not leader]

    def close(self) -> None:
        """Close every server; may be called twice."""
        for agent in self.agents:
            agent.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _cls: object, exc: BaseException | None, _tb: object) -> None:
        if exc is not None:
            for agent in self.agents:
                lines = [line for line in agent.log_text().splitlines()
                         if 'agent.http' not in line]
                exc.add_note('\n'.join([agent.name, *lines[-40:]]))
        self.close()


def close_all() -> None:
    """Close every agent that this process started and has left."""
    if os.getpid() == _owner:  # not in a fork that ends
        for agent in list(LIVE):
            agent.close()


# For a run that ends without tearing its fixtures down.
atexit.register(close_all)
