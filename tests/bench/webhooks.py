"""What 1,000 endpoints that hang cost exports: CPU time of an export and time until a claim, in turns with and without them.

Every endpoint accepts connections and never responds. One webhook is due for each at the start of a round with them; a round
without them has the same rows, which are due in a year.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from statistics import median

import asyncpg

from tests.bench.bench import Bench, Figures
from tests.bench.dataset import Contacts
from tests.bench.ours import Service
from tests.bench.percentiles import percentile
from tests.bench.workloads import BASE, EMPTY, YEAR

_ENDPOINTS = 1000
_ADD = """
WITH added AS (
  INSERT INTO spaces (name, timezone) SELECT 'Bench webhooks', 'UTC' FROM generate_series(1, $1::int) RETURNING id
), endpoints AS (
  INSERT INTO webhook_endpoints (space_id, url) SELECT id, 'https://127.0.0.1:' || $2::int || '/' FROM added
)
INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts)
SELECT id, '2030-01-01', '2030-01-02', 'UTC', '2030-01-01Z', '2030-01-02Z', 5 FROM added
"""
_END = "UPDATE export_jobs SET status = 'cancelled', finished_at = now() WHERE status = 'queued'"
_DUE = "UPDATE webhook_deliveries SET next_at = now() + $1::interval, attempts = 0 WHERE outcome IS NULL"
_IN_FLIGHT = "SELECT count(*) FROM webhook_endpoints WHERE lease_until > now()"
_REMOVE = "DELETE FROM export_jobs WHERE space_id IN (SELECT id FROM spaces WHERE name = 'Bench webhooks')"
_REMOVE_SPACES = "DELETE FROM spaces WHERE name = 'Bench webhooks'"
_WAIT = "SELECT claimed_at - created_at AS wait FROM export_jobs WHERE id = ANY ($1)"

Round = dict[str, float]


async def measure(bench: Bench) -> Figures:
    """Least, median and greatest of all rounds, for both sides: CPU seconds of an export, and p95 until a claim."""
    contacts = await bench.contacts()
    sides: dict[str, list[Round]] = {"without": [], "hanging": []}
    async with _hanging() as port, _endpoints(contacts, port) as sql:
        settings = {"WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8", "WEBHOOK_TIMEOUT_SECONDS": "5"}
        async with bench.service(contacts, settings) as service:
            for number in range(max(bench.plan.rounds, 2)):
                for side in list(sides) if number % 2 else reversed(list(sides)):
                    bench.say(f"webhooks: round {number + 1}, {side}")
                    await _prepare(sql, hanging=side == "hanging")
                    sides[side].append(await _round(bench, sql, service, contacts))
    return {"webhooks": {side: _spread(rounds) for side, rounds in sides.items()}}


async def _prepare(sql: asyncpg.Connection, *, hanging: bool) -> None:
    """Make the webhooks due, or due in a year, and wait until as many are in flight as there will be."""
    await sql.execute(_DUE, timedelta(0) if hanging else timedelta(days=365))
    while bool(await sql.fetchval(_IN_FLIGHT)) != hanging:
        await asyncio.sleep(0.1)


async def _round(bench: Bench, sql: asyncpg.Connection, service: Service, contacts: Contacts) -> Round:
    space = contacts.spaces[0]
    export = await service.export(space, YEAR, BASE)
    ids = []
    for _ in range(bench.plan.shorter(30, 5)):
        ids.append(await service.create(space, EMPTY, BASE))
        await service.ended(space, ids[-1], pause=0.05)
    waits = [row["wait"] / timedelta(milliseconds=1) for row in await sql.fetch(_WAIT, ids)]
    return {"export_cpu_s": export.cpu_client, "export_s": export.seconds, "create_to_claim_p95_ms": percentile(waits, 95)}


def _spread(rounds: list[Round]) -> Figures:
    return {
        f"{name}_{which}": choose(each[name] for each in rounds)
        for name in rounds[0]
        for which, choose in (("min", min), ("median", median), ("max", max))
    }


@asynccontextmanager
async def _hanging() -> AsyncIterator[int]:
    """A server that accepts connections and never sends a byte; yields its port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", backlog=_ENDPOINTS)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _endpoints(contacts: Contacts, port: int) -> AsyncIterator[asyncpg.Connection]:
    """Spaces with an endpoint and one webhook each; removed at the end, because other parts use the same database."""
    sql = await asyncpg.connect(contacts.dsn)
    try:
        await sql.execute(_ADD, _ENDPOINTS, port)
        await sql.execute(_END)
        await sql.execute("VACUUM ANALYZE export_jobs, webhook_deliveries, webhook_endpoints")
        yield sql
    finally:
        await sql.execute(_REMOVE)
        await sql.execute(_REMOVE_SPACES)
        await sql.close()
