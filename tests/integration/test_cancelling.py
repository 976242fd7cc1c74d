"""Cancellation is immediate, final, and mutually exclusive with completion."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.failures import SourceData, StorageUnavailable
from service.model import ExportStatus, Scope
from service.postgres.claims import Renewal
from service.postgres.export_jobs import Cancelled, ExportJobs
from tests.support.jobs import JobTable, holding, job_table, until_waited_for
from tests.support.web import EXPORTS, Site, site

NOT_FOUND = b'{"message":"Export not found."}'


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


# The contract --------------------------------------------------------------------------------------------------------


async def test_a_queued_export_is_cancelled_and_never_runs(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    answer = await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    body = await answer.json()
    assert answer.status == 202
    assert list(body) == ["export_id", "status", "created_at", "message", "window"]
    assert (body["export_id"], body["status"], body["message"]) == (export_id, "cancelled", "The export was cancelled.")
    assert body == await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json()
    assert await api.claims.claim("a worker", lease=timedelta(minutes=5), space_slots=9, alone=True) is None
    assert api.cancelled == []


async def test_cancelling_a_running_export_notifies_its_attempt_immediately(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    claim = await api.claim()
    answer = await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    assert (answer.status, (await answer.json())["status"]) == (202, "cancelled")
    assert api.cancelled == [claim.claim_id]
    assert await api.claims.outcome(claim) == "cancelled"
    assert await api.claims.record_upload(claim, "an upload") is False


async def test_cancelling_a_completed_export_deletes_its_file_and_ends_its_links(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(b"the bytes of a file")
    link = (await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json())["download_url"]
    answer = await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    body = await answer.json()
    assert (answer.status, body["status"]) == (202, "expired")
    assert "download_url" not in body
    assert (await api.client.session.get(link)).status == 404
    assert [stored async for stored in api.store.objects()] == []
    async with api.database.connection() as connection:
        assert await connection.fetchval("SELECT file_deleted_at IS NOT NULL FROM export_jobs WHERE id = $1", export_id)


async def test_a_completed_export_expires_even_if_its_file_cannot_be_deleted_yet(api: Site, tmp_path: Path) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(b"the bytes of a file")
    (tmp_path / "objects").rename(tmp_path / "away")
    answer = await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    assert (answer.status, (await answer.json())["status"]) == (202, "expired")
    async with api.database.connection() as connection:
        assert await connection.fetchval("SELECT file_deleted_at IS NULL FROM export_jobs WHERE id = $1", export_id)


async def test_cancelling_an_export_that_failed_expired_or_was_cancelled_changes_nothing(api: Site) -> None:
    headers = await api.caller()
    failed, cancelled, expired = await api.create(headers), await api.create(headers), await api.create(headers)
    await api.claims.end_in_error(await api.claim(), SourceData(), pause=timedelta(0))
    await api.client.delete(f"{EXPORTS}/{cancelled}", headers=headers)
    await api.complete(b"bytes")
    await api.client.delete(f"{EXPORTS}/{expired}", headers=headers)
    for export_id, status in ((failed, "failed"), (cancelled, "cancelled"), (expired, "expired")):
        before = await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json()
        answer = await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
        assert (answer.status, await answer.json()) == (202, before)
        assert before["status"] == status


async def test_an_unknown_foreign_or_malformed_id_gives_the_same_404(api: Site) -> None:
    owner, other = await api.caller(), await api.caller()
    export_id = await api.create(owner)
    for text in (str(export_id), str(export_id + 1), "0", "x", "9223372036854775807", "9223372036854775808"):
        answer = await api.client.delete(f"{EXPORTS}/{text}", headers=other)
        assert (answer.status, await answer.read()) == (404, NOT_FOUND), text
    assert (await (await api.client.get(f"{EXPORTS}/{export_id}", headers=owner)).json())["status"] == "queued"


async def test_cancelling_requires_the_write_scope(api: Site) -> None:
    answer = await api.client.delete(f"{EXPORTS}/1", headers=await api.caller(Scope.EXPORTS_READ))
    assert answer.status == 403
    assert (await api.client.delete(f"{EXPORTS}/1")).status == 401


async def test_list_cancel_and_download_share_a_rate_limit(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, other="4/minute") as api:
        headers = await api.caller()
        answers = [
            await api.client.delete(f"{EXPORTS}/1", headers=headers),
            await api.client.get(EXPORTS, headers=headers),
            await api.client.get(f"{EXPORTS}/1/download", headers=headers),
            await api.client.delete(f"{EXPORTS}/1", headers=headers),
            await api.client.get(f"{EXPORTS}/1/download", headers=headers),
        ]
        assert [answer.status for answer in answers] == [404, 200, 404, 404, 429]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["3", "2", "1", "0", "0"]
        assert int(answers[4].headers["Retry-After"]) >= 1
        assert (await api.client.get(f"{EXPORTS}/1", headers=headers)).status == 404


# The row -------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_attempt_has_a_receipt_and_is_a_leftover(jobs: JobTable) -> None:
    claim = await jobs.claimed(rows_read=7)
    assert await ExportJobs(jobs.database).cancel(claim.export_id, None) == Cancelled(
        ExportStatus.PROCESSING, ExportStatus.CANCELLED, claim.claim_id
    )
    attempt = await jobs.attempt(claim)
    assert (attempt["outcome"], attempt["rows_read"]) == ("cancelled", 7)
    assert attempt["ended_at"] is not None
    assert [each.claim_id for each in await jobs.claims.leftovers(grace=timedelta(0))] == [claim.claim_id]
    assert await jobs.claims.leftovers(grace=timedelta(minutes=1)) == []
    assert await jobs.renew(claim) is Renewal.LOST


async def test_a_cancelled_export_frees_its_slot(jobs: JobTable) -> None:
    space_id = await jobs.space(max_running=1)
    first, second = await jobs.queue(space_id), await jobs.queue(space_id)
    await jobs.claim()
    assert await jobs.try_claim() is None
    await jobs.cancel(first)
    assert (await jobs.claim()).export_id == second


async def test_an_export_in_its_retry_delay_can_be_cancelled(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    await jobs.claims.end_in_error(claim, StorageUnavailable(), pause=timedelta(hours=1))
    await jobs.cancel(claim.export_id)
    assert (await jobs.attempt(claim))["outcome"] == "error"


# Races, staged: the row's lock decides -------------------------------------------------------------------------------


async def test_a_cancellation_that_waits_for_a_completion_finds_a_completed_export(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {claim.export_id} FOR UPDATE") as holder:
        completing = asyncio.create_task(jobs.complete(claim))
        await until_waited_for(jobs.sql, holder)
        cancelling = asyncio.create_task(ExportJobs(jobs.database).cancel(claim.export_id, None))
        await until_waiting(jobs, 2)
        await holder.execute("ROLLBACK; BEGIN")
        assert await completing
        found = await cancelling
    assert found == Cancelled(ExportStatus.COMPLETED, ExportStatus.EXPIRED, None)
    job, attempt = await jobs.job(claim.export_id), await jobs.attempt(claim)
    assert (job["status"], job["object_name"], attempt["outcome"]) == ("expired", claim.object_name, "completed")
    assert job["file_delete_after"] <= job["expired_at"]


async def test_a_completion_that_waits_for_a_cancellation_publishes_nothing(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {claim.export_id} FOR UPDATE") as holder:
        cancelling = asyncio.create_task(ExportJobs(jobs.database).cancel(claim.export_id, None))
        await until_waited_for(jobs.sql, holder)
        completing = asyncio.create_task(jobs.complete(claim))
        await until_waiting(jobs, 2)
        await holder.execute("ROLLBACK; BEGIN")
        found = await cancelling
        assert not await completing
    assert found == Cancelled(ExportStatus.PROCESSING, ExportStatus.CANCELLED, claim.claim_id)
    job, attempt = await jobs.job(claim.export_id), await jobs.attempt(claim)
    assert (job["status"], job["object_name"], attempt["outcome"]) == ("cancelled", None, "cancelled")
    assert [each.claim_id for each in await jobs.claims.leftovers(grace=timedelta(0))] == [claim.claim_id]


async def test_however_a_race_with_a_completion_ends_exactly_one_of_the_two_stands(jobs: JobTable) -> None:
    seen = set()
    for _ in range(100):
        claim = await jobs.claimed()
        completed, cancelled = await asyncio.gather(
            jobs.complete(claim), ExportJobs(jobs.database).cancel(claim.export_id, None)
        )
        assert cancelled is not None
        status = ExportStatus.EXPIRED if completed else ExportStatus.CANCELLED
        outcome = "completed" if completed else "cancelled"
        assert (cancelled.status, (await jobs.job(claim.export_id))["status"]) == (status, status)
        assert (await jobs.attempt(claim))["outcome"] == outcome
        seen.add(status)
    assert seen


async def until_waiting(jobs: JobTable, count: int) -> None:
    """Return when this many sessions wait for a lock in this database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(30):
        while await jobs.sql.fetchval(query) < count:
            await asyncio.sleep(0.01)
