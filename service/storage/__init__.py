"""File storage: the two Protocols that the rest of the service uses. Implementations: `s3` and `directory`.

Every method has its own deadline and raises `StorageUnavailable`, `StorageRefused` or `StorageFull`. This package never
lets an OSError or an error of a client library escape.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.model import Part

MINIMUM_PART_SIZE = 5 * 1024 * 1024
"""In bytes. S3 refuses a smaller part unless it is the last one (S3 API, UploadPart)."""
MAXIMUM_PARTS = 10_000
"""S3's limit on the number of parts of one upload (S3 API, UploadPart)."""


@dataclass(frozen=True, slots=True)
class Link:
    """A time-limited download address, created per request and never stored."""

    url: str
    expires_at: datetime
    """UTC, whole seconds. Never later than the moment at which the address stops working."""


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload that was begun and not yet completed or aborted."""

    object_name: str
    upload_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A completed object as listed by the store."""

    object_name: str
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Marker:
    """The object that names the owner of a store."""

    content: bytes
    modified_at: datetime


class Upload(Protocol):
    """One multipart upload in progress, owned by the context manager of `ObjectStore.upload`."""

    @property
    def upload_id(self) -> str:
        """The id that `ObjectStore.abort_upload` takes, also in another process."""

    async def put_part(self, number: int, part: Part) -> None:
        """Store part `number` (from 1). Calls may overlap. All parts except the last must have the upload's part size."""

    async def complete(self) -> None:
        """Publish the parts as one object atomically. At least one part must be stored; it may be empty.

        If the response is lost, the store is asked: the call succeeds only if the object exists with these bytes.
        """


class ObjectStore(Protocol):
    """A bucket with a prefix, or a directory. Object names are relative to it; segments are separated by `/`."""

    def upload(
        self, object_name: str, *, part_size: int, filename: str, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Upload]:
        """Begin an upload. Leaving the block before `complete` succeeded aborts it, also on cancellation.

        A failed abort is logged and not raised: the leftovers task aborts the upload later. The object gets Content-Type
        `application/gzip`, no Content-Encoding, and Content-Disposition `attachment` with `filename`.
        """

    async def abort_upload(self, object_name: str, upload_id: str) -> None:
        """Abort an upload of any process. Succeeds if the upload no longer exists."""

    async def delete(self, object_name: str) -> None:
        """Delete an object. Succeeds if the object no longer exists."""

    async def link(self, object_name: str, *, filename: str, origin: str) -> Link:
        """Create a download address for GET. `origin` (scheme://host) is used by stores whose files this service serves."""

    def unfinished_uploads(self, object_name: str = "") -> AsyncIterator[UnfinishedUpload]:
        """Iterate over the uploads in progress of all processes, or over those of one object."""

    def objects(self) -> AsyncIterator[StoredObject]:
        """Iterate over all completed objects, without the marker."""

    async def exists(self, object_name: str) -> bool:
        """Return whether the object exists."""

    async def read_marker(self) -> Marker | None:
        """The marker; None if it does not exist."""

    async def write_marker(self, content: bytes) -> None:
        """Write or replace the marker."""

    async def probe(self) -> None:
        """Check that files can be written and links work, and leave nothing. The error's detail names the cause."""

    async def rehearse(self) -> list[str]:
        """Take every step of an object's life once and return warnings for operators.

        Raises StorageRefused whose detail names every step that the store refuses and the missing permission.
        """

    async def create(self) -> None:
        """Create the bucket or the directory. Succeeds if it already exists."""
