"""How addresses of Consul are understood, or refused."""

import pathlib
from typing import Any

import pytest

from jobslib.consul.address import AddressError, plain_host
from jobslib.exceptions import ConfigError
from jobslib.oneinstance.consuloptions import ConsulOptions


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of Consul's tools is in the environment."""
    for name in ('ADDR', 'SSL', 'AUTH', 'TOKEN'):
        monkeypatch.delenv(f'CONSUL_HTTP_{name}', raising=False)


def url(**options: Any) -> str:
    """Return the address that a lock with these options goes to."""
    return ConsulOptions(options, None).endpoint.url


def refusal(**options: Any) -> str:
    """Return what such options are refused with."""
    with pytest.raises(ConfigError) as caught:
        ConsulOptions(options, None)
    return str(caught.value)


@pytest.mark.parametrize(('address', 'expected'), [
    ('https://there', 'https://there:443'),
    ('http://there', 'http://there:80'),
    ('there', 'http://there:80'),
    ('there:8500', 'http://there:8500'),
    ('https://there:8501/', 'https://there:8501'),
    ('HTTPS://There:8501', 'https://there:8501'),
    ('[::1]:8500', 'http://[::1]:8500'),
    ('http://[fe80::1]', 'http://[fe80::1]:80'),
    (':8500', 'http://127.0.0.1:8500'),
    ('büro.example:8500', 'http://xn--bro-hoa.example:8500'),
    ('unix:///run/consul.sock', 'unix:///run/consul.sock'),
])
def test_address(address: str, expected: str,
                 monkeypatch: pytest.MonkeyPatch) -> None:
    """CONSUL_HTTP_ADDR is read as Consul's own tools read it."""
    monkeypatch.setenv('CONSUL_HTTP_ADDR', address)
    assert url() == expected


def test_address_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONSUL_HTTP_SSL makes it https, whatever the address says."""
    monkeypatch.setenv('CONSUL_HTTP_SSL', 'true')
    for address in ('there', 'http://there'):
        monkeypatch.setenv('CONSUL_HTTP_ADDR', address)
        assert url() == 'https://there:443'


def test_scheme_decides_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a port has that of the scheme, wherever it is from."""
    monkeypatch.setenv('CONSUL_HTTP_ADDR', 'there')
    assert url(scheme='https') == 'https://there:443'
    assert url(port=8501) == 'http://there:8501'


@pytest.mark.parametrize(('address', 'says'), [
    ('https://there/consul', 'a path is not supported'),
    ('there:8500/consul', 'a path is not supported'),
    ('http://there:8500?dc=x', 'a path is not supported'),
    ('http://ann:hunter2@there:8500', 'user and password are not supported'),
    ('ftp://there', 'allowed: HOST:PORT'),
    ('there:x', 'allowed: HOST:PORT'),
    ('there:99999', 'allowed: HOST:PORT'),
    ('::1', 'brackets'),
    ('http://', 'allowed: HOST:PORT'),
    ('http://a_b c:1', "host: 'a_b c' from environment, CONSUL_HTTP_ADDR"),
])
def test_bad_address(address: str, says: str,
                     monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be understood is refused, with its source, no secret shown.
    """
    monkeypatch.setenv('CONSUL_HTTP_ADDR', address)
    message = refusal()
    assert says in message
    assert 'environment, CONSUL_HTTP_ADDR' in message
    assert 'hunter2' not in message
    assert url(host='elsewhere') == 'http://elsewhere:8500'


@pytest.mark.parametrize(('variable', 'value', 'says'), [
    ('CONSUL_HTTP_AUTH', 'ann:hunter2', 'address that asks for none'),
    ('CONSUL_PARTITION', 'team', 'an agent of that partition'),
    ('CONSUL_CAPATH', '/etc/ssl/certs', 'give one file'),
])
def test_variables_that_are_not_supported(
        variable: str, value: str, says: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of Consul's tools is dropped in silence."""
    monkeypatch.setenv(variable, value)
    message = refusal(scheme='https')
    assert message.startswith(f'{variable} in the environment: ')
    assert says in message and 'hunter2' not in message


def test_variables_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes nothing for Consul's tools either is allowed."""
    monkeypatch.setenv('CONSUL_PARTITION', 'default')
    monkeypatch.setenv('CONSUL_CAPATH', '/etc/ssl/certs')
    assert url() == 'http://127.0.0.1:8500'
    assert url(scheme='https', ca_cert='/ca.pem').startswith('https:')
    assert url(scheme='https', verify=False).startswith('https:')


@pytest.mark.parametrize(('host', 'expected'), [
    ('consul', 'http://consul:8500'),
    ('consul.service_a.example', 'http://consul.service_a.example:8500'),
    ('::1', 'http://[::1]:8500'),
    ('[::1]', 'http://[::1]:8500'),
    ('fe80::1%eth0', 'http://[fe80::1%eth0]:8500'),
    ('Bücher.example', 'http://xn--bcher-kva.example:8500'),
])
def test_host(host: str, expected: str) -> None:
    """A host is a name or an address, in brackets or not, in any letters."""
    assert url(host=host) == expected


@pytest.mark.parametrize(('host', 'says'), [
    ('consul:8501', "the host alone, 'consul', and the option port, 8501"),
    ('[::1]:8501', "the host alone, '[::1]', and the option port, 8501"),
    ('consul:', 'the name or address alone'),
    ('[consul]', 'the name or address alone'),
    ('con sul', 'the name or address alone'),
    ('consul\n', 'the name or address alone'),
    ('', 'the name or address alone'),
    ('ü' * 70, 'letters that no name of a host can have'),
])
def test_bad_host(host: str, says: str) -> None:
    """What is no host alone is refused at the start, with what to write."""
    message = refusal(host=host)
    assert message.startswith(f"host: {host!r} from settings, host: ")
    assert says in message


def test_plain_host_of_a_socket(tmp_path: pathlib.Path) -> None:
    """The path of a socket is left as it is."""
    assert plain_host(f'unix://{tmp_path}/ü') == f'unix://{tmp_path}/ü'
    with pytest.raises(AddressError):
        plain_host('unix:/run')
