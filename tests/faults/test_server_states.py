"""What the service does with a server that is down for long, full, read-only, or has no connection to give."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from tests.faults.test_lost_sessions import NO_EXPORT_SESSION, crashes
from tests.faults.test_outages import EXPORTS, answer, connected
from tests.faults.test_worker_death import ROWS, create, held_up, until_in_the_middle
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, tenant
from tests.support.program import Program, running, started
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_row

READER_WAITS = """
SELECT 1 FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'contact-exports export' AND wait_event_type = 'Lock'"""


async def logged(program: Program, event: str, detail: str = "") -> bool:
    """Whether the program has logged this, with this text in its detail."""
    return any(detail in line.get("detail", "") for line in program.events(event))


async def until_accepted(program: Program, space: Tenant) -> int:
    """Ask for exports until one is accepted; its id."""

    async def accepted() -> int:
        status, body, _ = await answer(program, "POST", EXPORTS, space, **WHOLE_RANGE)
        assert status in (202, 503)
        return int(body.get("export_id", 0))

    return await until(accepted)


async def test_a_process_stops_its_work_by_itself_when_the_database_is_down_for_longer_than_a_lease(
    database_url: str, connection: asyncpg.Connection, own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    own_postgres.start()
    settings = {"DATABASE_URL": own_postgres.dsn(), "CONTACTS_DATABASE_URL": database_url, **files.settings}
    async with running(settings) as program:
        space = await tenant(own_postgres.dsn())
        await add_contacts(connection, space.space_id, ROWS)
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_row(connection, READER_WAITS)
            assert await files.uploads() != []
            own_postgres.stop("fast")
            await until(lambda: logged(program, "claim_lost"))
            await until_row(connection, NO_EXPORT_SESSION)
            assert (await files.uploads(), await files.objects()) == ([], [])
            assert (await answer(program, "GET", "/healthz"))[0] == 200
            assert (await answer(program, "GET", "/readyz"))[0] == 503
        own_postgres.start()
        async with connected(own_postgres.dsn()) as main:
            row = await until_ended(main, export_id)
            assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)
            assert row["row_count"] == len(await expected_lines(connection, space.space_id))
        await program.ready()
        assert crashes(program) == []


async def test_where_no_connection_is_left_what_runs_goes_on_and_the_rest_waits(
    tmp_path: Path, files: StoreUnderTest
) -> None:
    parameters = {"fsync": "off", "max_connections": "16", "superuser_reserved_connections": "0"}
    with EmbeddedPostgres(tmp_path / "postgres", parameters=parameters) as server:
        settings = {"DATABASE_URL": server.dsn(), "MAX_ATTEMPTS": "50", **files.settings}
        async with running(settings) as program, connected(server.dsn()) as connection:
            space = await tenant(server.dsn())
            await add_contacts(connection, space.space_id, 10)
            async with held_up(server.dsn()):
                first = await create(program, space)
                await until_in_the_middle(connection)
                renewed = "SELECT 1 FROM export_jobs WHERE lease_until > claimed_at + interval '2.1 seconds'"
                await until_row(connection, renewed)
                async with all_connections(server.dsn()):
                    second = await create(program, space)
                    row = await until_row(connection, "SELECT * FROM export_jobs WHERE error_code IS NOT NULL")
                    assert (row["id"], row["error_code"]) == (second, "source_unavailable")
                    assert "TooManyConnections" in row["error_detail"]
                    async with started(settings) as late:
                        await until(lambda: logged(late, "waiting_for_database", "TooManyConnections"))
            first_row, second_row = [await until_ended(connection, export_id) for export_id in (first, second)]
            assert (first_row["status"], first_row["attempts"], first_row["lost_leases"]) == ("completed", 1, 0)
            assert (second_row["status"], second_row["lost_leases"]) == ("completed", 0)
            assert crashes(program) == []


@asynccontextmanager
async def all_connections(url: str) -> AsyncIterator[None]:
    """Take all connections that the server has left."""
    taken: list[asyncpg.Connection] = []
    try:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await asyncpg.connect(url))
        yield
    finally:
        for connection in taken:
            connection.terminate()


async def test_a_server_that_turned_read_only_is_unavailable_until_it_takes_writes_again(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    own_postgres.start()
    async with running({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        space = await tenant(own_postgres.dsn())
        async with connected(own_postgres.dsn()) as operator:
            await until_ended(operator, await create(program, space))
            await operator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await operator.execute("SELECT pg_reload_conf()")
            await until(lambda: logged(program, "claim_failed", "25006"))
            status, _, retry_after = await answer(program, "POST", EXPORTS, space, **WHOLE_RANGE)
            assert (status, retry_after) == (503, "5")
            await operator.execute("SET default_transaction_read_only = off")
            await operator.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await operator.execute("SELECT pg_reload_conf()")
            row = await until_ended(operator, await until_accepted(program, space))
            assert (row["status"], row["lost_leases"]) == ("completed", 0)
        assert crashes(program) == []


async def test_a_full_disk_of_the_database_refuses_what_is_new_and_all_goes_on_when_there_is_room(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest, tmp_path: Path
) -> None:
    own_postgres.start()
    await migrate(own_postgres.dsn())
    space = await tenant(own_postgres.dsn())
    async with connected(own_postgres.dsn()) as connection:
        tables = [
            tmp_path / "postgres" / "cluster" / await connection.fetchval("SELECT pg_relation_filepath($1)", name)
            for name in ("export_jobs", "export_attempts")
        ]
    own_postgres.stop("fast")
    for table in tables:
        fill(table)
    own_postgres.start()
    async with running({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        status, _, retry_after = await answer(program, "POST", EXPORTS, space, **WHOLE_RANGE)
        assert (status, retry_after) == (503, "5")
        assert "DiskFullError" in program.events("request_refused")[0]["detail"]
        empty(tables[0])
        export_id = await until_accepted(program, space)
        await until(lambda: logged(program, "claim_failed", "DiskFullError"))
        empty(tables[1])
        async with connected(own_postgres.dsn()) as connection:
            row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert crashes(program) == []


def fill(table: Path) -> None:
    """Put in the place of an empty table's file one that is on a full disk: the kernel's own."""
    table.rename(table.with_suffix(".kept"))
    table.symlink_to("/dev/full")


def empty(table: Path) -> None:
    """Put the empty file back."""
    table.with_suffix(".kept").rename(table)
