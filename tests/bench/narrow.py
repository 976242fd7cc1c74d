"""Exports of 1,000 contacts from a small and from a large table; the duration must not depend on the table."""

from contextlib import AsyncExitStack
from statistics import median

import asyncpg

from service.postgres.extras import read_contacts
from tests.bench.bench import Bench, Figures
from tests.bench.dataset import Contacts
from tests.bench.memory import LARGE
from tests.bench.ours import Service
from tests.bench.workloads import BOTH, Dates

_CONTACTS = 1000
_SMALL = 100_000
_CHECK_SECONDS = 0.001


async def measure(bench: Bench) -> Figures:
    """Milliseconds per export, with both extras. The large table is the plan's, or 10 million contacts with `--large`."""
    plan = bench.plan
    small = await bench.contacts(min(_SMALL, plan.contacts // 10), 0)
    large = await (bench.contacts(LARGE, 0, LARGE // 10) if plan.large else bench.contacts())
    tables = {"small_table": small, "large_table": large}
    # The first contacts have tokens and email addresses in every table.
    dates = {name: await contacts.first(_CONTACTS) for name, contacts in tables.items()}
    durations: dict[str, list[float]] = {name: [] for name in tables}
    bench.say(f"narrow range: {_CONTACTS:,} of {small.count:,} and of {large.count:,}, alternating")
    async with AsyncExitStack() as stack:
        services = {name: await stack.enter_async_context(bench.service(each)) for name, each in tables.items()}
        for _ in range(plan.shorter(30, 5)):
            for name, service in services.items():
                durations[name].append(await _milliseconds(service, tables[name], dates[name]))
    figures = {
        **{name: median(each) for name, each in durations.items()},
        "contacts": {name: each.count for name, each in tables.items()},
        "plan": {name: await _plan(each, dates[name]) for name, each in tables.items()},
    }
    return {"narrow_range_ms": figures}


async def _milliseconds(service: Service, contacts: Contacts, dates: Dates) -> float:
    export = await service.export(contacts.spaces[0], dates, BOTH, check=_CHECK_SECONDS)
    assert export.file is not None
    assert export.status["row_count"] >= _CONTACTS
    export.file.unlink()
    return export.seconds * 1000


async def _plan(contacts: Contacts, dates: Dates) -> list[str]:
    connection = await asyncpg.connect(contacts.dsn, server_settings={"jit": "off"})
    try:
        query = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + read_contacts(["extra_comet_tokens", "extra_emails_unique"])
        arguments = (contacts.spaces[0].space_id, dates.start, dates.end)
        return [row[0] for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()
