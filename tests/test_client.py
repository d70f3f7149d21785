"""The Consul client against a server that answers what a test tells it to.

The answers are Consul 1.8's own.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from jobslib.consul.client import (
    Acquired,
    ConsulClient,
    KeyState,
    PermissionDeniedError,
    SessionLostError,
)
from jobslib.consul.transport import Endpoint
from jobslib.exceptions import LockError, LockUnavailableError

SESSION = '1a412ca3-ca5d-b5a5-2984-a944f6fae0d8'
OTHER = '2d0755f4-e344-b3c7-4990-0947e351f5a9'
TOKEN = 's3cret-token'

# What the server does instead of answering.
DROP = 'drop'
HANG = 'hang'

Reply = tuple[int, object] | str


class Seen:
    """A request that the server got."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method = handler.command
        self.target = handler.path
        self.token = handler.headers['X-Consul-Token']
        self.length = handler.headers['Content-Length']
        body = handler.rfile.read(int(self.length or 0))
        self.body: Any = json.loads(body) if body else None

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        query = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        assert all(len(values) == 1 for values in query.values())
        return {name: values[0] for name, values in query.items()}


class Agent:
    """The server: gives out *replies* in turn, and the last one for ever."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.index: str | None = '7'
        self.headers: dict[str, str] = {}
        self.seen: list[Seen] = []
        self.clients: list[ConsulClient] = []
        self.done = threading.Event()
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            # One packet per answer, which spares a delayed acknowledgement.
            wbufsize = -1

            def do_GET(self) -> None:
                agent.answer(self)

            do_PUT = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={'poll_interval': 0.01})
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append(Seen(handler))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, str):
            handler.close_connection = True
            if reply == HANG:
                self.done.wait(5)
            return
        status, content = reply
        body = content if isinstance(content, str) else json.dumps(content)
        handler.send_response(status)
        if handler.command == 'GET' and status < 500 and self.index is not None:
            handler.send_header('X-Consul-Index', self.index)
        handler.send_header('Content-Length', str(len(body)))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.done.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.close()


@pytest.fixture
def pauses() -> list[float]:
    """The seconds that the client has slept."""
    return []


@pytest.fixture
def client(agent: Agent, pauses: list[float]) -> ConsulClient:
    return make_client(agent, pauses)


def make_client(
    agent: Agent, pauses: list[float], attempts: int = 3, **settings: Any,
) -> ConsulClient:
    host, port = agent.server.server_address[:2]
    settings = {'token': TOKEN, 'dc': 'dc9', 'timeout': 5.0, **settings}
    endpoint = Endpoint(host=str(host), port=port, **settings)
    client = ConsulClient(endpoint, retry_max_attempts=attempts, sleep=pauses.append)
    agent.clients.append(client)
    return client


def locked(index: int = 53) -> Reply:
    return 200, {'Results': [{'KV': {
        'LockIndex': 1, 'Key': 'a/b', 'Flags': 0, 'Value': None, 'Session': SESSION,
        'CreateIndex': 50, 'ModifyIndex': index}}], 'Errors': None}


def failed(what: str) -> Reply:
    return 409, {'Results': None, 'Errors': [{'OpIndex': 0, 'What': what}]}


def key(value: str | None = 'aGVsZA==', session: str | None = SESSION) -> Reply:
    item = {'LockIndex': 2, 'Key': 'a/b', 'Flags': 0, 'Value': value,
            'CreateIndex': 50, 'ModifyIndex': 60}
    if session:
        item['Session'] = session
    return 200, [item]


MISSING: Reply = (404, '')
HELD = failed('failed to lock key "a/b", lock is already held')
DELAYED = failed('failed to lock key "a/b" due to lock delay')
NOT_HELD = failed(
    'failed to unlock key "a/b", lock isn\'t held, or is held by another session')
GONE = failed(f'invalid session "{SESSION}"')
NO_LEADER: Reply = (500, 'No cluster leader')
RPC_ERROR: Reply = (500, 'rpc error making call: EOF')

CHANGED = failed('failed index check for key "a/b", current modify index 60 != 53')
# The key as it was read before it is to be taken, and its session without.
FREE = KeyState(7, None, None, 0)
ONCE_HELD = KeyState(7, b'', None, 60)

# Every call, and an answer that pleases it.
CALLS: dict[str, tuple[Callable[[ConsulClient], object], Reply]] = {
    'create': (lambda c: c.create_session('job', 10, 15), (200, {'ID': SESSION})),
    'destroy': (lambda c: c.destroy_session(SESSION), (200, 'true')),
    'read': (lambda c: c.read('a/b'), key()),
    'acquire': (lambda c: c.acquire('a/b', b'x', SESSION, FREE), locked()),
    'release': (lambda c: c.release('a/b', b'x', SESSION, 53), locked()),
    'write': (lambda c: c.write_if('a/b', b'x', 53), locked()),
}
every_call = pytest.mark.parametrize('name', CALLS)
repeatable = pytest.mark.parametrize('name', sorted(set(CALLS) - {'create', 'acquire'}))


@every_call
def test_token_and_datacenter(client: ConsulClient, agent: Agent, name: str) -> None:
    """Every call has the token in the header only, and names the datacenter."""
    call, reply = CALLS[name]
    agent.replies = [reply]
    call(client)
    [seen] = agent.seen
    assert seen.token == TOKEN
    assert seen.query['dc'] == 'dc9'
    assert TOKEN not in seen.target


def test_token_parameter_is_dropped(client: ConsulClient, agent: Agent) -> None:
    """A token that the package would put in the URL does not get there."""
    agent.replies = [(200, '""')]
    client._calls.api.http.get(lambda response: None, '/v1/x', [('token', 'wrong')])
    assert agent.seen[0].target == '/v1/x?dc=dc9'
    assert agent.seen[0].token == TOKEN


@every_call
def test_environment_does_not_win(
    agent: Agent, pauses: list[float], monkeypatch: pytest.MonkeyPatch, name: str,
) -> None:
    """The package's own variables change neither address nor token, and survive."""
    variables = {
        'CONSUL_HTTP_ADDR': 'http://127.0.0.1:1', 'CONSUL_HTTP_TOKEN': 'wrong',
        'CONSUL_HTTP_SSL': 'true', 'CONSUL_HTTP_SSL_VERIFY': 'false',
    }
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    call, reply = CALLS[name]
    agent.replies = [reply]
    call(make_client(agent, pauses))
    assert [seen.token for seen in agent.seen] == [TOKEN]
    assert 'wrong' not in agent.seen[0].target
    assert {variable: os.environ[variable] for variable in variables} == variables


