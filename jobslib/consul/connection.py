"""How Consul is reached: the options that locks, liveness and commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cached_property

from jobslib.consul.address import AddressError, parse_address, plain_host
from jobslib.consul.endpoint import Endpoint
from jobslib.exceptions import ConfigError
from jobslib.legacy import superseded
from jobslib.options import BOOLEANS, ConfigGroup, Given, option
from jobslib.slips import is_slip

__all__ = ['ConsulConnection', 'refuse_key']

# The ports of addresses that name none.
PORTS = {'http': 80, 'https': 443}

#: The environment variables of Consul's own tools.
VARIABLES = (
    'CONSUL_CACERT', 'CONSUL_CAPATH', 'CONSUL_CLIENT_CERT',
    'CONSUL_CLIENT_KEY', 'CONSUL_HTTP_ADDR', 'CONSUL_HTTP_AUTH',
    'CONSUL_HTTP_SSL', 'CONSUL_HTTP_SSL_VERIFY', 'CONSUL_HTTP_TOKEN',
    'CONSUL_HTTP_TOKEN_FILE', 'CONSUL_NAMESPACE', 'CONSUL_PARTITION',
    'CONSUL_TLS_SERVER_NAME')

FILES = ('socket_path', 'token_file', 'ca_cert', 'client_cert', 'client_key')


def _variable(name: str) -> Callable[[ConfigGroup], Given | None]:
    """Fall back on the environment variable *name*."""
    def fallback(group: ConfigGroup) -> Given | None:
        value = os.environ.get(name)
        return Given(value, f'environment, {name}') if value else None
    return fallback


def _address(part: str) -> Callable[[ConfigGroup], Given | None]:
    """Fall back on a part of ``CONSUL_HTTP_ADDR``.

    The address counts as a whole or not at all: if the host is given elsewhere,
    none of its parts is used.  As with Consul's own tools, an address without a
    port has the port of its scheme.
    """
    def fallback(group: ConfigGroup) -> Given | None:
        text = os.environ.get('CONSUL_HTTP_ADDR')
        source = 'environment, CONSUL_HTTP_ADDR'
        if part == 'scheme' and _has_ssl():
            return Given('https', 'environment, CONSUL_HTTP_SSL')
        if not text or group.declared()['host'].given(group):
            return None
        try:
            found = getattr(parse_address(text), part)
        except AddressError as exc:
            # Whatever is before an "@" may be a password, and is not shown.
            login, _, rest = text.rpartition('@')
            shown = f'***@{rest}' if login else rest
            raise ConfigError(f'CONSUL_HTTP_ADDR: {shown!r} from '
                              f'{source}: {exc}') from None
        if (found is None and part == 'port'
                and not text.startswith('unix://')):
            found = PORTS[group.raw_value('scheme')]
        return None if found is None else Given(str(found), source)
    return fallback


def _token(group: ConfigGroup) -> Given | None:
    given = group.declared()['token_file'].given(group)
    if given or os.environ.get('CONSUL_HTTP_TOKEN_FILE'):
        return None
    return _variable('CONSUL_HTTP_TOKEN')(group)


def _refuse_variables(group: ConsulConnection) -> None:
    """Refuse variables of Consul's tools that have no effect here.

    If they were ignored, the job would have other rights than its user thinks,
    or another key.
    """
    for name in os.environ:
        if name.startswith('CONSUL_') and name not in VARIABLES:
            for known in VARIABLES:
                if is_slip(name, known):
                    raise ConfigError(
                        f'unknown variable {name} in the environment; did '
                        f'you mean {known}?')
    if os.environ.get('CONSUL_HTTP_AUTH'):
        raise ConfigError(
            'CONSUL_HTTP_AUTH in the environment: a user and password are not '
            'supported; unset it, and reach Consul at an address that asks '
            'for none')
    if os.environ.get('CONSUL_PARTITION', '') not in ('', 'default'):
        raise ConfigError(
            'CONSUL_PARTITION in the environment: admin partitions are not '
            'supported; unset it, and ask an agent of that partition')
    if (os.environ.get('CONSUL_CAPATH') and group.scheme == 'https'
            and group.verify and not group.ca_cert):
        raise ConfigError(
            'CONSUL_CAPATH in the environment: a folder of certificates is '
            'not supported; give one file with all of them, as ca_cert or in '
            'CONSUL_CACERT')


def _has_ssl() -> bool:
    """Return whether ``CONSUL_HTTP_SSL`` asks for https."""
    text = os.environ.get('CONSUL_HTTP_SSL')
    if not text:
        return False
    try:
        return BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ConfigError(
            f'CONSUL_HTTP_SSL: {text!r} from environment, CONSUL_HTTP_SSL is '
            f'not allowed; allowed: 1/0, true/false, yes/no or on/off'
        ) from None


def refuse_key(key: str, source: str = '') -> None:
    """Refuse a key that no URL of Consul leads to.

    Its server resolves the parts ``.`` and ``..`` of a path, and refuses
    characters that are not printable.

    :param source: where the key comes from, if it was given.
    :raises ConfigError: the key is not allowed.
    """
    shown = f'{key!r} from {source}' if source else repr(key)
    if (key.startswith('/') or '//' in key or not key.isprintable()
            or {'.', '..'} & set(key.split('/'))):
        raise ConfigError(
            f'key: {shown} is not allowed; allowed: a path of printable '
            f'characters, without a leading slash or parts that are empty, '
            f'"." or ".."')
    # Since version 1.21.6 that is so, too, for a key that has such a part when
    # "%2e" and the like are resolved.  Transactions still write such a key, but
    # each attempt to read it fails, so it is refused here.
    resolved = key
    if '%' in key:
        from urllib.parse import unquote
        resolved = unquote(key)
    if resolved != resolved.strip() or '..' in resolved.split('/'):
        raise ConfigError(
            f'key: {shown} is not allowed; allowed: no space at its beginning '
            f'or end and no part "..", written with % or not (Consul before '
            f'1.21.5 would take it, later versions refuse to read it)')


class ConsulConnection(ConfigGroup):
    """How Consul is reached; to be subclassed.

    A subclass that names a prefix reads its options from the environment as
    well: ``class Options(ConsulConnection, env='SHOP_CONSUL_')`` reads
    ``SHOP_CONSUL_HOST`` and so on.

    The standard variables of Consul's own tools, such as ``CONSUL_HTTP_ADDR``,
    count where nothing else is given.
    """

    scheme = option(
        attrtype=str, choices=('http', 'https'), default='http',
        fallback=_address('scheme'), help='How to talk to Consul.')
    host = option(
        attrtype=str, default='127.0.0.1', fallback=_address('host'),
        help='Name or address of the Consul agent, or unix:///PATH.')
    port = option(
        attrtype=int, minimum=1, maximum=65535, default=8500,
        fallback=_address('port'), help='Port of the Consul agent.')
    dc = option(
        attrtype=str,
        help='Datacenter that keeps the key; the same for all machines.')
    namespace = option(
        attrtype=str, fallback=_variable('CONSUL_NAMESPACE'),
        help='Namespace of the key (Consul Enterprise).')
    token = option(
        attrtype=str, secret=True, fallback=_token,
        help='Token for access control.')
    token_file = option(
        attrtype=str, kind='the path of a file',
        fallback=_variable('CONSUL_HTTP_TOKEN_FILE'),
        help='File with the token, read for each request.')
    ca_cert = option(
        attrtype=str, kind='the path of a file',
        fallback=_variable('CONSUL_CACERT'),
        help='File with the certificates of the authority.')
    client_cert = option(
        attrtype=str, kind='the path of a file',
        fallback=_variable('CONSUL_CLIENT_CERT'),
        help="File with this client's certificate.")
    client_key = option(
        attrtype=str, kind='the path of a file',
        fallback=_variable('CONSUL_CLIENT_KEY'),
        help="File with this client's key.")
    verify = option(
        attrtype=bool, default=True,
        fallback=_variable('CONSUL_HTTP_SSL_VERIFY'),
        help="Whether to check the server's certificate.")
    timeout = option(
        attrtype=float, unit='seconds', above=0, maximum=60,
        default=5.0,
        help='The most that a request may take, in seconds.')
    retry_max_attempts = superseded(
        attrtype=int, minimum=0, default=3,
        only=0, instead='it counts as 1; write 1',
        help='How often a request is tried that is safe to repeat.')
    retry_wait_multiplier = superseded(
        attrtype=int, minimum=0,
        instead='it has no effect: the pauses between the attempts are 0.1 s '
                'and double up to 1 s; leave it out',
        help='Has no effect.')

    def __init_subclass__(cls, env: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if env is None:
            return
        for name, declared in ConsulConnection.declared().items():
            if name not in vars(cls):
                setattr(cls, name, declared.under(f'{env}{name.upper()}'))

    def validate(self) -> None:
        """Refuse a host that is not one, and a certificate without its key."""
        try:
            plain_host(self.host)
        except AddressError as exc:
            raise self.error('host', str(exc)) from None
        _refuse_variables(self)
        if bool(self.client_cert) != bool(self.client_key):
            given, lacking = (
                ('client_cert', 'client_key') if self.client_cert
                else ('client_key', 'client_cert'))
            raise ConfigError(
                f'{given} (from {self.source(given)}) is given without '
                f'{lacking}; allowed: both or none')

    #: For how long a request that failed is tried again, in seconds.
    patience = math.inf

    def hasten(self, seconds: float) -> None:
        """Try nothing for longer than *seconds*, because somebody waits for it.

        To be called before the first request.
        """
        self.patience = seconds
        self._values['timeout'] = min(self.timeout, seconds)
        vars(self).pop('endpoint', None)

    @cached_property
    def endpoint(self) -> Endpoint:
        """How Consul is reached."""
        return self._endpoint({})

    def endpoint_like(self, other: ConfigGroup) -> Endpoint:
        """Return how Consul is reached, with the values of *other* for what was
        not given to this group itself.

        If this group has a host of its own, nothing of *other* is used, so that
        a token is only sent to the address that it is meant for.  A token of
        its own replaces token and token file of *other*, and so does a file.
        """
        if not isinstance(other, ConsulConnection) or self._is_own('host'):
            return self.endpoint
        has_token = self._is_own('token') or self._is_own('token_file')
        return self._endpoint({
            name: getattr(other, name) for name in ConsulConnection.declared()
            if not (self._is_own(name)
                    or has_token and name in ('token', 'token_file'))})

    def _is_own(self, name: str) -> bool:
        """Return whether the option was given by its own names."""
        source = self.source(name)
        return (source.startswith('settings, ')
                or source == f'environment, {self.declared()[name].env}')

    def _endpoint(self, replaced: dict[str, object]) -> Endpoint:
        values = {name: getattr(self, name)
                  for name in ConsulConnection.declared()} | replaced
        del values['retry_max_attempts'], values['retry_wait_multiplier']
        values['host'] = plain_host(values['host'])
        is_socket = values['host'].startswith('unix://')
        values['socket_path'] = (
            values['host'][len('unix://'):] if is_socket else None)
        for name in FILES:
            # Made absolute here, because a task may change the current folder.
            values[name] = values[name] and os.path.abspath(values[name])
        return Endpoint(
            server_name=os.environ.get('CONSUL_TLS_SERVER_NAME'), **values)
