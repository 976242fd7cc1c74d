"""Runs the service while one client holds connections, and measures what everybody else notices."""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from service.client import ExportClient
from tests.bench.percentiles import percentile
from tests.hold.clients import KINDS, UNKNOWN_KEYS, Hold, clients
from tests.support.calls import EXPORTS, create_with_tokens
from tests.support.program import Program
from tests.support.scene import Scene

SIZING_MIB = 75 + 15
"""Memory of a process that runs one export (docs/performance.md)."""
HEALTH_SECONDS = 1.0
"""Longest duration of a health check over a new connection."""
STATUS_SECONDS = 1.0
"""Longest duration of 99 % of another Space's status calls while all connections call with unknown keys.

On two quiet CPUs it is 0.1 s. While refused calls waited for the database like all others, it was 1 to 2 s.
"""
_MEMORY_FACTOR = 2
_CHECK_EVERY = 0.1
_RETRY_SECONDS = 0.02
_STATUS_EVERY = 0.1
_SAMPLE_EVERY = 0.25
_EXPORT_EVERY = 2.0


@dataclass(frozen=True)
class Plan:
    """How many connections to hold, of which kinds in turn, and for how long."""

    connections: int
    seconds: float
    kinds: Sequence[str] = KINDS
    reopen_seconds: float = 90.0
    """See `Hold`."""


class Stopwatch:
    """Measures durations without the time for which this machine kept the service, or this process, waiting for a CPU."""

    def __init__(self, program: Program) -> None:
        self._threads = [Path(f"/proc/{pid}/task/{pid}/schedstat") for pid in (program.pid, os.getpid())]
        self._waited = self._waits()
        self._started = time.monotonic()

    def seconds(self) -> float:
        """The duration until now. The two may have waited at the same time, so only the longer wait is left out."""
        longer = max(now - before for now, before in zip(self._waits(), self._waited, strict=True))
        return max(0.0, self.wall_seconds() - longer)

    def wall_seconds(self) -> float:
        """The duration until now with all the time."""
        return time.monotonic() - self._started

    def _waits(self) -> list[float]:
        return [int(thread.read_text().split()[1]) / 1e9 for thread in self._threads]


@dataclass
class Measured:
    """Durations in seconds (`Stopwatch`), memory in MiB; `attempts` has one entry per export."""

    health: list[float]
    status: list[float]
    health_wall: list[float]
    attempts: list[int]
    memory: float = 0.0
    descriptors: int = 0
    requests: int = 0


async def hold(scene: Scene, program: Program, plan: Plan) -> dict[str, Any]:
    """Hold the connections and return the report. The key `violations` lists the bounds that were not kept."""
    measured = Measured([], [], [], [])
    async with ExportClient(program.address, scene.space.key) as client:
        first = await client.wait(await create_with_tokens(program, scene.space))
    assert first.download_url is not None
    held = Hold(program.address, first.download_url, plan.connections, plan.kinds, plan.reopen_seconds)
    async with clients(held) as holding, aiohttp.ClientSession() as session:
        tasks = [
            asyncio.create_task(_check_health(program, measured)),
            asyncio.create_task(_check_status(session, scene, program, first.export_id, measured)),
            asyncio.create_task(_sample(program, measured)),
            asyncio.create_task(_export(scene, program, measured)),
        ]
        done, _ = await asyncio.wait(tasks, timeout=plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        counts = await holding.end()
    return _report(plan, measured, program, counts)


async def _check_health(program: Program, measured: Measured) -> None:
    while True:
        asked = Stopwatch(program)
        await _healthy(program)
        measured.health.append(asked.seconds())
        measured.health_wall.append(asked.wall_seconds())
        await asyncio.sleep(_CHECK_EVERY)


async def _healthy(program: Program) -> None:
    """Ask over a new connection until the response is 200. A refusal of the connection is repeated at once."""
    timeout = aiohttp.ClientTimeout(30)
    while True:
        with suppress(aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            async with aiohttp.request("GET", f"{program.address}/healthz", timeout=timeout) as response:
                if response.status == 200:
                    return
        await asyncio.sleep(_RETRY_SECONDS)


async def _check_status(
    session: aiohttp.ClientSession, scene: Scene, program: Program, export_id: int, measured: Measured
) -> None:
    url = f"{program.address}{EXPORTS}/{export_id}"
    while True:
        asked = Stopwatch(program)
        while True:
            # A connection that waits for a request makes room for newcomers; clients open another.
            with suppress(aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                async with session.get(url, headers=scene.space.headers) as response:
                    assert response.status == 200, await response.text()
                    break
        measured.status.append(asked.seconds())
        await asyncio.sleep(_STATUS_EVERY)


async def _export(scene: Scene, program: Program, measured: Measured) -> None:
    while True:
        export_id = await scene.queue()
        await scene.assert_completed(program, export_id)
        measured.attempts.append(len(await scene.attempts(export_id)))
        await asyncio.sleep(_EXPORT_EVERY)


def memory_mib(program: Program) -> float:
    """The resident memory of the program."""
    return int(Path(f"/proc/{program.pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def open_descriptors(program: Program) -> int:
    """The number of open descriptors of the program."""
    return len(list(Path(f"/proc/{program.pid}/fd").iterdir()))


async def _sample(program: Program, measured: Measured) -> None:
    while True:
        measured.memory = max(measured.memory, memory_mib(program))
        measured.descriptors = max(measured.descriptors, open_descriptors(program))
        # Hundreds of refusals a second: their lines would fill the memory of this process.
        lines = len(program.log)
        program.log[:] = [line for line in program.log if line["event"] != "request"]
        measured.requests += lines - len(program.log)
        await asyncio.sleep(_SAMPLE_EVERY)


def _report(plan: Plan, measured: Measured, program: Program, counts: dict[str, int]) -> dict[str, Any]:
    unexpected = [line for line in program.log if line.get("level") == "error" or line["event"] == "text"]
    violations = []
    if (slowest := max(measured.health)) >= HEALTH_SECONDS:
        violations.append(f"a health check took {slowest:.2f} s")
    status_p99 = percentile(measured.status, 99)
    if set(plan.kinds) == {UNKNOWN_KEYS} and status_p99 >= STATUS_SECONDS:
        violations.append(f"one in a hundred status calls took {status_p99 * 1000:.0f} ms or more")
    if measured.memory >= _MEMORY_FACTOR * SIZING_MIB:
        violations.append(f"the process used {measured.memory:.0f} MiB")
    if not measured.attempts or max(measured.attempts) > 1:
        violations.append(f"attempts of the exports: {measured.attempts}")
    if unexpected:
        violations.append(f"unexpected log lines: {unexpected[:3]}")
    return {
        "connections": plan.connections,
        "seconds": plan.seconds,
        "health_checks": len(measured.health),
        "health_max_ms": round(slowest * 1000),
        "health_max_on_this_machine_ms": round(max(measured.health_wall) * 1000),
        "health_p99_ms": round(percentile(measured.health, 99) * 1000),
        "status_p50_ms": round(percentile(measured.status, 50) * 1000),
        "status_p99_ms": round(status_p99 * 1000),
        "status_max_ms": round(max(measured.status) * 1000),
        "exports": len(measured.attempts),
        "memory_max_mib": round(measured.memory),
        "descriptors_max": measured.descriptors,
        "requests": measured.requests,
        "opened": counts,
        "violations": violations,
    }
