"""Where files go: the two Protocols that the rest of the service knows. Implementations: `s3`, `directory`.

Every method has a deadline of its own and raises `StorageUnavailable`, `StorageRefused` or `StorageFull`; no error of a
client library and no OSError leaves this package.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.model import Part

MINIMUM_PART_SIZE = 5 * 1024 * 1024
"""Bytes; S3 refuses a smaller part unless it is the last."""
MAXIMUM_PARTS = 10_000
"""S3's limit on the parts of one upload."""


@dataclass(frozen=True, slots=True)
class Link:
    """A time-limited download address; made per request, never stored."""

    url: str
    expires_at: datetime
    """UTC, whole seconds; never later than the moment the address stops working."""


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload that was begun and neither completed nor aborted."""

    object_name: str
    upload_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A completed object as a listing shows it."""

    object_name: str
    size: int
    modified_at: datetime


class Upload(Protocol):
    """One multipart upload in progress. Its owner is the context manager of `ObjectStore.upload`."""

    @property
    def upload_id(self) -> str:
        """What `ObjectStore.abort_upload` needs to abort it from another process."""

    async def put_part(self, number: int, part: Part) -> None:
        """Store part `number` (from 1). Calls may overlap; all parts but the last have the upload's part size."""

    async def complete(self) -> None:
        """Make the parts one object, visible at once and whole. At least one part must have been put; it may be empty.

        An answer that was lost is resolved by asking the store: returns only if the object is there with these bytes.
        """


class ObjectStore(Protocol):
    """A bucket with a prefix, or a directory. Object names are relative to it and use `/`."""

    def upload(
        self, object_name: str, *, part_size: int, filename: str, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Upload]:
        """Begin an upload; leaving the block without `complete` having succeeded aborts it, also when cancelled.

        An abort that fails is logged, not raised: the sweep aborts it later. Content-Type is `application/gzip`, no
        Content-Encoding, Content-Disposition `attachment` with `filename`.
        """

    async def abort_upload(self, object_name: str, upload_id: str) -> None:
        """Abort an upload of any process; one that is gone already is a success."""

    async def delete(self, object_name: str) -> None:
        """Delete an object; one that is gone already is a success."""

    async def link(self, object_name: str, *, filename: str, origin: str) -> Link:
        """A fresh download address for GET. `origin` (scheme://host) is for stores that the service itself serves."""

    def unfinished_uploads(self, object_name: str = "") -> AsyncIterator[UnfinishedUpload]:
        """All uploads in progress below the prefix, of any process; or those of one object."""

    def objects(self) -> AsyncIterator[StoredObject]:
        """All completed objects below the prefix."""

    async def probe(self) -> None:
        """Check that files can be written here (upload begun and aborted); the error says what is missing."""

    async def create(self) -> None:
        """Create the bucket or the directory; one that exists already is a success."""
