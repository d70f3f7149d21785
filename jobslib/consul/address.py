"""The addresses of Consul, as people and Consul's own tools write them."""

from __future__ import annotations

__all__ = ['Address', 'AddressError', 'parse_address', 'plain_host']

SCHEMES = ('http', 'https')
NAME = frozenset('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'
                 '0123456789-_.')


class AddressError(ValueError):
    """The address cannot be read; the message says what is allowed instead."""


class Address:
    """The parts of an address; a part that it does not have is ``None``."""

    def __init__(self, scheme: str | None, host: str | None,
                 port: int | None) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port


def parse_address(text: str) -> Address:
    """Read the value of ``CONSUL_HTTP_ADDR``.

    :raises AddressError: it is not an address, or has a part that is not
        supported.
    """
    if text.startswith('unix://'):
        return Address(None, text, None)
    if '@' in text:
        raise AddressError(
            'user and password are not supported; leave them out, and give '
            'a token, in CONSUL_HTTP_TOKEN')
    if plain := _parse_plain(text):
        return plain
    from urllib.parse import urlsplit
    try:
        url = urlsplit(text if '://' in text else f'//{text}')
        scheme, host, port = url.scheme, url.hostname, url.port
    except ValueError:
        raise AddressError(
            'allowed: HOST:PORT, http(s)://HOST:PORT or unix:///PATH, an '
            'address of IPv6 in brackets') from None
    if scheme and scheme not in SCHEMES or (not host and port is None):
        raise AddressError(
            'allowed: HOST:PORT, http(s)://HOST:PORT or unix:///PATH')
    if url.path not in ('', '/') or url.query or url.fragment:
        raise AddressError(
            'a path is not supported; give the address of an agent, or of a '
            'proxy that needs no path')
    return Address(scheme or None, host or None, port)


def _parse_plain(text: str) -> Address | None:
    """Read a plain address, without a library that takes a millisecond to
    import; ``None`` if it is not plain."""
    scheme, mark, place = text.rpartition('://')
    host, _, port = place.rpartition(':')
    if (scheme in (SCHEMES if mark else ('',)) and host and NAME.issuperset(host)
            and port.isascii() and port.isdigit() and int(port) < 65536):
        return Address(scheme or None, host.lower(), int(port))
    return None


def plain_host(host: str) -> str:
    """Return *host* as it is looked up: without brackets, in ASCII.

    :raises AddressError: it is not just the name or the address of a host.
    """
    if host.removeprefix('unix://') not in ('', host):
        return host
    scheme, separator, rest = host.partition('://')
    if separator and scheme in SCHEMES:
        raise AddressError(
            f'it has a scheme in it; allowed: the name or address alone, '
            f'{rest.partition("/")[0].partition(":")[0]!r}, and the option '
            f'scheme, {scheme!r}')
    bare = host[1:-1] if host.startswith('[') and host.endswith(']') else host
    if ':' in bare or bare != host:
        if _is_ipv6(bare):
            return bare
        name, _, port = host.rpartition(':')
        if port.isdigit() and name:
            raise AddressError(
                f'it has a port in it; allowed: the host alone, {name!r}, '
                f'and the option port, {port}')
        raise AddressError('it is not allowed; allowed: the name or address '
                           'alone, or unix:///PATH')
    if not bare.isascii():
        try:
            bare = bare.encode('idna').decode('ascii')
        except UnicodeError:
            raise AddressError(
                'it has letters that no name of a host can have') from None
    if not bare or set(bare) - NAME:
        raise AddressError('it is not allowed; allowed: the name or address '
                           'alone, or unix:///PATH')
    return bare


def _is_ipv6(text: str) -> bool:
    # Imported here, because most addresses have no colon.
    import socket
    try:
        # After a percent sign there is the interface of a link-local address.
        socket.inet_pton(socket.AF_INET6, text.partition('%')[0])
    except (OSError, ValueError):
        return False
    return True
