"""Behaviour specific to the S3 store, tested with a real S3 server and a proxy that injects faults."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import md5
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.failures import ExportFailure, StorageFull, StorageRefused, StorageUnavailable
from service.storage.s3 import etags
from tests.support import s3_faults
from tests.support.object_stores import PART, Place, fetch, s3_place, use_credentials
from tests.support.s3 import S3Access
from tests.support.s3_faults import S3Faults

NAME = "12/34/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"


@pytest.fixture(autouse=True)
def _credentials(s3: S3Access, monkeypatch: pytest.MonkeyPatch) -> None:
    use_credentials(monkeypatch, s3)


@pytest.fixture
async def place(s3: S3Access, bucket: str, faults: S3Faults) -> AsyncIterator[Place]:
    """A store reached through the proxy, with deadlines of 8 and 12 s."""
    async with s3_place(
        s3,
        bucket,
        endpoint_url=faults.endpoint_url,
        operation_timeout=timedelta(seconds=8),
        complete_timeout=timedelta(seconds=12),
    ) as place:
        yield place


@pytest.fixture
async def hasty(s3: S3Access, bucket: str, faults: S3Faults) -> AsyncIterator[Place]:
    """A store reached through the proxy, with deadlines of 3 s: a busy machine takes 1 s for calls that do not hang."""
    async with s3_place(
        s3,
        bucket,
        endpoint_url=faults.endpoint_url,
        operation_timeout=timedelta(seconds=3),
        complete_timeout=timedelta(seconds=3),
    ) as place:
        yield place


# Objects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign_payload", [True, False])
@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
async def test_an_object_carries_its_headers_and_metadata(
    s3: S3Access, bucket: str, checksums: str, sign_payload: bool
) -> None:
    metadata = {"export-id": "7", "window": "2024-01-15T00:00:00Z/2024-01-16T00:00:00Z"}
    async with s3_place(s3, bucket, checksums=checksums, sign_payload=sign_payload) as place:
        async with place.store.upload(NAME, part_size=PART, filename="contacts-7.ndjson.gz", metadata=metadata) as upload:
            await upload.put_part(2, [b"the end"])
            await upload.put_part(1, [bytes(PART)])
            await upload.complete()
        assert (await place.fetch(NAME)).body == bytes(PART) + b"the end"
    async with s3.client() as client:
        head = await client.head_object(Bucket=bucket, Key=f"a/{NAME}")
    assert head["Metadata"] == metadata
    assert head["ContentType"] == "application/gzip"
    assert head["ContentDisposition"] == 'attachment; filename="contacts-7.ndjson.gz"'
    assert "ContentEncoding" not in head


async def test_a_store_sees_only_objects_below_its_prefix(s3: S3Access, bucket: str) -> None:
    async with (
        s3_place(s3, bucket, prefix="a") as a,
        s3_place(s3, bucket, prefix="/ab/") as ab,
        s3_place(s3, bucket, prefix="") as whole,
    ):
        await a.put("one", b"1")
        await ab.put("two", b"22")
        async with a.begin("three"), ab.begin("four"):
            assert await a.uploads() == ["three"]
            assert await ab.uploads() == ["four"]
            assert sorted(await whole.uploads()) == ["a/three", "ab/four"]
        assert await a.objects() == ["one"]
        assert await ab.objects() == ["two"]
        assert await whole.objects() == ["a/one", "ab/two"]


async def test_the_computed_etag_is_that_of_the_store(s3: S3Access, bucket: str) -> None:
    parts = (bytes(PART), b"the end")
    async with s3_place(s3, bucket) as place:
        await place.put(NAME, *parts)
    async with s3.client() as client:
        head = await client.head_object(Bucket=bucket, Key=f"a/{NAME}")
    assert head["ETag"].strip('"') == etags.of_parts([md5(part, usedforsecurity=False).digest() for part in parts])


# Links ---------------------------------------------------------------------------------------------------------------


async def test_links_contain_the_public_endpoint(s3: S3Access, bucket: str) -> None:
    async with s3_place(s3, bucket, public_endpoint_url="https://files.example.org") as place:
        await place.put(NAME, b"x")
        link = await place.link(NAME)
    assert urlsplit(link.url)._replace(query="").geturl() == f"https://files.example.org/{bucket}/a/{NAME}"


async def test_a_link_expires_with_the_credentials_that_signed_it(
    s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credentials come from a container credentials service, as in production."""
    ends_at = datetime.now(UTC) + timedelta(minutes=5, microseconds=250_000)

    async def credentials(_: web.Request) -> web.Response:
        body = {"AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key, "Token": "token"}
        return web.json_response({**body, "Expiration": ends_at.isoformat()})

    app = web.Application()
    app.router.add_get("/credentials", credentials)
    async with TestServer(app) as server:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", str(server.make_url("/credentials")))
        async with s3_place(s3, bucket) as place:
            assert (await place.link(NAME)).expires_at == ends_at.replace(microsecond=0)
        async with s3_place(s3, bucket, link_lifetime=timedelta(minutes=1)) as place:
            assert (await place.link(NAME)).expires_at < ends_at - timedelta(minutes=3)


# Refusals ------------------------------------------------------------------------------------------------------------


async def test_a_wrong_secret_is_refused(s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with s3_place(s3, bucket) as place:
        with pytest.raises(StorageRefused) as caught:
            await place.store.probe()
        assert "SignatureDoesNotMatch" in (caught.value.detail or "")
        await place.link(NAME)
        assert (await fetch((await place.link(NAME)).url)).status == 403


async def test_missing_credentials_are_refused(s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with s3_place(s3, bucket) as place:
        with pytest.raises(StorageRefused) as caught:
            await place.store.probe()
        assert "NoCredentialsError" in (caught.value.detail or "")
        with pytest.raises(StorageRefused):
            await place.link(NAME)


async def test_opening_a_store_with_an_unknown_profile_is_refused(
    s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(StorageRefused, match="ProfileNotFound"):
        async with s3_place(s3, bucket):
            pytest.fail("the store was opened")


async def test_the_probe_reports_a_bucket_that_is_not_writable(place: Place, bucket: str, faults: S3Faults) -> None:
    faults.always("CreateMultipartUpload", s3_faults.respond(403, "AccessDenied"))
    with pytest.raises(StorageRefused) as caught:
        await place.store.probe()
    assert caught.value.detail == (
        f"the bucket {bucket} cannot be written to: CreateMultipartUpload: AccessDenied (HTTP 403)"
    )


async def test_the_probe_reports_a_bucket_whose_uploads_cannot_be_aborted(place: Place, faults: S3Faults) -> None:
    faults.always("AbortMultipartUpload", s3_faults.respond(403, "AccessDenied"))
    with pytest.raises(StorageRefused, match="AbortMultipartUpload: AccessDenied"):
        await place.store.probe()


async def test_an_error_of_the_store_becomes_an_export_failure(place: Place, faults: S3Faults) -> None:
    cases: list[tuple[str, int, type[ExportFailure]]] = [
        ("RequestTimeTooSkewed", 403, StorageRefused),
        ("InvalidAccessKeyId", 403, StorageRefused),
        ("QuotaExceeded", 403, StorageFull),
        ("InsufficientStorage", 507, StorageFull),
        ("ExpiredToken", 400, StorageUnavailable),
        ("NoSuchUpload", 404, StorageUnavailable),
    ]
    for code, status, expected in cases:
        faults.always("UploadPart", s3_faults.respond(status, code))
        with pytest.raises(expected, match=f"UploadPart: {code}"):
            await place.put(NAME, b"x")
    assert await place.uploads() == []


async def test_a_bucket_of_another_account_is_refused(place: Place, faults: S3Faults) -> None:
    faults.always(s3_faults.ANY, s3_faults.respond(403, "AccessDenied"))
    await place.store.create()
    with pytest.raises(StorageRefused, match="CreateMultipartUpload: AccessDenied"):
        await place.store.rehearse()
    assert "CreateBucket" not in faults.seen


async def test_a_bucket_that_exists_is_not_created_again(place: Place, faults: S3Faults) -> None:
    faults.always("CreateBucket", s3_faults.respond(403, "AccessDenied"))
    await place.store.create()
    assert faults.seen == ["HeadBucket"]


@pytest.mark.parametrize("code", ["BucketAlreadyExists", "BucketAlreadyOwnedByYou"])
async def test_a_bucket_that_another_process_creates_at_the_same_time_is_used(
    place: Place, faults: S3Faults, code: str
) -> None:
    faults.next("HeadBucket", s3_faults.respond(404, "NoSuchBucket"))
    faults.next("CreateBucket", s3_faults.respond(409, code))
    await place.store.create()
    assert await place.store.rehearse() == []


async def test_an_object_that_is_missing_is_deleted_also_on_a_store_that_says_so(place: Place, faults: S3Faults) -> None:
    faults.next("DeleteObject", s3_faults.respond(404, "NoSuchKey"))
    await place.store.delete(NAME)
    faults.next("DeleteObject", s3_faults.respond(404, "NoSuchBucket"))
    with pytest.raises(StorageRefused, match="NoSuchBucket"):
        await place.store.delete(NAME)


@pytest.mark.parametrize("status", [405, 501])
async def test_a_store_that_cannot_list_uploads_has_none(place: Place, faults: S3Faults, status: int) -> None:
    faults.always("ListMultipartUploads", s3_faults.respond(status, "NotImplemented"))
    async with place.begin(NAME):
        assert await place.uploads() == []
    (warning,) = await place.store.rehearse()
    assert "cannot list unfinished uploads" in warning


# ETags that are no MD5 in small letters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (str.upper, [2, 2]),
        (lambda etag: f"0x8D{etag[:12]}", [2, 2]),
        (lambda etag: f"{etag[:8]}-{etag[8:12]}-{etag[12:]}", [2, 2]),
        (lambda etag: etag[::-1], [3, 4]),  # looks like an MD5: the first part, and perhaps the second, is sent twice
    ],
    ids=["capitals", "short", "dashes", "another-hash"],
)
async def test_parts_are_stored_whatever_their_etags_are(
    s3: S3Access, place: Place, faults: S3Faults, change: Callable[[str], str], sent: list[int]
) -> None:
    part, completion = s3_faults.other_etags(s3, change)
    faults.always("UploadPart", part)
    faults.always("CompleteMultipartUpload", completion)
    data = os.urandom(PART)
    await place.put(NAME, data, b"end")
    assert (await place.fetch(NAME)).body == data + b"end"
    assert sent[0] <= faults.seen.count("UploadPart") <= sent[1]


async def test_a_part_whose_etag_differs_once_is_sent_again(s3: S3Access, place: Place, faults: S3Faults) -> None:
    part, _ = s3_faults.other_etags(s3, lambda etag: etag[::-1])
    faults.next("UploadPart", part)
    await place.put(NAME, b"x")
    assert faults.seen.count("UploadPart") == 2


async def test_a_lost_completion_is_recognized_by_an_etag_in_capitals(place: Place, faults: S3Faults) -> None:
    async def capitals(request: web.Request, forward: s3_faults.Forward) -> web.StreamResponse:
        reply = await forward()
        reply.headers["ETag"] = reply.headers["ETag"].upper()
        return reply

    faults.next("CompleteMultipartUpload", s3_faults.lose_response)
    faults.always("CompleteMultipartUpload", s3_faults.respond(404, "NoSuchUpload"))
    faults.always("HeadObject", capitals)
    await place.put(NAME, b"x")
    assert await place.objects() == [NAME]


# Encryption --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (None, None)),
        ({"encryption": "AES256"}, ("AES256", None)),
        ({"encryption": "aws:kms", "kms_key_id": "alias/exports"}, ("aws:kms", "alias/exports")),
    ],
)
async def test_files_and_the_marker_are_encrypted_as_the_settings_say(
    s3: S3Access, bucket: str, faults: S3Faults, options: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    asked = []

    async def record(request: web.Request, forward: s3_faults.Forward) -> web.StreamResponse:
        headers = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")
        asked.append(tuple(request.headers.get(name) for name in headers))
        return await s3_faults.respond(400, "TheServerOfTheTestsHasNoEncryption")(request, forward)

    faults.always("CreateMultipartUpload", record)
    faults.always("PutObject", record)
    async with s3_place(s3, bucket, endpoint_url=faults.endpoint_url, **options) as place:
        for write in (place.put(NAME, b"x"), place.store.write_marker(b"x")):
            with pytest.raises(StorageRefused, match="HasNoEncryption"):
                await write
    assert asked == [expected, expected]


async def test_etags_of_parts_encrypted_with_kms_are_not_compared(s3: S3Access, place: Place, faults: S3Faults) -> None:
    part, completion = s3_faults.other_etags(s3, lambda etag: etag[::-1])
    encrypted = s3_faults.add_headers(x_amz_server_side_encryption="aws:kms")

    async def encrypted_part(request: web.Request, forward: s3_faults.Forward) -> web.StreamResponse:
        return await part(request, partial(encrypted, request, forward))  # type: ignore[arg-type]  # a complete response

    faults.always("UploadPart", encrypted_part)
    faults.always("CompleteMultipartUpload", completion)
    await place.put(NAME, b"x")
    assert faults.seen.count("UploadPart") == 1


# Temporary errors ------------------------------------------------------------------------------------------------


async def test_a_closed_port_is_unavailable_within_the_deadline(s3: S3Access, bucket: str) -> None:
    async with s3_faults.s3_faults(s3.endpoint_url) as closed:
        pass
    async with s3_place(s3, bucket, endpoint_url=closed.endpoint_url, operation_timeout=timedelta(seconds=2)) as place:
        started = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await place.store.probe()
        assert time.monotonic() - started < 4


async def test_temporary_errors_are_retried(place: Place, faults: S3Faults) -> None:
    operations = ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
    faults.next("CreateMultipartUpload", s3_faults.lose_request)
    faults.next("UploadPart", s3_faults.respond(503, "SlowDown"), s3_faults.respond(503, "SlowDown"))
    faults.next("CompleteMultipartUpload", s3_faults.respond(500, "InternalError"))
    await place.put(NAME, b"x")
    assert [faults.seen.count(operation) for operation in operations] == [2, 3, 2]
    assert (await place.fetch(NAME)).body == b"x"


async def test_a_store_that_is_always_busy_is_unavailable(place: Place, faults: S3Faults) -> None:
    faults.always("UploadPart", s3_faults.respond(503, "SlowDown"))
    with pytest.raises(StorageUnavailable) as caught:
        await place.put(NAME, b"x")
    assert caught.value.detail == "UploadPart: SlowDown (HTTP 503)"
    assert faults.seen.count("UploadPart") == 4
    assert await place.uploads() == []
    assert await place.objects() == []


@pytest.mark.parametrize(
    "operation",
    ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "ListObjectsV2", "DeleteObject"],
)
async def test_a_store_that_hangs_is_unavailable_within_the_deadline(hasty: Place, faults: S3Faults, operation: str) -> None:
    async def use() -> None:
        await hasty.put(NAME, b"x")
        await hasty.objects()
        await hasty.store.delete(NAME)

    faults.always(operation, s3_faults.hang)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match=operation):
        await use()
    assert time.monotonic() - started < 20
    assert await hasty.uploads() == []


