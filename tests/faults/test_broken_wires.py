"""What becomes of an export when the connection to the database breaks, and nobody says so."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from sql import statement
from tests.faults.test_lost_sessions import READ, crashes, outcomes
from tests.faults.test_outages import EXPORTS, answer
from tests.faults.test_worker_death import ROWS, assert_file_is_right, create, held_up, until_in_the_middle
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts
from tests.support.postgres_proxy import EXPORTS as EXPORT_SESSIONS
from tests.support.postgres_proxy import RENEWALS, Fault, Mode, PostgresProxy, postgres_proxy
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_row


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[PostgresProxy]:
    """Before the test's database."""
    async with postgres_proxy(database_url) as proxy:
        yield proxy


async def logged(program: Program, event: str) -> bool:
    """Whether the program has logged this."""
    return bool(program.events(event))


async def test_a_connection_that_went_silent_in_the_middle_of_reading_is_given_up_and_the_attempt_is_made_again(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    tmp_path: Path,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    proxy.next(READ, Fault.HOLD_ANSWER)
    settings = {
        "DATABASE_URL": database_url,
        "CONTACTS_DATABASE_URL": proxy.url,
        "FETCH_TIMEOUT_SECONDS": "1",
        **files.settings,
    }
    async with running(settings) as program:
        export_id = await create(program, space)
        await proxy.met(READ)
        (link,) = proxy.connections(EXPORT_SESSIONS)
        link.behave(Mode.BLACKHOLE)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
        # The server cannot know that its client has gone; what it holds ends with the silence.
        link.reset()
        await assert_file_is_right(connection, program, space, files, export_id, tmp_path / "file")
        assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
        assert crashes(program) == []
        assert await program.end() == 0


async def test_renewals_go_on_over_a_new_connection_when_theirs_goes_silent(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, proxy: PostgresProxy
) -> None:
    settings = {
        "DATABASE_URL": proxy.url,
        "CONTACTS_DATABASE_URL": database_url,
        "LEASE_SECONDS": "4",
        **files.settings,
    }
    async with running(settings) as program:
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            await until(lambda: _renewing(proxy))
            for link in proxy.connections(RENEWALS):
                link.behave(Mode.BLACKHOLE)
            await until(lambda: logged(program, "loop_waits_for_database"))
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE lease_until > now() + interval '3.5 seconds'")
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert crashes(program) == []


async def _renewing(proxy: PostgresProxy) -> bool:
    return bool(proxy.connections(RENEWALS))


async def test_without_any_renewal_the_work_is_given_up_when_its_lease_is_over_and_not_before(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    tmp_path: Path,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": proxy.url, "CONTACTS_DATABASE_URL": database_url, **files.settings}
    async with running(settings) as program:
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            proxy.behave(Mode.BLACKHOLE, RENEWALS)
            lease_until = (await until_row(connection, "SELECT lease_until FROM export_jobs"))["lease_until"]
            await until(lambda: logged(program, "claim_lost"))
            late = await connection.fetchval("SELECT clock_timestamp() - $1::timestamptz", lease_until)
            assert -0.1 < late.total_seconds() < 1.5
        proxy.behave(Mode.PASS)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)
        await assert_file_is_right(connection, program, space, files, export_id, tmp_path / "file")
        assert crashes(program) == []


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.LOSE_REQUEST])
async def test_a_completion_that_stays_unanswered_counts_if_it_was_committed_and_is_repeated_if_not(
    connection: asyncpg.Connection,
    space: Tenant,
    store: StoreUnderTest,
    proxy: PostgresProxy,
    tmp_path: Path,
    fault: Fault,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    proxy.next(statement("complete_export"), fault)
    async with running({"DATABASE_URL": proxy.url, **store.settings}) as program:
        export_id = await create(program, space)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        await until(lambda: logged(program, "export_completed"))
        assert len(program.events("settle_unanswered")) == 1
        await assert_file_is_right(connection, program, space, store, export_id, tmp_path / "file")
        assert await outcomes(connection) == [("completed", None)]


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.LOSE_REQUEST])
async def test_an_error_or_a_hand_back_that_stays_unanswered_is_written_once(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    fault: Fault,
) -> None:
    proxy.next(statement("end_attempt_in_error"), fault)
    proxy.next(statement("hand_back_export"), fault)
    settings = {
        "DATABASE_URL": proxy.url,
        "CONTACTS_DATABASE_URL": database_url,
        "GRACE_SECONDS": "0",
        **files.settings,
    }
    async with running(settings) as program, held_up(database_url):
        export_id = await create(program, space)
        await until_in_the_middle(connection)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = $1",
            EXPORT_SESSIONS,
        )
        await until_row(connection, "SELECT 1 FROM export_attempts WHERE attempt = 2 AND upload_id IS NOT NULL")
        await until_in_the_middle(connection)
        assert await program.end(signal.SIGTERM) == 0
    row = await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
    assert row is not None
    assert (row["status"], row["attempts"], row["handed_back"], row["lost_leases"]) == ("queued", 1, 1, 0)
    assert await outcomes(connection) == [("error", "source_unavailable"), ("handed_back", None)]
    assert await files.uploads() == []


