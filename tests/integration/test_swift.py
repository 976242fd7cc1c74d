"""The S3 server of the tests refuses the requests that S3 refuses. Other tests rely on that."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from botocore.exceptions import ClientError

from tests.support.s3 import S3Access
from tests.support.s3 import bucket as bucket_of
from tests.support.swift import SwiftS3

_MINIMUM_PART = 5 * 1024 * 1024


async def _store(s3: S3Access, bucket: str, key: str, body: bytes = b"content") -> None:
    async with s3.client() as client:
        await client.put_object(Bucket=bucket, Key=key, Body=body)


async def _link(s3: S3Access, bucket: str, key: str, seconds: int) -> str:
    async with s3.client() as client:
        return await client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds)


async def _get(url: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.read()


async def test_a_signed_link_serves_the_object(s3: S3Access, bucket: str) -> None:
    await _store(s3, bucket, "key")
    assert await _get(await _link(s3, bucket, "key", 60)) == (200, b"content")


async def test_an_expired_link_is_refused(s3: S3Access, bucket: str) -> None:
    await _store(s3, bucket, "key")
    link = await _link(s3, bucket, "key", 1)
    expired_by = time.monotonic() + 20
    while (await _get(link))[0] == 200:
        assert time.monotonic() < expired_by
        await asyncio.sleep(0.1)
    assert (await _get(link))[0] == 403


@pytest.mark.parametrize(
    ("parameter", "change"),
    [
        ("X-Amz-Signature", lambda value: value[::-1]),
        ("X-Amz-Date", lambda value: value[:-2] + ("1Z" if value[-2] == "0" else "0Z")),
        ("X-Amz-Expires", lambda value: "61"),
    ],
    ids=["signature", "date", "lifetime"],
)
async def test_a_link_with_a_changed_signed_parameter_is_refused(
    s3: S3Access, bucket: str, parameter: str, change: Callable[[str], str]
) -> None:
    await _store(s3, bucket, "key")
    link = await _link(s3, bucket, "key", 60)
    value = parse_qs(urlsplit(link).query)[parameter][0]
    assert change(value) != value
    assert (await _get(link.replace(f"{parameter}={value}", f"{parameter}={change(value)}")))[0] == 403


async def test_a_link_to_one_object_does_not_open_another(s3: S3Access, bucket: str) -> None:
    await _store(s3, bucket, "mine")
    await _store(s3, bucket, "other")
    link = await _link(s3, bucket, "mine", 60)
    assert (await _get(link.replace("/mine?", "/other?")))[0] == 403


async def test_a_wrong_secret_is_refused(s3: S3Access, bucket: str) -> None:
    async with s3._replace(secret_key="wrong").client() as client:
        with pytest.raises(ClientError) as refusal:
            await client.put_object(Bucket=bucket, Key="key", Body=b"content")
    assert refusal.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


async def _upload(s3: S3Access, bucket: str, bodies: list[bytes]) -> None:
    async with s3.client() as client:
        upload = (await client.create_multipart_upload(Bucket=bucket, Key="key"))["UploadId"]
        tags = []
        for number, body in enumerate(bodies, 1):
            response = await client.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=number, Body=body)
            tags.append(response["ETag"])
        await client.complete_multipart_upload(
            Bucket=bucket,
            Key="key",
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]},
        )


async def test_parts_become_one_object_and_no_upload_is_left(s3: S3Access, bucket: str) -> None:
    bodies = [b"a" * _MINIMUM_PART, b"b" * _MINIMUM_PART, b"the end"]
    await _upload(s3, bucket, bodies)
    async with s3.client() as client:
        assert "Uploads" not in await client.list_multipart_uploads(Bucket=bucket)
        stored = await (await client.get_object(Bucket=bucket, Key="key"))["Body"].read()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(b"".join(bodies)).digest()


async def test_a_part_that_is_too_small_is_refused(s3: S3Access, bucket: str) -> None:
    with pytest.raises(ClientError) as refusal:
        await _upload(s3, bucket, [b"small", b"the end"])
    assert refusal.value.response["Error"]["Code"] == "EntityTooSmall"


async def test_the_minimum_part_size_can_be_lowered_for_fault_tests() -> None:
    with SwiftS3(minimum_part_bytes=5) as swift:
        s3 = S3Access(swift.endpoint_url, swift.access_key, swift.secret_key, swift.region)
        async with bucket_of(s3) as bucket:
            await _upload(s3, bucket, [b"small", b"the end"])


async def test_a_conditional_put_does_not_replace_an_object(s3: S3Access, bucket: str) -> None:
    await _store(s3, bucket, "key")
    async with s3.client() as client:
        with pytest.raises(ClientError) as refusal:
            await client.put_object(Bucket=bucket, Key="key", Body=b"other", IfNoneMatch="*")
    assert refusal.value.response["Error"]["Code"] == "PreconditionFailed"
