"""A real agent or the stand-in for it, and what their answers say."""

import base64
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import requests

from integration import stalls
from integration.agents import Api
from integration.stamps import now

UNKNOWN = 'adf4238a-882b-9ddc-4a9d-5b6758e4159e'
BAD_ID = 'failed session lookup: index error: UUID must be 36 characters'
# Short, so that the real agent's can be waited for.
TTL, DELAY = 1.0, 1.0
# What one server may be late, in seconds.
LATE = 0.3
TRIES = 5


def timed(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that measures a real agent's times, to within `LATE`.

    What it measured while the machine stood still says nothing: then it is done
    again, with another key. All other failures are final.
    """
    @functools.wraps(test)
    def done_again(**fixtures: Any) -> None:
        for number in range(TRIES):
            if 'key' in fixtures:
                fixtures['key'] += f'/{number}'
            began = now()
            try:
                return test(**fixtures)
            except (AssertionError, requests.HTTPError):
                if number == TRIES - 1 or not stalls.since(began):
                    raise
    return done_again


class Server:
    """Either of the two, with the keys of one test.

    :param url: of the server.
    :param elapse: lets so many seconds pass, of the server's time.
    """

    def __init__(self, url: str, elapse: Callable[[float], None]) -> None:
        self.api = Api(url)
        self.url = url
        self.elapse = elapse

    def session(self, **fields: object) -> str:
        """Create a session that is bound to no check; return its id."""
        return self.api.create_session(**{
            'TTL': '10s', 'LockDelay': f'{DELAY:g}s', 'Checks': [], **fields})

    def is_alive(self, session: str) -> bool:
        """Return whether there is the session, without renewing it."""
        return bool(self.api.get(f'session/info/{session}').json())

    def index(self, key: str, **params: object) -> int:
        """Return the index that a blocking query on *key* waits on."""
        answer = self.api.get(f'kv/{key}', **params)
        return int(answer.headers['X-Consul-Index'])

    def blocked(self, key: str, index: int,
                disturb: Callable[[], object] | None = None,
                **params: object) -> tuple[float, int]:
        """Return how long a blocking query of 1 s took, and the new index.

        :param disturb: done when the query has been waiting for a while.
        """
        timer = threading.Timer(LATE, disturb or (lambda: None))
        timer.start()
        api = Api(self.url)
        began = time.monotonic()
        answer = api.get(f'kv/{key}', index=index, wait='1s', **params)
        took = time.monotonic() - began
        timer.join()
        api.close()
        return took, int(answer.headers['X-Consul-Index'])

    def txn(self, verb: str, key: str, session: str | None = None,
            value: str = '') -> requests.Response:
        """Do one operation in a transaction."""
        return self.transact(operation(verb, key, session, value))

    def transact(self, *operations: dict[str, Any]) -> requests.Response:
        """Do operations in one transaction."""
        return self.api.put('txn', list(operations))

    def lock(self, key: str, session: str, value: str = '') -> bool:
        """Try to take *key*."""
        return self.txn('lock', key, session, value).ok

    def cost(self, call: Callable[[], object]) -> int:
        """Return how many Raft entries *call* makes."""
        def count() -> int:
            before = self._raft_index()
            call()
            return self._raft_index() - before
        # Twice, for a server writes something of its own now and then.
        return min(count(), count())

    def _raft_index(self) -> int:
        about = self.api.get('agent/self').json()
        return int(about['Stats']['raft']['last_log_index'])

    def until(self, condition: Callable[[], object]) -> None:
        """Let time pass, a tenth of a second at a time, until it holds.

        An agent that has just started can be seconds late to tell the servers
        of its checks.
        """
        for _ in range(100):
            if condition():
                return
            self.elapse(0.1)
        raise AssertionError('10 s have passed in vain')


def operation(verb: str, key: str, session: str | None = None,
              value: str = '', index: int | None = None) -> dict[str, Any]:
    """Return one operation of a transaction."""
    fields = {'Verb': verb, 'Key': key, 'Session': session, 'Index': index,
              'Value': base64.b64encode(value.encode()).decode()}
    return {'KV': {name: value for name, value in fields.items()
                   if value is not None}}


def told(response: requests.Response) -> tuple[int, str]:
    """Return status and text of an answer."""
    return response.status_code, response.text.strip()


def errors(response: requests.Response) -> list[tuple[int, str]]:
    """Return position and words of what a transaction was refused for."""
    assert response.status_code == 409
    assert response.json()['Results'] is None
    return [(each['OpIndex'], each['What'])
            for each in response.json()['Errors']]


def results(response: requests.Response) -> list[dict[str, Any]]:
    """Return the keys in the answer of a transaction."""
    assert response.status_code == 200, response.text
    assert response.json()['Errors'] is None
    return [each['KV'] for each in response.json()['Results']]


def result(response: requests.Response) -> dict[str, Any]:
    """Return the key in the answer of a transaction of one operation."""
    return results(response)[0]