@repeatable
@pytest.mark.parametrize(
    'trouble', [NO_LEADER, RPC_ERROR, (429, 'slow down'), (503, ''), DROP],
    ids=['no-leader', 'rpc-error', '429', '503', 'drop'])
def test_passing_trouble_is_tried_again(
    client: ConsulClient, agent: Agent, pauses: list[float], name: str, trouble: Reply,
) -> None:
    """What passes is tried again after pauses that grow."""
    call, reply = CALLS[name]
    agent.replies = [trouble, trouble, reply]
    call(client)
    assert len(agent.seen) == 3
    assert pauses == [0.1, 0.2]


@repeatable
def test_attempts_come_to_an_end(
    client: ConsulClient, agent: Agent, pauses: list[float], name: str,
) -> None:
    """After the last attempt one line says what failed, where and why."""
    agent.replies = [NO_LEADER]
    with pytest.raises(LockUnavailableError) as caught:
        CALLS[name][0](client)
    message = str(caught.value)
    assert message.startswith('cannot ')
    assert f'http://127.0.0.1:{agent.server.server_address[1]}' in message
    assert message.endswith('500 No cluster leader')
    assert '\n' not in message and TOKEN not in message
    assert len(agent.seen) == 3
    assert len(pauses) == 2


def test_too_many_connections(client: ConsulClient, agent: Agent) -> None:
    """A newer agent that takes no connection more is told with its limit."""
    agent.replies = [(429, 'Your IP is issuing too many concurrent connections, '
                           'please rate limit your calls\n')]
    with pytest.raises(LockUnavailableError,
                       match='too many.*limits.http_max_conns_per_client'):
        client.read('a/b')


