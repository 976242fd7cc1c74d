"""The client that holds connections, as a process of its own so that its work delays no measurement.

It reads one line of JSON from standard input, a `Hold`, and holds the connections until standard input ends. Then it prints
how many connections of each kind it opened, and how many responses it read, as one line of JSON.
"""

import asyncio
import dataclasses
import json
import secrets
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

_PAUSE_SECONDS = 0.1
"""Pause before a connection that was closed is opened again."""
_WATCH_SECONDS = 0.5
_RECEIVE_BUFFER = 4096
"""The smallest that the kernel allows: what is not read stays with the sender."""
_ESTABLISHED = b"\x01"
"""The first byte of TCP_INFO while both sides of a connection are open."""

UNKNOWN_KEYS = "unknown keys"
_HEADERS = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 8000) for number in range(3))
_BYTES = {
    "idle": b"",
    "partial headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + _HEADERS,
    "unfinished body": b"POST /public-api/v1/contacts/exports HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
    "unread responses": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2000,
    "unread page": b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
}
"""What a connection sends before it only waits; "unread download" asks for a file."""
KINDS = (*_BYTES, "unread download", UNKNOWN_KEYS)


@dataclass(frozen=True)
class Hold:
    """Which connections to hold: `link` is a download link of a file, `kinds` are used in turn."""

    address: str
    link: str
    connections: int
    kinds: Sequence[str] = KINDS
    reopen_seconds: float = 90.0
    """A connection is opened again after this time: its end shows in no way if the service's kernel has given it up."""


class Clients:
    """A handle of the process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def end(self) -> dict[str, int]:
        """Close all connections; return the counts by kind."""
        output, _ = await self._process.communicate(b"")
        return dict(json.loads(output))


@asynccontextmanager
async def clients(hold: Hold) -> AsyncIterator[Clients]:
    """Hold connections inside the block, or until `end` is called."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=pipe, stdout=pipe)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(dataclasses.asdict(hold)).encode() + b"\n")
        await process.stdin.drain()
        yield Clients(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class _Holder:
    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._counts: Counter[str] = Counter()

    async def run(self) -> None:
        kinds = self._hold.kinds
        tasks = [asyncio.create_task(self._repeat(kinds[n % len(kinds)])) for n in range(self._hold.connections)]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sys.stdout.write(json.dumps(dict(sorted(self._counts.items()))))

    async def _repeat(self, kind: str) -> None:
        """Hold a connection, and open another whenever it is closed. Never returns."""
        while True:
            with suppress(OSError, EOFError):
                await (self._call() if kind == UNKNOWN_KEYS else self._wait(kind))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _wait(self, kind: str) -> None:
        """Send and read nothing, until the connection is closed."""
        loop, address = asyncio.get_running_loop(), urlsplit(self._hold.address)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            client.setblocking(False)
            await loop.sock_connect(client, (address.hostname, address.port))
            self._counts[kind] += 1
            sending = asyncio.create_task(loop.sock_sendall(client, self._bytes(kind)))
            try:
                async with asyncio.timeout(self._hold.reopen_seconds):
                    while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == _ESTABLISHED:
                        await asyncio.sleep(_WATCH_SECONDS)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _call(self) -> None:
        """Call with another unknown key as soon as the response to the one before is there."""
        address = urlsplit(self._hold.address)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        self._counts[UNKNOWN_KEYS] += 1
        try:
            while True:
                key = f"ce_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
                path = "/public-api/v1/contacts/exports/1"
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
                self._counts[f"responses {head.split()[1].decode()}"] += 1
        finally:
            writer.transport.abort()

    def _bytes(self, kind: str) -> bytes:
        if kind in _BYTES:
            return _BYTES[kind]
        link = urlsplit(self._hold.link)
        return f"GET {link.path}?{link.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 20


if __name__ == "__main__":
    asyncio.run(_Holder(Hold(**json.loads(sys.stdin.readline()))).run())
