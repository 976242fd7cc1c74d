"""A proxy before a real Postgres that breaks connections on command: the wire is faked, never the client or the server."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from tests.support.postgres_messages import Startup, Statements, backend_pid, kind, read_message, read_startup
from tests.support.waiting import until

SERVICE = "contact-exports"
RENEWALS = "contact-exports renewals"
EXPORTS = "contact-exports export"
"""The application names by which the service's connections can be told apart."""

_RECEIVE_BUFFER = 64 * 1024
"""Bytes. A client that stops reading is noticed by the server after this and its own buffer, not after megabytes."""


_TURNS_OF_AN_ACCEPT = 5
"""RequestPriority of the event loop between a new connection and the first step of its task, and one more."""
_LAST_OF_A_REQUEST = "SHQ"
"""Sync, flush, query: now the client waits for an answer."""


class Mode(Enum):
    """What a connection does with the messages of both sides."""

    PASS = "pass"
    FREEZE = "freeze"
    """Nothing moves until it passes again; then nothing was lost."""
    BLACKHOLE = "blackhole"
    """What either side sends is lost, even its end: both believe in a connection that is none."""
    RESET = "reset"
    """Ended on both sides, without a goodbye."""
    DELAY = "delay"
    """Each round trip takes `PostgresProxy.delay` seconds longer."""


class Fault(Enum):
    """What becomes of one execution of a statement."""

    LOSE_REQUEST = "lose request"
    """The connection is reset before the server has seen it."""
    LOSE_ANSWER = "lose answer"
    """The server does it and commits; the answer is dropped and the connection reset."""
    HOLD_ANSWER = "hold answer"
    """The server does it; the connection freezes before the first word of the answer."""