@pytest.mark.parametrize("name", ["claim_export", "record_upload"])
async def test_an_attempt_whose_claim_or_upload_was_recorded_without_an_answer_is_made_again_and_leaves_nothing(
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    tmp_path: Path,
    name: str,
) -> None:
    await add_contacts(connection, space.space_id, 10)
    # Queued before anybody looks for work, so that the first claim that is sent gets it.
    export_id = await connection.fetchval(
        """INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to,
                                    extras, max_attempts)
           VALUES ($1, '2024-01-01', '2024-12-31', 'UTC', '2024-01-01Z', '2024-12-31Z', '{comet_tokens}', 5) RETURNING id""",
        space.space_id,
    )
    proxy.next(statement(name), Fault.LOSE_ANSWER)
    async with running({"DATABASE_URL": proxy.url, "LEASE_SECONDS": "1", **files.settings}) as program:
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"]) == ("completed", 2)
        assert row["lost_leases"] == (1 if name == "claim_export" else 0)
        await assert_file_is_right(connection, program, space, files, export_id, tmp_path / "file")
        assert crashes(program) == []


async def test_a_request_whose_insert_stays_unanswered_gets_503_and_its_export_runs_if_it_was_committed(
    connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, proxy: PostgresProxy
) -> None:
    proxy.next(statement("insert_export"), Fault.LOSE_REQUEST, Fault.LOSE_ANSWER)
    async with running({"DATABASE_URL": proxy.url, **files.settings}) as program:
        for _ in range(2):
            status, _, retry_after = await answer(program, "POST", EXPORTS, space, **WHOLE_RANGE)
            assert (status, retry_after) == (503, "5")
        assert await connection.fetchval("SELECT count(*) FROM export_jobs") == 1
        row = await until_row(connection, "SELECT * FROM export_jobs WHERE status = 'completed'")
        assert (await answer(program, "GET", f"{EXPORTS}/{row['id']}", space))[1]["status"] == "completed"


@pytest.mark.parametrize(("fault", "replayed"), [(Fault.LOSE_ANSWER, True), (Fault.LOSE_REQUEST, False)])
async def test_a_request_with_a_key_that_is_sent_again_after_no_answer_makes_one_export(
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    fault: Fault,
    replayed: bool,
) -> None:
    proxy.next(statement("insert_export_once"), fault)
    headers = space.headers | {"Idempotency-Key": "the export of March"}
    async with running({"DATABASE_URL": proxy.url, **files.settings}) as program, aiohttp.ClientSession() as session:
        async with session.post(f"{program.address}{EXPORTS}", json=WHOLE_RANGE, headers=headers) as first:
            assert first.status == 503
        async with session.post(f"{program.address}{EXPORTS}", json=WHOLE_RANGE, headers=headers) as second:
            assert (second.status, "Idempotent-Replayed" in second.headers) == (202, replayed)
            export_id = (await second.json())["export_id"]
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"]) == ("completed", 1)
        assert await connection.fetchval("SELECT count(*) FROM export_jobs") == 1


async def test_a_slow_wire_to_the_database_ends_nothing(
    connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, proxy: PostgresProxy, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 1000)
    async with running({"DATABASE_URL": proxy.url, "LEASE_SECONDS": "8", **files.settings}) as program:
        proxy.behave(Mode.DELAY)
        export_id = await create(program, space)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        proxy.behave(Mode.PASS)
        await assert_file_is_right(connection, program, space, files, export_id, tmp_path / "file")
