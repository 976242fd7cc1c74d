"""What monitoring costs: an export's CPU time and the latency of status calls, with and without it.

With it, /metrics is read every second and the operator's page every two seconds, as an open browser does. Rounds with and
without alternate, and each pair begins with the other one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from statistics import median

import aiohttp

from tests.bench.bench import Bench, Figures
from tests.bench.dataset import Contacts, new_spaces
from tests.bench.latency import RATE, SPACES, completed, exported, repeated
from tests.bench.ours import Service
from tests.bench.percentiles import percentile
from tests.bench.status_calls import StatusCalls, status_calls
from tests.bench.workloads import BOTH, YEAR
from tests.support.program import free_port

WITHOUT, WITH = "without", "with"
_SCRAPE_SECONDS = 1.0
_PAGE_SECONDS = 2.0
_ROUNDS = 10


async def measure(bench: Bench) -> Figures:
    """CPU seconds of the service for one export, and the 99th percentile of status calls while one runs.

    `within_spread` is true if the median with monitoring is not above the highest value without it.
    """
    contacts = await bench.contacts()
    cpu: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    latency: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    async with bench.service(contacts, {"ADMIN_PORT": free_port()}) as service:
        spaces = await new_spaces(contacts.dsn, bench.plan.shorter(SPACES, 10))
        calls = [(await completed(service, space), space.key) for space in spaces]
        async with status_calls(calls) as status:
            for number in range(bench.plan.shorter(_ROUNDS, 2)):
                bench.say(f"monitoring: round {number + 1}")
                for kind in (WITHOUT, WITH) if number % 2 else (WITH, WITHOUT):
                    async with _monitoring(service, on=kind == WITH):
                        cpu[kind].append(await _cpu_of_export(service, contacts))
                        latency[kind].append(await _status_p99(bench, service, contacts, status))
    return {"monitoring": {"export_cpu_s": _compared(cpu), "status_p99_ms": _compared(latency)}}


async def _cpu_of_export(service: Service, contacts: Contacts) -> float:
    export = await service.export(contacts.spaces[0], YEAR, BOTH, poll=0.05)
    assert export.file is not None
    export.file.unlink()
    return export.cpu_client


async def _status_p99(bench: Bench, service: Service, contacts: Contacts, status: StatusCalls) -> float:
    async with repeated(partial(exported, service, contacts.spaces[0])):
        return percentile(await status.measure(rate=RATE, seconds=bench.plan.shorter(10, 1)), 99)


@asynccontextmanager
async def _monitoring(service: Service, *, on: bool) -> AsyncIterator[None]:
    """Read the metrics and the page inside the block, if `on`. Raises the error of a reading."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        addresses = ((f"{service.program.admin}/metrics", _SCRAPE_SECONDS), (f"{service.program.admin}/", _PAGE_SECONDS))
        reading = [asyncio.create_task(_read(session, *each)) for each in addresses if on]
        try:
            yield
        finally:
            for task in reading:
                task.cancel()
            for result in await asyncio.gather(*reading, return_exceptions=True):
                if not isinstance(result, asyncio.CancelledError):
                    raise result


async def _read(session: aiohttp.ClientSession, url: str, every: float) -> BaseException:
    while True:
        async with session.get(url) as response:
            await response.read()
        await asyncio.sleep(every)


def _compared(values: dict[str, list[float]]) -> Figures:
    without, monitored = sorted(values[WITHOUT]), sorted(values[WITH])
    return {
        WITHOUT: median(without),
        f"{WITHOUT}_min": without[0],
        f"{WITHOUT}_max": without[-1],
        WITH: median(monitored),
        f"{WITH}_min": monitored[0],
        f"{WITH}_max": monitored[-1],
        "within_spread": median(monitored) <= without[-1],
    }
