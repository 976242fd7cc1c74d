"""The service while other sessions hold the locks or the connections that it needs."""

import asyncio
from datetime import timedelta
from pathlib import Path

import asyncpg

from service.errors import DatabaseUnavailable
from service.postgres.pool import Database
from tests.support.calls import EXPORTS, call
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, tenant
from tests.support.export_checks import ROWS, assert_file_is_correct, blocked_reads, unexpected_errors, until_reading
from tests.support.jobs import connect, holding, release, until_waited_for
from tests.support.program import running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged, until_row

CLAIM_LOCK = "SELECT pg_advisory_xact_lock(hashtext('contact-exports'), hashtext('claim'))"


async def test_while_the_job_table_is_locked_requests_get_503_and_every_loop_continues_afterwards(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        first = await create(program, space)
        await until_ended(connection, first)
        async with holding(database_url, "LOCK TABLE export_jobs IN ACCESS EXCLUSIVE MODE"):
            posted = asyncio.create_task(call(program, "POST", EXPORTS, space, **WHOLE_RANGE))
            await until_logged(program, "claim_failed")
            assert (await call(program, "GET", "/healthz"))[0] == 200
            status, body, retry_after = await posted
            assert (status, retry_after, list(body)) == (503, "5", ["message", "request_id"])
            await until_logged(program, "loop_waits_for_database", loop="rescue")
        following = await create(program, space)
        assert (await until_ended(connection, following))["status"] == "completed"
        assert await connection.fetchval("SELECT count(*) FROM export_jobs") == 2
        assert unexpected_errors(program) == []


async def test_a_session_that_holds_the_claim_lock_blocks_claims_and_nothing_else(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        async with blocked_reads(database_url):
            running_export = await create(program, space)
            await until_reading(connection)
            async with connect(database_url) as session:
                await session.execute(f"BEGIN; {CLAIM_LOCK}")
                waiting_export = await create(program, space)
                await until_logged(program, "claim_failed")
                assert (await call(program, "GET", f"{EXPORTS}/{waiting_export}", space))[1]["status"] == "queued"
                before = await connection.fetchval("SELECT lease_until FROM export_jobs WHERE id = $1", running_export)
                renewed = "SELECT 1 FROM export_jobs WHERE id = $1 AND lease_until > $2"
                await until_row(connection, renewed, running_export, before)
        for export_id in (running_export, waiting_export):
            row = await until_ended(connection, export_id)
            assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert unexpected_errors(program) == []


async def test_requests_that_occupy_all_connections_do_not_delay_renewals(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await connection.execute(
        """CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN PERFORM pg_advisory_xact_lock_shared(4); RETURN NEW; END$$;
           CREATE TRIGGER wait_here BEFORE INSERT ON export_jobs FOR EACH ROW EXECUTE FUNCTION wait_here()"""
    )
    async with running({"DATABASE_URL": database_url, "LEASE_SECONDS": "6", **files.settings}) as program:
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            async with holding(database_url, "SELECT pg_advisory_xact_lock(4)"):
                other = await tenant(database_url)  # one Space alone leaves connections to the others
                posts = [
                    asyncio.create_task(call(program, "POST", EXPORTS, each, **WHOLE_RANGE))
                    for each in (space, other)
                    for _ in range(25)
                ]
                stuck = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory' HAVING count(*) = 8"
                await until_row(connection, stuck)
                before = await connection.fetchval("SELECT lease_until FROM export_jobs WHERE id = $1", export_id)
                await until_row(
                    connection, "SELECT 1 FROM export_jobs WHERE id = $1 AND lease_until > $2", export_id, before
                )
            assert {status for status, _, _ in await asyncio.gather(*posts)} <= {202, 503}
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert unexpected_errors(program) == []


async def test_waiting_too_long_for_a_connection_means_the_database_is_unavailable(database_url: str) -> None:
    async with (
        holding(database_url, "LOCK TABLE spaces IN ACCESS EXCLUSIVE MODE"),
        Database(database_url, application_name="tests", size=2, timeout=timedelta(seconds=2)) as database,
    ):
        responses = await asyncio.gather(*(database.fetch("list_spaces") for _ in range(50)), return_exceptions=True)
        assert {type(each) for each in responses} == {DatabaseUnavailable}
        assert await database.fetch_row("ping") is not None


async def test_a_completion_rolled_back_by_a_deadlock_is_repeated(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
    async with running({"DATABASE_URL": database_url, **files.settings}) as program, connect(database_url) as operator:
        await operator.execute("SET deadlock_timeout = '1min'")  # so that the other session is rolled back
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            await operator.execute("BEGIN; SELECT FROM export_attempts FOR UPDATE")
        await until_waited_for(connection, operator)
        await operator.execute("SELECT FROM export_jobs FOR UPDATE")
        await release(operator)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert "DeadlockDetectedError" in program.events("outcome_not_recorded")[0]["detail"]
        await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
        assert unexpected_errors(program) == []


async def test_a_row_locked_by_an_operator_loses_no_lease(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            async with holding(database_url, f"SELECT FROM export_jobs WHERE id = {export_id} FOR UPDATE"):
                held = await connection.fetchrow("SELECT now() AS since, lease_until FROM export_jobs")
                assert held is not None
                passed = "SELECT 1 WHERE clock_timestamp() > $1::timestamptz"
                await until_row(connection, passed, held["since"] + timedelta(seconds=3))
                assert await connection.fetchval("SELECT lease_until FROM export_jobs") == held["lease_until"]
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE lease_until > $1", held["lease_until"])
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert unexpected_errors(program) == []
