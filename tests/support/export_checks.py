"""Steps and checks for tests that break something while an export runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from service.client import ExportClient
from tests.support.contacts import Tenant, expected_lines, lines_of
from tests.support.program import Program
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_cleaned, until_row

ROWS = 3000
"""Contacts of an export whose file has several parts of the smallest size."""
READ_CONTACTS = "ORDER BY c.created_at, c.id"
"""Occurs only in the statement that reads the contacts of an export."""
BLOCK_READS = "LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE"
"""While a session holds this lock, exports with tokens wait in their first read."""
EXPORT_SESSION = "contact-exports export"
NO_EXPORT_SESSION = f"""
SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name = '{EXPORT_SESSION}')"""
_UNEXPECTED = {
    *("attempt_crashed", "attempt_not_recorded", "claim_crashed"),
    *("loop_step_failed", "request_failed", "outcome_refused"),
}
"""Events that are logged with a traceback, because the service did not expect the error."""


@asynccontextmanager
async def blocked_reads(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Block exports with tokens in their first read until the block ends or the connection ends its transaction."""
    blocker = await asyncpg.connect(database_url)
    try:
        await blocker.execute(f"BEGIN; {BLOCK_READS}")
        yield blocker
    finally:
        blocker.terminate()


async def until_reading(connection: asyncpg.Connection) -> None:
    """Wait until the only running attempt has begun its upload and waits in its first read."""
    await until_row(
        connection,
        """SELECT 1 FROM export_attempts a JOIN export_jobs j ON j.claim_id = a.claim_id
            WHERE a.upload_id IS NOT NULL
              AND EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')""",
    )


async def expire_leases(connection: asyncpg.Connection, *export_ids: int) -> None:
    """Expire the leases of these running exports, or of all, as if their worker had been dead for a lease."""
    await connection.execute(
        """UPDATE export_jobs SET lease_until = now() - interval '1 second'
            WHERE status = 'processing' AND ($1::bigint[] = '{}' OR id = ANY ($1))""",
        export_ids,
    )


async def assert_file_is_correct(
    connection: asyncpg.Connection, program: Program, space: Tenant, store: StoreUnderTest, export_id: int, path: Path
) -> None:
    """Check the file, and that no other object, no upload and no database session of an export remains."""
    async with ExportClient(program.address, space.key) as client:
        file = await client.download(await client.wait(export_id), path)
    row = await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
    assert row is not None
    assert row["sha256"] == file.sha256
    tokens = "comet_tokens" in row["extras"]
    assert lines_of(file.path) == await expected_lines(connection, space.space_id, tokens=tokens)

    async def only_the_file_is_left() -> bool:
        return await store.uploads() == [] and await store.objects() == [row["object_name"]]

    await until_cleaned(connection)
    await until(only_the_file_is_left)
    await until_row(connection, NO_EXPORT_SESSION)


def unexpected_errors(program: Program) -> list[str]:
    """Return the errors that the program logged as unexpected: the event, the types and the texts."""
    return [
        f"{line['event']}: {[(each['exc_type'], each['exc_value']) for each in line.get('exception', [])]}"
        for line in program.log
        if line.get("event") in _UNEXPECTED
    ]


async def outcomes(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    """Return outcome and error code of every attempt, in the order in which they started."""
    rows = await connection.fetch("SELECT outcome, error_code FROM export_attempts ORDER BY started_at")
    return [tuple(row) for row in rows]
