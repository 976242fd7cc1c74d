"""Exports whose process is killed, stopped or told to stop."""

import signal
from pathlib import Path

import asyncpg
import pytest

from tests.support.calls import create_with_tokens as create
from tests.support.contacts import Tenant, add_contacts
from tests.support.export_checks import (
    ROWS,
    assert_file_is_correct,
    blocked_reads,
    expire_leases,
    outcomes,
    until_reading,
)
from tests.support.program import running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged, until_row

pytestmark = pytest.mark.long


async def test_a_killed_process_loses_no_export_and_leaves_no_upload(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, **store.settings}
    async with blocked_reads(database_url), running(settings) as program:
        export_id = await create(program, space)
        await until_reading(connection)
        assert await store.uploads() != []
        assert await program.end(signal.SIGKILL) == -signal.SIGKILL
        await expire_leases(connection)
    async with running(settings) as program:
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)
        await assert_file_is_correct(connection, program, space, store, export_id, tmp_path / "file")
    assert await outcomes(connection) == [("lost", "worker_lost"), ("completed", None)]


async def test_an_export_of_a_killed_process_is_completed_by_another(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, **store.settings}
    async with running(settings | {"EXPORT_SLOTS": "0"}) as other_api, running(settings) as victim:
        async with blocked_reads(database_url):
            export_id = await create(other_api, space)
            await until_reading(connection)
            await victim.end(signal.SIGKILL)
            await expire_leases(connection)
        async with running(settings):
            row = await until_ended(connection, export_id)
            assert (row["status"], row["lost_leases"]) == ("completed", 1)
            await assert_file_is_correct(connection, other_api, space, store, export_id, tmp_path / "file")


async def test_sigterm_lets_a_running_export_finish_within_the_grace_period(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with running({"DATABASE_URL": database_url, "GRACE_SECONDS": "20", **store.settings}) as program:
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            program.send(signal.SIGTERM)
            await until_logged(program, "stopping")
        assert await program.ended() == 0
    row = await until_ended(connection, export_id)
    assert (row["status"], row["attempts"], row["handed_back"]) == ("completed", 1, 0)


async def test_sigterm_hands_back_an_unfinished_export_without_using_up_an_attempt(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, "GRACE_SECONDS": "0.3", **store.settings}
    async with blocked_reads(database_url):
        async with running(settings) as program:
            export_id = await create(program, space)
            await until_reading(connection)
            assert await program.end(signal.SIGTERM) == 0
        row = await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
        assert row is not None
        assert (row["status"], row["attempts"], row["handed_back"]) == ("queued", 0, 1)
        assert await store.uploads() == []
    async with running(settings) as program:
        row = await until_ended(connection, export_id)
        assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        await assert_file_is_correct(connection, program, space, store, export_id, tmp_path / "file")


async def test_a_second_sigterm_skips_the_grace_period(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, "GRACE_SECONDS": "600", **store.settings}
    async with blocked_reads(database_url), running(settings) as program:
        await create(program, space)
        await until_reading(connection)
        program.send(signal.SIGTERM)
        await until_logged(program, "stopping")
        assert await program.end(signal.SIGTERM) == 0
    assert await connection.fetchval("SELECT status FROM export_jobs") == "queued"


async def test_a_process_stopped_for_longer_than_its_lease_changes_nothing_when_continued(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    settings = {"DATABASE_URL": database_url, **store.settings}
    async with running(settings | {"LEASE_SECONDS": "4"}) as zombie:
        async with blocked_reads(database_url):
            export_id = await create(zombie, space)
            await until_reading(connection)
            zombie.send(signal.SIGSTOP)
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE lease_until < now()")
        async with running(settings) as program:
            row = await until_ended(connection, export_id)
            zombie.send(signal.SIGCONT)
            await until_logged(zombie, "claim_lost")
            assert await connection.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id) == row
            await assert_file_is_correct(connection, program, space, store, export_id, tmp_path / "file")
            assert await zombie.end() == 0


async def test_renewals_keep_the_lease_of_an_export_that_takes_longer_than_a_lease(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, "LEASE_SECONDS": "4", **store.settings}
    async with running(settings) as program, running(settings):
        async with blocked_reads(database_url):
            export_id = await create(program, space)
            await until_reading(connection)
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE lease_until > claimed_at + interval '10 seconds'")
        row = await until_ended(connection, export_id)
    assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
