"""A webhook receiver over TLS: it keeps what it gets, and answers as a test tells it."""

import asyncio
import functools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import trustme
from standardwebhooks import Webhook

from tests.support.waiting import until_true

HOST = "hooks.test"
"""A name that no name server knows; `lookup_of` resolves it."""
_TOO_LONG = 3600

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@functools.cache
def authority() -> trustme.CA:
    """The certificate authority of all receivers of this process."""
    return trustme.CA()


def write_authority(path: Path) -> Path:
    """Write the certificate of the authority to a file for WEBHOOK_CA_FILE."""
    authority().cert_pem.write_to_path(path)
    return path


def trusting() -> ssl.SSLContext:
    """The TLS settings of a sender that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


@dataclass(frozen=True)
class Message:
    """A request that arrived completely; names of headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def webhook_id(self) -> str:
        """The id of the message."""
        return self.headers["webhook-id"]

    @property
    def content(self) -> dict[str, Any]:
        """The parsed body."""
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed

    def verify(self, secret: str) -> None:
        """Check the signature as a consumer does. Raises WebhookVerificationError."""
        Webhook(secret).verify(self.body, self.headers)


def status(code: int, *headers: str, body: bytes = b"") -> Answer:
    """Answer with this status."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} Any", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return answer


async def hang(_: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.sleep(_TOO_LONG)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close the connection without an answer."""
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def drip(head: bytes, *, seconds: float) -> Answer:
    """Send these bytes one by one with pauses, and then nothing more."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for byte in head:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(seconds)
        await hang(writer)

    return answer


@dataclass
class Receiver:
    """`answers` are used in order, then `usual`. `messages` has every request, whatever the answer was.

    `choose` replaces both: it gets the message and returns the answer.
    """

    port: int
    usual: Answer = field(default_factory=lambda: status(204))
    answers: list[Answer] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    choose: Callable[[Message], Answer] | None = None
    in_flight: int = 0
    most_in_flight: int = 0

    @property
    def url(self) -> str:
        """The address of the receiver by name."""
        return f"https://{HOST}:{self.port}/hooks"

    async def until(self, count: int) -> list[Message]:
        """Wait until this many messages have arrived and return them."""
        await until_true(lambda: len(self.messages) >= count)
        return self.messages

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection with one request."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                message = await _read(reader)
                self.messages.append(message)
                await self._answer(message)(writer)
        finally:
            self.in_flight -= 1
            writer.close()

    def _answer(self, message: Message) -> Answer:
        if self.choose is not None:
            return self.choose(message)
        return self.answers.pop(0) if self.answers else self.usual


async def _read(reader: asyncio.StreamReader) -> Message:
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Message(start.split()[1], headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def receiver(*, certificate: trustme.LeafCert | None = None) -> AsyncIterator[Receiver]:
    """A receiver on the loopback address. Its certificate is for HOST and 127.0.0.1 unless given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (certificate or authority().issue_cert(HOST, "127.0.0.1")).configure_cert(context)
    made = Receiver(0)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await made.serve(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def lookup_of(*addresses: str) -> Callable[[str, int], list[tuple[Any, ...]]]:
    """A name server that resolves every name to these addresses."""

    def lookup(_: str, port: int) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    return lookup
