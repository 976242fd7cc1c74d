"""Cancellation and expiry: the attempt stops, and nothing of it is left over."""

import aiohttp
import asyncpg
import pytest
from yarl import URL

from service.client import ExportClient, ExportStatus
from tests.support.calls import cancel, create_with_tokens
from tests.support.contacts import Tenant, whole_range
from tests.support.export_checks import NO_EXPORT_SESSION, blocked_reads
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_cleaned, until_logged, until_row

pytestmark = pytest.mark.long


async def start_export(program: Program, connection: asyncpg.Connection, space: Tenant) -> int:
    """Create an export, wait until it has begun its upload, and return its id."""
    export_id = await create_with_tokens(program, space)
    await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
    return export_id


async def until_nothing_is_left(connection: asyncpg.Connection, store: StoreUnderTest) -> None:
    """Wait until the store is empty and no session reads contacts."""

    async def empty() -> bool:
        return await store.uploads() == [] and await store.objects() == []

    await until(empty)
    await until_row(connection, NO_EXPORT_SESSION)


async def test_a_cancelled_export_stops_at_once_in_the_process_that_got_the_request(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    # Renewals are so rare that the process cannot learn of the cancellation by one.
    settings = {"DATABASE_URL": database_url, **store.settings, "LEASE_SECONDS": "300"}
    async with running(settings) as program, blocked_reads(database_url):
        export_id = await start_export(program, connection, space)
        assert (await cancel(program.address, space, export_id)).status is ExportStatus.CANCELLED
        await until_logged(program, "attempt_cancelled")
        await until_nothing_is_left(connection, store)
    assert not program.events("claim_lost")
    assert await connection.fetchval("SELECT outcome FROM export_attempts") == "cancelled"


async def test_a_cancelled_export_stops_at_the_next_renewal_in_another_process(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, **store.settings, "LEASE_SECONDS": "4"}
    async with (
        running(settings) as worker,
        running(settings | {"EXPORT_SLOTS": "0"}) as asked,
        blocked_reads(database_url),
    ):
        export_id = await start_export(worker, connection, space)
        assert (await cancel(asked.address, space, export_id)).status is ExportStatus.CANCELLED
        await until_logged(worker, "claim_lost")
        await until_nothing_is_left(connection, store)
        await until_cleaned(connection)
        assert not asked.events("attempt_cancelled")


async def test_an_expired_file_has_no_link_and_is_deleted_after_the_last_link_expired(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, **store.settings}
    async with (
        running(settings) as program,
        ExportClient(program.address, space.key) as client,
        aiohttp.ClientSession() as session,
    ):
        export = await client.wait(await client.create(whole_range()))
        assert export.download_url is not None
        link = URL(export.download_url, encoded=True)
        await connection.execute("UPDATE export_jobs SET file_expires_at = now()")
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE status = 'expired'")
        assert (await client.wait(export.export_id)).download_url is None
        async with session.get(link) as response:
            assert response.status == 200, "a link that was issued before works until it expires"
        await connection.execute("UPDATE export_jobs SET file_delete_after = now()")
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
        async with session.get(link) as response:
            assert response.status in (403, 404)
        assert await store.objects() == []