async def test_a_failed_abort_does_not_hide_the_error_of_the_block(hasty: Place, faults: S3Faults) -> None:
    faults.always("AbortMultipartUpload", s3_faults.respond(503, "SlowDown"))
    with pytest.raises(ZeroDivisionError):
        async with hasty.begin(NAME):
            raise ZeroDivisionError
    assert await hasty.uploads() == [NAME]


async def test_a_part_that_was_changed_on_the_way_is_sent_again(place: Place, faults: S3Faults) -> None:
    faults.next("UploadPart", s3_faults.flip_a_byte)
    data = os.urandom(PART)
    await place.put(NAME, data)
    assert faults.seen.count("UploadPart") == 2
    assert (await place.fetch(NAME)).body == data


async def test_a_part_that_is_corrupted_every_time_fails(place: Place, faults: S3Faults) -> None:
    faults.always("UploadPart", s3_faults.flip_a_byte)
    with pytest.raises(StorageUnavailable):
        await place.put(NAME, b"data")
    assert await place.objects() == []


async def test_a_part_whose_response_was_lost_is_stored_once(place: Place, faults: S3Faults) -> None:
    faults.next("UploadPart", s3_faults.lose_response)
    await place.put(NAME, b"x")
    assert (await place.fetch(NAME)).body == b"x"


