"""Single calls to an S3 store that fail: a real S3 server and a proxy in front of it that injects faults.

Most of these tests are in `tests/integration/test_s3_store.py`; the faults here take more than one call.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.failures import StorageUnavailable
from tests.support import s3_faults
from tests.support.object_stores import PART, Place, s3_place, use_credentials
from tests.support.s3 import S3Access
from tests.support.s3_faults import ANY, S3Faults

NAME = "12/34/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"


@pytest.fixture(autouse=True)
def _credentials(s3: S3Access, monkeypatch: pytest.MonkeyPatch) -> None:
    use_credentials(monkeypatch, s3)


@pytest.fixture
async def place(s3: S3Access, bucket: str, faults: S3Faults) -> AsyncIterator[Place]:
    """A store that is reached through the proxy."""
    async with s3_place(
        s3,
        bucket,
        endpoint_url=faults.endpoint_url,
        operation_timeout=timedelta(seconds=30),
        complete_timeout=timedelta(seconds=40),
    ) as place:
        yield place


async def test_an_upload_created_without_a_response_is_aborted_after_the_retry_completes(
    place: Place, faults: S3Faults
) -> None:
    faults.next("CreateMultipartUpload", s3_faults.lose_response)
    await place.put(NAME, b"x")
    assert faults.seen.count("CreateMultipartUpload") == 2
    assert await place.uploads() == []
    assert await place.objects() == [NAME]


async def test_an_upload_created_twice_completes_even_if_the_first_cannot_be_aborted(place: Place, faults: S3Faults) -> None:
    faults.next("CreateMultipartUpload", s3_faults.lose_response)
    faults.always("AbortMultipartUpload", s3_faults.respond(403, "AccessDenied"))
    await place.put(NAME, b"x")
    assert await place.uploads() == [NAME]
    assert await place.objects() == [NAME]


async def test_a_completion_with_a_truncated_response_is_found_to_have_succeeded(place: Place, faults: S3Faults) -> None:
    faults.next("CompleteMultipartUpload", s3_faults.cut_response)
    await place.put(NAME, b"x")
    assert faults.met["cut_response"] == 1
    assert await place.objects() == [NAME]
    assert (await place.fetch(NAME)).body == b"x"


async def test_a_listing_with_a_truncated_response_is_retried(place: Place, faults: S3Faults) -> None:
    await place.put(NAME, b"x")
    faults.next("ListObjectsV2", s3_faults.cut_response)
    assert await place.objects() == [NAME]


async def test_a_part_that_uploads_too_slowly_fails_within_the_deadline(s3: S3Access, bucket: str, faults: S3Faults) -> None:
    faults.always("UploadPart", s3_faults.slowly(5_000))
    async with s3_place(s3, bucket, endpoint_url=faults.endpoint_url, operation_timeout=timedelta(seconds=3)) as hasty:
        async with asyncio.timeout(60):  # at this rate the part would take 17 minutes
            with pytest.raises(StorageUnavailable, match="UploadPart"):
                await hasty.put(NAME, bytes(PART))
        assert await hasty.uploads() == []


async def test_a_store_without_checksums_and_conditions_gets_none_and_equal_parts(place: Place, faults: S3Faults) -> None:
    faults.always(ANY, s3_faults.refuse_extensions)
    async with place.begin(NAME) as upload:
        await asyncio.gather(
            upload.put_part(1, [bytes(PART)]), upload.put_part(2, [bytes(PART)]), upload.put_part(3, [b"end"])
        )
        await upload.complete()
    assert await place.objects() == [NAME]
    await place.store.delete(NAME)
    assert await place.objects() == []
    await place.store.probe()


async def test_an_upload_continues_when_its_temporary_credentials_are_replaced(
    s3: S3Access, bucket: str, faults: S3Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container credentials endpoint issues new credentials well before the old ones expire."""
    given = 0

    async def credentials(_: web.Request) -> web.Response:
        nonlocal given
        given += 1
        ends_at = datetime.now(UTC) + timedelta(minutes=5)
        keys = {"AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key, "Token": f"token-{given}"}
        return web.json_response({**keys, "Expiration": ends_at.isoformat()})

    app = web.Application()
    app.router.add_get("/credentials", credentials)
    async with TestServer(app) as server:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", str(server.make_url("/credentials")))
        async with s3_place(s3, bucket, endpoint_url=faults.endpoint_url) as place, place.begin(NAME) as upload:
            await upload.put_part(1, [bytes(PART)])
            faults.always(ANY, s3_faults.refuse_tokens(*(f"token-{number}" for number in range(given + 1))))
            await upload.put_part(2, [b"end"])
            await upload.complete()
            assert await place.objects() == [NAME]
    assert given > 1
