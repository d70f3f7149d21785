"""A TCP proxy that breaks the way between a client and Consul on demand.

It reads HTTP/1.1 requests, so that it can count them, answer them itself or
spare some of them; answers are handed on as bytes.
"""

import asyncio
import contextlib
import enum
import errno
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self

from integration.agents import HOST, free_ports, wait_until

Only = Callable[[str, str], bool]
RESET = struct.pack('ii', 1, 0)  # SO_LINGER: closing sends RST, not FIN
CHUNK = 65536


class Kind(enum.Enum):
    """What the proxy does to requests and answers."""

    PASS = enum.auto()
    BLACKHOLE = enum.auto()
    HOLD = enum.auto()
    MUTE = enum.auto()
    REFUSE = enum.auto()
    DELAY = enum.auto()
    CUT = enum.auto()
    STATUS = enum.auto()
    RUBBISH = enum.auto()


@dataclass(frozen=True)
class Fault:
    """A mode of the proxy; `only` spares the requests for which it is false."""

    kind: Kind
    only: Only | None = None
    seconds: float = 0.0
    after_bytes: int = 0
    answer: bytes = b''


@dataclass(frozen=True)
class Request:
    """One request, as sent; `path` includes the query."""

    method: str
    path: str
    raw: bytes

    @property
    def kind(self) -> str:
        """What a lock asks for with it.

        `create`, `renew`, `destroy` of a session; `lock`, `unlock`, `note`,
        `ask` of a transaction; `watch`, `read` of a key; else `other`.
        """
        for kind in ('create', 'renew', 'destroy'):
            if f'/session/{kind}' in self.path:
                return kind
        if self.method == 'GET':
            return 'watch' if 'index=' in self.path else 'read'
        if not self.path.startswith('/v1/txn'):
            return 'other'
        verbs = {each['KV']['Verb']
                 for each in json.loads(self.raw.partition(b'\r\n\r\n')[2])}
        kinds = {'lock': 'lock', 'unlock': 'unlock', 'cas': 'note', 'set': 'ask'}
        return next((kind for verb, kind in kinds.items() if verb in verbs), 'read')


@dataclass
class Late:
    """What becomes of the next request of a kind.

    It reaches the target `seconds` after it was sent; with `twice` also at
    once. `status` is that of the late answer, which nobody gets.
    """

    kind: str
    seconds: float
    twice: bool = False
    sent: bool = False
    status: int | None = None


