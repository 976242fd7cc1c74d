"""Latency of status calls while exports run and large pages of contacts are read, and the longest event-loop lag.

The calls are those of 100 Spaces that poll an export every two seconds each, as the API asks them to.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import aiohttp

from tests.bench.bench import Bench, Figures
from tests.bench.dataset import new_spaces
from tests.bench.ours import Service
from tests.bench.percentiles import percentile
from tests.bench.status_calls import StatusCalls, status_calls
from tests.bench.workloads import BOTH, EMPTY, YEAR
from tests.support.contacts import Tenant

LEVELS = {"idle": (0, 0), "exports_1": (1, 0), "exports_2": (2, 0), "exports_4": (4, 0), "exports_2_lists_2": (2, 2)}
"""Exports that run, and clients that read lists of contacts, at each level."""
_PAGE = 5000
SPACES = 100
RATE = 50.0
_CHECK_SECONDS = 0.02
_WARM_UP_SECONDS = 1.0


async def measure(bench: Bench) -> Figures:
    """Percentiles by level. `longest_stall_ms` is the lag that the service logs; null if it logs none."""
    contacts = await bench.contacts()
    seconds = bench.plan.shorter(20, 1)
    figures: Figures = {"status_p50_ms": {}, "status_p99_ms": {}, "status_max_ms": {}}
    async with bench.service(contacts) as service:
        spaces = await new_spaces(contacts.dsn, bench.plan.shorter(SPACES, 10))
        calls = [(await completed(service, space), space.key) for space in spaces]
        async with status_calls(calls) as status:
            figures["status_max_ms"]["first_openapi"] = await _first_openapi(service, status)
            for level, (exports, lists) in LEVELS.items():
                bench.say(f"latency: {level}")
                async with repeated(
                    *(partial(exported, service, space) for space in contacts.spaces[:exports]),
                    *[partial(service.page, contacts.spaces[0], BOTH, size=_PAGE)] * lists,
                ):
                    durations = await status.measure(rate=RATE, seconds=seconds)
                figures["status_p50_ms"][level] = percentile(durations, 50)
                figures["status_p99_ms"][level] = percentile(durations, 99)
                figures["status_max_ms"][level] = durations[-1]
        await service.program.end()
        figures["longest_stall_ms"] = max((line["longest_ms"] for line in service.program.events("loop_lag")), default=None)
    return {"latency": figures}


async def _first_openapi(service: Service, status: StatusCalls) -> float:
    """The longest status call while the service loads what builds /openapi.json, and builds it."""
    measuring = asyncio.create_task(status.measure(rate=RATE, seconds=_WARM_UP_SECONDS))
    async with aiohttp.request("GET", f"{service.program.address}/openapi.json") as response:
        await response.read()
    return (await measuring)[-1]


async def completed(service: Service, space: Tenant) -> str:
    """The URL of a completed export of a Space."""
    export_id = await service.create(space, EMPTY, BOTH)
    await service.ended(space, export_id, pause=0.05)
    return f"{service.url}/{export_id}"


@asynccontextmanager
async def repeated(*works: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Do each of these inside the block, again and again."""
    enough = asyncio.Event()

    async def repeat(work: Callable[[], Awaitable[object]]) -> None:
        while not enough.is_set():
            await work()

    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(repeat(work))
        await asyncio.sleep(_WARM_UP_SECONDS if works else 0)
        try:
            yield
        finally:
            enough.set()


async def exported(service: Service, space: Tenant) -> None:
    """Run an export and delete its file."""
    export = await service.export(space, YEAR, BOTH, check=_CHECK_SECONDS)
    assert export.file is not None
    export.file.unlink()
