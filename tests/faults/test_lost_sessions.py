"""What becomes of an export when the server, not the service, ends the sessions it uses."""

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from tests.faults.test_outages import EXPORTS, answer, connected
from tests.faults.test_worker_death import ROWS, assert_file_is_right, create, held_up, until_in_the_middle
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts
from tests.support.postgres_proxy import EXPORTS as EXPORT_SESSIONS
from tests.support.postgres_proxy import Fault, Mode, postgres_proxy
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_row

CRASHES = {"attempt_crashed", "attempt_not_settled", "claim_crashed", "loop_step_failed", "request_failed", "settle_refused"}
"""What is logged, with a traceback, when an error was not foreseen."""

READ = "ORDER BY c.created_at, c.id"
"""Of the statement that reads the lines of an export."""

NO_EXPORT_SESSION = """
SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name = 'contact-exports export')"""


def crashes(program: Program) -> list[str]:
    """What the program logged as unforeseen: the event and the errors behind it."""
    return [
        f"{line['event']}: {[(each['exc_type'], each['exc_value']) for each in line.get('exception', [])]}"
        for line in program.log
        if line.get("event") in CRASHES
    ]


async def end_sessions(connection: asyncpg.Connection, function: str, names: str) -> int:
    """Let the server end the sessions, or what they do, whose application name is LIKE this; how many there were."""
    query = f"""SELECT count({function}(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE $1 AND pid <> pg_backend_pid()"""
    return int(await connection.fetchval(query, names))


async def outcomes(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    """How all attempts ended so far, in their order."""
    rows = await connection.fetch("SELECT outcome, error_code FROM export_attempts ORDER BY started_at")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("ending", ["pg_terminate_backend", "pg_cancel_backend"])
async def test_an_attempt_whose_reading_session_the_server_ends_is_made_again(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    tmp_path: Path,
    ending: str,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            assert await end_sessions(connection, ending, EXPORT_SESSIONS) >= 1
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE error_code = 'source_unavailable'")
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
        await assert_file_is_right(connection, program, space, files, export_id, tmp_path / "file")
        assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
        assert crashes(program) == []


async def test_a_server_that_ends_all_sessions_again_and_again_loses_no_export(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 10)
    settings = {"DATABASE_URL": database_url, "MAX_ATTEMPTS": "50", **files.settings}
    async with running(settings) as program:
        accepted = []
        for turn in range(12):
            await asyncio.gather(*(answer(program, "GET", f"{EXPORTS}/1", space) for _ in range(4)))
            await end_sessions(connection, ["pg_terminate_backend", "pg_cancel_backend"][turn % 2], "contact-exports%")
            status, body, _ = await answer(program, "POST", EXPORTS, space, **WHOLE_RANGE)
            assert status in (202, 503)
            if status == 202:
                accepted.append(body["export_id"])
        assert len(accepted) >= 6  # those whose sessions only lost a statement
        for export_id in accepted:
            assert (await until_ended(connection, export_id))["status"] == "completed"
        assert crashes(program) == []


async def test_a_read_that_takes_longer_than_allowed_ends_the_attempt_and_is_made_again(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 10)
    settings = {"DATABASE_URL": database_url, "FETCH_TIMEOUT_SECONDS": "0.5", **files.settings}
    async with running(settings) as program:
        async with held_up(database_url):
            export_id = await create(program, space)
            row = await until_row(connection, "SELECT * FROM export_jobs WHERE error_code IS NOT NULL")
            assert row["error_code"] == "source_unavailable"
        row = await until_ended(connection, export_id)
        assert (row["status"], row["row_count"], row["lost_leases"]) == ("completed", 10, 0)
        assert crashes(program) == []


async def test_a_session_that_idles_because_its_reader_is_slow_may_be_ended_and_the_attempt_is_made_again(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with postgres_proxy(database_url) as proxy:
        proxy.startup = {"idle_in_transaction_session_timeout": "300ms"}
        proxy.next(READ, Fault.HOLD_ANSWER)
        settings = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": proxy.url, **files.settings}
        async with running(settings) as program:
            export_id = await create(program, space)
            await proxy.met(READ)
            await until_row(connection, NO_EXPORT_SESSION)
            proxy.behave(Mode.PASS)
            row = await until_ended(connection, export_id)
            assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
            await assert_file_is_right(connection, program, space, files, export_id, tmp_path / "file")
            assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
            assert crashes(program) == []


@pytest.fixture
def postgres_on_a_port(tmp_path: Path) -> Iterator[tuple[EmbeddedPostgres, str]]:
    """A server of the test's own and its address without a unix socket; a loopback address nobody else listens at."""
    address = f"127.{secrets.randbelow(200) + 1}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
    parameters = {"fsync": "off", "listen_addresses": address}
    with EmbeddedPostgres(tmp_path / "postgres", parameters=parameters) as server:
        yield server, f"postgresql://postgres@{address}:5432/postgres"


async def test_a_server_gives_up_on_a_reader_that_takes_nothing_and_releases_its_snapshot(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    postgres_on_a_port: tuple[EmbeddedPostgres, str],
) -> None:
    """Neither a statement timeout nor one for idle sessions ends a server's write to a client that does not read."""
    server, address = postgres_on_a_port
    await migrate(server.dsn())
    async with connected(server.dsn()) as contacts, postgres_proxy(address) as proxy:
        await add_contacts(contacts, space.space_id, 3)
        await contacts.execute("UPDATE contacts SET name = repeat('a wide contact ', 600000)")
        proxy.startup = {"tcp_user_timeout": "1000"}
        proxy.next(READ, Fault.HOLD_ANSWER)
        settings = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": proxy.url, **files.settings}
        async with running(settings) as program:
            export_id = await create(program, space)
            await until_row(contacts, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'ClientWrite'")
            await until_row(contacts, NO_EXPORT_SESSION)
            proxy.behave(Mode.PASS)
            row = await until_ended(connection, export_id)
            assert (row["status"], row["row_count"], row["attempts"]) == ("completed", 3, 2)
            assert crashes(program) == []
