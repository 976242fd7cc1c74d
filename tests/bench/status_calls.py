"""Status calls at a constant rate, sent by a separate process so that no other work delays them.

The process reads lines of JSON from standard input: first the calls to make in turn, [[url, key], …], then lines with a rate
(calls per second) and a duration (seconds). It responds to each line with the milliseconds of every call, as a JSON array.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

_CONNECTIONS = 16
"""Kept alive. More than are ever in use, because a call that waits for a connection would distort the measurement."""


class StatusCalls:
    """A handle of the process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def measure(self, *, rate: float, seconds: float) -> list[float]:
        """Make calls for `seconds`; return milliseconds, ascending. Raises RuntimeError if a status is not 200."""
        return sorted(json.loads(await self._ask([rate, seconds])))

    async def _ask(self, line: object) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()
        reply = await self._process.stdout.readline()
        if not reply:
            raise RuntimeError("the status calls failed; the reason is printed above")
        return reply


@asynccontextmanager
async def status_calls(calls: list[tuple[str, str]]) -> AsyncIterator[StatusCalls]:
    """Start the process; each call has been made once when the block begins."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.bench.status_calls"]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=2**24)
    try:
        status = StatusCalls(process)
        await status._ask(calls)
        yield status
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def main() -> None:
    """Respond to each line until standard input ends."""
    gc.disable()
    calls = json.loads(await asyncio.to_thread(sys.stdin.readline))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CONNECTIONS)) as session:
        for url, key in calls:
            await _call(session, url, key)
        _respond([])
        while line := await asyncio.to_thread(sys.stdin.readline):
            rate, seconds = json.loads(line)
            _respond(await _calls(session, calls, rate, seconds))


async def _calls(session: aiohttp.ClientSession, calls: list[tuple[str, str]], rate: float, seconds: float) -> list[float]:
    """Each call starts on schedule even if earlier calls have no response yet, so that no wait hides another."""
    started = time.perf_counter()
    pending = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(started + number / rate - time.perf_counter())
        pending.append(asyncio.create_task(_call(session, *calls[number % len(calls)])))
    return await asyncio.gather(*pending)


async def _call(session: aiohttp.ClientSession, url: str, key: str) -> float:
    started = time.perf_counter()
    async with session.get(url, headers={"Authorization": f"Bearer {key}"}) as response:
        body = await response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {body.decode()}")
    return (time.perf_counter() - started) * 1000


def _respond(durations: list[float]) -> None:
    sys.stdout.write(json.dumps(durations) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
