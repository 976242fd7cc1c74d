"""A TCP proxy that cuts connections. Client and server are real."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

_CHUNK = 64 * 1024


@dataclass
class TcpProxy:
    """The running proxy. `address` leads to the server through it."""

    address: str = ""
    cuts: deque[int] = field(default_factory=deque)
    """For each of the next connections that carry more bytes from the server: the number after which it is reset."""
    carried: list[int] = field(default_factory=list)
    """The bytes from the server on each connection so far."""
    cut: int = 0
    """How many connections were cut."""
    hide_ranges: bool = False
    """Whether the server does not see the header Range, as if it could not send parts of a file."""
    hold_after_cut: bool = False
    """Whether a cut closes `open`."""
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, new connections are accepted and get no byte."""


@asynccontextmanager
async def tcp_proxy(upstream: str) -> AsyncIterator[TcpProxy]:
    """Run a proxy on a free loopback port in front of the server at the URL `upstream`."""
    proxy = TcpProxy()
    proxy.open.set()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await _serve(proxy, urlsplit(upstream), reader, writer)
        finally:
            writer.transport.abort()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy.address = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _serve(proxy: TcpProxy, upstream: SplitResult, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await proxy.open.wait()
    from_server, to_server = await asyncio.open_connection(upstream.hostname, upstream.port)
    upward = asyncio.create_task(_carry(proxy, reader, to_server))
    try:
        await _carry_back(proxy, from_server, writer)
    finally:
        upward.cancel()
        to_server.transport.abort()


async def _carry(proxy: TcpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data.replace(b"\r\nRange:", b"\r\nOther:") if proxy.hide_ranges else data)
            await writer.drain()


async def _carry_back(proxy: TcpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry the server's bytes. A connection that reaches the next number of `cuts` is reset after it."""
    number = len(proxy.carried)
    proxy.carried.append(0)
    while data := await reader.read(_CHUNK):
        room = proxy.cuts[0] - proxy.carried[number] if proxy.cuts else len(data)
        writer.write(data[:room])
        await writer.drain()
        proxy.carried[number] += len(data[:room])
        if room < len(data):
            proxy.cuts.popleft()
            proxy.cut += 1
            if proxy.hold_after_cut:
                proxy.open.clear()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
