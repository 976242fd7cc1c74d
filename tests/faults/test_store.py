"""Exports while the object store fails: the program, a real S3 server, and a proxy between them."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from service.client import ExportClient
from service.failures import StorageUnavailable
from tests.support import s3_faults, stores
from tests.support.calls import create
from tests.support.contacts import Tenant, add_contacts, add_wide_contacts, expected_lines, lines_of
from tests.support.export_checks import assert_file_is_correct
from tests.support.object_stores import use_credentials
from tests.support.program import Program, running
from tests.support.s3 import S3Access
from tests.support.s3_faults import ANY, Forward, S3Faults
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_cleaned, until_ended, until_logged, until_row

pytestmark = pytest.mark.long

ROWS = 600
SLOW_LEASE = timedelta(seconds=3)


@pytest.fixture
async def files(s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StoreUnderTest]:
    """The test's own access to the store, without the proxy."""
    use_credentials(monkeypatch, s3)
    async with stores.s3_store(s3, bucket) as store:
        yield store


@asynccontextmanager
async def through_proxy(
    faults: S3Faults, files: StoreUnderTest, database_url: str, **settings: str
) -> AsyncIterator[Program]:
    """Run the program that reaches the store through the proxy."""
    environment = {"DATABASE_URL": database_url, **files.settings, "S3_ENDPOINT_URL": faults.endpoint_url, **settings}
    async with running(environment) as program:
        yield program


async def assert_file(
    connection: asyncpg.Connection, program: Program, space: Tenant, files: StoreUnderTest, export_id: int, path: Path
) -> asyncpg.Record:
    """Wait until the export has completed, check its file and that nothing else is left, and return its row."""
    row = await until_ended(connection, export_id)
    assert row["status"] == "completed", dict(row)
    await assert_file_is_correct(connection, program, space, files, export_id, path)
    return row


