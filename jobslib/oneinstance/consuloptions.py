"""The options of :class:`jobslib.oneinstance.consul.ConsulLock`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property

from jobslib.options import BOOLEANS, ConfigGroup, Given, option
from jobslib.exceptions import ConfigError
from jobslib.oneinstance import BaseLock
from jobslib.oneinstance.timings import Timings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobslib.oneinstance.transport import Endpoint

__all__ = ['ConsulOptions']

ENV = 'JOBSLIB_ONE_INSTANCE_CONSUL_'

MAX_LOCK_DELAY = 60.0
MIN_CHECK_TTL = 2.0


def _variable(name: str) -> Callable[[ConfigGroup], Given | None]:
    """Fall back on the environment variable *name*."""
    def fallback(group: ConfigGroup) -> Given | None:
        value = os.environ.get(name)
        return Given(value, f'environment, {name}') if value else None
    return fallback


def _address(part: str) -> Callable[[ConfigGroup], Given | None]:
    """Fall back on a part of ``CONSUL_HTTP_ADDR``.

    It is an address as a whole: with a host from elsewhere none of it counts.
    """
    def fallback(group: ConfigGroup) -> Given | None:
        text = os.environ.get('CONSUL_HTTP_ADDR')
        source = 'environment, CONSUL_HTTP_ADDR'
        if part == 'scheme' and _is_on(os.environ.get('CONSUL_HTTP_SSL')):
            return Given('https', 'environment, CONSUL_HTTP_SSL')
        if not text or group.declared()['host'].given(group):
            return None
        if text.startswith('unix://'):
            return Given(text, source) if part == 'host' else None
        from urllib.parse import urlsplit
        try:
            url = urlsplit(text if '://' in text else f'//{text}')
            found = {'scheme': url.scheme, 'host': url.hostname,
                     'port': url.port}[part]
        except ValueError:
            raise ConfigError(
                f'{part}: {text!r} from {source} is not allowed; allowed: '
                f'HOST:PORT, http(s)://HOST:PORT or unix:///PATH') from None
        return Given(str(found), source) if found else None
    return fallback


def _token(group: ConfigGroup) -> Given | None:
    given = group.declared()['token_file'].given(group)
    if given or os.environ.get('CONSUL_HTTP_TOKEN_FILE'):
        return None
    return _variable('CONSUL_HTTP_TOKEN')(group)


def _is_on(text: str | None) -> bool:
    return BOOLEANS.get((text or '').strip().lower(), False)


class ConsulOptions(BaseLock.OptionsConfig):
    """Options of :class:`jobslib.oneinstance.consul.ConsulLock`.

    The standard variables of Consul's own tools (``CONSUL_HTTP_ADDR``
    and its like) count where nothing else is given.
    """

    scheme = option(
        attrtype=str, choices=('http', 'https'), default='http',
        env=f'{ENV}SCHEME', fallback=_address('scheme'),
        help='How to talk to Consul.')
    host = option(
        attrtype=str, default='127.0.0.1', env=f'{ENV}HOST',
        fallback=_address('host'),
        help='Name or address of the Consul agent, or unix:///PATH.')
    port = option(
        attrtype=int, minimum=1, maximum=65535, default=8500,
        env=f'{ENV}PORT', fallback=_address('port'),
        help='Port of the Consul agent.')
    dc = option(
        attrtype=str, env=f'{ENV}DC',
        help='Datacenter that keeps the lock; the same for all machines.')
    namespace = option(
        attrtype=str, env=f'{ENV}NAMESPACE',
        fallback=_variable('CONSUL_NAMESPACE'),
        help='Namespace of the key (Consul Enterprise).')
    token = option(
        attrtype=str, env=f'{ENV}TOKEN', secret=True, fallback=_token,
        help='Token for access control.')
    token_file = option(
        attrtype=str, env=f'{ENV}TOKEN_FILE',
        fallback=_variable('CONSUL_HTTP_TOKEN_FILE'),
        help='File with the token, read for each request.')
    ca_cert = option(
        attrtype=str, env=f'{ENV}CA_CERT',
        fallback=_variable('CONSUL_CACERT'),
        help='File with the certificates of the authority.')
    client_cert = option(
        attrtype=str, env=f'{ENV}CLIENT_CERT',
        fallback=_variable('CONSUL_CLIENT_CERT'),
        help="File with this client's certificate.")
    client_key = option(
        attrtype=str, env=f'{ENV}CLIENT_KEY',
        fallback=_variable('CONSUL_CLIENT_KEY'),
        help="File with this client's key.")
    verify = option(
        attrtype=bool, default=True, env=f'{ENV}VERIFY',
        fallback=_variable('CONSUL_HTTP_SSL_VERIFY'),
        help="Whether to check the server's certificate.")
    timeout = option(
        attrtype=float, above=0, maximum=60, default=5.0,
        env=f'{ENV}TIMEOUT', help='The most that a request may take, '
        'in seconds.')
    retry_max_attempts = option(
        attrtype=int, minimum=1, default=3,
        env=f'{ENV}RETRY_MAX_ATTEMPTS',
        help='How often a request is tried that is safe to repeat.')
    key = option(
        attrtype=str, env=f'{ENV}KEY',
        help='Key of the lock (default jobs/TASK NAME/lock).')
    ttl = option(
        attrtype=float, minimum=10, maximum=86400, default=15.0,
        env=f'{ENV}TTL', help='TTL of the session, in seconds.')
    lock_delay = option(
        attrtype=float, above=0, maximum=MAX_LOCK_DELAY, default=15.0,
        env=f'{ENV}LOCK_DELAY',
        help='How long nobody gets the lock, in seconds, when its '
             'session ends without a release.')
    check_ttl = option(
        attrtype=float, minimum=MIN_CHECK_TTL, env=f'{ENV}CHECK_TTL',
        help='Have the agent notice within this many seconds that this '
             'machine or container is dead, rather than within twice '
             "ttl; for agents of the client's own machine.")
    grace = option(
        attrtype=float, above=0, env=f'{ENV}GRACE',
        help='Seconds from the interrupt of a run to its kill '
             '(default: a fifth of the smaller of ttl and lock_delay, '
             'at most 3).')
    heartbeat = option(
        attrtype=float, above=0, env=f'{ENV}HEARTBEAT',
        help='A run that does not call extend_lock() for longer, in '
             'seconds, is treated as hung.')

    def validate(self) -> None:
        """Refuse settings that contradict each other."""
        self.timings = Timings.derive(
            self.ttl, self.lock_delay, self.grace, self.timeout,
            self.check_ttl)
        if bool(self.client_cert) != bool(self.client_key):
            raise ConfigError(
                'client_cert and client_key: one is given without the '
                'other; allowed: both or none')

    @cached_property
    def endpoint(self) -> Endpoint:
        """How Consul is reached."""
        from jobslib.oneinstance.transport import Endpoint
        is_socket = self.host.startswith('unix://')
        return Endpoint(
            scheme=self.scheme, host=self.host, port=self.port,
            socket_path=self.host[len('unix://'):] if is_socket else None,
            ca_cert=self.ca_cert, client_cert=self.client_cert,
            client_key=self.client_key, verify=self.verify,
            server_name=os.environ.get('CONSUL_TLS_SERVER_NAME'),
            token=self.token, token_file=self.token_file,
            dc=self.dc, namespace=self.namespace,
            timeout=self.timeout)
