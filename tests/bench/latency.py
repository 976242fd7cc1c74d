"""Latency of status calls while no, one, two and four exports run, and the longest event-loop lag.

The calls are those of 100 Spaces that poll an export every two seconds each, as the API asks them to.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench.bench import Bench, Figures
from tests.bench.dataset import Contacts, new_spaces
from tests.bench.ours import Service
from tests.bench.percentiles import percentile
from tests.bench.status_calls import status_calls
from tests.bench.workloads import BOTH, EMPTY, YEAR
from tests.support.contacts import Tenant

LEVELS = {"idle": 0, "exports_1": 1, "exports_2": 2, "exports_4": 4}
_SPACES = 100
_RATE = 50.0
_CHECK_SECONDS = 0.02
_WARM_UP_SECONDS = 1.0


async def measure(bench: Bench) -> Figures:
    """Percentiles by number of exports. `longest_stall_ms` is the lag that the service logs; null if it logs none."""
    contacts = await bench.contacts()
    seconds = bench.plan.shorter(20, 1)
    figures: Figures = {"status_p50_ms": {}, "status_p99_ms": {}, "status_max_ms": {}}
    async with bench.service(contacts) as service:
        spaces = await new_spaces(contacts.dsn, bench.plan.shorter(_SPACES, 10))
        calls = [(await _completed(service, space), space.key) for space in spaces]
        async with status_calls(calls) as status:
            for level, exports in LEVELS.items():
                bench.say(f"latency: {level}")
                async with _exports(service, contacts, exports):
                    durations = await status.measure(rate=_RATE, seconds=seconds)
                figures["status_p50_ms"][level] = percentile(durations, 50)
                figures["status_p99_ms"][level] = percentile(durations, 99)
                figures["status_max_ms"][level] = durations[-1]
        await service.program.end()
        figures["longest_stall_ms"] = max((line["longest_ms"] for line in service.program.events("loop_lag")), default=None)
    return {"latency": figures}


async def _completed(service: Service, space: Tenant) -> str:
    export_id = await service.create(space, EMPTY, BOTH)
    await service.ended(space, export_id, pause=0.05)
    return f"{service.url}/{export_id}"


@asynccontextmanager
async def _exports(service: Service, contacts: Contacts, count: int) -> AsyncIterator[None]:
    """Run this many exports of different Spaces inside the block, each followed at once by another."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for space in contacts.spaces[:count]:
            group.create_task(_repeat_exports(service, space, enough))
        await asyncio.sleep(_WARM_UP_SECONDS if count else 0)
        try:
            yield
        finally:
            enough.set()


async def _repeat_exports(service: Service, space: Tenant, enough: asyncio.Event) -> None:
    while not enough.is_set():
        export = await service.export(space, YEAR, BOTH, check=_CHECK_SECONDS)
        assert export.file is not None
        export.file.unlink()
