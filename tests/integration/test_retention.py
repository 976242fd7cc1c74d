"""Expired files are deleted after their links expired; old rows are deleted once the store has nothing of them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.exports.retention import Retention
from service.model import Claim
from service.postgres.export_files import ExportFiles
from service.storage.directory import DirectoryStore
from tests.support.jobs import JobTable, holding, job_table
from tests.support.stores import link_secret

LINKS = timedelta(minutes=15)
HISTORY = timedelta(days=90)
LONG_AGO = "now() - interval '91 days'"


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


@pytest.fixture
async def store(tmp_path: Path) -> DirectoryStore:
    """An empty store."""
    made = DirectoryStore(tmp_path / "store", link_secret, LINKS)
    await made.create()
    return made


@pytest.fixture
def retention(jobs: JobTable, store: DirectoryStore) -> Retention:
    """The retention of a replica."""
    return Retention(ExportFiles(jobs.database), store, link_lifetime=LINKS, history=HISTORY)


async def put(store: DirectoryStore, object_name: str) -> None:
    """Store an object."""
    async with store.upload(object_name, part_size=1, filename="x", metadata={}) as upload:
        await upload.put_part(1, [b"x"])
        await upload.complete()


async def names(store: DirectoryStore) -> set[str]:
    """Names of the objects in the store."""
    return {found.object_name async for found in store.objects()}


async def completed(jobs: JobTable, store: DirectoryStore, **columns: object) -> Claim:
    """A completed export with its file."""
    claim = await jobs.claimed()
    await put(store, claim.object_name)
    assert await jobs.complete(claim)
    await jobs.set(claim.export_id, **columns)
    return claim


OLD = {"file_expires_at": "now() - interval '1 second'"}


async def test_a_file_expires_when_due_and_not_before(jobs: JobTable, store: DirectoryStore, retention: Retention) -> None:
    old, young = await completed(jobs, store, **OLD), await completed(jobs, store)
    await retention.expire()
    assert (await jobs.job(young.export_id))["status"] == "completed"
    job = await jobs.job(old.export_id)
    assert (job["status"], job["file_deleted_at"]) == ("expired", None)
    assert job["file_delete_after"] - job["expired_at"] == LINKS + timedelta(hours=1)


async def test_a_file_is_deleted_only_after_its_last_link_has_expired(
    jobs: JobTable, store: DirectoryStore, retention: Retention
) -> None:
    old = await completed(jobs, store, **OLD)
    await retention.expire()
    await retention.delete_files()
    assert await names(store) == {old.object_name}
    await jobs.set(old.export_id, file_delete_after="now() - interval '1 second'")
    await retention.delete_files()
    assert await names(store) == set()
    assert (await jobs.job(old.export_id))["file_deleted_at"] is not None


async def test_after_a_crash_between_any_two_steps_the_next_pass_finishes(
    jobs: JobTable, store: DirectoryStore, retention: Retention
) -> None:
    expired = await completed(jobs, store, **OLD)
    deleted = await completed(jobs, store, **OLD)
    files = ExportFiles(jobs.database)
    # One process dies after the expiry commit, another after the deletion and before recording it.
    assert sorted(await files.expire(links_live=timedelta(0))) == [expired.export_id, deleted.export_id]
    await store.delete(deleted.object_name)
    await retention.expire()
    await retention.delete_files()
    assert await names(store) == set()
    for claim in (expired, deleted):
        assert (await jobs.job(claim.export_id))["file_deleted_at"] is not None
    assert await files.deletable() == []


async def test_a_failed_file_deletion_is_retried(
    jobs: JobTable, store: DirectoryStore, retention: Retention, tmp_path: Path
) -> None:
    claim = await completed(jobs, store, **OLD)
    await ExportFiles(jobs.database).expire(links_live=timedelta(0))
    (tmp_path / "store").rename(tmp_path / "away")
    await retention.delete_files()
    assert (await jobs.job(claim.export_id))["file_deleted_at"] is None
    (tmp_path / "away").rename(tmp_path / "store")
    await retention.delete_files()
    assert await names(store) == set()
    assert (await jobs.job(claim.export_id))["file_deleted_at"] is not None


async def test_replicas_expire_and_delete_concurrently(jobs: JobTable, store: DirectoryStore, retention: Retention) -> None:
    claims = [await completed(jobs, store, **OLD) for _ in range(20)]
    files = ExportFiles(jobs.database)
    expired = await asyncio.gather(*(files.expire(links_live=timedelta(0)) for _ in range(3)))
    assert sorted(each for some in expired for each in some) == [claim.export_id for claim in claims]
    await asyncio.gather(*(retention.delete_files() for _ in range(3)))
    assert await names(store) == set()
    assert await jobs.sql.fetchval("SELECT count(*) FROM export_jobs WHERE file_deleted_at IS NULL") == 0


async def test_a_locked_row_does_not_block_the_expiry_of_others(
    jobs: JobTable, store: DirectoryStore, retention: Retention
) -> None:
    locked, free = await completed(jobs, store, **OLD), await completed(jobs, store, **OLD)
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {locked.export_id} FOR UPDATE"):
        await retention.expire()
        assert (await jobs.job(free.export_id))["status"] == "expired"
    await retention.expire()
    assert (await jobs.job(locked.export_id))["status"] == "expired"


# Rows ----------------------------------------------------------------------------------------------------------------


async def ids(jobs: JobTable) -> list[int]:
    """The ids of all exports."""
    return [row["id"] for row in await jobs.sql.fetch("SELECT id FROM export_jobs ORDER BY id")]


async def test_rows_are_deleted_with_their_attempts_after_the_history_period(
    jobs: JobTable, store: DirectoryStore, retention: Retention
) -> None:
    old, young = await completed(jobs, store), await completed(jobs, store)
    for claim, finished_at in ((old, LONG_AGO), (young, "now() - interval '89 days'")):
        await jobs.set(claim.export_id, file_expires_at="now()", finished_at=finished_at)
    await ExportFiles(jobs.database).expire(links_live=timedelta(0))
    await retention.delete_files()
    await retention.forget()
    assert await ids(jobs) == [young.export_id]
    assert await jobs.sql.fetchval("SELECT count(*) FROM export_attempts") == 1


async def test_a_row_is_kept_while_the_store_may_contain_something_of_it(
    jobs: JobTable, store: DirectoryStore, retention: Retention
) -> None:
    with_a_file = await completed(jobs, store, finished_at=LONG_AGO)
    to_be_deleted = await completed(jobs, store, finished_at=LONG_AGO, **OLD)
    await retention.expire()
    unclean = await jobs.claimed()
    await jobs.cancel(unclean.export_id)
    await jobs.set(unclean.export_id, finished_at=LONG_AGO)
    waiting = await jobs.queue(await jobs.space(), created_at=LONG_AGO)
    await retention.forget()
    assert await ids(jobs) == [with_a_file.export_id, to_be_deleted.export_id, unclean.export_id, waiting]
    (garbage,) = await jobs.claims.leftovers(grace=timedelta(0))
    await jobs.claims.record_cleaned(garbage)
    await retention.forget()
    assert await ids(jobs) == [with_a_file.export_id, to_be_deleted.export_id, waiting]


async def test_many_rows_are_deleted_in_batches_shared_by_replicas(jobs: JobTable, retention: Retention) -> None:
    space_id = await jobs.space()
    await jobs.sql.execute(
        "INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to,"
        " max_attempts) SELECT $1, '2024-01-01', '2024-01-02', 'UTC', '2024-01-01Z', '2024-01-02Z',"
        " 5 FROM generate_series(1, 1200)",
        space_id,
    )
    await jobs.sql.execute(f"UPDATE export_jobs SET status = 'cancelled', finished_at = {LONG_AGO}")
    files = ExportFiles(jobs.database)
    gone = await asyncio.gather(*(files.forget(age=HISTORY) for _ in range(2)))
    assert all(count <= 500 for count in gone)
    while await files.forget(age=HISTORY):
        pass
    assert await ids(jobs) == []


async def test_one_pass_deletes_more_than_one_batch_of_rows(jobs: JobTable, retention: Retention) -> None:
    await jobs.queue_many([await jobs.space()] * 1001)
    await jobs.sql.execute("UPDATE export_jobs SET status = 'cancelled', finished_at = now() - interval '91 days'")
    await retention.forget()
    assert await ids(jobs) == []
