"""The service while the database is down for long, full, read-only or out of connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from tests.support.calls import EXPORTS, call
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, tenant
from tests.support.export_checks import NO_EXPORT_SESSION, ROWS, blocked_reads, unexpected_errors, until_reading
from tests.support.jobs import connect
from tests.support.program import Program, running, started
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_logged, until_row

pytestmark = pytest.mark.long

READER_WAITS_FOR_LOCK = """
SELECT 1 FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'contact-exports export' AND wait_event_type = 'Lock'"""


async def until_accepted(program: Program, space: Tenant) -> int:
    """Create exports until one is accepted; return its id."""

    async def accepted() -> int:
        status, body, _ = await call(program, "POST", EXPORTS, space, **WHOLE_RANGE)
        assert status in (202, 503)
        return int(body.get("export_id", 0))

    return await until(accepted)


async def test_a_process_aborts_its_attempts_when_the_database_is_down_for_longer_than_a_lease(
    database_url: str, connection: asyncpg.Connection, own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    own_postgres.start()
    lease = {"LEASE_SECONDS": "6"}
    settings = {"DATABASE_URL": own_postgres.dsn(), "CONTACTS_DATABASE_URL": database_url, **files.settings, **lease}
    async with running(settings) as program:
        space = await tenant(own_postgres.dsn())
        await add_contacts(connection, space.space_id, ROWS)
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_row(connection, READER_WAITS_FOR_LOCK)
            assert await files.uploads() != []
            own_postgres.stop("fast")
            await until_logged(program, "claim_lost")
            await until_row(connection, NO_EXPORT_SESSION)
            assert (await files.uploads(), await files.objects()) == ([], [])
            assert (await call(program, "GET", "/healthz"))[0] == 200
            assert (await call(program, "GET", "/readyz"))[0] == 503
        own_postgres.start()
        async with connect(own_postgres.dsn()) as main:
            row = await until_ended(main, export_id)
            assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)
            assert row["row_count"] == len(await expected_lines(connection, space.space_id))
        await program.ready()
        assert unexpected_errors(program) == []


async def test_running_exports_continue_and_others_wait_while_no_connection_is_available(
    tmp_path: Path, files: StoreUnderTest
) -> None:
    parameters = {"fsync": "off", "max_connections": "16", "superuser_reserved_connections": "0"}
    with EmbeddedPostgres(tmp_path / "postgres", parameters=parameters) as server:
        settings = {"DATABASE_URL": server.dsn(), "MAX_ATTEMPTS": "50", **files.settings}
        async with running(settings) as program, connect(server.dsn()) as connection:
            space = await tenant(server.dsn())
            await add_contacts(connection, space.space_id, 10)
            async with blocked_reads(server.dsn()):
                first = await create(program, space)
                await until_reading(connection)
                renewed = "SELECT 1 FROM export_jobs WHERE lease_until > claimed_at + interval '10.1 seconds'"
                await until_row(connection, renewed)
                async with all_connections(server.dsn()):
                    second = await create(program, space)
                    row = await until_row(connection, "SELECT * FROM export_jobs WHERE error_code IS NOT NULL")
                    assert (row["id"], row["error_code"]) == (second, "source_unavailable")
                    assert "TooManyConnections" in row["error_detail"]
                    async with started(settings) as late:
                        await until_logged(late, "waiting_for_database", "TooManyConnections")
            first_row, second_row = [await until_ended(connection, export_id) for export_id in (first, second)]
            assert (first_row["status"], first_row["attempts"], first_row["lost_leases"]) == ("completed", 1, 0)
            assert (second_row["status"], second_row["lost_leases"]) == ("completed", 0)
            assert unexpected_errors(program) == []


@asynccontextmanager
async def all_connections(url: str) -> AsyncIterator[None]:
    """Take all connections that the server has left, for the length of the block."""
    taken: list[asyncpg.Connection] = []
    try:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await asyncpg.connect(url))
        yield
    finally:
        for connection in taken:
            connection.terminate()


async def test_a_read_only_database_is_unavailable_until_it_accepts_writes(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    own_postgres.start()
    async with running({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        space = await tenant(own_postgres.dsn())
        async with connect(own_postgres.dsn()) as operator:
            await until_ended(operator, await create(program, space))
            await operator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await operator.execute("SELECT pg_reload_conf()")
            await until_logged(program, "claim_failed", "25006")
            status, _, retry_after = await call(program, "POST", EXPORTS, space, **WHOLE_RANGE)
            assert (status, retry_after) == (503, "5")
            await operator.execute("SET default_transaction_read_only = off")
            await operator.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await operator.execute("SELECT pg_reload_conf()")
            row = await until_ended(operator, await until_accepted(program, space))
            assert (row["status"], row["lost_leases"]) == ("completed", 0)
        assert unexpected_errors(program) == []


async def test_a_full_database_disk_refuses_new_exports_and_work_continues_when_there_is_space(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest, tmp_path: Path
) -> None:
    own_postgres.start()
    await migrate(own_postgres.dsn())
    space = await tenant(own_postgres.dsn())
    async with connect(own_postgres.dsn()) as connection:
        tables = [
            tmp_path / "postgres" / "cluster" / await connection.fetchval("SELECT pg_relation_filepath($1)", name)
            for name in ("export_jobs", "export_attempts")
        ]
    own_postgres.stop("fast")
    for table in tables:
        fill(table)
    own_postgres.start()
    async with running({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        status, _, retry_after = await call(program, "POST", EXPORTS, space, **WHOLE_RANGE)
        assert (status, retry_after) == (503, "5")
        assert "DiskFullError" in program.events("request_refused")[0]["detail"]
        empty(tables[0])
        export_id = await until_accepted(program, space)
        await until_logged(program, "claim_failed", "DiskFullError")
        empty(tables[1])
        async with connect(own_postgres.dsn()) as connection:
            row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert unexpected_errors(program) == []


def fill(table: Path) -> None:
    """Replace the file of an empty table by /dev/full, on which every write fails with ENOSPC."""
    table.rename(table.with_suffix(".kept"))
    table.symlink_to("/dev/full")


def empty(table: Path) -> None:
    """Restore the file of the empty table."""
    table.with_suffix(".kept").rename(table)