# Lost responses to a completion ----------------------------------------------------------------------------------------


async def test_a_completion_whose_response_was_lost_is_found_to_have_succeeded(place: Place, faults: S3Faults) -> None:
    faults.next("CompleteMultipartUpload", s3_faults.lose_response)
    faults.always("CompleteMultipartUpload", s3_faults.respond(404, "NoSuchUpload"))
    await place.put(NAME, b"x" * PART, b"y")
    assert faults.seen[-3:] == ["CompleteMultipartUpload", "CompleteMultipartUpload", "HeadObject"]
    assert await place.objects() == [NAME]


async def test_a_completion_without_a_response_is_found_to_have_succeeded(hasty: Place, faults: S3Faults) -> None:
    faults.always("CompleteMultipartUpload", s3_faults.hang_after)
    await hasty.put(NAME, b"x")
    assert await hasty.objects() == [NAME]
    assert "AbortMultipartUpload" not in faults.seen


async def test_a_completion_may_take_longer_than_other_calls(s3: S3Access, bucket: str, faults: S3Faults) -> None:
    faults.next("CompleteMultipartUpload", s3_faults.respond_late(4))
    async with s3_place(s3, bucket, endpoint_url=faults.endpoint_url, operation_timeout=timedelta(seconds=3)) as place:
        await place.put(NAME, b"x")
    assert faults.seen.count("CompleteMultipartUpload") == 1


