"""The job table for tests: the service's classes and plain SQL."""

import asyncio
import threading
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
    """A plain connection, terminated at the end even during a statement."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


def end_session(url: str, pid: int) -> None:
    """Terminate a server session from a thread and return when it has ended; the event loop does not notice meanwhile."""

    async def end() -> None:
        async with connect(url) as connection:
            await connection.execute("SELECT pg_terminate_backend($1)", pid)
            while await connection.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid):
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(end()))
    thread.start()
    thread.join()


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session in a transaction that ran this statement and is rolled back at the end."""
    async with connect(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        try:
            yield connection
        finally:
            await transaction.rollback()


async def until_waited_for(sql: asyncpg.Connection, holder: asyncpg.Connection) -> None:
    """Return when another session waits for a lock of this one."""
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND $1 = ANY (pg_blocking_pids(pid)))"
    await until(lambda: sql.fetchval(query, holder.get_server_pid()))


async def release(holder: asyncpg.Connection) -> None:
    """Release the locks of a session of `holding` early."""
    await holder.execute("ROLLBACK; BEGIN")


@dataclass(frozen=True)
class JobTable:
    """`sql` is a separate connection of the test; `claims` uses the pools."""

    url: str
    database: Database
    claims: Claims
    sql: asyncpg.Connection

    async def space(self, *, max_running: int | None = None) -> int:
        """Add a Space; returns its id."""
        insert = "INSERT INTO spaces (name, timezone, max_running_exports) VALUES ('a space', 'UTC', $1) RETURNING id"
        return int(await self.sql.fetchval(insert, max_running))

    async def queue(self, space_id: int, *, max_attempts: int = 5, **columns: object) -> int:
        """Queue an export like the API, then set these columns; returns its id."""
        new = NewExport(space_id, REQUEST, "UTC", WINDOW, max_attempts, "a request")
        export_id = (await ExportJobs(self.database).insert(new)).job.export_id
        await self.set(export_id, **columns)
        return export_id

    async def queue_many(self, space_ids: list[int]) -> list[int]:
        """Queue one export for each of these Spaces; returns the ids in the same order."""
        rows = await self.sql.fetch(
            "INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to,"
            " extras, max_attempts) SELECT space_id, '2024-01-15', '2024-01-15 23:59:59',"
            " 'UTC', '2024-01-15Z', '2024-01-16Z', '{emails}', 5 FROM unnest($1::bigint[]) space_id RETURNING id",
            space_ids,
        )
        return [row["id"] for row in rows]

    async def set(self, export_id: int, **columns: object) -> None:
        """Set columns of an export with plain SQL. Values are SQL expressions."""
        for name, value in columns.items():
            await self.sql.execute(f"UPDATE export_jobs SET {name} = {value} WHERE id = $1", export_id)

    async def try_claim(
        self, worker: str = "a worker", *, lease: timedelta = LEASE, space_slots: int = 64, alone: bool = True
    ) -> Claim | None:
        """Claim an export; None if there is none."""
        return await self.claims.claim(worker, lease=lease, space_slots=space_slots, alone=alone)

    async def claim(self, worker: str = "a worker", *, lease: timedelta = LEASE, space_slots: int = 64) -> Claim:
        """Claim an export; there must be one."""
        claim = await self.try_claim(worker, lease=lease, space_slots=space_slots)
        assert claim is not None
        return claim

    async def claimed(self, *, max_attempts: int = 5, **columns: object) -> Claim:
        """Claim a new export of a new Space, then set these columns. The queue must be empty before."""
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
        """Renew this claim."""
        answer = await self.claims.renew({claim.claim_id: progress or Progress()}, lease=LEASE)
        return answer[claim.claim_id]

    async def lose(self, claim: Claim) -> None:
        """Let the lease expire and rescue the export."""
        await self.set(claim.export_id, lease_until="now() - interval '1 second'")
        rescued = await self.claims.rescue(pause=timedelta(0))
        assert [each.claim_id for each in rescued] == [claim.claim_id]

    async def cancel(self, export_id: int) -> None:
        """Cancel a queued or running export like an operator."""
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
        """All rows of both tables, for comparison."""
        return [
            [tuple(row) for row in await self.sql.fetch(f"SELECT * FROM {table} ORDER BY 1")]
            for table in ("export_jobs", "export_attempts")
        ]


@asynccontextmanager
async def job_table(url: str, *, connections: int = 5) -> AsyncIterator[JobTable]:
    """The job table of this database, with a pool of this many connections."""
    async with (
        Database(url, application_name="tests", size=connections) as database,
        Database(url, application_name="tests renewals", size=1) as renewals,
        connect(url) as sql,
    ):
        yield JobTable(url, database, Claims(database, renewals=renewals), sql)
