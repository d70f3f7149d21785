"""The part of Consul's HTTP interface that locks use, on a :class:`State`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from jobslib.testing import consul_wire as wire
from jobslib.testing.consul_profiles import Profile
from jobslib.testing.consul_state import DATACENTER, NODE, Entry, Refusal, State
from jobslib.testing.consul_txn import operations_of, transact

__all__ = ['Answer', 'Api', 'Request']

MAX_VALUE = 512 * 1024
DENIED = 'Permission denied'
# How a server refuses requests that are too many.
LIMITED = {
    429: 'rate limit exceeded, try again later or against a different server',
    503: 'rate limit exceeded for operation that can only be performed by the '
         'leader, try again later'}
# Parameters without any effect here, because there is one server.
WITHOUT_EFFECT = {'dc', 'consistent', 'stale', 'token', 'pretty'}


@dataclass(frozen=True)
class Request:
    """A request as it came: *path* without the query, which is decoded."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b''

    @classmethod
    def parse(cls, method: str, target: str, body: bytes) -> Request:
        """Return the request for *target*, a path with its query."""
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        return cls(method, unquote(url.path), query, body)


@dataclass(frozen=True)
class Answer:
    """A status, and a body: bytes and text as they are, all else as JSON.

    *index* is what a blocking query waits on; *filtered* tells that something
    was left out for want of rights.
    """

    status: int
    content: Any = ''
    index: int | None = None
    filtered: bool = False

    @property
    def body(self) -> bytes:
        """The bytes to send."""
        if isinstance(self.content, bytes):
            return self.content
        if isinstance(self.content, str):
            return self.content.encode()
        return json.dumps(self.content, indent=4).encode() + b'\n'

    @property
    def content_type(self) -> str:
        """The type of the body."""
        return ('text/plain; charset=utf-8'
                if isinstance(self.content, bytes | str)
                else 'application/json')


Handler = Callable[[Request, str], Answer]