def test_pause_stops_growing(agent: Agent, pauses: list[float]) -> None:
    """No pause is longer than a second."""
    agent.replies = [NO_LEADER]
    client = make_client(agent, pauses, attempts=7)
    with pytest.raises(LockUnavailableError):
        client.read('a/b')
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@every_call
def test_refused_connection(pauses: list[float], name: str) -> None:
    """A refused connection is tried again whatever the call: nothing was sent."""
    client = ConsulClient(Endpoint(port=1), retry_max_attempts=3, sleep=pauses.append)
    with pytest.raises(LockUnavailableError, match='refused'):
        CALLS[name][0](client)
    assert len(pauses) == 2


@every_call
@pytest.mark.parametrize('reply', [
    (403, 'Permission denied'), (403, 'ACL not found'), (401, 'ACL support disabled'),
    (500, 'rpc error making call: Permission denied'),
], ids=['denied', 'unknown', 'disabled', 'rpc'])
def test_permission(
    pauses: list[float], agent: Agent, name: str, reply: Reply,
) -> None:
    """A refusal by access control is told as such, and at once."""
    agent.replies = [reply]
    with pytest.raises(PermissionDeniedError):
        CALLS[name][0](make_client(agent, pauses, dc=None))
    assert len(agent.seen) == 1


@every_call
@pytest.mark.parametrize('reply', [
    (400, 'Bad request'), (404, '404 page not found'), (301, ''), (413, 'too large'),
    (409, '<html>'), (409, '{"Errors": null}'),
], ids=['400', '404', '301', '413', '409', '409-null'])
def test_other_refusals_are_final(
    client: ConsulClient, agent: Agent, name: str, reply: Reply,
) -> None:
    """Another status is final."""
    agent.index = None
    agent.replies = [reply]
    with pytest.raises(LockUnavailableError):
        CALLS[name][0](client)
    assert len(agent.seen) == 1


@pytest.mark.parametrize('name', sorted(set(CALLS) - {'destroy'}))
@pytest.mark.parametrize(
    'body', ['<html>', 'null', '[]', '[1]', '{}', '[[]]', '{"Results": []}',
             pytest.param('[' * 100_000, id='nested')])
def test_answer_that_is_not_consuls(
    client: ConsulClient, agent: Agent, name: str, body: str,
) -> None:
    """A page of something else on the port is an error, whatever it says."""
    agent.replies = [(200, body)]
    with pytest.raises(LockUnavailableError):
        CALLS[name][0](client)


@pytest.mark.parametrize('lock_delay', [0, 0.5, 15, 60])
def test_create_session(
    client: ConsulClient, agent: Agent, lock_delay: float,
) -> None:
    """A session is bound to no check, and its times carry their unit."""
    agent.replies = [(200, {'ID': SESSION})]
    assert client.create_session('job', 10, lock_delay) == SESSION
    body = agent.seen[0].body
    # Consul's default is left out by the package.
    assert body.get('lockdelay', '15s') == f'{lock_delay}s'
    assert (body['name'], body['ttl'], body['NodeChecks']) == ('job', '10s', [])
    assert 'checks' not in body
    assert 'node' not in body and 'behavior' not in body


def test_create_session_with_checks(client: ConsulClient, agent: Agent) -> None:
    """Checks and node are passed on."""
    agent.replies = [(200, {'ID': SESSION})]
    client.create_session('job', 10, 15, checks=('serfHealth', 'x'), node='beta')
    body = agent.seen[0].body
    assert (body['NodeChecks'], body['node']) == (['serfHealth', 'x'], 'beta')


def test_checks_by_their_old_name(client: ConsulClient, agent: Agent) -> None:
    """A Consul that does not know the new name is given the old one."""
    agent.replies = [
        (400, 'Request decode failed: json: unknown field "NodeChecks"'),
        (200, {'ID': SESSION})]
    assert client.create_session('job', 10, 15, checks=('serfHealth',)) == SESSION
    assert [(each.body.get('NodeChecks'), each.body.get('checks'))
            for each in agent.seen] == [
        (['serfHealth'], None), (None, ['serfHealth'])]
    agent.replies = [(400, 'Request decode failed: no duration')]
    with pytest.raises(LockUnavailableError, match='no duration'):
        client.create_session('job', 10, 15)
    assert len(agent.seen) == 3


