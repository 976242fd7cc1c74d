"""Status calls at a constant rate, sent by a process of their own.

A line has the calls to make in turn, {"calls": [[url, key], …]}, or the calls per second and the duration,
{"rate", "seconds"}. The response is the milliseconds of every call.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.bench.measuring_process import MeasuringProcess, measuring_process, respond

_CONNECTIONS = 16
"""Kept alive. More than are ever in use, because a call that waits for a connection would distort the measurement."""


class StatusCalls:
    """A handle of the process."""

    def __init__(self, process: MeasuringProcess) -> None:
        self._process = process

    async def measure(self, *, rate: float, seconds: float) -> list[float]:
        """Make calls for `seconds`; return milliseconds, ascending. Raises RuntimeError if a status is not 200."""
        return sorted(await self._process.ask(rate=rate, seconds=seconds))


@asynccontextmanager
async def status_calls(calls: list[tuple[str, str]]) -> AsyncIterator[StatusCalls]:
    """Start the process; each call has been made once when the block begins."""
    async with measuring_process("tests.bench.status_calls") as process:
        await process.ask(calls=calls)
        yield StatusCalls(process)


async def main() -> None:
    """Respond to each line until standard input ends."""
    gc.disable()
    calls: list[tuple[str, str]] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CONNECTIONS)) as session:

        async def handle(line: dict[str, Any]) -> list[float]:
            if "calls" in line:
                calls[:] = line["calls"]
                return [await _call(session, *call) for call in calls]
            return await _calls(session, calls, line["rate"], line["seconds"])

        await respond(handle)


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


if __name__ == "__main__":
    asyncio.run(main())
