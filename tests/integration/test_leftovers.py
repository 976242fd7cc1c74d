"""Leftovers of dead attempts are deleted, recorded or not, and nothing else is."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from service.exports.leftovers import Leftovers
from service.failures import StorageRefused
from service.model import Claim, StoredFile
from service.postgres.claims import Claims
from service.postgres.pool import Database
from service.storage.directory import DirectoryStore
from tests.e2e.conftest import connection, space, store
from tests.support.contacts import Tenant
from tests.support.stores import StoreUnderTest, link_secret

__all__ = ["connection", "space", "store"]

PART = 5 * 1024 * 1024
_LEFT: list[AsyncExitStack] = []
"""Unfinished uploads. They are referenced here because a garbage-collected one is closed, and so aborted."""


@pytest.fixture
async def claims(database_url: str) -> AsyncIterator[Claims]:
    """The claims of the test's database."""
    async with Database(database_url, application_name="tests", size=2) as database:
        yield Claims(database, renewals=database)


@pytest.fixture
def leftovers(claims: Claims, store: StoreUnderTest) -> Leftovers:
    """A cleanup without a grace period."""
    return Leftovers(claims, store.store, grace=timedelta(0))


async def dead_claim(connection: asyncpg.Connection, claims: Claims, space: Tenant) -> Claim:
    """A claim whose lease was lost; the export is queued again."""
    await connection.execute(
        """INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to,
             max_attempts)
           VALUES ($1, '2024-01-01', '2024-02-01', 'UTC', '2024-01-01Z', '2024-02-01Z', 5)""",
        space.space_id,
    )
    claim = await claims.claim("tests", lease=timedelta(0), space_slots=10, alone=True)
    assert claim is not None
    return claim


async def leave_upload(store: StoreUnderTest, name: str) -> str:
    """Begin an upload like a process that is killed before finishing it."""
    left = AsyncExitStack()
    upload = await left.enter_async_context(store.store.upload(name, part_size=PART, filename="x", metadata={}))
    await upload.put_part(1, [b"x" * PART])
    _LEFT.append(left)
    return upload.upload_id


async def leave_object(store: StoreUnderTest, name: str) -> None:
    """Complete an upload like a process that is killed before publishing it."""
    async with store.store.upload(name, part_size=PART, filename="x", metadata={}) as upload:
        await upload.put_part(1, [b"x"])
        await upload.complete()


async def test_an_unrecorded_upload_is_found_by_its_object_name(
    connection: asyncpg.Connection, claims: Claims, space: Tenant, store: StoreUnderTest, leftovers: Leftovers
) -> None:
    claim = await dead_claim(connection, claims, space)
    await leave_upload(store, claim.object_name)
    await leave_upload(store, claim.object_name)
    await leave_upload(store, claim.object_name + "x")
    await claims.rescue(pause=timedelta(0))
    await leftovers.clean()
    assert await store.uploads() == [claim.object_name + "x"]
    assert await connection.fetchval("SELECT cleaned_at IS NOT NULL FROM export_attempts")


async def test_a_complete_file_that_was_never_published_is_deleted(
    connection: asyncpg.Connection, claims: Claims, space: Tenant, store: StoreUnderTest, leftovers: Leftovers
) -> None:
    claim = await dead_claim(connection, claims, space)
    await claims.record_upload(claim, await leave_upload(store, claim.object_name))
    await leave_object(store, claim.object_name)
    await claims.rescue(pause=timedelta(0))
    await leftovers.clean()
    assert (await store.uploads(), await store.objects()) == ([], [])


async def test_files_of_a_running_attempt_are_kept(
    connection: asyncpg.Connection, claims: Claims, space: Tenant, store: StoreUnderTest, leftovers: Leftovers
) -> None:
    claim = await dead_claim(connection, claims, space)
    await claims.record_upload(claim, await leave_upload(store, claim.object_name))
    await leave_object(store, claim.object_name)
    await leftovers.clean()
    await leftovers.abort_abandoned()
    assert (await store.uploads(), await store.objects()) == ([claim.object_name], [claim.object_name])


