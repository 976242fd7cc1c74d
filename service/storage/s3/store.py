"""The `ObjectStore` in an S3 bucket, optionally below a prefix."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from service.failures import ExportFailure, StorageRefused
from service.storage import Link, Marker, StoredObject, UnfinishedUpload
from service.storage.headers import CONTENT_TYPE, content_disposition
from service.storage.object_names import checked_object_name
from service.storage.s3.clients import BucketClient, BucketLinks, open_clients
from service.storage.s3.failures import error_code, not_supported, s3_call
from service.storage.s3.link_trial import LinkTrial
from service.storage.s3.settings import S3Settings
from service.storage.s3.trials import Trials
from service.storage.s3.upload import S3Upload
from service.storage.upload_scope import CLEANUP_TIMEOUT, upload_scope

if TYPE_CHECKING:
    from types_aiobotocore_s3.literals import BucketLocationConstraintType
    from types_aiobotocore_s3.type_defs import CreateMultipartUploadRequestTypeDef, PutObjectRequestTypeDef

_NO_UPLOAD = ("NoSuchUpload", "NoSuchKey")
"""Error codes of an abort whose upload does not exist. Some stores send the second one after a completion."""
_NO_OBJECT = ("NoSuchKey", "404")
"""Error codes of a missing object. A response to HEAD has no body and so no code but its status."""
_NO_BUCKET = ("NoSuchBucket", "404")
_MARKER = ".owner.json"

log = structlog.get_logger()
Page = TypeVar("Page")


class S3Store:
    """An `ObjectStore` in any S3-compatible store. Create it with `open`."""

    def __init__(self, client: BucketClient, links: BucketLinks) -> None:
        self._client = client
        self._calls = client.operations
        self._bucket = client.settings.bucket
        self._folder = client.settings.folder
        self._region = client.settings.region
        self._timeout = client.settings.operation_timeout
        self._links = links
        self._trials = Trials(self, client, LinkTrial(client, links), self._key)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: S3Settings, *, link_lifetime: timedelta = timedelta(minutes=15)) -> AsyncIterator[Self]:
        """Open a store for the length of the block. Sends no request to the store; `probe` does.

        `link_lifetime` is at most 7 days: S3 refuses a longer one, but only when the link is used (Signature Version 4).
        Raises StorageRefused if the clients cannot be created.
        """
        async with open_clients(settings, link_lifetime) as (client, links):
            yield cls(client, links)

    def upload(
        self, object_name: str, *, part_size: int, filename: str, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[S3Upload]:
        """See `ObjectStore`. Values of `metadata` must be ASCII: some stores change other characters."""
        begin = partial(self._begin, object_name, part_size, filename, metadata)
        return upload_scope(begin, partial(self._abandon, object_name))

    async def abort_upload(self, object_name: str, upload_id: str) -> None:
        """See `ObjectStore`."""
        await self._abort(object_name, upload_id, self._timeout)

    async def delete(self, object_name: str) -> None:
        """See `ObjectStore`."""
        try:
            async with s3_call("DeleteObject", self._timeout):
                await self._calls.delete_object(Bucket=self._bucket, Key=self._key(object_name))
        except ExportFailure as failure:
            if error_code(failure) != "NoSuchKey":  # S3 itself answers 204
                raise

    async def link(self, object_name: str, *, filename: str, origin: str) -> Link:
        """See `ObjectStore`. Both arguments are unused: the object carries its file name, and the store serves it."""
        async with s3_call("link", self._timeout):
            return await self._links.public.link(self._key(object_name))

    async def unfinished_uploads(self, object_name: str = "") -> AsyncIterator[UnfinishedUpload]:
        """See `ObjectStore`. A store that cannot list uploads has none: those that rows name can still be aborted."""
        prefix = self._folder + object_name
        pages = self._calls.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
        try:
            async for page in self._each("ListMultipartUploads", pages):
                for upload in page.get("Uploads", []):
                    name = upload["Key"].removeprefix(self._folder)
                    if name == (object_name or name):
                        yield UnfinishedUpload(name, upload["UploadId"], upload["Initiated"])
        except StorageRefused as failure:
            if not not_supported(failure):
                raise
            log.info("uploads_not_listed", detail=failure.detail)

    async def objects(self) -> AsyncIterator[StoredObject]:
        """See `ObjectStore`."""
        pages = self._calls.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._folder)
        async for page in self._each("ListObjectsV2", pages):
            for found in page.get("Contents", []):
                name = found["Key"].removeprefix(self._folder)
                if name != _MARKER:
                    yield StoredObject(name, found["LastModified"])

    async def exists(self, object_name: str) -> bool:
        """See `ObjectStore`."""
        try:
            async with s3_call("HeadObject", self._timeout):
                await self._calls.head_object(Bucket=self._bucket, Key=self._key(object_name))
        except ExportFailure as failure:
            if error_code(failure) not in _NO_OBJECT:
                raise
            return False
        return True

    async def read_marker(self) -> Marker | None:
        """See `ObjectStore`."""
        try:
            async with s3_call("GetObject", self._timeout):
                response = await self._calls.get_object(Bucket=self._bucket, Key=self._key(_MARKER))
                async with response["Body"] as body:
                    return Marker(await body.read(), response.get("LastModified", datetime.now(UTC)))
        except ExportFailure as failure:
            if error_code(failure) not in _NO_OBJECT:
                raise
            return None

    async def write_marker(self, content: bytes) -> None:
        """See `ObjectStore`."""
        request: PutObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._key(_MARKER),
            "Body": content,
            "ContentType": "application/json",
        }
        async with s3_call("PutObject", self._timeout):
            await self._calls.put_object(**request, **self._encryption())

    async def probe(self) -> None:
        """See `ObjectStore`."""
        await self._trials.probe(_MARKER)

    async def rehearse(self) -> list[str]:
        """See `ObjectStore`."""
        return await self._trials.rehearse()

    async def create(self) -> None:
        """See `ObjectStore`. A bucket that exists is not created again, because some stores refuse that.

        Raises StorageRefused if the bucket can be neither found nor created.
        """
        try:
            async with s3_call("HeadBucket", self._timeout):
                await self._calls.head_bucket(Bucket=self._bucket)
        except StorageRefused as failure:
            # Without the permission to look, the bucket may exist; the next step finds out.
            if error_code(failure) in _NO_BUCKET:
                await self._create()

    def _key(self, object_name: str) -> str:
        return self._folder + checked_object_name(object_name)

    def _encryption(self) -> dict[str, str]:
        """The fields of a request that ask the store to encrypt an object."""
        settings = self._client.settings
        fields = {"ServerSideEncryption": settings.encryption, "SSEKMSKeyId": settings.kms_key_id}
        return {name: value for name, value in fields.items() if value is not None}

    async def _create(self) -> None:
        try:
            async with s3_call("CreateBucket", self._timeout):
                if self._region == "us-east-1":  # S3 refuses its default region as a location
                    await self._calls.create_bucket(Bucket=self._bucket)
                else:
                    location: BucketLocationConstraintType = self._region  # type: ignore[assignment]  # any region name
                    await self._calls.create_bucket(
                        Bucket=self._bucket, CreateBucketConfiguration={"LocationConstraint": location}
                    )
        except ExportFailure as failure:
            # Another process was faster. If the bucket belongs to another account, the next step finds out.
            if error_code(failure) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    async def _begin(self, object_name: str, part_size: int, filename: str, metadata: Mapping[str, str]) -> S3Upload:
        key = self._key(object_name)
        request: CreateMultipartUploadRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": key,
            "ContentType": CONTENT_TYPE,
            "ContentDisposition": content_disposition(filename),
            "Metadata": dict(metadata),
        }
        async with s3_call("CreateMultipartUpload", self._timeout):
            response = await self._calls.create_multipart_upload(**request, **self._encryption())
        upload = S3Upload(self._client, key, response["UploadId"], part_size)
        if response["ResponseMetadata"]["RetryAttempts"]:
            upload.after_complete = partial(self._abort_duplicates, object_name)
        return upload

    async def _abandon(self, object_name: str, upload: S3Upload) -> None:
        await upload.stop()
        try:
            await self._abort(object_name, upload.upload_id, CLEANUP_TIMEOUT)
        except ExportFailure as failure:
            log.warning("upload_not_aborted", object_name=object_name, upload_id=upload.upload_id, detail=failure.detail)

    async def _abort_duplicates(self, object_name: str) -> None:
        """Abort duplicates left by a retried CreateMultipartUpload. Nothing else would: this attempt succeeded."""
        try:
            async for upload in self.unfinished_uploads(object_name):
                await self._abort(object_name, upload.upload_id, CLEANUP_TIMEOUT)
        except ExportFailure as failure:
            log.warning("upload_not_aborted", object_name=object_name, detail=failure.detail)

    async def _abort(self, object_name: str, upload_id: str, timeout: timedelta) -> None:
        try:
            async with s3_call("AbortMultipartUpload", timeout):
                await self._calls.abort_multipart_upload(Bucket=self._bucket, Key=self._key(object_name), UploadId=upload_id)
        except ExportFailure as failure:
            if error_code(failure) not in _NO_UPLOAD:
                raise

    async def _each(self, operation: str, pages: AsyncIterable[Page]) -> AsyncIterator[Page]:
        """Iterate over the pages of a listing. Each page has the deadline of one operation."""
        iterator = aiter(pages)
        while True:
            async with s3_call(operation, self._timeout):
                page = await anext(iterator, None)
            if page is None:
                return
            yield page
