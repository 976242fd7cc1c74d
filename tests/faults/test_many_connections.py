"""One client without a key holds hundreds of connections: everybody else is served, and exports complete."""

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.support.program import Program, started
from tests.support.scene import Scene
from tests.support.waiting import until_logged

pytestmark = pytest.mark.long

_DESCRIPTORS = 300
_HELD = 300
_SECONDS = 20.0
_PATIENCE = 5.0
"""Bound of a health check, in seconds: a tenth of it is usual, but the machine of the tests may be busy."""
_KINDS = {
    "idle": b"",
    "partial headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(3)),
    "unfinished body": b"POST /public-api/v1/contacts/exports HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
    "unread responses": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2000,
}


def memory(program: Program) -> int:
    """The resident memory of the program, in bytes."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def descriptors(program: Program) -> int:
    """The number of open descriptors of the program."""
    return len(list(Path(f"/proc/{program.pid}/fd").iterdir()))


async def hold(program: Program, data: bytes) -> None:
    """Hold a connection that sends `data` and reads nothing; open another whenever it is closed. Never returns."""
    address = urlsplit(program.address)
    loop = asyncio.get_running_loop()
    while True:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            with suppress(OSError):
                await loop.sock_connect(client, (address.hostname, address.port))
                await loop.sock_sendall(client, data)
                closed = False
                while not closed:
                    await asyncio.sleep(0.5)
                    # Peeking reads nothing. An end of the stream is seen only while nothing was received.
                    with suppress(BlockingIOError):
                        closed = not client.recv(1, socket.MSG_PEEK)
        await asyncio.sleep(0.1)


@asynccontextmanager
async def held(program: Program) -> AsyncIterator[None]:
    """Hold connections of every kind inside the block."""
    kinds = list(_KINDS.values())
    tasks = [asyncio.create_task(hold(program, kinds[number % len(kinds)])) for number in range(_HELD)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def slowest_health_check(program: Program, until: float) -> float:
    """Ask for the health over a new connection each time; the duration of the slowest check, in seconds."""
    slowest = 0.0
    while time.monotonic() < until:
        asked = time.monotonic()
        async with aiohttp.request("GET", f"{program.address}/healthz", timeout=aiohttp.ClientTimeout(30)) as response:
            assert response.status == 200
        slowest = max(slowest, time.monotonic() - asked)
        await asyncio.sleep(0.1)
    return slowest


async def test_a_client_that_holds_300_connections_delays_nobody_and_fails_no_export(scene: Scene) -> None:
    async with started(scene.settings()) as program:
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
        await program.listening()
        await until_logged(program, "store_usable")
        before = memory(program)
        async with held(program):
            await asyncio.sleep(2)
            checking = asyncio.create_task(slowest_health_check(program, time.monotonic() + _SECONDS))
            for _ in range(3):
                export_id = await scene.queue(max_attempts=1)
                await scene.assert_completed(program, export_id)
                await asyncio.sleep(2)
            assert await checking < _PATIENCE
            assert memory(program) - before < 100 * 2**20
            assert descriptors(program) < _DESCRIPTORS
        assert not [line for line in program.log if line.get("level") == "error" or line["event"] == "text"]
        assert await program.end() == 0
