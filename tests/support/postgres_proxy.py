"""A proxy in front of a real Postgres that breaks connections on command. Client and server are real."""

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
"""Application names of the service's connections."""

_RECEIVE_BUFFER = 64 * 1024
"""Bytes. Small, so that the server soon notices a client that stops reading."""


_TURNS_OF_AN_ACCEPT = 5
"""Iterations of the event loop between a new connection and the first step of its task, plus one."""
_LAST_OF_A_REQUEST = "SHQ"
"""Sync, flush, query: after one of these the client waits for a response."""


class Mode(Enum):
    """How a connection handles the messages of both sides."""

    PASS = "pass"
    FREEZE = "freeze"
    """Nothing moves until the mode changes; no message is lost."""
    BLACKHOLE = "blackhole"
    """Messages and the end of either side are lost: both sides still believe in the connection."""
    RESET = "reset"
    """Closed on both sides with a TCP reset."""
    DELAY = "delay"
    """Each round trip takes `PostgresProxy.delay` seconds longer."""


class Fault(Enum):
    """What happens to one execution of a statement."""

    LOSE_REQUEST = "lose request"
    """The connection is reset before the server receives the statement."""
    LOSE_RESPONSE = "lose response"
    """The server executes and commits; the response is dropped and the connection reset."""
    HOLD_RESPONSE = "hold response"
    """The server executes; the connection freezes before the first message of the response."""


class Connection:
    """The connection of one client. `backend` is its process id in pg_stat_activity, once it is known."""

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
        self._pending_fault: Fault | None = None

    def set_mode(self, mode: Mode) -> None:
        """Change the mode."""
        self.mode = mode
        if mode is Mode.FREEZE:
            self._moving.clear()
        else:
            self._moving.set()
        if mode is Mode.RESET:
            self.reset()

    def reset(self) -> None:
        """Close both sides with a TCP reset."""
        for writer in (self._client, self._server):
            if writer is not None:
                with suppress(OSError):  # not supported by unix sockets, or already closed
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def run(self, startup: Startup, reader: asyncio.StreamReader) -> None:
        """Forward messages until either side ends."""
        from_server, self._server = await self._proxy.connect()
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._carry(startup.encoded(), self._server)
            pumps += [asyncio.create_task(self._from_client(reader)), asyncio.create_task(self._from_server(from_server))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if self.mode is Mode.BLACKHOLE:
                await asyncio.wait(pumps)  # neither side learns that the other has closed
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
                self._pending_fault = self._pending_fault or fault
                await self._carry(message, self._server)
        if self.mode is Mode.BLACKHOLE:
            await asyncio.get_running_loop().create_future()

    async def _from_server(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                message = await read_message(reader)
                if kind(message) == "K":
                    self.backend = backend_pid(message)
                if self._pending_fault is Fault.HOLD_RESPONSE:
                    self._pending_fault = None
                    self.set_mode(Mode.FREEZE)
                if self._pending_fault is None:
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
    """The running proxy. `url` leads to the same database, with the same role, through it."""

    url: str
    port: int
    upstream: SplitResult
    delay: float = 0.05
    """Seconds that each round trip takes longer in `Mode.DELAY`."""
    startup: dict[str, str] = field(default_factory=dict)
    """Values that replace the client's own at the start of a session, for parameters that the client sets."""
    cancel_requests: int = 0
    """How often a client asked to cancel a statement."""
    _open: list[Connection] = field(default_factory=list)
    _future: dict[str | None, Mode] = field(default_factory=dict)
    _planned: dict[str, list[Fault]] = field(default_factory=dict)

    def connections(self, application_name: str | None = None) -> list[Connection]:
        """Return the open connections, all or of one application name."""
        return [each for each in self._open if application_name in (None, each.application_name)]

    def set_mode(self, mode: Mode, application_name: str | None = None) -> None:
        """Set the mode of current and future connections, all or of one application name."""
        if application_name is None:
            self._future.clear()
        self._future[application_name] = mode
        for connection in self.connections(application_name):
            connection.set_mode(mode)

    def next(self, part: str, *faults: Fault) -> None:
        """Inject these faults, one each, into the next executions of statements that contain this text."""
        self._planned.setdefault(part, []).extend(faults)

    async def until_injected(self, part: str) -> None:
        """Wait until all faults for statements that contain this text were injected."""

        async def all_met() -> bool:
            return not self._planned[part]

        await until(all_met)

    def take(self, text: str) -> Fault | None:
        """Return the fault for this execution and remove it from the plan."""
        for part, planned in self._planned.items():
            if planned and part in text:
                return planned.pop(0)
        return None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the server."""
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
                self.cancel_requests += 1
                await self._cancel(startup)
                return
            startup.parameters |= {name: value for name, value in self.startup.items() if name in startup.parameters}
            connection = Connection(self, startup, writer)
            self._open.append(connection)
            try:
                name = connection.application_name
                connection.set_mode(self._future.get(name, self._future.get(None, Mode.PASS)))
                await connection.run(startup, reader)
            finally:
                self._open.remove(connection)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.transport.abort()

    async def _cancel(self, startup: Startup) -> None:
        """Forward a cancel request, unless the connection it is about is not in `Mode.PASS`."""
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
    """Run a proxy on a free loopback port in front of the database at `url` inside the block."""
    upstream = urlsplit(url)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with suppress(asyncio.CancelledError):  # only cancelled below
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
            await asyncio.sleep(0)  # let the tasks of new connections start, so that they end properly
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
