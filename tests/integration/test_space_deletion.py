"""Deleting a Space: exports, files, keys and rows, also after an interruption, while others use the service."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from service import failpoints
from service.access import Access
from service.errors import DatabaseUnavailable, SpaceNotFound
from service.exports import space_deletion
from service.exports.space_deletion import SpaceDeletion, Step
from service.failpoints import FailpointRaised
from service.failures import StorageUnavailable
from service.model import Claim, Scope
from service.postgres.access import AccessTables
from service.postgres.claims import Renewal
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.space_deletion import SpaceDeletionTables
from service.storage.directory import DirectoryStore
from tests.support import stores
from tests.support.jobs import JobTable, job_table
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_row

LEFT = """
SELECT (SELECT count(*) FROM spaces) AS spaces, (SELECT count(*) FROM api_keys) AS keys,
       (SELECT count(*) FROM export_jobs) AS exports, (SELECT count(*) FROM export_attempts) AS attempts,
       (SELECT count(*) FROM idempotency_keys) AS names"""


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    """A directory as object store."""
    async with stores.directory_store(tmp_path / "files") as store:
        yield store


@pytest.fixture
def deletion(jobs: JobTable, files: StoreUnderTest) -> SpaceDeletion:
    """A deletion that waits for no calls of ended attempts."""
    return deletion_with(jobs, files)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_deletion, "_PAUSE_SECONDS", 0.05)


def deletion_with(jobs: JobTable, files: StoreUnderTest, *, grace: timedelta = timedelta(0)) -> SpaceDeletion:
    """A deletion with this grace period."""
    tables = SpaceDeletionTables(jobs.database)
    return SpaceDeletion(tables, ExportFiles(jobs.database), jobs.claims, files.store, grace=grace)


async def file_of(jobs: JobTable, files: StoreUnderTest, claim: Claim) -> None:
    """Store the file of an attempt."""
    async with files.store.upload(claim.object_name, part_size=6, filename="", metadata={}) as upload:
        assert await jobs.claims.record_upload(claim, upload.upload_id)
        await upload.put_part(1, [b"a file"])
        await upload.complete()


async def full_space(jobs: JobTable, files: StoreUnderTest) -> tuple[int, Claim]:
    """A Space with a key and exports in every state; returns its id and the claim of the export that runs."""
    space_id = await jobs.space()
    await Access(AccessTables(jobs.database)).create_key(space_id, Scope)
    await attempt(jobs, files, space_id, completed=True)
    expired = await attempt(jobs, files, space_id, completed=True)
    await ExportJobs(jobs.database).cancel(expired.export_id, space_id)
    failed = await attempt(jobs, files, space_id)
    await jobs.set(failed.export_id, attempts="max_attempts")
    await jobs.claims.end_in_error(failed, StorageUnavailable(), pause=timedelta(0))
    cancelled = await attempt(jobs, files, space_id)
    await jobs.cancel(cancelled.export_id)
    running = await attempt(jobs, files, space_id)
    queued = await jobs.queue(space_id)
    name = "INSERT INTO idempotency_keys (space_id, key, export_id) VALUES ($1, 'a', $2)"
    await jobs.sql.execute(name, space_id, queued)
    return space_id, running


async def attempt(jobs: JobTable, files: StoreUnderTest, space_id: int, *, completed: bool = False) -> Claim:
    """An attempt at a new export that has written its file."""
    await jobs.queue(space_id)
    claim = await jobs.claim()
    await file_of(jobs, files, claim)
    assert not completed or await jobs.complete(claim)
    return claim


async def steps(deletion: SpaceDeletion, space_id: int) -> dict[Step, int]:
    """Delete the Space; returns how much each step did in all."""
    counts: dict[Step, int] = {}
    async for done in deletion.run(space_id):
        counts[done.step] = counts.get(done.step, 0) + done.count
    return counts


async def test_all_exports_files_keys_and_rows_of_the_space_are_deleted_and_nothing_of_another(
    jobs: JobTable, files: StoreUnderTest, deletion: SpaceDeletion
) -> None:
    other = await jobs.space()
    await jobs.queue(other)
    kept = await jobs.claim()
    await file_of(jobs, files, kept)
    assert await jobs.complete(kept)
    space_id, _ = await full_space(jobs, files)
    assert await steps(deletion, space_id) == {
        Step.KEYS_REVOKED: 1,
        Step.QUEUED_CANCELLED: 1,
        Step.RUNNING_CANCELLED: 1,
        Step.FILES_DELETED: 2,
        Step.LEFTOVERS_DELETED: 3,
        Step.EXPORTS_DELETED: 6,
        Step.SPACE_DELETED: 1,
    }
    assert await files.objects() == [kept.object_name]
    row = await jobs.sql.fetchrow(LEFT)
    assert row is not None
    assert dict(row) == {"spaces": 1, "keys": 0, "exports": 1, "attempts": 1, "names": 0}


async def test_an_export_that_runs_elsewhere_can_neither_publish_nor_renew(
    jobs: JobTable, files: StoreUnderTest, deletion: SpaceDeletion
) -> None:
    space_id, running = await full_space(jobs, files)
    await steps(deletion, space_id)
    assert await jobs.renew(running) is Renewal.LOST
    assert not await jobs.complete(running)
    assert not await jobs.claims.record_upload(running, "an upload")


async def test_attempts_that_ended_just_now_are_waited_for(jobs: JobTable, files: StoreUnderTest) -> None:
    space_id, running = await full_space(jobs, files)
    deletion = deletion_with(jobs, files, grace=timedelta(hours=1))
    deleting = asyncio.create_task(steps(deletion, space_id))
    await until_row(jobs.sql, "SELECT 1 HAVING NOT EXISTS (SELECT FROM export_jobs WHERE status = 'processing')")
    await files.store.delete(running.object_name)
    await file_of_a_dead_worker(files, running)
    assert not deleting.done()
    await jobs.sql.execute("UPDATE export_attempts SET ended_at = ended_at - interval '2 hours'")
    counts = await deleting
    assert counts[Step.ATTEMPTS_WAITED_FOR] == 3
    assert await files.objects() == []


async def file_of_a_dead_worker(files: StoreUnderTest, claim: Claim) -> None:
    """The last call of the attempt arrives late: its file is complete."""
    async with files.store.upload(claim.object_name, part_size=6, filename="", metadata={}) as upload:
        await upload.put_part(1, [b"a file"])
        await upload.complete()


@pytest.mark.parametrize(
    "point", ["space_closed", "space_exports_ended", "space_file_deleted", "clean_deleted", "space_exports_deleted"]
)
async def test_a_deletion_that_was_interrupted_is_finished_by_the_next(
    jobs: JobTable, files: StoreUnderTest, deletion: SpaceDeletion, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    space_id, _ = await full_space(jobs, files)
    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "_armed", failpoints.rules(f"{point}:raise"))
        with pytest.raises(FailpointRaised):
            await steps(deletion, space_id)
    assert await jobs.sql.fetchval("SELECT count(*) FROM spaces") == 1
    assert await jobs.try_claim() is None
    assert await jobs.sql.fetchval("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL") == 0
    assert (await steps(deletion, space_id))[Step.SPACE_DELETED] == 1
    assert await files.objects() == []
    assert await jobs.sql.fetchval("SELECT count(*) FROM export_attempts") == 0


async def test_an_export_that_is_created_meanwhile_is_deleted_too(
    jobs: JobTable, files: StoreUnderTest, deletion: SpaceDeletion
) -> None:
    space_id, _ = await full_space(jobs, files)
    counts: dict[Step, int] = {}
    async for done in deletion.run(space_id):
        if done.step is Step.EXPORTS_DELETED and done.step not in counts:
            await jobs.queue(space_id)
        counts[done.step] = counts.get(done.step, 0) + done.count
    assert (counts[Step.EXPORTS_DELETED], counts[Step.QUEUED_CANCELLED]) == (7, 2)
    assert await jobs.sql.fetchval("SELECT count(*) FROM export_jobs") == 0


async def test_a_store_that_is_down_keeps_the_rows_for_the_next_try(
    jobs: JobTable, files: StoreUnderTest, deletion: SpaceDeletion, monkeypatch: pytest.MonkeyPatch
) -> None:
    space_id, _ = await full_space(jobs, files)

    async def fail(*_: object) -> None:
        raise StorageUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStore, "delete", fail)
        with pytest.raises(StorageUnavailable):
            await steps(deletion, space_id)
    assert await jobs.sql.fetchval("SELECT count(*) FROM export_jobs WHERE object_name IS NOT NULL") == 2
    assert (await steps(deletion, space_id))[Step.FILES_DELETED] == 2
    with pytest.raises(SpaceNotFound):
        await SpaceDeletionTables(jobs.database).contents(space_id)


async def test_a_row_that_another_session_has_locked_ends_the_deletion_with_an_error(
    jobs: JobTable, files: StoreUnderTest, deletion: SpaceDeletion
) -> None:
    space_id, _ = await full_space(jobs, files)
    async with jobs.sql.transaction():
        await jobs.sql.execute("SELECT FROM export_jobs FOR UPDATE")
        with pytest.raises(DatabaseUnavailable):
            await steps(deletion, space_id)
    assert (await steps(deletion, space_id))[Step.SPACE_DELETED] == 1