async def test_a_completion_that_fails_inside_a_success_is_tried_again(place: Place, faults: S3Faults) -> None:
    faults.next("CompleteMultipartUpload", s3_faults.error_in_success)
    await place.put(NAME, b"x")
    assert faults.seen.count("CompleteMultipartUpload") == 2
    assert (await place.fetch(NAME)).body == b"x"


@pytest.mark.parametrize("there", [b"another length", b"y"], ids=["size", "bytes"])
async def test_an_object_with_other_bytes_does_not_count_as_a_lost_completion(
    place: Place, faults: S3Faults, there: bytes
) -> None:
    await place.put(NAME, there)
    faults.always("CompleteMultipartUpload", s3_faults.respond(404, "NoSuchUpload"))
    with pytest.raises(StorageUnavailable, match="NoSuchUpload"):
        await place.put(NAME, b"x")


# Cancelling in each phase --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [s3_faults.hang, s3_faults.hang_after], ids=["not-arrived", "arrived"])
@pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload"])
async def test_cancelling_while_the_store_is_silent_leaves_no_unfinished_upload(
    place: Place, faults: S3Faults, operation: str, fault: s3_faults.Fault
) -> None:
    faults.always(operation, fault)
    running = asyncio.create_task(place.put(NAME, b"x"))
    await faults.reached(operation)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await place.uploads() == []
    assert await place.objects() in ([], [NAME])


async def test_cancelling_while_an_upload_is_begun_waits_and_aborts_it(place: Place, faults: S3Faults) -> None:
    faults.always("CreateMultipartUpload", s3_faults.respond_late(0.5))
    running = asyncio.create_task(place.put(NAME, b"x"))
    await faults.reached("CreateMultipartUpload")
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert faults.seen == ["CreateMultipartUpload", "AbortMultipartUpload"]
    assert await place.uploads() == []


async def test_a_part_in_flight_is_cancelled_when_the_block_ends(place: Place, faults: S3Faults) -> None:
    faults.always("UploadPart", s3_faults.hang)
    async with place.begin(NAME) as upload:
        sending = asyncio.create_task(upload.put_part(1, [b"x"]))
        await faults.reached("UploadPart")
    assert await place.uploads() == []
    with pytest.raises(asyncio.CancelledError):
        await sending
    with pytest.raises(RuntimeError, match="ended"):
        await upload.put_part(2, [b"x"])
