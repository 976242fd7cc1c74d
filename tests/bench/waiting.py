"""Time from the end of an export to the response of a client that waits for it (`Prefer: wait=30`)."""

import time

import aiohttp
import asyncpg

from tests.bench.bench import Bench, Figures
from tests.bench.percentiles import percentile
from tests.bench.workloads import BASE, EMPTY


async def measure(bench: Bench) -> Figures:
    """Milliseconds from `finished_at` of the row, which the database sets before its commit, to the complete response."""
    contacts = await bench.contacts()
    space = contacts.spaces[0]
    headers = {**space.headers, "Prefer": "wait=30"}
    received: dict[int, float] = {}
    bench.say("waiting: from the end of an export to the response")
    async with bench.service(contacts) as service, aiohttp.ClientSession() as session:
        for _ in range(bench.plan.shorter(200, 20)):
            # The creation itself waits, so that no export ends before its client waits.
            body = {**EMPTY.body, **BASE.body}
            async with session.post(service.url, json=body, headers=headers) as response:
                status = await response.json()
            received[status["export_id"]] = time.time()
            assert status["status"] == "completed", status
    connection = await asyncpg.connect(contacts.dsn)
    try:
        rows = await connection.fetch("SELECT id, finished_at FROM export_jobs WHERE id = ANY ($1)", list(received))
    finally:
        await connection.close()
    durations = [(received[row["id"]] - row["finished_at"].timestamp()) * 1000 for row in rows]
    return {"waiting": {f"end_to_response_p{percent}_ms": percentile(durations, percent) for percent in (50, 95)}}