def test_session_elsewhere_is_refused(client: ConsulClient, agent: Agent,
                                      pauses: list[float]) -> None:
    """A client agent that makes sessions at home only is not asked again."""
    text = 'cross datacenter lock must be created at server agent'
    agent.replies = [(500, text)]
    with pytest.raises(LockUnavailableError, match=text):
        client.create_session('job', 10, 15)
    assert pauses == [] and len(agent.seen) == 1


def test_hidden_key_is_not_free(client: ConsulClient, agent: Agent) -> None:
    """A key that the token may not read is not taken for one that is missing.
    """
    agent.replies = [(404, '')]
    assert client.read('a/b').session is None
    agent.headers = {'X-Consul-Results-Filtered-By-ACLs': 'true'}
    with pytest.raises(PermissionDeniedError, match='may not read it'):
        client.read('a/b')


@pytest.mark.parametrize('trouble', [DROP, RPC_ERROR, (503, '')],
                         ids=['drop', 'rpc-error', '503'])
def test_create_session_is_not_repeated(
    client: ConsulClient, agent: Agent, trouble: Reply,
) -> None:
    """A session that may have been created is not created again."""
    agent.replies = [trouble]
    with pytest.raises(LockUnavailableError):
        client.create_session('job', 10, 15)
    assert len(agent.seen) == 1


@pytest.mark.parametrize('trouble', [NO_LEADER, (429, '')], ids=['no-leader', '429'])
def test_create_session_is_repeated_when_it_was_not_done(
    client: ConsulClient, agent: Agent, trouble: Reply,
) -> None:
    """What Consul has certainly not done is tried again."""
    agent.replies = [trouble, (200, {'ID': SESSION})]
    assert client.create_session('job', 10, 15) == SESSION


@pytest.mark.parametrize('text', [
    'rpc error making call: Missing node registration',
    "Missing check 'nope' registration",
    "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]",
])
def test_wrong_session_is_final(
    pauses: list[float], agent: Agent, text: str,
) -> None:
    """A session that Consul will not have is an error with Consul's words."""
    agent.replies = [(500, text)]
    with pytest.raises(LockUnavailableError) as caught:
        make_client(agent, pauses, dc=None).create_session('job', 10, 15)
    assert text in str(caught.value)
    assert len(agent.seen) == 1


@pytest.mark.parametrize('refusal', [
    (500, 'rpc error making call: Missing node registration'),
    (403, 'Permission denied'),
], ids=['unknown', 'denied'])
def test_session_in_another_datacenter(
    client: ConsulClient, agent: Agent, refusal: Reply,
) -> None:
    """Where the agent's node is not known, the first of the servers takes its place."""
    servers = (200, [{'Node': 'server-2'}, {'Node': 'server-1'}])
    agent.replies = [refusal, servers, (200, {'ID': SESSION})]
    assert client.create_session('job', 10, 15) == SESSION
    assert client.create_session('job', 10, 15) == SESSION
    bodies = [seen.body for seen in agent.seen if seen.method == 'PUT']
    assert [body.get('node') for body in bodies] == [None, 'server-1', 'server-1']
    assert agent.seen[1].target == '/v1/catalog/service/consul?dc=dc9'


def test_no_server_in_another_datacenter(client: ConsulClient, agent: Agent) -> None:
    """A token that may not look the servers up is told what is missing."""
    agent.replies = [(500, 'Missing node registration'), (200, [])]
    with pytest.raises(LockUnavailableError, match="no server of datacenter 'dc9'"):
        client.create_session('job', 10, 15)
    agent.replies = [(403, 'Permission denied'), (200, [])]
    with pytest.raises(PermissionDeniedError):
        client.create_session('job', 10, 15)


def test_destroy_session(client: ConsulClient, agent: Agent) -> None:
    """A session is destroyed by its id."""
    agent.replies = [(200, 'true')]
    client.destroy_session(SESSION)
    assert agent.seen[0].path == f'/v1/session/destroy/{SESSION}'


