"""Peak resident memory of the service by size of the export, with a new process for each size and with both extras."""

from tests.bench.bench import Bench, Figures
from tests.bench.processes import peak_memory_mib
from tests.bench.workloads import BOTH, YEAR

SIZES = (10_000, 100_000, 1_000_000)
LARGE = 10_000_000


async def measure(bench: Bench) -> Figures:
    """Sizes above the number of contacts stay null. In the largest table only 10 % have tokens and email addresses."""
    figures: Figures = {}
    for size in SIZES:
        if size <= bench.plan.contacts:
            figures[str(size)] = await _peak(bench, size)
    if bench.plan.large:
        figures[str(LARGE)] = await _peak(bench, LARGE)
    return {"memory": {"rss_mib": figures}}


async def _peak(bench: Bench, size: int) -> float:
    if size <= bench.plan.contacts:
        contacts = await bench.contacts()
        dates = YEAR if size == contacts.count else await contacts.first(size)
    else:
        contacts, dates = await bench.contacts(size, 0, size // 10), YEAR
    async with bench.service(contacts) as service:
        export = await service.export(contacts.spaces[0], dates, BOTH)
        assert export.file is not None
        export.file.unlink()
        peak = peak_memory_mib(service.program.pid)
    bench.say(f"memory: {peak:.1f} MiB after {export.status['row_count']:,} contacts")
    return peak
