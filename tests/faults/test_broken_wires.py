"""Exports whose database connection breaks without an error, or whose statement gets no response."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from sql import statement
from tests.support.calls import EXPORTS, call
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts
from tests.support.export_checks import (
    EXPORT_SESSION,
    READ_CONTACTS,
    ROWS,
    assert_file_is_correct,
    blocked_reads,
    expire_leases,
    outcomes,
    unexpected_errors,
    until_reading,
)
from tests.support.postgres_proxy import RENEWALS, Fault, Mode, PostgresProxy, postgres_proxy
from tests.support.program import running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged, until_row, until_true

pytestmark = pytest.mark.long


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[PostgresProxy]:
    """A proxy in front of this test's database."""
    async with postgres_proxy(database_url) as proxy:
        yield proxy


async def test_an_attempt_is_retried_when_its_read_connection_goes_silent(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    tmp_path: Path,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    proxy.next(READ_CONTACTS, Fault.HOLD_RESPONSE)
    settings = {
        "DATABASE_URL": database_url,
        "CONTACTS_DATABASE_URL": proxy.url,
        "FETCH_TIMEOUT_SECONDS": "5",
        **files.settings,
    }
    async with running(settings) as program:
        export_id = await create(program, space)
        await proxy.until_injected(READ_CONTACTS)
        (link,) = proxy.connections(EXPORT_SESSION)
        link.set_mode(Mode.BLACKHOLE)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
        # The server does not notice that its client is gone; its session ends when the connection does.
        link.reset()
        await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
        assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
        assert unexpected_errors(program) == []
        assert await program.end() == 0


async def test_renewals_continue_on_a_new_connection_when_theirs_goes_silent(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, proxy: PostgresProxy
) -> None:
    settings = {
        "DATABASE_URL": proxy.url,
        "CONTACTS_DATABASE_URL": database_url,
        "LEASE_SECONDS": "12",
        **files.settings,
    }
    async with running(settings) as program:
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            await until_true(lambda: proxy.connections(RENEWALS))
            for link in proxy.connections(RENEWALS):
                link.set_mode(Mode.BLACKHOLE)
            await until_logged(program, "loop_waits_for_database")
            before = await connection.fetchval("SELECT lease_until FROM export_jobs")
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE lease_until > $1", before)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        assert unexpected_errors(program) == []


async def test_without_renewals_an_attempt_runs_until_its_lease_ends(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    tmp_path: Path,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    lease = {"LEASE_SECONDS": "4"}
    settings = {"DATABASE_URL": proxy.url, "CONTACTS_DATABASE_URL": database_url, **files.settings, **lease}
    async with running(settings) as program:
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            proxy.set_mode(Mode.BLACKHOLE, RENEWALS)
            lease_until = (await until_row(connection, "SELECT lease_until FROM export_jobs"))["lease_until"]
            await until_logged(program, "claim_lost")
            late = await connection.fetchval("SELECT clock_timestamp() - $1::timestamptz", lease_until)
            assert -2 < late.total_seconds() < 30, "the process counts the lease from before it sent the last renewal"
        proxy.set_mode(Mode.PASS)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)
        await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
        assert unexpected_errors(program) == []


@pytest.mark.parametrize("fault", [Fault.LOSE_RESPONSE, Fault.LOSE_REQUEST])
async def test_a_completion_without_a_response_counts_if_committed_and_is_repeated_otherwise(
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
        await until_logged(program, "export_completed")
        assert len(program.events("outcome_not_recorded")) == 1
        await assert_file_is_correct(connection, program, space, store, export_id, tmp_path / "file")
        assert await outcomes(connection) == [("completed", None)]


@pytest.mark.parametrize("fault", [Fault.LOSE_RESPONSE, Fault.LOSE_REQUEST])
async def test_an_error_or_a_handback_without_a_response_is_recorded_once(
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
    async with running(settings) as program, blocked_reads(database_url):
        export_id = await create(program, space)
        await until_reading(connection)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = $1",
            EXPORT_SESSION,
        )
        await until_row(connection, "SELECT 1 FROM export_attempts WHERE attempt = 2 AND upload_id IS NOT NULL")
        await until_reading(connection)
        assert await program.end(signal.SIGTERM) == 0
    row = await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
    assert row is not None
    assert (row["status"], row["attempts"], row["handed_back"], row["lost_leases"]) == ("queued", 1, 1, 0)
    assert await outcomes(connection) == [("error", "source_unavailable"), ("handed_back", None)]
    assert await files.uploads() == []


@pytest.mark.parametrize("name", ["claim_export", "record_upload"])
async def test_an_attempt_is_retried_when_its_claim_or_upload_was_recorded_without_a_response(
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    tmp_path: Path,
    name: str,
) -> None:
    await add_contacts(connection, space.space_id, 10)
    # Queued before the program starts, so that its first claim gets this export.
    export_id = await connection.fetchval(
        """INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to,
                                    extras, max_attempts)
           VALUES ($1, '2024-01-01', '2024-12-31', 'UTC', '2024-01-01Z', '2024-12-31Z', '{comet_tokens}', 5) RETURNING id""",
        space.space_id,
    )
    proxy.next(statement(name), Fault.LOSE_RESPONSE)
    async with running({"DATABASE_URL": proxy.url, **files.settings}) as program:
        if name == "claim_export":
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE status = 'processing'")
            await proxy.until_injected(statement(name))
            await expire_leases(connection, export_id)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"]) == ("completed", 2)
        assert row["lost_leases"] == (1 if name == "claim_export" else 0)
        await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
        assert unexpected_errors(program) == []


async def test_a_create_request_without_a_database_response_gets_503_and_its_export_runs_if_committed(
    connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, proxy: PostgresProxy
) -> None:
    proxy.next(statement("insert_export"), Fault.LOSE_REQUEST, Fault.LOSE_RESPONSE)
    async with running({"DATABASE_URL": proxy.url, **files.settings}) as program:
        for _ in range(2):
            status, _, retry_after = await call(program, "POST", EXPORTS, space, **WHOLE_RANGE)
            assert (status, retry_after) == (503, "5")
        assert await connection.fetchval("SELECT count(*) FROM export_jobs") == 1
        row = await until_row(connection, "SELECT * FROM export_jobs WHERE status = 'completed'")
        assert (await call(program, "GET", f"{EXPORTS}/{row['id']}", space))[1]["status"] == "completed"


@pytest.mark.parametrize(("fault", "replayed"), [(Fault.LOSE_RESPONSE, True), (Fault.LOSE_REQUEST, False)])
async def test_a_retried_create_request_with_an_idempotency_key_creates_one_export(
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    proxy: PostgresProxy,
    fault: Fault,
    replayed: bool,
) -> None:
    proxy.next(statement("insert_export"), fault)
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


async def test_a_slow_database_connection_loses_no_lease(
    connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, proxy: PostgresProxy, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 1000)
    async with running({"DATABASE_URL": proxy.url, **files.settings}) as program:
        proxy.set_mode(Mode.DELAY)
        export_id = await create(program, space)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        proxy.set_mode(Mode.PASS)
        await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