class Connection:
    """One client's connection; `backend` is its process in pg_stat_activity, once it is known."""

    def __init__(self, proxy: "PostgresProxy", startup: Startup, client: asyncio.StreamWriter) -> None:
        self.application_name = startup.parameters.get("application_name", "")
        self.mode = Mode.PASS
        self.backend: int | None = None
        self._proxy = proxy
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._moving = asyncio.Event()
        self._moving.set()
        self._statements = Statements()
        self._unanswered: Fault | None = None

    def behave(self, mode: Mode) -> None:
        """From now on do this."""
        self.mode = mode
        if mode is Mode.FREEZE:
            self._moving.clear()
        else:
            self._moving.set()
        if mode is Mode.RESET:
            self.reset()

    def reset(self) -> None:
        """End both sides without a goodbye."""
        for writer in (self._client, self._server):
            if writer is not None:
                with suppress(OSError):  # the kernel has none for a unix socket, or it is closed already
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def run(self, startup: Startup, reader: asyncio.StreamReader) -> None:
        """Carry messages until either side ends."""
        from_server, self._server = await self._proxy.connect()
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._carry(startup.encoded(), self._server)
            pumps += [asyncio.create_task(self._from_client(reader)), asyncio.create_task(self._from_server(from_server))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if self.mode is Mode.BLACKHOLE:
                await asyncio.wait(pumps)  # neither side learns that the other is gone
        finally:
            self._server.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _from_client(self, reader: asyncio.StreamReader) -> None:
        assert self._server is not None
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await read_message(reader)
                text = self._statements.executed(message)
                fault = self._proxy.take(text) if text is not None else None
                if fault is Fault.LOSE_REQUEST:
                    self.reset()
                    return
                self._unanswered = self._unanswered or fault
                await self._carry(message, self._server)
        if self.mode is Mode.BLACKHOLE:
            await asyncio.get_running_loop().create_future()

    async def _from_server(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await read_message(reader)
                if kind(message) == "K":
                    self.backend = backend_pid(message)
                if self._unanswered is Fault.HOLD_ANSWER:
                    self._unanswered = None
                    self.behave(Mode.FREEZE)
                if self._unanswered is None:
                    await self._carry(message, self._client)
                elif kind(message) == "Z":  # ready for the next statement: this one is committed
                    self.reset()
                    return

    async def _carry(self, message: bytes, to: asyncio.StreamWriter) -> None:
        if self.mode is Mode.DELAY and to is self._server and kind(message) in _LAST_OF_A_REQUEST:
            await asyncio.sleep(self._proxy.delay)
        await self._moving.wait()
        if self.mode is not Mode.BLACKHOLE:
            to.write(message)
            await to.drain()


@dataclass
class PostgresProxy:
    """The proxy while it runs. `url` leads to the same database, with the same role, through it."""

    url: str
    port: int
    upstream: SplitResult
    delay: float = 0.05
    """Seconds that each round trip of a connection in `Mode.DELAY` takes longer."""
    startup: dict[str, str] = field(default_factory=dict)
    """Parameters that get another value at the start of a session, where the client sets them at all."""
    _open: list[Connection] = field(default_factory=list)
    _future: dict[str | None, Mode] = field(default_factory=dict)
    _planned: dict[str, list[Fault]] = field(default_factory=dict)

    def connections(self, application_name: str | None = None) -> list[Connection]:
        """Those that are open, all or of one name."""
        return [each for each in self._open if application_name in (None, each.application_name)]

    def behave(self, mode: Mode, application_name: str | None = None) -> None:
        """What connections, all or of one name, do from now on; those to come too."""
        if application_name is None:
            self._future.clear()
        self._future[application_name] = mode
        for connection in self.connections(application_name):
            connection.behave(mode)

    def next(self, part: str, *faults: Fault) -> None:
        """Let the next executions of statements that hold this text meet these faults, one each."""
        self._planned.setdefault(part, []).extend(faults)

    async def met(self, part: str) -> None:
        """Wait until all that was planned for statements that hold this text has come about."""

        async def all_met() -> bool:
            return not self._planned[part]

        await until(all_met)

    def take(self, text: str) -> Fault | None:
        """The fault that this execution is to meet."""
        for part, planned in self._planned.items():
            if planned and part in text:
                return planned.pop(0)
        return None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server."""
        query = parse_qs(self.upstream.query)
        host = query.get("host", [unquote(self.upstream.hostname or "127.0.0.1")])[0]
        port = int(query.get("port", [self.upstream.port or 5432])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        link.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(link, (host, port))
            return await asyncio.open_connection(sock=link)
        except BaseException:
            link.close()
            raise

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        try:
            startup = await read_startup(reader, writer)
            if startup.cancels is not None:
                await self._cancel(startup)
                return
            startup.parameters |= {name: value for name, value in self.startup.items() if name in startup.parameters}
            connection = Connection(self, startup, writer)
            self._open.append(connection)
            try:
                name = connection.application_name
                connection.behave(self._future.get(name, self._future.get(None, Mode.PASS)))
                await connection.run(startup, reader)
            finally:
                self._open.remove(connection)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    async def _cancel(self, startup: Startup) -> None:
        """Pass on a request to cancel, unless the connection that it is about would not pass it either."""
        if any(each.backend == startup.cancels and each.mode is not Mode.PASS for each in self._open):
            return
        _, server = await self.connect()
        try:
            server.write(startup.encoded())
            await server.drain()
        finally:
            server.close()


@asynccontextmanager
async def postgres_proxy(url: str) -> AsyncIterator[PostgresProxy]:
    """A proxy on a free loopback port before the database at `url`, for the length of the block."""
    upstream = urlsplit(url)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with suppress(asyncio.CancelledError):  # only ever by us, below
                await proxy.accept(reader, writer)
        finally:
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    role = quote(unquote(upstream.username or "postgres"), safe="")
    secret = f":{upstream.password}" if upstream.password else ""
    proxy = PostgresProxy(f"postgresql://{role}{secret}@{host}:{port}{upstream.path}?sslmode=disable", port, upstream)
    try:
        yield proxy
    finally:
        server.close()
        for _ in range(_TURNS_OF_AN_ACCEPT):
            await asyncio.sleep(0)  # what was accepted a moment ago begins, to be ended properly
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
