"""The job table as tests see it: what the service does with it, and plain SQL beside that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from service.model import Claim, ExportRequest, Extra, NewExport, StoredFile, Window
from service.postgres.claims import Claims, Progress, Renewal
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from tests.support.waiting import until

FILE = StoredFile(row_count=3, size=100, sha256="ab" * 32)
AT = datetime(2024, 1, 16, 9, 30, tzinfo=UTC)
LEASE = timedelta(minutes=5)
REQUEST = ExportRequest(datetime(2024, 1, 15), datetime(2024, 1, 15, 23, 59, 59), (Extra.EMAILS,))
WINDOW = Window(datetime(2024, 1, 15, tzinfo=UTC), datetime(2024, 1, 16, tzinfo=UTC))


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection, terminated at the end whatever it is doing."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session, in a transaction that did this and is rolled back at the end."""
    async with connect(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        try:
            yield connection
        finally:
            await transaction.rollback()


async def until_waited_for(sql: asyncpg.Connection, holder: asyncpg.Connection) -> None:
    """Returns once another session waits for a lock that this one holds."""
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND $1 = ANY (pg_blocking_pids(pid)))"
    await until(lambda: sql.fetchval(query, holder.get_server_pid()))


async def release(holder: asyncpg.Connection) -> None:
    """Let a session of `holding` give up what it holds before its end."""
    await holder.execute("ROLLBACK; BEGIN")


@dataclass(frozen=True)
class JobTable:
    """`sql` is a connection of the test's own; `claims` are on others."""

    url: str
    database: Database
    claims: Claims
    sql: asyncpg.Connection

    async def space(self, *, max_running: int | None = None) -> int:
        """The id of a new Space."""
        insert = "INSERT INTO spaces (name, timezone, max_running_exports) VALUES ('a space', 'UTC', $1) RETURNING id"
        return int(await self.sql.fetchval(insert, max_running))

    async def queue(self, space_id: int, *, max_attempts: int = 5, **columns: object) -> int:
        """The id of a new export, queued as the API does it; then these columns are set."""
        new = NewExport(space_id, REQUEST, "UTC", WINDOW, max_attempts, "a request")
        export_id = (await ExportJobs(self.database).insert(new)).job.export_id
        await self.set(export_id, **columns)
        return export_id

    async def queue_many(self, space_ids: list[int]) -> list[int]:
        """The ids of new exports of these Spaces, in this order."""
        rows = await self.sql.fetch(
            "INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to,"
            " extras, max_attempts) SELECT space_id, '2024-01-15', '2024-01-15 23:59:59',"
            " 'UTC', '2024-01-15Z', '2024-01-16Z', '{emails}', 5 FROM unnest($1::bigint[]) space_id RETURNING id",
            space_ids,
        )
        return [row["id"] for row in rows]

    async def set(self, export_id: int, **columns: object) -> None:
        """Change columns of an export by hand. Values are SQL expressions where they are text."""
        for name, value in columns.items():
            await self.sql.execute(f"UPDATE export_jobs SET {name} = {value} WHERE id = $1", export_id)

    async def try_claim(
        self, worker: str = "a worker", *, lease: timedelta = LEASE, space_slots: int = 64, alone: bool = True
    ) -> Claim | None:
        """What a worker gets that asks now."""
        return await self.claims.claim(worker, lease=lease, space_slots=space_slots, alone=alone)

    async def claim(self, worker: str = "a worker", *, lease: timedelta = LEASE, space_slots: int = 64) -> Claim:
        """The claim of a worker that asks now; there must be one."""
        claim = await self.try_claim(worker, lease=lease, space_slots=space_slots)
        assert claim is not None
        return claim

    async def claimed(self, *, max_attempts: int = 5, **columns: object) -> Claim:
        """The claim of a new export of a new Space; then these columns are set. Nothing else may be waiting."""
        export_id = await self.queue(await self.space(), max_attempts=max_attempts)
        claim = await self.claim()
        assert claim.export_id == export_id
        await self.set(export_id, **columns)
        return claim

    async def complete(self, claim: Claim) -> bool:
        """Publish a file that was never written."""
        return await self.claims.complete(
            claim, FILE, snapshot_at=AT, complete_until=None, file_lifetime=timedelta(hours=24)
        )

    async def renew(self, claim: Claim, progress: Progress | None = None) -> Renewal:
        """What a renewal of this claim says."""
        answer = await self.claims.renew({claim.claim_id: progress or Progress()}, lease=LEASE)
        return answer[claim.claim_id]

    async def lose(self, claim: Claim) -> None:
        """Let the lease run out and be noticed."""
        await self.set(claim.export_id, lease_until="now() - interval '1 second'")
        rescued = await self.claims.rescue(pause=timedelta(0))
        assert [each.claim_id for each in rescued] == [claim.claim_id]

    async def cancel(self, export_id: int) -> None:
        """End a waiting or running export, as by hand."""
        assert await self.sql.fetchval("SELECT status FROM cancel_export($1)", export_id) == "cancelled"

    async def job(self, export_id: int) -> asyncpg.Record:
        """The row of an export."""
        row = await self.sql.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
        assert row is not None
        return row

    async def attempt(self, claim: Claim) -> asyncpg.Record:
        """The row of an attempt."""
        row = await self.sql.fetchrow("SELECT * FROM export_attempts WHERE claim_id = $1", claim.claim_id)
        assert row is not None
        return row

    async def everything(self) -> list[list[tuple[Any, ...]]]:
        """All that both tables hold, to be compared."""
        return [
            [tuple(row) for row in await self.sql.fetch(f"SELECT * FROM {table} ORDER BY 1")]
            for table in ("export_jobs", "export_attempts")
        ]


@asynccontextmanager
async def job_table(url: str, *, connections: int = 5) -> AsyncIterator[JobTable]:
    """The job table of this database; claims are made on up to so many connections at once."""
    async with (
        Database(url, application_name="tests", size=connections) as database,
        Database(url, application_name="tests renewals", size=1) as renewals,
        connect(url) as sql,
    ):
        yield JobTable(url, database, Claims(database, renewals=renewals), sql)
