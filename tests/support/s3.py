"""The S3 store of the tests, and buckets in it.

Set TEST_S3_ENDPOINT_URL, TEST_S3_ACCESS_KEY, TEST_S3_SECRET_KEY and TEST_S3_REGION to use an existing store. By default a
real server is started for the session.
"""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from tests.support.swift import SwiftS3

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client


_session = cache(get_session)
"""Shared, because each new session needs 0.1 s to read the S3 service description."""


class S3Access(NamedTuple):
    """The address and credentials of a store."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str

    def client(self) -> "AbstractAsyncContextManager[S3Client]":
        """Create a client with which a test inspects the store."""
        return _session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=AioConfig(signature_version="s3v4", s3={"addressing_style": "path"}),
        )


@contextmanager
def store() -> Iterator[S3Access]:
    """Provide a store for the session."""
    if url := os.environ.get("TEST_S3_ENDPOINT_URL"):
        yield S3Access(
            url,
            os.environ["TEST_S3_ACCESS_KEY"],
            os.environ["TEST_S3_SECRET_KEY"],
            os.environ.get("TEST_S3_REGION", "us-east-1"),
        )
        return
    with SwiftS3() as swift:
        yield S3Access(swift.endpoint_url, swift.access_key, swift.secret_key, swift.region)


@asynccontextmanager
async def bucket(access: S3Access) -> AsyncIterator[str]:
    """Create a bucket and yield its name. It is deleted afterwards with all objects and unfinished uploads."""
    name = f"contact-exports-test-{secrets.token_hex(8)}"
    async with access.client() as client:
        if access.region == "us-east-1":  # S3 refuses its default region as a location
            await client.create_bucket(Bucket=name)
        else:
            place = {"LocationConstraint": access.region}
            await client.create_bucket(Bucket=name, CreateBucketConfiguration=place)  # type: ignore[arg-type]
        try:
            yield name
        finally:
            await _empty(client, name)
            await client.delete_bucket(Bucket=name)


async def _empty(client: "S3Client", name: str) -> None:
    async for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=name):
        for upload in page.get("Uploads", []):
            await client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    async for listing in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for entry in listing.get("Contents", []):
            await client.delete_object(Bucket=name, Key=entry["Key"])
