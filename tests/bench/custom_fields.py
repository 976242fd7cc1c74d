"""An export that does not ask for custom fields, from contacts that have none and from contacts that all have some."""

from contextlib import AsyncExitStack
from statistics import median

from tests.bench.bench import Bench, Figures
from tests.bench.workloads import BASE, YEAR

CONTACTS = 200_000
_KINDS = {"null": False, "filled": True}
_CHECK_SECONDS = 0.001


async def measure(bench: Bench) -> Figures:
    """Medians of the seconds and of the server's CPU seconds, and filled in relation to null. The two alternate."""
    count = min(CONTACTS, bench.plan.contacts)
    seconds: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    cpu: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    async with AsyncExitStack() as stack:
        contacts = {kind: await bench.contacts(count, 0, custom_fields=filled) for kind, filled in _KINDS.items()}
        services = {kind: await stack.enter_async_context(bench.service(each)) for kind, each in contacts.items()}
        bench.say(f"custom fields that nobody asks for: {count:,} contacts, alternating")
        for _ in range(1 + bench.plan.shorter(15, 3)):
            for kind, service in services.items():
                export = await service.export(contacts[kind].spaces[0], YEAR, BASE, check=_CHECK_SECONDS)
                assert export.file is not None
                export.file.unlink()
                seconds[kind].append(export.seconds)
                cpu[kind].append(export.cpu_server)
    # The first round warms the caches.
    figures: Figures = {
        "seconds": {kind: median(each[1:]) for kind, each in seconds.items()},
        "cpu_server_s": {kind: median(each[1:]) for kind, each in cpu.items()},
    }
    figures["filled_vs_null"] = figures["seconds"]["filled"] / figures["seconds"]["null"]
    return {"custom_fields": figures}