def test_read(client: ConsulClient, agent: Agent) -> None:
    """A held, a free and a missing key are told apart."""
    agent.replies = [key(), key(None, None), MISSING]
    assert vars(client.read('a/b')) == vars(KeyState(7, b'held', SESSION, 60))
    assert vars(client.read('a/b')) == vars(KeyState(7, None, None, 60))
    assert vars(client.read('a/b')) == vars(KeyState(7, None, None, 0))
    for seen in agent.seen:
        assert seen.path == '/v1/kv/a/b'
        assert seen.query == {'dc': 'dc9', 'recurse': '1', 'consistent': '1'}


def test_missing_key_needs_an_index(client: ConsulClient, agent: Agent) -> None:
    """A 404 of something that is not Consul does not make a key free."""
    agent.index = None
    agent.replies = [(404, 'not found')]
    with pytest.raises(LockUnavailableError):
        client.read('a/b')


def test_blocking_read(client: ConsulClient, agent: Agent) -> None:
    """With an index the read waits for a change, for so long."""
    agent.replies = [key()]
    client.read('a/b', index=7, wait=2.5)
    assert agent.seen[0].query == {
        'dc': 'dc9', 'recurse': '1', 'consistent': '1', 'index': '7', 'wait': '2500ms'}


def test_blocking_read_is_short(client: ConsulClient, agent: Agent) -> None:
    """Nothing that cuts long answers, after 30 s for instance, is in its way."""
    agent.replies = [key()]
    client.read('a/b', index=7, wait=60)
    assert agent.seen[0].query['wait'] == '20000ms'


@pytest.mark.parametrize('trouble', [DROP, (504, 'Gateway timeout'), RPC_ERROR],
                         ids=['drop', '504', 'rpc-error'])
def test_blocking_read_that_is_cut(
    client: ConsulClient, agent: Agent, pauses: list[float], trouble: Reply,
) -> None:
    """A cut is no error where the key can be read; queries do not follow in haste."""
    agent.replies = [trouble, key()]
    assert client.read('a/b', index=7, wait=20).session == SESSION
    assert ['index' in seen.query for seen in agent.seen] == [True, False]
    [pause] = pauses
    assert 0.5 < pause <= 1.0


def test_blocking_read_without_an_answer(agent: Agent, pauses: list[float]) -> None:
    """A blocking read may take its wait, a sixteenth and the timeout."""
    agent.replies = [HANG]
    client = make_client(agent, pauses, attempts=1, timeout=0.1)
    with pytest.raises(LockUnavailableError, match=r'no answer within 0\.1 s'):
        client.read('a/b', index=7, wait=0.04)
    assert ['index' in seen.query for seen in agent.seen] == [True, False]


def test_acquire(client: ConsulClient, agent: Agent) -> None:
    """Acquiring is one transaction, for the key as it was read, and returns its
    fencing token."""
    agent.replies = [locked(53)]
    assert client.acquire('a/b', b'\xffheld', SESSION, FREE) == Acquired(53, None, {})
    client.acquire('a/b', b'', SESSION, ONCE_HELD)
    assert not client.is_doubtful(SESSION)
    seen, later = agent.seen
    assert (seen.method, seen.path) == ('PUT', '/v1/txn')
    assert seen.body == [{'KV': each} for each in (
        {'Verb': 'check-not-exists', 'Key': 'a/b'},
        {'Verb': 'lock', 'Key': 'a/b', 'Session': SESSION,
         'Value': base64.b64encode(b'\xffheld').decode()},
        {'Verb': 'check-not-exists', 'Key': 'a/b.control'},
        {'Verb': 'get-tree', 'Key': 'a/history/b'})]
    assert later.body[0] == {
        'KV': {'Verb': 'check-index', 'Key': 'a/b', 'Index': 60}}


