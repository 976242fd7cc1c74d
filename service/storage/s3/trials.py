"""Finds out what a bucket allows: a probe that leaves nothing, and a rehearsal of every step in the life of an object."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

from service.failures import StorageRefused
from service.storage import MINIMUM_PART_SIZE, ObjectStore
from service.storage.s3.clients import BucketClient
from service.storage.s3.failures import error_code, not_supported, s3_call
from service.storage.s3.link_trial import LinkTrial

_DENIED = (": AccessDenied ", ": Forbidden ", ": 403 ")
"""Error codes of a missing permission, in a detail. Others with status 403 blame the credentials or the clock."""
_CONTENT = b"Written by contact-exports to try the store.\n"
_KEEPS_VERSIONS = (
    "The bucket keeps versions, so deleted files stay as versions. Add a lifecycle rule that expires noncurrent versions."
)
_LISTS_NO_UPLOADS = (
    "The store cannot list unfinished uploads, so some may stay after a crash. Add a lifecycle rule that aborts them."
)


class Trials:
    """`key` makes the key of an object name in the bucket."""

    def __init__(self, store: ObjectStore, client: BucketClient, link_trial: LinkTrial, key: Callable[[str], str]) -> None:
        self._store = store
        self._client = client
        self._bucket = client.settings.bucket
        self._timeout = client.settings.operation_timeout
        self._links = link_trial
        self._key = key
        self._unaborted: tuple[str, str] | None = None

    async def probe(self, marker_name: str) -> None:
        """Begin and abort an upload, and follow a link to the marker. Raises StorageRefused, StorageUnavailable."""
        try:
            await self._begin_and_abort()
        except StorageRefused as failure:
            self._raise_if_the_bucket_is_missing(failure)
            detail = f"the bucket {self._bucket} cannot be written to: {failure.detail}"
            raise StorageRefused(detail=detail) from failure
        marker = await self._store.read_marker()
        await self._links.run(self._key(marker_name), None if marker is None else marker.content)

    async def rehearse(self) -> list[str]:
        """See `ObjectStore`."""
        name = f".probe/{uuid4().hex}"
        refused: list[str] = []
        warnings: list[str] = []

        async def may(permission: str, step: Callable[[], Awaitable[object]]) -> bool:
            try:
                await step()
            except StorageRefused as failure:
                self._raise_if_the_bucket_is_missing(failure)
                if permission == "s3:ListBucketMultipartUploads" and not_supported(failure):
                    warnings.append(_LISTS_NO_UPLOADS)
                    return True
                detail = failure.detail or ""
                denied = any(code in detail for code in _DENIED)
                refused.append(f"{detail}, so the permission {permission} is missing" if denied else detail)
                return False
            return True

        async def read() -> None:
            if await self._keeps_versions(name):
                warnings.append(_KEEPS_VERSIONS)
            await self._links.run(self._key(name), _CONTENT)

        if await may("s3:PutObject", lambda: self._write(name)):
            await may("s3:GetObject", read)
            await may("s3:AbortMultipartUpload", self._begin_and_abort)
        await may("s3:ListBucket", self._list_objects)
        await may("s3:ListBucketMultipartUploads", self._list_uploads)
        await may("s3:DeleteObject", lambda: self._store.delete(name))
        if refused:
            raise StorageRefused(detail=f"the bucket {self._bucket}: {'; '.join(refused)}")
        return warnings

    def _raise_if_the_bucket_is_missing(self, failure: StorageRefused) -> None:
        if error_code(failure) == "NoSuchBucket":
            detail = f"the bucket {self._bucket} does not exist; `contact-exports storage init` creates it"
            raise StorageRefused(detail=detail) from failure

    async def _begin_and_abort(self) -> None:
        """Try to write. If an earlier upload could not be aborted, abort that one first instead of leaving another one."""
        if self._unaborted is not None:
            await self._store.abort_upload(*self._unaborted)
            self._unaborted = None
        name = f".probe/{uuid4().hex}"
        async with self._store.upload(name, part_size=MINIMUM_PART_SIZE, filename="probe", metadata={}) as upload:
            self._unaborted = (name, upload.upload_id)
            await self._store.abort_upload(name, upload.upload_id)
            self._unaborted = None

    async def _write(self, name: str) -> None:
        async with self._store.upload(name, part_size=MINIMUM_PART_SIZE, filename="probe", metadata={}) as upload:
            await upload.put_part(1, [_CONTENT])
            await upload.complete()

    async def _keeps_versions(self, name: str) -> bool:
        async with s3_call("HeadObject", self._timeout):
            head = await self._client.operations.head_object(Bucket=self._bucket, Key=self._key(name))
        return head.get("VersionId", "null") != "null"

    async def _list_objects(self) -> None:
        async with s3_call("ListObjectsV2", self._timeout):
            await self._client.operations.list_objects_v2(Bucket=self._bucket, Prefix=self._key(".probe/x"), MaxKeys=1)

    async def _list_uploads(self) -> None:
        async with s3_call("ListMultipartUploads", self._timeout):
            await self._client.operations.list_multipart_uploads(
                Bucket=self._bucket, Prefix=self._key(".probe/x"), MaxUploads=1
            )
