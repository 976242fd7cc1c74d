"""As many requests as a server responds to on a few connections, sent by a process that spends little CPU time on them.

A line has {"address", "calls": [[path, key], …], "connections", "seconds"}. The response is the milliseconds of every
request.
"""

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

from tests.bench.measuring_process import MeasuringProcess, measuring_process, respond
from tests.bench.percentiles import percentile

CONNECTIONS = 8
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Load:
    """The requests that a server responded to."""

    per_second: float
    p99_ms: float
    count: int


class LoadGenerator:
    """A handle of the process."""

    def __init__(self, process: MeasuringProcess) -> None:
        self._process = process

    async def measure(self, address: str, calls: list[tuple[str, str]], *, seconds: float) -> Load:
        """Make the calls, each a path and a key, in turn for `seconds`. Raises RuntimeError if a response is not 200."""
        asked = {"address": address, "calls": calls, "connections": CONNECTIONS, "seconds": seconds}
        durations = await self._process.ask(**asked)
        return Load(len(durations) / seconds, percentile(durations, 99), len(durations))


@asynccontextmanager
async def load_generator() -> AsyncIterator[LoadGenerator]:
    """Run the process for the block."""
    async with measuring_process("tests.bench.load") as process:
        yield LoadGenerator(process)


async def main() -> None:
    """Respond to each line until standard input ends."""
    gc.disable()
    await respond(_load)


async def _load(line: dict[str, Any]) -> list[float]:
    calls, connections = line["calls"], line["connections"]
    requests = [f"GET {path} HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer {key}\r\n\r\n".encode() for path, key in calls]
    until = time.perf_counter() + line["seconds"]
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(connections):
            start = number * len(requests) // connections
            turn = cycle(requests[start:] + requests[:start])
            tasks.append(group.create_task(_connection(line["address"], turn, until)))
    return [duration for task in tasks for duration in task.result()]


async def _connection(address: str, requests: Iterable[bytes], until: float) -> list[float]:
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    durations = []
    for request in requests:
        started = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None or not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(head.decode())
        await reader.readexactly(int(length[1]))
        ended = time.perf_counter()
        durations.append((ended - started) * 1000)
        if ended > until:
            break
    writer.close()
    return durations


if __name__ == "__main__":
    asyncio.run(main())
