"""A bucket, or what lies below a prefix of one, as an `ObjectStore`."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import uuid4

import structlog

from service.errors import ExportFailure, StorageRefused
from service.storage import MINIMUM_PART_SIZE, Link, StoredObject, UnfinishedUpload
from service.storage.headers import CONTENT_TYPE, checked_object_name, content_disposition
from service.storage.s3.clients import AddressingStyle, Checksums, Connection, LinkSigner, open_clients
from service.storage.s3.failures import error_code, translated
from service.storage.s3.upload import Bucket, S3Upload
from service.storage.upload_scope import CLEANUP_SECONDS, upload_scope

if TYPE_CHECKING:
    from types_aiobotocore_s3.literals import BucketLocationConstraintType

_NO_UPLOAD = ("NoSuchUpload", "NoSuchKey")
"""Answers to an abort that has nothing to do any more; some stores give the second for an upload that was completed."""

log = structlog.get_logger()
Page = TypeVar("Page")


class S3Store:
    """An `ObjectStore` in any store that speaks S3. Made by `open`."""

    def __init__(self, bucket: Bucket, prefix: str, region: str, signer: LinkSigner) -> None:
        self._bucket = bucket
        self._client = bucket.client
        self._seconds = bucket.operation_timeout
        self._folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._region = region
        self._signer = signer

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        bucket: str,
        prefix: str = "",
        endpoint_url: str | None = None,
        public_endpoint_url: str | None = None,
        region: str = "us-east-1",
        addressing_style: AddressingStyle = "auto",
        checksums: Checksums = "when_required",
        sign_payload: bool = True,
        link_lifetime: timedelta = timedelta(minutes=15),
        operation_timeout: float = 60,
        complete_timeout: float = 120,
    ) -> AsyncIterator[Self]:
        """A store for the length of the block; nothing is asked of it yet, see `probe`. Timeouts are in seconds.

        `link_lifetime` is at most a week: S3 refuses a longer one only when the link is used. Raises StorageRefused
        where the client cannot be made.
        """
        connection = Connection(
            endpoint_url,
            public_endpoint_url,
            region,
            addressing_style,
            checksums,
            sign_payload,
            operation_timeout,
            complete_timeout,
        )
        async with open_clients(connection, link_lifetime) as (client, signer):
            additional = checksums == "when_supported"
            calls = Bucket(client, bucket, operation_timeout, complete_timeout, additional, sign_payload)
            yield cls(calls, prefix, region, signer)

    def upload(
        self, object_name: str, *, part_size: int, filename: str, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[S3Upload]:
        """See `ObjectStore`. Values of `metadata` are ASCII: others are changed by some stores."""
        begin = partial(self._begin, object_name, part_size, filename, metadata)
        return upload_scope(begin, partial(self._abandon, object_name))

    async def abort_upload(self, object_name: str, upload_id: str) -> None:
        """See `ObjectStore`."""
        await self._abort(object_name, upload_id, self._seconds)

    async def delete(self, object_name: str) -> None:
        """See `ObjectStore`."""
        async with translated("DeleteObject", self._seconds):
            await self._client.delete_object(Bucket=self._bucket.name, Key=self._key(object_name))

    async def link(self, object_name: str, *, filename: str, origin: str) -> Link:
        """See `ObjectStore`. The object itself carries the file name; `origin` is the store's own public address."""
        async with translated("link", self._seconds):
            return await self._signer.link(self._bucket.name, self._key(object_name))

    async def unfinished_uploads(self, object_name: str = "") -> AsyncIterator[UnfinishedUpload]:
        """See `ObjectStore`."""
        prefix = self._folder + object_name
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket.name, Prefix=prefix)
        async for page in self._each("ListMultipartUploads", pages):
            for upload in page.get("Uploads", []):
                name = upload["Key"].removeprefix(self._folder)
                if name == (object_name or name):
                    yield UnfinishedUpload(name, upload["UploadId"], upload["Initiated"])

    async def objects(self) -> AsyncIterator[StoredObject]:
        """See `ObjectStore`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name, Prefix=self._folder)
        async for page in self._each("ListObjectsV2", pages):
            for found in page.get("Contents", []):
                yield StoredObject(found["Key"].removeprefix(self._folder), found["Size"], found["LastModified"])

    async def probe(self) -> None:
        """See `ObjectStore`."""
        object_name = f".probe/{uuid4().hex}"
        bucket = self._bucket.name
        try:
            async with self.upload(object_name, part_size=MINIMUM_PART_SIZE, filename="probe", metadata={}) as upload:
                await self.abort_upload(object_name, upload.upload_id)
        except StorageRefused as failure:
            if error_code(failure) == "NoSuchBucket":
                sentence = f"the bucket {bucket} does not exist; `contact-exports storage init` creates it"
            else:
                sentence = f"the bucket {bucket} cannot be written to: {failure.detail}"
            raise StorageRefused(detail=sentence) from failure

    async def create(self) -> None:
        """See `ObjectStore`. Raises StorageRefused where the bucket is somebody else's."""
        try:
            async with translated("CreateBucket", self._seconds):
                if self._region == "us-east-1":  # S3 refuses to hear its default named
                    await self._client.create_bucket(Bucket=self._bucket.name)
                else:
                    location: BucketLocationConstraintType = self._region  # type: ignore[assignment]
                    await self._client.create_bucket(
                        Bucket=self._bucket.name, CreateBucketConfiguration={"LocationConstraint": location}
                    )
        except ExportFailure as failure:
            if error_code(failure) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
            # Some stores give the second answer for a bucket of one's own as well.
            async with translated("HeadBucket", self._seconds):
                await self._client.head_bucket(Bucket=self._bucket.name)

    def _key(self, object_name: str) -> str:
        return self._folder + checked_object_name(object_name)

    async def _begin(self, object_name: str, part_size: int, filename: str, metadata: Mapping[str, str]) -> S3Upload:
        key = self._key(object_name)
        async with translated("CreateMultipartUpload", self._seconds):
            answer = await self._client.create_multipart_upload(
                Bucket=self._bucket.name,
                Key=key,
                ContentType=CONTENT_TYPE,
                ContentDisposition=content_disposition(filename),
                Metadata=dict(metadata),
            )
        upload = S3Upload(self._bucket, key, answer["UploadId"], part_size)
        if answer["ResponseMetadata"]["RetryAttempts"]:
            upload.after_complete = partial(self._abort_earlier, object_name)
        return upload

    async def _abandon(self, object_name: str, upload: S3Upload) -> None:
        await upload.stop()
        try:
            await self._abort(object_name, upload.upload_id, CLEANUP_SECONDS)
        except ExportFailure as failure:
            log.warning("upload_not_aborted", object_name=object_name, upload_id=upload.upload_id, detail=failure.detail)

    async def _abort_earlier(self, object_name: str) -> None:
        """Abort what the store began for us before an answer arrived: nobody else would look for it, as all went well."""
        try:
            async for upload in self.unfinished_uploads(object_name):
                await self._abort(object_name, upload.upload_id, CLEANUP_SECONDS)
        except ExportFailure as failure:
            log.warning("upload_not_aborted", object_name=object_name, detail=failure.detail)

    async def _abort(self, object_name: str, upload_id: str, seconds: float) -> None:
        try:
            async with translated("AbortMultipartUpload", seconds):
                await self._client.abort_multipart_upload(
                    Bucket=self._bucket.name, Key=self._key(object_name), UploadId=upload_id
                )
        except ExportFailure as failure:
            if error_code(failure) not in _NO_UPLOAD:
                raise

    async def _each(self, operation: str, pages: AsyncIterable[Page]) -> AsyncIterator[Page]:
        """The pages of a listing, each within the deadline of one operation."""
        iterator = aiter(pages)
        while True:
            async with translated(operation, self._seconds):
                page = await anext(iterator, None)
            if page is None:
                return
            yield page
