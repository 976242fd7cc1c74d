"""What becomes of an export whose process dies, stalls or is told to end."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from service.client import ExportClient
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, lines_of
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_row

ROWS = 3000


@asynccontextmanager
async def held_up(database_url: str) -> AsyncIterator[None]:
    """Inside the block an export with tokens stands still in the middle: its upload is begun, its first read waits."""
    blocker = await asyncpg.connect(database_url)
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE")
        yield
        await transaction.rollback()
    finally:
        await blocker.close()


async def create(program: Program, space: Tenant) -> int:
    """Ask for an export with tokens."""
    async with ExportClient(program.address, space.key) as client:
        return await client.create(**WHOLE_RANGE, include_comet_tokens=1)


async def until_in_the_middle(connection: asyncpg.Connection) -> None:
    """Wait until the only running attempt has begun its upload and reads."""
    await until_row(
        connection,
        """SELECT 1 FROM export_attempts a JOIN export_jobs j ON j.claim_id = a.claim_id
            WHERE a.upload_id IS NOT NULL
              AND EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')""",
    )


async def assert_file_is_right(
    connection: asyncpg.Connection, program: Program, space: Tenant, store: StoreUnderTest, export_id: int, path: Path
) -> None:
    """One correct file is published, and nothing else is left in the store or open on the database."""
    async with ExportClient(program.address, space.key) as client:
        file = await client.download(await client.ended(export_id), path)
    assert lines_of(file.path) == await expected_lines(connection, space.space_id, tokens=True)
    row = await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
    assert row is not None
    assert row["sha256"] == file.sha256

    async def only_the_file_is_left() -> bool:
        return await store.uploads() == [] and await store.objects() == [row["object_name"]]

    await until(only_the_file_is_left)
    await until_row(
        connection,
        """SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'contact-exports export')""",
    )


async def test_a_killed_process_loses_no_export_and_leaves_no_upload(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, **store.settings}
    async with held_up(database_url), running(settings) as program:
        export_id = await create(program, space)
        await until_in_the_middle(connection)
        assert await store.uploads() != []
        assert await program.end(signal.SIGKILL) == -signal.SIGKILL
    async with running(settings) as program:
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)
        await assert_file_is_right(connection, program, space, store, export_id, tmp_path / "file")
    outcomes = await connection.fetch("SELECT outcome, error_code FROM export_attempts ORDER BY started_at")
    assert [tuple(outcome) for outcome in outcomes] == [("lost", "worker_lost"), ("completed", None)]


async def test_another_process_takes_over_from_a_killed_one(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, **store.settings}
    async with running(settings | {"EXPORT_SLOTS": "0"}) as other_api, running(settings) as victim:
        async with held_up(database_url):
            export_id = await create(other_api, space)
            await until_in_the_middle(connection)
            await victim.end(signal.SIGKILL)
        async with running(settings):
            row = await until_ended(connection, export_id)
            assert (row["status"], row["lost_leases"]) == ("completed", 1)
            await assert_file_is_right(connection, other_api, space, store, export_id, tmp_path / "file")


async def test_sigterm_lets_a_running_export_finish_within_the_grace_period(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with running({"DATABASE_URL": database_url, "GRACE_SECONDS": "20", **store.settings}) as program:
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            program.send(signal.SIGTERM)
            await until(lambda: _logged(program, "stopping"))
        assert await program.ended() == 0
    row = await until_ended(connection, export_id)
    assert (row["status"], row["attempts"], row["handed_back"]) == ("completed", 1, 0)


async def test_sigterm_hands_back_what_does_not_finish_and_uses_up_no_attempt(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, "GRACE_SECONDS": "0.3", **store.settings}
    async with held_up(database_url):
        async with running(settings) as program:
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            assert await program.end(signal.SIGTERM) == 0
        row = await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
        assert row is not None
        assert (row["status"], row["attempts"], row["handed_back"]) == ("queued", 0, 1)
        assert await store.uploads() == []
    async with running(settings) as program:
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        await assert_file_is_right(connection, program, space, store, export_id, tmp_path / "file")


async def test_a_second_sigterm_does_not_wait_for_the_grace_period(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, "GRACE_SECONDS": "600", **store.settings}
    async with held_up(database_url), running(settings) as program:
        await create(program, space)
        await until_in_the_middle(connection)
        program.send(signal.SIGTERM)
        await until(lambda: _logged(program, "stopping"))
        assert await program.end(signal.SIGTERM) == 0
    assert await connection.fetchval("SELECT status FROM export_jobs") == "queued"


async def test_a_process_that_was_stopped_for_longer_than_its_lease_changes_nothing_when_it_goes_on(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, **store.settings}
    async with running(settings) as zombie:
        async with held_up(database_url):
            export_id = await create(zombie, space)
            await until_in_the_middle(connection)
            zombie.send(signal.SIGSTOP)
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE lease_until < now()")
        async with running(settings) as program:
            row = await until_ended(connection, export_id)
            zombie.send(signal.SIGCONT)
            await until(lambda: _logged(zombie, "claim_lost"))
            assert await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id) == row
            await assert_file_is_right(connection, program, space, store, export_id, tmp_path / "file")
            assert await zombie.end() == 0


async def _logged(program: Program, event: str) -> bool:
    return bool(program.events(event))


async def test_a_lease_outlives_an_export_that_takes_many_times_as_long(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, "LEASE_SECONDS": "0.8", **store.settings}
    async with running(settings) as program, running(settings):
        async with held_up(database_url):
            export_id = await create(program, space)
            await until_in_the_middle(connection)
            claimed = await connection.fetchval("SELECT claimed_at FROM export_jobs WHERE id = $1", export_id)
            await until_row(connection, "SELECT 1 WHERE now() > $1::timestamptz + interval '4 seconds'", claimed)
        row = await until_ended(connection, export_id)
    assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
