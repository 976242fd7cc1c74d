"""Throughput of one, two and four processes with one database and one store: eight exports of four Spaces at once."""

import asyncio
import time
from contextlib import AsyncExitStack
from statistics import median

from tests.bench.bench import Bench, Figures
from tests.bench.dataset import Contacts
from tests.bench.ours import Export, Service
from tests.bench.workloads import BOTH, YEAR

COUNTS = (1, 2, 4)
_EXPORTS_PER_SPACE = 2
"""The limit of running exports per Space."""
_ROUNDS = 3
_CHECK_SECONDS = 0.02


async def measure(bench: Bench) -> Figures:
    """Total rows per second, with both extras. Requests alternate between the replicas, as with a load balancer."""
    contacts = await bench.contacts()
    figures = {}
    for count in COUNTS:
        bench.say(f"replicas: {count}")
        async with AsyncExitStack() as stack:
            services = [await stack.enter_async_context(bench.service(contacts)) for _ in range(count)]
            await _rows_per_second(contacts, services)  # warms the caches; not counted
            rounds = min(_ROUNDS, bench.plan.rounds)
            figures[str(count)] = median([await _rows_per_second(contacts, services) for _ in range(rounds)])
    return {"replicas": {"rows_per_second": figures}}


async def _rows_per_second(contacts: Contacts, services: list[Service]) -> float:
    spaces = contacts.spaces[1:] * _EXPORTS_PER_SPACE
    started = time.perf_counter()
    exports: list[Export] = await asyncio.gather(
        *(
            services[number % len(services)].export(space, YEAR, BOTH, check=_CHECK_SECONDS)
            for number, space in enumerate(spaces)
        )
    )
    seconds = time.perf_counter() - started
    for export in exports:
        assert export.file is not None
        export.file.unlink()
    return sum(int(export.status["row_count"]) for export in exports) / seconds
