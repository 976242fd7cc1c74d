"""Exports whose database sessions are ended by the server."""

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from tests.support.calls import EXPORTS, call
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts
from tests.support.export_checks import (
    EXPORT_SESSION,
    NO_EXPORT_SESSION,
    READ_CONTACTS,
    ROWS,
    assert_file_is_correct,
    blocked_reads,
    outcomes,
    unexpected_errors,
    until_reading,
)
from tests.support.jobs import connect
from tests.support.postgres_proxy import Fault, Mode, postgres_proxy
from tests.support.program import running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_row


async def end_sessions(connection: asyncpg.Connection, function: str, names: str) -> int:
    """Call this function for each session whose application name is LIKE `names`; return how many there were."""
    query = f"""SELECT count({function}(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE $1 AND pid <> pg_backend_pid()"""
    return int(await connection.fetchval(query, names))


@pytest.mark.parametrize("ending", ["pg_terminate_backend", "pg_cancel_backend"])
async def test_an_attempt_is_retried_when_the_server_ends_its_read_session(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    tmp_path: Path,
    ending: str,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            assert await end_sessions(connection, ending, EXPORT_SESSION) >= 1
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE error_code = 'source_unavailable'")
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
        await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
        assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
        assert unexpected_errors(program) == []


async def test_no_export_is_lost_when_the_server_repeatedly_ends_all_sessions(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 10)
    settings = {"DATABASE_URL": database_url, "MAX_ATTEMPTS": "50", **files.settings}
    async with running(settings) as program:
        accepted = []
        for turn in range(12):
            await asyncio.gather(*(call(program, "GET", f"{EXPORTS}/1", space) for _ in range(4)))
            await end_sessions(connection, ["pg_terminate_backend", "pg_cancel_backend"][turn % 2], "contact-exports%")
            status, body, _ = await call(program, "POST", EXPORTS, space, **WHOLE_RANGE)
            assert status in (202, 503)
            if status == 202:
                accepted.append(body["export_id"])
        assert len(accepted) >= 6  # the calls after which only statements were cancelled
        for export_id in accepted:
            assert (await until_ended(connection, export_id))["status"] == "completed"
        assert unexpected_errors(program) == []


async def test_an_attempt_is_retried_when_a_read_takes_longer_than_the_limit(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 10)
    settings = {"DATABASE_URL": database_url, "FETCH_TIMEOUT_SECONDS": "2", "MAX_ATTEMPTS": "50", **files.settings}
    async with running(settings) as program:
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            row = await until_row(connection, "SELECT * FROM export_jobs WHERE error_code IS NOT NULL")
            assert row["error_code"] == "source_unavailable"
        row = await until_ended(connection, export_id)
        assert (row["status"], row["row_count"], row["lost_leases"]) == ("completed", 10, 0)
        assert unexpected_errors(program) == []


async def test_an_attempt_is_retried_when_its_idle_session_is_ended(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with postgres_proxy(database_url) as proxy:
        proxy.startup = {"idle_in_transaction_session_timeout": "2s"}
        proxy.next(READ_CONTACTS, Fault.HOLD_RESPONSE)
        settings = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": proxy.url, **files.settings}
        async with running(settings) as program:
            export_id = await create(program, space)
            await proxy.until_injected(READ_CONTACTS)
            proxy.startup = {}
            await until_row(connection, NO_EXPORT_SESSION)
            proxy.set_mode(Mode.PASS)
            row = await until_ended(connection, export_id)
            assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
            await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
            assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
            assert unexpected_errors(program) == []


@pytest.fixture
def postgres_on_a_port(tmp_path: Path) -> Iterator[tuple[EmbeddedPostgres, str]]:
    """A server of this test's own and its URL: a loopback address that no other program listens on."""
    address = f"127.{secrets.randbelow(200) + 1}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
    parameters = {"fsync": "off", "listen_addresses": address}
    with EmbeddedPostgres(tmp_path / "postgres", parameters=parameters) as server:
        yield server, f"postgresql://postgres@{address}:5432/postgres"


async def test_the_server_ends_the_session_and_snapshot_of_a_client_that_stops_reading(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    postgres_on_a_port: tuple[EmbeddedPostgres, str],
) -> None:
    """Neither statement_timeout nor idle_in_transaction_session_timeout ends a write to a client that does not read."""
    server, address = postgres_on_a_port
    await migrate(server.dsn())
    async with connect(server.dsn()) as contacts, postgres_proxy(address) as proxy:
        await add_contacts(contacts, space.space_id, 3)
        await contacts.execute("UPDATE contacts SET name = repeat('a wide contact ', 600000)")
        proxy.startup = {"tcp_user_timeout": "1000"}
        proxy.next(READ_CONTACTS, Fault.HOLD_RESPONSE)
        settings = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": proxy.url, **files.settings}
        async with running(settings) as program:
            export_id = await create(program, space)
            await until_row(contacts, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'ClientWrite'")
            await until_row(contacts, NO_EXPORT_SESSION)
            proxy.startup = {}
            proxy.set_mode(Mode.PASS)
            row = await until_ended(connection, export_id)
            assert (row["status"], row["row_count"], row["attempts"]) == ("completed", 3, 2)
            assert unexpected_errors(program) == []
