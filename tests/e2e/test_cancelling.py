"""Cancelling and expiry by the real program: the attempt stops, and nothing of it stays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import asyncpg
from yarl import URL

from service.client import ExportClient
from tests.support.calls import cancel
from tests.support.contacts import WHOLE_RANGE, Tenant
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_row

NO_EXPORT_CONNECTION = (
    "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity"
    " WHERE application_name = 'contact-exports export' AND datname = current_database())"
)


@asynccontextmanager
async def blocked(database_url: str) -> AsyncIterator[None]:
    """While this lasts every export that asks for tokens stands still in its first read."""
    blocker = await asyncpg.connect(database_url)
    try:
        await blocker.execute("BEGIN; LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        blocker.terminate()


async def begun(program: Program, connection: asyncpg.Connection, space: Tenant) -> int:
    """The id of an export that runs and has begun its upload."""
    async with ExportClient(program.address, space.key) as client:
        export_id = await client.create(**WHOLE_RANGE, include_comet_tokens=1)
    await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
    return export_id


async def nothing_is_left(connection: asyncpg.Connection, store: StoreUnderTest) -> None:
    """Returns once the store is empty and no connection reads contacts."""

    async def empty() -> bool:
        return await store.uploads() == [] and await store.objects() == []

    await until(empty)
    await until_row(connection, NO_EXPORT_CONNECTION)


async def logged(program: Program, event: str) -> bool:
    """Whether the program has logged this event."""
    return bool(program.events(event))


async def test_a_cancelled_export_stops_at_once_in_the_process_that_was_asked(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    # Renewals are so far apart that it cannot have learned of the cancellation by one.
    settings = {"DATABASE_URL": database_url, **store.settings, "LEASE_SECONDS": "300"}
    async with running(settings) as program, blocked(database_url):
        export_id = await begun(program, connection, space)
        assert (await cancel(program.address, space, export_id))["status"] == "cancelled"
        async with asyncio.timeout(10):
            await until(lambda: logged(program, "attempt_cancelled"))
        await nothing_is_left(connection, store)
    assert not program.events("claim_lost")
    assert await connection.fetchval("SELECT outcome FROM export_attempts") == "cancelled"


async def test_a_cancelled_export_stops_in_another_process_at_its_next_renewal(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, **store.settings, "LEASE_SECONDS": "1"}
    async with (
        running(settings) as worker,
        running(settings | {"EXPORT_SLOTS": "0"}) as asked,
        blocked(database_url),
    ):
        export_id = await begun(worker, connection, space)
        assert (await cancel(asked.address, space, export_id))["status"] == "cancelled"
        await until(lambda: logged(worker, "claim_lost"))
        await nothing_is_left(connection, store)
        await until_row(connection, "SELECT 1 FROM export_attempts WHERE cleaned_at IS NOT NULL")
        assert not asked.events("attempt_cancelled")


async def test_a_file_that_has_expired_has_no_link_any_more_and_is_deleted_after_the_last_one(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, **store.settings, "FILE_LIFETIME_HOURS": "0.0005"}
    async with (
        running(settings) as program,
        ExportClient(program.address, space.key) as client,
        aiohttp.ClientSession() as session,
    ):
        status = await client.ended(await client.create(**WHOLE_RANGE))
        link = URL(status["download_url"], encoded=True)
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE status = 'expired'")
        assert "download_url" not in await client.ended(status["export_id"])
        async with session.get(link) as answer:
            assert answer.status == 200, "a link that was given out before works to its end"
        await connection.execute("UPDATE export_jobs SET file_delete_after = now()")
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
        async with session.get(link) as answer:
            assert answer.status in (403, 404)
        assert await store.objects() == []
