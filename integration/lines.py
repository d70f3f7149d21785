"""The ways in which a line between a worker and Consul can fail."""

from collections.abc import Callable

from integration.proxy import Proxy

#: Each breaks the line until `Proxy.pass_through`.
LINES: dict[str, Callable[[Proxy], None]] = {
    'packets lost': lambda proxy: proxy.blackhole(),
    'packets held up': lambda proxy: proxy.hold(),
    'answers lost': lambda proxy: proxy.mute(),
    'connections refused': lambda proxy: proxy.refuse(),
    'answers delayed by 3 s': lambda proxy: proxy.delay(3.0),
    'answers cut short': lambda proxy: proxy.cut(20),
    'status 500': lambda proxy: proxy.status(500, 'rpc error making call: EOF'),
    'status 403': lambda proxy: proxy.status(403, 'Permission denied'),
    'status 404': lambda proxy: proxy.status(404, '404 page not found'),
    'status 429': lambda proxy: proxy.status(
        429, 'Your IP is issuing too many concurrent connections'),
    'status 200, empty': lambda proxy: proxy.status(200, ''),
    'rubbish': lambda proxy: proxy.rubbish(),
}
