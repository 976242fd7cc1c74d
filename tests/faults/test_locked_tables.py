"""What the service does while other sessions hold locks that it needs, or connections that it needs."""

import asyncio
from datetime import timedelta
from pathlib import Path

import asyncpg

from service.errors import DatabaseUnavailable
from service.postgres.pool import Database
from tests.faults.test_lost_sessions import crashes
from tests.faults.test_outages import EXPORTS, answer
from tests.faults.test_worker_death import ROWS, assert_file_is_right, create, held_up, until_in_the_middle
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts
from tests.support.jobs import connect, holding, release, until_waited_for
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_row

CLAIM_LOCK = "SELECT pg_advisory_xact_lock(hashtext('contact-exports'), hashtext('claim'))"


async def logged(program: Program, event: str, **fields: str) -> bool:
    """Whether the program has logged this, with these fields."""
    return any(fields.items() <= line.items() for line in program.events(event))


async def test_while_the_job_table_is_locked_calls_end_in_503_and_every_loop_goes_on_afterwards(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        first = await create(program, space)
        await until_ended(connection, first)
        async with holding(database_url, "LOCK TABLE export_jobs IN ACCESS EXCLUSIVE MODE"):
            posted = asyncio.create_task(answer(program, "POST", EXPORTS, space, **WHOLE_RANGE))
            await until(lambda: logged(program, "claim_failed"))
            assert (await answer(program, "GET", "/healthz"))[0] == 200
            status, body, retry_after = await posted
            assert (status, retry_after, list(body)) == (503, "5", ["message", "request_id"])
            await until(lambda: logged(program, "loop_waits_for_database", loop="rescue"))
        following = await create(program, space)
        assert (await until_ended(connection, following))["status"] == "completed"
        assert await connection.fetchval("SELECT count(*) FROM export_jobs") == 2
        assert crashes(program) == []


async def test_a_session_that_stalls_in_its_claim_holds_up_claims_and_nothing_else(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, "LEASE_SECONDS": "1", **files.settings}) as program:
        async with held_up(database_url):
            running_export = await create(program, space)
            await until_in_the_middle(connection)
            stalled = connect(database_url)
            async with stalled as session:
                await session.execute(f"BEGIN; {CLAIM_LOCK}")
                waiting_export = await create(program, space)
                await until(lambda: logged(program, "claim_failed"))
                assert (await answer(program, "GET", f"{EXPORTS}/{waiting_export}", space))[1]["status"] == "queued"
                renewed = "SELECT 1 FROM export_jobs WHERE id = $1 AND lease_until > claimed_at + interval '2 seconds'"
                await until_row(connection, renewed, running_export)
        for export_id in (running_export, waiting_export):
            row = await until_ended(connection, export_id)
            assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert crashes(program) == []


async def test_requests_that_use_up_all_connections_keep_no_renewal_waiting(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await connection.execute(
        """CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN PERFORM pg_advisory_xact_lock_shared(4); RETURN NEW; END$$;
           CREATE TRIGGER wait_here BEFORE INSERT ON export_jobs FOR EACH ROW EXECUTE FUNCTION wait_here()"""
    )
    async with running({"DATABASE_URL": database_url, "LEASE_SECONDS": "1", **files.settings}) as program:
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            async with holding(database_url, "SELECT pg_advisory_xact_lock(4)"):
                posts = [asyncio.create_task(answer(program, "POST", EXPORTS, space, **WHOLE_RANGE)) for _ in range(50)]
                stuck = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory' HAVING count(*) = 8"
                await until_row(connection, stuck)
                renewed = "SELECT 1 FROM export_jobs WHERE id = $1 AND lease_until > now() + interval '0.5 seconds'"
                began = await connection.fetchval("SELECT now()")
                await until_row(connection, "SELECT 1 WHERE now() > $1::timestamptz + interval '1.5 seconds'", began)
                await until_row(connection, renewed, export_id)
            assert {status for status, _, _ in await asyncio.gather(*posts)} <= {202, 503}
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert crashes(program) == []


async def test_who_waits_too_long_for_a_connection_hears_that_the_database_is_unavailable(database_url: str) -> None:
    async with (
        holding(database_url, "LOCK TABLE spaces IN ACCESS EXCLUSIVE MODE"),
        Database(database_url, application_name="tests", size=2, timeout=0.4) as database,
    ):
        async with asyncio.timeout(3):
            answers = await asyncio.gather(*(database.fetch("list_spaces") for _ in range(50)), return_exceptions=True)
        assert {type(each) for each in answers} == {DatabaseUnavailable}
        assert await database.fetch_row("ping") is not None


async def test_a_completion_that_the_server_rolls_back_to_end_a_deadlock_is_repeated(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
    async with running({"DATABASE_URL": database_url, **files.settings}) as program, connect(database_url) as operator:
        await operator.execute("SET deadlock_timeout = '1min'")  # never the one that is rolled back
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            await operator.execute("BEGIN; SELECT FROM export_attempts FOR UPDATE")
        await until_waited_for(connection, operator)
        await operator.execute("SELECT FROM export_jobs FOR UPDATE")
        await release(operator)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert "DeadlockDetectedError" in program.events("settle_unanswered")[0]["detail"]
        await assert_file_is_right(connection, program, space, files, export_id, tmp_path / "file")
        assert crashes(program) == []


async def test_a_row_that_an_operator_looks_at_for_a_while_loses_no_lease(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            async with holding(database_url, f"SELECT FROM export_jobs WHERE id = {export_id} FOR UPDATE"):
                held = await connection.fetchrow("SELECT now() AS since, lease_until FROM export_jobs")
                assert held is not None
                passed = "SELECT 1 WHERE clock_timestamp() > $1::timestamptz"
                await until_row(connection, passed, held["since"] + timedelta(seconds=0.5))
                assert await connection.fetchval("SELECT lease_until FROM export_jobs") == held["lease_until"]
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE lease_until > $1", held["lease_until"])
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert crashes(program) == []
