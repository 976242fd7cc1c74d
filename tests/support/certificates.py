"""Certificates for loopback, and TLS in front of a Postgres or a web server that has none."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme

_REQUEST_FOR_TLS = 8
"""Length of the message in bytes."""


def make_certificate(directory: Path) -> Path:
    """A new certificate for 127.0.0.1, in the file `certificate.pem` of the directory, with its key and its authority."""
    authority = trustme.CA()
    path = directory / "certificate.pem"
    path.write_bytes(authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes() + authority.cert_pem.bytes())
    return path


class _Terminator:
    """Takes TLS off the connections of clients and passes the rest to the server of a URL."""

    def __init__(self, url: str, certificate: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._parts = urlsplit(url)
        self._options = {name: values[0] for name, values in parse_qs(self._parts.query).items()}

    def url(self, port: int) -> str:
        """The URL of the same database on a port of 127.0.0.1."""
        login = f"{self._parts.username}:{self._parts.password or ''}"
        return f"postgresql://{login}@127.0.0.1:{port}{self._parts.path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        server = None
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(_REQUEST_FOR_TLS)
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self._context)
            inner, server = await self._connect()
            await asyncio.gather(_carry(reader, server), _carry(inner, writer))
        for each in filter(None, (writer, server)):
            each.close()
            with suppress(OSError):
                await each.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "host" in self._options:
            return await asyncio.open_unix_connection(f"{self._options['host']}/.s.PGSQL.{self._options['port']}")
        return await asyncio.open_connection(self._parts.hostname, self._parts.port)


@asynccontextmanager
async def tls_in_front_of(url: str, certificate: Path) -> AsyncIterator[str]:
    """The URL of the same database over TLS. All connections must have ended at the end of the block."""
    terminator = _Terminator(url, certificate)
    tasks: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.create_task(terminator.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield terminator.url(listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        await asyncio.wait_for(asyncio.gather(*tasks), timeout=20)


@asynccontextmanager
async def https_in_front_of(url: str, certificate: Path) -> AsyncIterator[str]:
    """The https URL of the same web server. Connections that are open at the end of the block are closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = urlsplit(url)

    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection(server.hostname, server.port)
        tasks = [_carry(reader, outer), _carry(inner, writer), ended.wait()]
        carrying = [asyncio.ensure_future(task) for task in tasks]
        await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
        for task in carrying:
            task.cancel()
        for end in (writer, outer):
            end.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        ended.set()
        listener.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