class Api:
    """Answers requests, each at once.

    :param state: what it works on.
    :param address: of the server, for what it says of itself.
    :param profile: the version of Consul that it is.
    :param datacenters: the agent's own, and others, which have the same keys.
    """

    def __init__(self, state: State, address: tuple[str, int],
                 profile: Profile | None = None,
                 datacenters: Sequence[str] = (DATACENTER,)) -> None:
        self.state = state
        self.address = address
        self.profile = profile or Profile()
        self.datacenters = datacenters
        #: Whether it is an agent in client mode, and no server.
        self.is_client = False
        #: The status that writes are refused with, 0 for none.
        self.refusing = 0
        #: What the keys begin with that the client has no right to.
        self.hidden: tuple[str, ...] = ()
        self._routes: list[tuple[str, dict[str, Handler], set[str]]] = [
            ('kv/', {'GET': self._get_key, 'PUT': self._put_key,
                     'DELETE': self._delete_key},
             {'index', 'wait', 'raw', 'recurse', 'flags', 'cas', 'acquire',
              'release', 'keys', 'separator'}),
            ('txn', {'PUT': self._transact}, set()),
            ('session/create', {'PUT': self._create_session}, set()),
            ('session/renew/', {'PUT': self._renew_session}, set()),
            ('session/destroy/', {'PUT': self._destroy_session}, set()),
            ('session/info/', {'GET': self._find_session}, {'index', 'wait'}),
            ('session/list', {'GET': self._list_sessions}, {'index', 'wait'}),
            ('session/node/', {'GET': self._list_sessions}, {'index', 'wait'}),
            ('status/leader', {'GET': self._leader}, set()),
            ('catalog/service/consul', {'GET': self._list_servers}, set()),
            ('agent/self', {'GET': self._about}, set()),
            ('agent/checks', {'GET': self._list_checks}, set()),
            ('agent/check/register', {'PUT': self._register_check}, set()),
            ('agent/check/deregister/', {'PUT': self._remove_check}, set()),
            ('agent/check/update/', {'PUT': self._update_check}, set()),
            ('agent/check/pass/', {'PUT': self._set_check}, {'note'}),
            ('agent/check/warn/', {'PUT': self._set_check}, {'note'}),
            ('agent/check/fail/', {'PUT': self._set_check}, {'note'}),
        ]

    def answer(self, request: Request) -> Answer:
        """Return the answer to *request* as things are now."""
        try:
            return self._dispatch(request)
        except Refusal as exc:
            return Answer(exc.status, str(exc))

    def _dispatch(self, request: Request) -> Answer:
        path = request.path.removeprefix('/v1/')
        for prefix, handlers, known in self._routes:
            if path == prefix or (
                    prefix.endswith('/') and path.startswith(prefix)):
                if request.method not in handlers:
                    raise Refusal(405, f'method {request.method} not allowed')
                _check_query(request.query, known, self.datacenters)
                self._check_limits(request, path)
                return handlers[request.method](request, path[len(prefix):])
        return Answer(404)

    def _check_limits(self, request: Request, path: str) -> None:
        """Refuse what this version of Consul refuses whatever it is for."""
        if path.startswith('kv/') and not self.profile.takes_name(
                path.removeprefix('kv/')):
            raise Refusal(500, 'Invalid key name: ' + request.path)
        most = self.profile.max_agent_body
        if path.startswith('agent/') and most and len(request.body) > most:
            raise Refusal(413, 'http: request body too large')
        if (self.refusing and request.method != 'GET'
                and not path.startswith('agent/')):
            raise Refusal(self.refusing, LIMITED[self.refusing])

    def _check_rights(self, key: str) -> None:
        if key.startswith(self.hidden):
            raise Refusal(403, DENIED)

    # Keys.

    def _get_key(self, request: Request, key: str) -> Answer:
        if 'keys' in request.query:
            return self._list_keys(key, request.query.get('separator', ''))
        if 'recurse' in request.query:
            return self._get_tree(key)
        self._check_rights(_required(key, 'key name'))
        entry = self.state.keys.get(key)
        if entry is None:
            # A key that does not exist has no index, so that of the whole store is
            # sent.
            return Answer(404, index=self.state.keys_index)
        content = (entry.value if 'raw' in request.query
                   else [wire.show_entry(entry)])
        return Answer(200, content, entry.modify_index)

    def _list_keys(self, prefix: str, separator: str) -> Answer:
        found = set()
        for key in self.state.keys:
            if key.startswith(prefix):
                end = key.find(separator, len(prefix)) if separator else -1
                found.add(key if end < 0 else key[:end + len(separator)])
        if not found:
            return Answer(404, index=self.state.keys_index)
        return Answer(200, sorted(found), self.state.keys_index)

    def _get_tree(self, prefix: str) -> Answer:
        found = self.state.under(prefix)
        index = self.state.index_under(prefix)
        shown = [wire.show_entry(each) for each in found
                 if not each.key.startswith(self.hidden)]
        filtered = (self.profile.marks_filtered and len(shown) < len(found))
        if not shown:
            return Answer(404, index=index, filtered=filtered)
        return Answer(200, shown, index, filtered)

    def _put_key(self, request: Request, key: str) -> Answer:
        self._check_rights(_required(key, 'key name'))
        query = request.query
        if len({'acquire', 'release', 'cas'} & set(query)) > 1:
            raise Refusal(400, 'Conflicting flags: '
                          + urlencode(sorted(query.items())))
        if len(request.body) > MAX_VALUE:
            raise Refusal(413, f'Request body({len(request.body)} bytes) too '
                          f'large, max size: {MAX_VALUE} bytes. See https://'
                          'www.consul.io/docs/agent/options.html#'
                          'kv_max_value_size.')
        entry = Entry(key, request.body, _unsigned(query.get('flags', '0')),
                      query.get('acquire') or query.get('release') or '')
        index = _index(query)
        if 'acquire' in query and self.state.is_delayed(key):
            return Answer(200, False)
        self.state.index += 1
        if 'acquire' in query:
            return Answer(200, self.state.lock(entry) is not None)
        if 'release' in query:
            return Answer(200, self.state.unlock(entry) is not None)
        return Answer(200, self.state.set(entry, index) is not None)

    def _delete_key(self, request: Request, key: str) -> Answer:
        self._check_rights(_required(key, 'key name'))
        if 'recurse' in request.query:
            raise _unknown('recurse')
        index = _index(request.query)
        self.state.index += 1
        return Answer(200, self.state.delete(key, index))

    def _transact(self, request: Request, _: str) -> Answer:
        operations = operations_of(request.body)
        denied = [{'OpIndex': position, 'What': DENIED}
                  for position, each in enumerate(operations)
                  if each.verb != 'get-tree'
                  and each.entry.key.startswith(self.hidden)]
        if denied:
            return Answer(409, {'Results': None, 'Errors': denied})
        results, errors = transact(self.state, operations)
        # Each version leaves these out without saying so.
        results = [each for each in results
                   if not each['KV']['Key'].startswith(self.hidden)]
        content: dict[str, object] = {
            'Results': None if errors else results, 'Errors': errors or None}
        if not any(operation.writes for operation in operations):
            content |= {'Index': 0, 'LastContact': 0, 'KnownLeader': True,
                        'ConsistencyLevel': ''}
        return Answer(409 if errors else 200, content)

    # Sessions.

    def _create_session(self, request: Request, _: str) -> Answer:
        session, fields = wire.session_of(request.body)
        if request.query.get('dc', DATACENTER) != DATACENTER:
            if self.is_client and self.profile.sessions_at_home:
                raise Refusal(500, 'cross datacenter lock must be created at '
                              'server agent')
            # The agent's own node is unknown there.
            fields['node'] = fields.get('node') or 'unknown'
        self.state.create_session(session, fields.get('node') or '')
        return Answer(200, {'ID': session.id})

    def _renew_session(self, request: Request, session_id: str) -> Answer:
        session = self.state.renew_session(_required(session_id, 'session'))
        if session is None:
            raise Refusal(404, f"Session id '{session_id}' not found")
        return Answer(200, [wire.show_session(session)])

    def _destroy_session(self, request: Request, session_id: str) -> Answer:
        self.state.end_session(_required(session_id, 'session'))
        return Answer(200, True)

    def _find_session(self, request: Request, session_id: str) -> Answer:
        session = self.state.find_session(_required(session_id, 'session'))
        found = [] if session is None else [wire.show_session(session)]
        return Answer(200, found, self.state.sessions_index)

    def _list_sessions(self, request: Request, node: str) -> Answer:
        if request.path.startswith('/v1/session/node/'):
            _required(node, 'node name')
        found = [self.state.sessions[each]
                 for each in sorted(self.state.sessions)
                 if node in ('', NODE)]
        return Answer(200, [wire.show_session(each) for each in found],
                      self.state.sessions_index)

    def _list_servers(self, request: Request, _: str) -> Answer:
        return Answer(200, [{'Node': NODE, 'ServiceName': 'consul'}])

    # The agent.

    def _leader(self, request: Request, _: str) -> Answer:
        return Answer(200, f'{json.dumps("%s:%d" % self.address)}\n'.encode())

    def _about(self, request: Request, _: str) -> Answer:
        return Answer(200, wire.about(
            self.state, self.address, self.profile.version,
            is_server=not self.is_client))

    def _list_checks(self, request: Request, _: str) -> Answer:
        return Answer(200, {check.id: wire.show_check(check)
                            for check in self.state.checks.values()})

    def _register_check(self, request: Request, _: str) -> Answer:
        self.state.register_check(wire.check_of(request.body))
        return Answer(200)

    def _remove_check(self, request: Request, check_id: str) -> Answer:
        self.state.remove_check(check_id)
        return Answer(200)

    def _set_check(self, request: Request, check_id: str) -> Answer:
        verb = request.path.split('/')[-2]
        self.state.set_check(check_id, {
            'pass': 'passing', 'warn': 'warning', 'fail': 'critical'}[verb],
            wire.cut(request.query.get('note', '')))
        return Answer(200)

    def _update_check(self, request: Request, check_id: str) -> Answer:
        self.state.set_check(check_id, *wire.update_of(request.body))
        return Answer(200)


def _check_query(query: Mapping[str, str], known: set[str],
                 datacenters: Sequence[str]) -> None:
    if query.get('dc', DATACENTER) not in datacenters:
        raise Refusal(500, 'No path to datacenter')
    if 'ns' in query:
        raise Refusal(400, 'Bad request: Invalid query parameter: "ns" - '
                      'Namespaces are a Consul Enterprise feature')
    if 'stale' in query and 'consistent' in query:
        raise Refusal(400, 'Cannot specify ?stale with ?consistent, '
                      'conflicting semantics.')
    for name in query:
        if name not in known | WITHOUT_EFFECT:
            # Refused, because a test must not rely on a parameter without effect.
            raise _unknown(name)
    wire.blocking(query)


def _unknown(name: str) -> Refusal:
    return Refusal(
        501, f'the stand-in does not know the parameter {name!r} here')


def _required(name: str, what: str) -> str:
    if not name:
        raise Refusal(400, f'Missing {what}')
    return name


def _index(query: Mapping[str, str]) -> int | None:
    return _unsigned(query['cas']) if 'cas' in query else None


def _unsigned(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise Refusal(500, f'strconv.ParseUint: parsing "{text}": '
                      'invalid syntax')
    return int(text)
