"""Time from the start of a command to its end, for commands that people and container engines start often."""

import asyncio
import statistics
import sys
import time
from pathlib import Path

from tests.bench.bench import Bench, Figures

CONSOLE_SCRIPT = Path(sys.executable).with_name("contact-exports")


async def measure(bench: Bench) -> Figures:
    """Median seconds of `health` with a healthy service, and of `export --help`, in turns."""
    contacts = await bench.contacts()
    bench.say("startup: commands that are started often")
    seconds: dict[str, list[float]] = {"health_s": [], "export_help_s": []}
    async with bench.service(contacts) as service:
        port = service.program.address.rpartition(":")[2]
        for _ in range(bench.plan.shorter(30, 3)):
            seconds["health_s"].append(await _run(["health"], port))
            seconds["export_help_s"].append(await _run(["export", "--help"], port))
    return {"startup": {name: statistics.median(each) for name, each in seconds.items()}}


async def _run(arguments: list[str], port: str) -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(str(CONSOLE_SCRIPT), *arguments), env={"PORT": port}, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0, arguments
    return time.perf_counter() - started