@dataclass(eq=False)
class Connection:
    """A client's connection, and the one to the target made for it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Request | None = None
    upstream: asyncio.StreamWriter | None = None
    task: asyncio.Task[None] | None = None
    pump: asyncio.Task[None] | None = None
    answered: int = 0  # bytes of the present answer handed on
    delayed: bool = False  # the present answer has been delayed
    lost: bool = False  # bytes vanished: nothing gets through any more
    closed: bool = False
    hit_by: Fault | None = None  # what the present request was counted for

    def begin(self, request: Request) -> None:
        """Note the request that the next answer belongs to."""
        self.request = request
        self.answered = 0
        self.delayed = False
        self.hit_by = None

    def close(self, reset: bool = False) -> None:
        """Close both sides; with `reset` at once, and the client sees RST."""
        self.closed = True
        if self.pump is not None:
            self.pump.cancel()
        if self.upstream is not None:
            self.upstream.transport.abort() if reset else self.upstream.close()
        if reset:
            sock = self.writer.get_extra_info('socket')
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.writer.transport.abort()
        else:
            self.writer.close()


class Proxy:
    """A proxy on a free port of 127.0.0.1 for the target (host, port).

    A mode is in force when the method that sets it returns, for new and for
    existing connections, and for a request that is being answered as far as
    the mode is about answers. `only(method, path)` limits it to some requests.

    `requests` lists (time.monotonic(), method, path) of every request read, and
    `faulted` counts what the present mode has hit: requests, or with `refuse()`
    the connections it reset.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.requests: list[tuple[float, str, str]] = []
        self.faulted = 0
        self._late: list[Late] = []
        self._lateness: set[asyncio.Task[None]] = set()  # so that none is collected
        self._fault = Fault(Kind.PASS)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._switched = asyncio.Event()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name='proxy', daemon=True)
        self._thread.start()
        try:
            self._call(self._listen_anywhere())
        except BaseException:
            self.close()
            raise
        self.url = f'http://{self.addr[0]}:{self.addr[1]}'

    # Modes

    def pass_through(self) -> None:
        """Hand everything on. A connection that lost bytes stays silent."""
        self._set(Fault(Kind.PASS))

    def blackhole(self, only: Only | None = None) -> None:
        """Packets vanish: nothing is handed on or answered, nothing is closed."""
        self._set(Fault(Kind.BLACKHOLE, only))

    def hold(self, only: Only | None = None) -> None:
        """Packets are held up and arrive when the mode ends, however late.

        TCP does that after a short outage: a request can arrive long after its
        client gave up.
        """
        self._set(Fault(Kind.HOLD, only))

    def mute(self, only: Only | None = None) -> None:
        """Requests arrive and take effect, their answers vanish."""
        self._set(Fault(Kind.MUTE, only))

    def refuse(self) -> None:
        """Nobody listens: connections are reset, new ones are refused."""
        self._set(Fault(Kind.REFUSE))

    def delay(self, seconds: float, only: Only | None = None) -> None:
        """Answers arrive some seconds late; at once when the mode ends."""
        self._set(Fault(Kind.DELAY, only, seconds=seconds))

    def cut(self, after_bytes: int, only: Only | None = None) -> None:
        """Requests take effect, answers end after some bytes (headers count)."""
        self._set(Fault(Kind.CUT, only, after_bytes=after_bytes))

    def status(self, code: int, body: str, only: Only | None = None) -> None:
        """Requests are answered here, and not handed on."""
        content = body.encode()
        head = (f'HTTP/1.1 {code} Status\r\nContent-Type: text/plain\r\n'
                f'Content-Length: {len(content)}\r\n\r\n')
        self._set(Fault(Kind.STATUS, only, answer=head.encode() + content))

    def rubbish(self, only: Only | None = None) -> None:
        """Requests are answered here, with bytes that are no HTTP."""
        noise = b'\x00' + random.Random(0).randbytes(200) + b'\r\n'
        self._set(Fault(Kind.RUBBISH, only, answer=noise))

    # Beside any mode

    def wait_connected(self) -> None:
        """Wait until somebody is connected: whom else would a fault hit?

        A lock just taken has no connection for an instant, between that of the
        process that took it and that of the keeper.
        """
        wait_until(lambda: self._connections, 10, 'a connection')

    def late(self, kind: str, seconds: float) -> Late:
        """Hold the next request of a kind back, for however long its client waits.

        Packets that were lost are sent again, and a server without a leader
        holds what it is asked, whether or not somebody still waits for it.
        """
        late = Late(kind, seconds)
        self._late.append(late)
        return late

    def double(self, kind: str, seconds: float) -> Late:
        """Hand the next request of a kind on at once, and once more later."""
        late = Late(kind, seconds, twice=True)
        self._late.append(late)
        return late

    def close(self) -> None:
        """Close every connection and end the thread; may be called twice."""
        if not self._thread.is_alive():
            return
        try:
            self._call(self._shut())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10.0)
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # From here on everything runs in the proxy's thread, except for these two.

    def _set(self, fault: Fault) -> None:
        self._call(self._switch(fault))

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    async def _switch(self, fault: Fault) -> None:
        self._fault = fault
        self.faulted = 0
        self._switched.set()
        self._switched = asyncio.Event()
        if fault.kind is Kind.REFUSE:
            self._stop_listening()
            self.faulted = len(self._connections)
            for connection in list(self._connections):
                connection.close(reset=True)
            await asyncio.sleep(0)  # sockets are closed in the loop's next turn
        elif self._server is None:
            await self._listen()

    async def _listen_anywhere(self) -> None:
        while True:
            self.addr = (HOST, free_ports(1)[0])
            try:
                return await self._listen()
            except OSError as exc:
                # Another proxy, made at the same time, was faster.
                if exc.errno != errno.EADDRINUSE:
                    raise

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, *self.addr)

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:
        connection = Connection(reader, writer)
        if self._fault.kind is Kind.REFUSE:  # accepted just before the switch
            connection.close(reset=True)
        else:
            self._connections.add(connection)
            # A task of ours: asyncio's own would report being cancelled.
            connection.task = asyncio.create_task(self._serve(connection))

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _shut(self) -> None:
        self._stop_listening()
        for connection in list(self._connections):
            connection.close(reset=True)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    async def _serve(self, connection: Connection) -> None:
        try:
            while (request := await read_request(connection.reader)) is not None:
                self.requests.append((time.monotonic(), request.method, request.path))
                connection.begin(request)
                if not await self._take(connection, request):
                    break
        except (OSError, EOFError, ValueError):
            pass  # the client went away or does not speak HTTP
        finally:
            connection.close()
            self._connections.discard(connection)

    async def _take(self, connection: Connection, request: Request) -> bool:
        """Deal with one request; False when the connection is to end."""
        for late in self._late:
            if not late.sent and late.kind == request.kind:
                late.sent = True
                self._lateness.add(asyncio.create_task(
                    self._send_late(late, request)))
                if not late.twice:
                    connection.lost = True
                    return True
                break
        while (fault := self._fault_of(connection)).kind is Kind.HOLD:
            self._hit(connection, fault)
            await self._until_switched()
        if connection.closed:
            return False
        if fault.kind in (Kind.STATUS, Kind.RUBBISH) and not connection.lost:
            self._hit(connection, fault)
            connection.writer.write(fault.answer)
            await connection.writer.drain()
            return fault.kind is Kind.STATUS
        if fault.kind is Kind.BLACKHOLE:
            self._hit(connection, fault)
            connection.lost = True
        return connection.lost or await self._forward(connection, request)

    async def _send_late(self, late: Late, request: Request) -> None:
        await asyncio.sleep(late.seconds)
        reader, writer = await asyncio.open_connection(*self.target)
        try:
            writer.write(request.raw)
            await writer.drain()
            late.status = int((await reader.readline()).split()[1])
        finally:
            writer.close()

    async def _forward(self, connection: Connection, request: Request) -> bool:
        try:
            if connection.upstream is None:
                reader, connection.upstream = await asyncio.open_connection(
                    *self.target)
                if connection.closed:
                    connection.upstream.close()
                    return False
                connection.pump = asyncio.create_task(self._pump(connection, reader))
            connection.upstream.write(request.raw)
            await connection.upstream.drain()
        except OSError:
            # The target is gone, which its client would see in the same way.
            connection.close(reset=True)
            return False
        return True

    async def _pump(
        self, connection: Connection, reader: asyncio.StreamReader,
    ) -> None:
        """Hand answers on until the target or a fault ends the connection."""
        try:
            while data := await reader.read(CHUNK):
                if not await self._answer(connection, data):
                    break
            else:
                await self._until_heard(connection)
            connection.writer.close()
        except OSError:
            await self._until_heard(connection)
            connection.close(reset=True)

    async def _answer(self, connection: Connection, data: bytes) -> bool:
        """Hand a piece of an answer on; False when the connection is to end."""
        fault = await self._until_heard(connection)
        while fault.kind is Kind.DELAY and not connection.delayed:
            self._hit(connection, fault)
            connection.delayed = not await self._until_switched(fault.seconds)
            fault = await self._until_heard(connection)
        left = len(data)
        if fault.kind is Kind.CUT:
            left = max(0, fault.after_bytes - connection.answered)
        if left < len(data):
            self._hit(connection, fault)
        connection.answered += len(data[:left])
        connection.writer.write(data[:left])
        await connection.writer.drain()
        return left >= len(data)

    async def _until_heard(self, connection: Connection) -> Fault:
        """Wait, perhaps for ever, until the client may hear from the target."""
        while True:
            fault = self._fault_of(connection)
            if fault.kind in (Kind.BLACKHOLE, Kind.MUTE):
                self._hit(connection, fault)
                connection.lost = True
            elif fault.kind is Kind.HOLD:
                self._hit(connection, fault)
            elif not connection.lost:
                return fault
            await self._until_switched()

    def _fault_of(self, connection: Connection) -> Fault:
        """The mode, as far as the connection's present request is meant by it."""
        fault, request = self._fault, connection.request
        if fault.only and request and not fault.only(request.method, request.path):
            return Fault(Kind.PASS)
        return fault

    def _hit(self, connection: Connection, fault: Fault) -> None:
        """Count the request as hit by the fault, once."""
        if connection.hit_by is not fault:
            connection.hit_by = fault
            self.faulted += 1

    async def _until_switched(self, timeout: float | None = None) -> bool:
        """Wait for another mode; False when `timeout` seconds passed first."""
        try:
            await asyncio.wait_for(self._switched.wait(), timeout)
        except TimeoutError:
            return False
        return True


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection, None when the client closed it.

    Raises ValueError for what is no HTTP/1.1 with Content-Length.
    """
    try:
        head = await reader.readuntil(b'\r\n\r\n')
    except asyncio.IncompleteReadError as exc:
        if not exc.partial:
            return None
        raise
    except asyncio.LimitOverrunError as exc:
        raise ValueError('no end of the headers') from exc
    first, *lines = head.decode('latin-1').split('\r\n')
    method, path, _version = first.split(' ')
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(':') for line in lines)
    }
    if 'transfer-encoding' in headers:
        raise ValueError('chunked requests are not understood')
    body = await reader.readexactly(int(headers.get('content-length', 0)))
    return Request(method, path, head + body)