async def test_an_old_upload_is_left_alone_only_while_an_attempt_writes_it(
    connection: asyncpg.Connection,
    claims: Claims,
    space: Tenant,
    store: StoreUnderTest,
    leftovers: Leftovers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.exports.leftovers.ABANDONED_AFTER", timedelta(seconds=-2))
    claim = await dead_claim(connection, claims, space)
    await leave_upload(store, claim.object_name)
    await leave_upload(store, f"{space.space_id}/999/{uuid4()}.ndjson.gz")
    await leave_upload(store, f".probe/{uuid4().hex}")
    await leftovers.abort_abandoned()
    assert await store.uploads() == [claim.object_name]
    await leave_object(store, claim.object_name)
    file = StoredFile(row_count=1, size=1, sha256="ab" * 32)
    until = datetime(2024, 2, 1, tzinfo=UTC)
    assert await claims.complete(claim, file, snapshot_at=until, complete_until=until, file_lifetime=timedelta(hours=1))
    await leftovers.abort_abandoned()
    assert (await store.uploads(), await store.objects()) == ([], [claim.object_name])


async def test_uploads_of_other_programs_are_left_alone(
    space: Tenant, store: StoreUnderTest, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.exports.leftovers.ABANDONED_AFTER", timedelta(seconds=-2))
    foreign = ["backup.tar", f"other/{space.space_id}/1/{uuid4()}.ndjson.gz", f"{space.space_id}/1/notes.txt"]
    for name in foreign:
        await leave_upload(store, name)
    await leftovers.abort_abandoned()
    assert await store.uploads() == sorted(foreign)


async def test_an_unreachable_store_is_tried_again(
    connection: asyncpg.Connection, claims: Claims, space: Tenant, tmp_path: Path
) -> None:
    await dead_claim(connection, claims, space)
    away = DirectoryStore(tmp_path / "away", link_secret, timedelta(minutes=1))
    leftovers = Leftovers(claims, away, grace=timedelta(0))
    await claims.rescue(pause=timedelta(0))
    await leftovers.clean()
    assert not await connection.fetchval("SELECT cleaned_at IS NOT NULL FROM export_attempts")
    await away.create()
    await leftovers.clean()
    assert await connection.fetchval("SELECT cleaned_at IS NOT NULL FROM export_attempts")


async def test_only_an_old_object_without_a_row_is_deleted(
    connection: asyncpg.Connection,
    claims: Claims,
    space: Tenant,
    store: StoreUnderTest,
    leftovers: Leftovers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = await dead_claim(connection, claims, space)
    await leave_object(store, running.object_name)
    orphan = f"{space.space_id}/999/{uuid4()}.ndjson.gz"
    for name in (orphan, f".probe/{uuid4().hex}", "readme.txt", f"other/{orphan}"):
        await leave_object(store, name)
    await leftovers.delete_orphans()
    assert orphan in await store.objects(), "a young one may be of an attempt whose row is not there yet"
    monkeypatch.setattr("service.exports.leftovers.ORPHANED_AFTER", timedelta(minutes=-1))
    await leftovers.delete_orphans()
    assert await store.objects() == sorted([running.object_name, "readme.txt", f"other/{orphan}"])


async def test_an_object_whose_row_was_inserted_during_the_listing_is_kept(
    connection: asyncpg.Connection,
    database_url: str,
    space: Tenant,
    store: StoreUnderTest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.exports.leftovers.ORPHANED_AFTER", timedelta(minutes=-1))
    name = f"{space.space_id}/1/{uuid4()}.ndjson.gz"
    await leave_object(store, name)

    class ClaimedMeanwhile(Claims):
        async def objects_in_use(self, object_names: Iterable[str]) -> set[str]:
            listed = list(object_names)
            await dead_claim(connection, self, space)
            await connection.execute("UPDATE export_attempts SET object_name = $1", name)
            return await super().objects_in_use(listed)

    async with Database(database_url, application_name="tests", size=2) as database:
        claims = ClaimedMeanwhile(database, renewals=database)
        await Leftovers(claims, store.store, grace=timedelta(0)).delete_orphans()
    assert await store.objects() == [name]


async def test_an_undeletable_object_does_not_block_others(
    claims: Claims, store: StoreUnderTest, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.exports.leftovers.ORPHANED_AFTER", timedelta(minutes=-1))
    names = sorted(f"1/1/{uuid4()}.ndjson.gz" for _ in range(3))
    for name in names:
        await leave_object(store, name)
    delete = store.store.delete

    async def refusing(object_name: str) -> None:
        if object_name == names[0]:
            raise StorageRefused(detail="403 AccessDenied")
        await delete(object_name)

    monkeypatch.setattr(store.store, "delete", refusing)
    await leftovers.delete_orphans()
    assert await store.objects() == [names[0]]
