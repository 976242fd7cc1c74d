"""Time until an export is claimed: on an idle service, and from a long queue."""

import json
import time
from datetime import UTC, datetime, timedelta
from statistics import median

import asyncpg

from sql import statement
from tests.bench.bench import Bench, Figures
from tests.bench.dataset import empty_database
from tests.bench.percentiles import percentile
from tests.bench.workloads import BASE, EMPTY

_QUEUED = 10_000
_LEASE = timedelta(seconds=30)

_QUEUE = """
WITH made AS (INSERT INTO spaces (name, timezone) SELECT 'Bench', 'UTC' FROM generate_series(1, $1) RETURNING id),
     numbered AS (SELECT id, row_number() OVER () - 1 AS number FROM made)
INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts)
SELECT s.id, '2030-01-01', '2030-01-02', 'UTC', '2030-01-01Z', '2030-01-02Z', 5
  FROM generate_series(1, $2) job JOIN numbered s ON s.number = job % $1
"""


async def measure(bench: Bench) -> Figures:
    """Creation to claim by the times in the rows; one claim by the server's clock, in a transaction that is rolled back."""
    rows, from_request = await _create(bench)
    return {
        "queue": {
            "create_to_claim_p95_ms": percentile(rows, 95),
            "post_to_claim_p95_ms": percentile(from_request, 95),
            "claim_ms_at_10000": await _claim(bench, spaces=100),
            "claim_ms_at_10000_of_as_many_spaces": await _claim(bench, spaces=_QUEUED),
        }
    }


async def _create(bench: Bench) -> tuple[list[float], list[float]]:
    """Milliseconds from the row's creation and from just before the request to the claim, one export after another."""
    contacts = await bench.contacts()
    bench.say("queue: exports on an idle service")
    ids, posted = [], {}
    async with bench.service(contacts) as service:
        for _ in range(bench.plan.shorter(100, 20)):
            before = time.time()
            export_id = await service.create(contacts.spaces[0], EMPTY, BASE)
            posted[export_id] = datetime.fromtimestamp(before, UTC)
            await service.ended(contacts.spaces[0], export_id, pause=0.05)
            ids.append(export_id)
    connection = await asyncpg.connect(contacts.dsn)
    try:
        rows = await connection.fetch("SELECT id, created_at, claimed_at FROM export_jobs WHERE id = ANY ($1)", ids)
    finally:
        await connection.close()
    return (
        [_milliseconds(row["claimed_at"] - row["created_at"]) for row in rows],
        [_milliseconds(row["claimed_at"] - posted[row["id"]]) for row in rows],
    )


async def _claim(bench: Bench, *, spaces: int) -> float:
    """Milliseconds of one claim while 10,000 exports wait."""
    bench.say(f"queue: {_QUEUED:,} waiting exports of {spaces:,} Spaces")
    connection = await asyncpg.connect(await empty_database(bench.server, "queued"))
    try:
        await connection.execute(_QUEUE, spaces, _QUEUED)
        await connection.execute("VACUUM ANALYZE export_jobs, spaces")
        durations: list[float] = []
        for _ in range(bench.plan.shorter(50, 5)):
            transaction = connection.transaction()
            await transaction.start()
            explain = "EXPLAIN (ANALYZE, FORMAT JSON) " + statement("claim_export")
            plan = json.loads(await connection.fetchval(explain, "bench", _LEASE, 2, True))
            await transaction.rollback()
            assert plan[0]["Plan"]["Actual Rows"] == 1
            durations.append(plan[0]["Planning Time"] + plan[0]["Execution Time"])
        return median(durations)
    finally:
        await connection.close()


def _milliseconds(duration: timedelta) -> float:
    return duration / timedelta(milliseconds=1)