def test_acquire_unless_the_control_key_changed(
    client: ConsulClient, agent: Agent,
) -> None:
    """What operators asked since the key was read bars the lock."""
    changed = failed('failed index check for key "a/b.control", '
                     'current modify index 9 != 8')
    appeared = failed('key "a/b.control" exists')
    agent.replies = [changed, appeared]
    asked = KeyState(7, None, None, 0, b'{}', 8)
    assert client.acquire('a/b', b'', SESSION, asked) is None
    assert client.acquire('a/b', b'', SESSION, FREE) is None
    assert not client.is_doubtful(SESSION)
    assert agent.seen[0].body[2] == {'KV': {
        'Verb': 'check-index', 'Key': 'a/b.control', 'Index': 8}}


def test_acquire_that_may_have_been_carried_out(
    client: ConsulClient, agent: Agent,
) -> None:
    """A repeated attempt that is barred does not hide that the first one may
    have taken the key."""
    agent.replies = [DROP, key(session=SESSION),
                     failed('key "a/b.control" exists')]
    assert client.acquire('a/b', b'', SESSION, FREE) is None
    assert client.is_doubtful(SESSION) and not client.is_doubtful(OTHER)


def test_history_comes_with_the_lock(client: ConsulClient, agent: Agent) -> None:
    """The transaction that takes the key also reads the history, by its key."""
    entries = [{'KV': {'Key': name, 'Value': base64.b64encode(value).decode(),
                       'ModifyIndex': 53}}
               for name, value in (('a/b', b''), ('a/history/b', b'mine'),
                                   ('a/history/bc', b''))]
    agent.replies = [(200, {'Results': entries})]
    assert client.acquire('a/b', b'', SESSION, FREE) == Acquired(53, b'mine', {})


@pytest.mark.parametrize('reply', [HELD, DELAYED], ids=['held', 'delayed'])
def test_acquire_held(client: ConsulClient, agent: Agent, reply: Reply) -> None:
    """A key that is held, or not yet free, is not acquired."""
    agent.replies = [reply]
    assert client.acquire('a/b', b'', SESSION, FREE) is None
    assert len(agent.seen) == 1


@pytest.mark.parametrize('reply', [GONE, (500, f'invalid session "{SESSION}"')],
                         ids=['409', '500'])
def test_acquire_without_session(
    client: ConsulClient, agent: Agent, reply: Reply,
) -> None:
    """A session that has ended cannot acquire."""
    agent.replies = [reply]
    with pytest.raises(SessionLostError):
        client.acquire('a/b', b'', SESSION, FREE)
    assert len(agent.seen) == 1


@pytest.mark.parametrize('name', ['acquire', 'release'])
def test_transaction_without_permission(
    client: ConsulClient, agent: Agent, name: str,
) -> None:
    """A failed transaction can be a matter of permission."""
    agent.replies = [failed('Permission denied')]
    with pytest.raises(PermissionDeniedError):
        CALLS[name][0](client)


@pytest.mark.parametrize('name', ['acquire', 'release'])
def test_transaction_that_failed_otherwise(
    client: ConsulClient, agent: Agent, name: str,
) -> None:
    """A conflict of a kind not known is neither held nor free, and is quoted."""
    agent.replies = [failed('something "new"')]
    with pytest.raises(LockUnavailableError, match=': 409 something "new"$'):
        CALLS[name][0](client)


@pytest.mark.parametrize('trouble', [DROP, RPC_ERROR], ids=['drop', 'rpc-error'])
@pytest.mark.parametrize('read, state, index', [
    (key(session=None), ONCE_HELD, 60), (key(session=SESSION), ONCE_HELD, 60),
    (key(session=SESSION), FREE, 60), (MISSING, FREE, 0),
], ids=['free', 'own', 'own-new', 'missing'])
def test_acquire_is_repeated_on_a_key_as_it_was(
    client: ConsulClient, agent: Agent, trouble: Reply, read: Reply,
    state: KeyState, index: int,
) -> None:
    """Acquiring is tried again when the key is as before, or the session has it."""
    agent.replies = [trouble, read, locked(64)]
    assert client.acquire('a/b', b'', SESSION, state) == Acquired(64, None, {})
    assert [seen.method for seen in agent.seen] == ['PUT', 'GET', 'PUT']
    assert agent.seen[2].body[0]['KV'].get('Index', 0) == index
    assert client.is_doubtful(SESSION)


@pytest.mark.parametrize('read', [key(session=OTHER), key(session=None), MISSING],
                         ids=['held', 'was-held', 'deleted'])