async def test_exports_complete_while_any_store_call_may_fail(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    chances = {
        s3_faults.respond(500, "InternalError"): 0.05,
        s3_faults.respond(503, "SlowDown"): 0.05,
        s3_faults.lose_request: 0.05,
        s3_faults.lose_response: 0.05,
    }
    async with through_proxy(faults, files, database_url, SPACE_SLOTS="8", EXPORT_SLOTS="8") as program:
        faults.randomly(random.Random(55), chances)
        faults.randomly(random.Random(56), {s3_faults.error_in_success: 0.1}, operations=["CompleteMultipartUpload"])
        export_ids = [await create(program, space) for _ in range(8)]
        rows = [await until_ended(connection, export_id) for export_id in export_ids]
        assert faults.met.total() > 0
        faults.heal()
        assert {row["status"] for row in rows} == {"completed"}
        expected = await expected_lines(connection, space.space_id)
        async with ExportClient(program.address, space.key) as client:
            for export_id in export_ids:
                file = await client.download(await client.wait(export_id), tmp_path / "file")
                assert lines_of(file.path) == expected

        async def only_the_files_are_left() -> bool:
            return await files.uploads() == [] and await files.objects() == sorted(row["object_name"] for row in rows)

        await until_cleaned(connection)
        await until(only_the_files_are_left)


async def test_an_export_fails_with_a_message_and_leaves_nothing_when_the_store_stays_busy(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults
) -> None:
    async with through_proxy(faults, files, database_url, MAX_ATTEMPTS="1") as program:
        faults.always("UploadPart", s3_faults.respond(503, "SlowDown"))
        export_id = await create(program, space)
        async with ExportClient(program.address, space.key) as client:
            export = await client.wait(export_id)
        assert (export.status, export.error_code) == ("failed", "storage_unavailable")
        assert export.message == StorageUnavailable.message
        assert (await files.uploads(), await files.objects()) == ([], [])


async def test_leftovers_of_a_failed_attempt_are_removed_once_the_store_allows_it(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults
) -> None:
    denied = s3_faults.respond(403, "AccessDenied")
    async with through_proxy(faults, files, database_url, MAX_ATTEMPTS="1") as program:
        faults.always("UploadPart", denied)
        faults.always("AbortMultipartUpload", denied)
        faults.always("DeleteObject", denied)
        export_id = await create(program, space)
        row = await until_ended(connection, export_id)
        assert (row["status"], row["error_code"]) == ("failed", "storage_refused")
        await connection.execute("UPDATE export_attempts SET ended_at = ended_at - interval '1 hour'")  # the grace period
        await until_logged(program, "clean_failed")
        assert await files.uploads() != []
        assert await connection.fetchval("SELECT cleaned_at FROM export_attempts") is None
        faults.heal()
        await until_row(connection, "SELECT 1 FROM export_attempts WHERE cleaned_at IS NOT NULL")
        assert (await files.uploads(), await files.objects()) == ([], [])


async def test_a_slow_store_costs_no_lease_and_no_attempt(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    lease = {"LEASE_SECONDS": str(SLOW_LEASE.total_seconds())}
    async with through_proxy(faults, files, database_url, **lease) as program, through_proxy(faults, files, database_url):
        faults.always("UploadPart", s3_faults.slowly(1_500))
        export_id = await create(program, space)
        row = await assert_file(connection, program, space, files, export_id, tmp_path / "file")
        assert row["finished_at"] - row["claimed_at"] > 1.5 * SLOW_LEASE
        assert (row["attempts"], row["lost_leases"]) == (1, 0)


async def test_an_attempt_whose_store_call_hangs_is_aborted_and_retried_without_losing_its_lease(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with through_proxy(faults, files, database_url, NO_PROGRESS_SECONDS="5", LEASE_SECONDS="20") as program:
        faults.next("UploadPart", s3_faults.hang)
        export_id = await create(program, space)
        row = await assert_file(connection, program, space, files, export_id, tmp_path / "file")
        assert (row["attempts"], row["lost_leases"]) == (2, 0)
        detail = await connection.fetchval("SELECT error_detail FROM export_attempts WHERE attempt = 1")
        assert detail == "no progress while reading"


async def test_an_attempt_is_retried_when_its_upload_was_aborted_from_outside(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)

    async def abort_first(request: web.Request, forward: Forward) -> web.StreamResponse:
        name = request.path.partition("/exports/")[2]
        await files.store.abort_upload(name, request.query["uploadId"])
        return await forward()

    async with through_proxy(faults, files, database_url) as program:
        faults.next("UploadPart", abort_first)
        faults.next("CompleteMultipartUpload", abort_first)
        export_id = await create(program, space)
        row = await assert_file(connection, program, space, files, export_id, tmp_path / "file")
    attempts = await connection.fetch("SELECT outcome, error_code, error_detail FROM export_attempts ORDER BY attempt")
    assert [tuple(attempt) for attempt in attempts] == [
        ("error", "storage_unavailable", "UploadPart: NoSuchUpload (HTTP 404)"),
        ("error", "storage_unavailable", "CompleteMultipartUpload: NoSuchUpload (HTTP 404)"),
        ("completed", None, None),
    ]
    assert row["attempts"] == 3


async def test_expired_credentials_use_up_attempts_until_they_are_renewed(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with through_proxy(faults, files, database_url, MAX_ATTEMPTS="50") as program:
        faults.always(ANY, s3_faults.respond(400, "ExpiredToken"))
        export_id = await create(program, space)
        row = await until_row(connection, "SELECT * FROM export_jobs WHERE attempts > 1 AND status = 'queued'")
        assert (row["error_code"], row["error_detail"]) == (
            "storage_unavailable",
            "CreateMultipartUpload: ExpiredToken (HTTP 400)",
        )
        faults.heal()
        await assert_file(connection, program, space, files, export_id, tmp_path / "file")


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket")])
async def test_a_refusing_store_is_retried_after_a_longer_delay_and_its_reason_is_recorded(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    faults: S3Faults,
    tmp_path: Path,
    status: int,
    code: str,
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with through_proxy(faults, files, database_url, RETRY_SECONDS="10") as program:
        faults.always("CreateMultipartUpload", s3_faults.respond(status, code))
        asked = faults.seen.count("CreateMultipartUpload")
        export_id = await create(program, space)
        row = await until_row(
            connection, "SELECT *, run_after - now() AS pause FROM export_jobs WHERE error_code IS NOT NULL"
        )
        assert (row["status"], row["error_code"]) == ("queued", "storage_refused")
        assert row["error_detail"] == f"CreateMultipartUpload: {code} (HTTP {status})"
        assert row["pause"].total_seconds() > 20, "a refusal is retried after a minute or later"
        assert faults.seen.count("CreateMultipartUpload") == asked + 1
        faults.heal()
        await connection.execute("UPDATE export_jobs SET run_after = now()")
        await assert_file(connection, program, space, files, export_id, tmp_path / "file")


async def test_a_store_without_extensions_gets_equal_parts(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults, tmp_path: Path
) -> None:
    part_size = 5 * 1024 * 1024
    await add_wide_contacts(connection, space.space_id, 14)
    sizes: list[int] = []

    async def record_size(request: web.Request, forward: Forward) -> web.StreamResponse:
        sizes.append(request.content_length or 0)
        return await s3_faults.refuse_extensions(request, forward)

    async with through_proxy(faults, files, database_url, PART_SIZE=str(part_size)) as program:
        faults.always(ANY, s3_faults.refuse_extensions)
        faults.always("UploadPart", record_size)
        export_id = await create(program, space)
        row = await assert_file(connection, program, space, files, export_id, tmp_path / "file")
    full, rest = divmod(row["file_size"], part_size)
    assert sorted(sizes, reverse=True) == [part_size] * full + [rest]
    assert full > 1


async def test_a_file_that_fills_its_parts_exactly_has_no_additional_part(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, faults: S3Faults, tmp_path: Path
) -> None:
    await add_wide_contacts(connection, space.space_id, 8)
    async with through_proxy(faults, files, database_url) as program:
        export_id = await create(program, space)
        size = (await assert_file(connection, program, space, files, export_id, tmp_path / "file"))["file_size"]
        assert faults.seen.count("UploadPart") == 1
        await files.store.delete((await files.objects())[0])
    async with through_proxy(faults, files, database_url, PART_SIZE=str(size)) as program:
        export_id = await create(program, space)
        row = await assert_file(connection, program, space, files, export_id, tmp_path / "file")
    assert row["file_size"] == size
    assert faults.seen.count("UploadPart") == 2