def test_acquire_is_not_repeated_on_a_key_that_changed(
    client: ConsulClient, agent: Agent, read: Reply,
) -> None:
    """Acquiring is not tried again when another session had the key meanwhile."""
    agent.replies = [RPC_ERROR, read]
    state = KeyState(7, b'', None, 59)
    assert client.acquire('a/b', b'', SESSION, state) is None
    assert [seen.method for seen in agent.seen] == ['PUT', 'GET']
    assert client.is_doubtful(SESSION)


@pytest.mark.parametrize('name', ['acquire', 'release'])
@pytest.mark.parametrize('reply, doubtful', [
    (DROP, True), (RPC_ERROR, True), ((503, ''), True), ((408, ''), True),
    ((200, '<html>'), True), (NO_LEADER, False), ((429, ''), False),
    ((403, 'Permission denied'), False), (failed('Permission denied'), False),
    (GONE, False)])
def test_session_with_a_request_in_doubt(
    agent: Agent, pauses: list[float], name: str, reply: Reply, doubtful: bool,
) -> None:
    """A session is doubtful when nobody can know what becomes of a request."""
    agent.replies = [reply]
    client = make_client(agent, pauses, attempts=1)
    with pytest.raises(LockError):
        CALLS[name][0](client)
    assert client.is_doubtful(SESSION) is doubtful


def test_interrupted_request(
    client: ConsulClient, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session is doubtful as well when its process did not wait for the answer."""
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client._calls.api.txn, 'put', interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.acquire('a/b', b'', SESSION, FREE)
    assert client.is_doubtful(SESSION)


def test_release(client: ConsulClient, agent: Agent) -> None:
    """Releasing is one transaction that leaves a value, for one hold."""
    agent.replies = [locked(), CHANGED, key(session=OTHER), NOT_HELD, MISSING]
    assert client.release('a/b', b'free', SESSION, 53)
    assert not client.release('a/b', b'free', SESSION, 53)
    assert not client.release('a/b', b'free', SESSION, 53, b'runs')
    assert agent.seen[0].body == [{'KV': each} for each in (
        {'Verb': 'check-index', 'Key': 'a/b', 'Index': 53},
        {'Verb': 'unlock', 'Key': 'a/b', 'Session': SESSION,
         'Value': base64.b64encode(b'free').decode()})]
    assert agent.seen[3].body[2] == {'KV': {
        'Verb': 'set', 'Key': 'a/history/b',
        'Value': base64.b64encode(b'runs').decode()}}


def test_release_that_was_carried_out_unheard(
    client: ConsulClient, agent: Agent,
) -> None:
    """A key that has the value that was to be left in it was freed."""
    agent.replies = [DROP, CHANGED, key(session=None)]
    assert client.release('a/b', b'held', SESSION, 53)


@pytest.mark.parametrize('token', [53, None])
def test_release_of_a_key_that_was_written_to(
    client: ConsulClient, agent: Agent, token: int | None,
) -> None:
    """A key that the session has is given back, whatever its index is."""
    agent.replies = [CHANGED] if token else []
    agent.replies += [key(session=SESSION), locked()]
    assert client.release('a/b', b'free', SESSION, token)
    assert agent.seen[-1].body[0] == {
        'KV': {'Verb': 'check-index', 'Key': 'a/b', 'Index': 60}}


@pytest.mark.parametrize('value, written', [(b'held', True), (b'other', False)])
def test_write_that_was_carried_out_unheard(
    client: ConsulClient, agent: Agent, value: bytes, written: bool,
) -> None:
    """A write that is refused after one whose answer was lost may be done."""
    agent.replies = [DROP, CHANGED, key()]
    assert client.write_if('a/b', value, 53) is written
    assert agent.seen[0].body == agent.seen[1].body
    assert agent.seen[0].body[0]['KV']['Verb'] == 'check-index'


def test_close(client: ConsulClient, agent: Agent) -> None:
    """A closed client opens a connection again when it is asked to."""
    agent.replies = [key()]
    client.read('a/b')
    client.close()
    assert client.read('a/b').session == SESSION
