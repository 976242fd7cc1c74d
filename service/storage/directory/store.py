"""Object store in a local directory. Any number of processes on this machine may share the directory.

    <root>/uploads/<upload id>.<object name>   unfinished: parts are written at their offsets
    <root>/objects/<object name>.object        complete: linked into place, never overwritten
    <root>/objects/owner.json                  the marker

Object names are percent-encoded into one flat file name. The suffix is needed because aiohttp's FileResponse serves
`NAME.gz` in place of `NAME` if both exist.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import uuid4

import structlog

from service.errors import FileNotFound
from service.failures import ExportFailure
from service.model import Part
from service.storage import Link, Marker, StoredObject, UnfinishedUpload
from service.storage.directory import files
from service.storage.directory.links import FileLinkSigner
from service.storage.object_names import checked_object_name
from service.storage.part_sizes import PartSizes
from service.storage.upload_scope import CLEANUP_TIMEOUT, upload_scope

_STARTED = "%Y%m%dT%H%M%SZ"
_UPLOAD_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{32}", re.ASCII)
_SUFFIX = ".object"
_MARKER = "owner.json"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to serve, and the file name that the client saves it under."""

    path: Path
    filename: str


class DirectoryUpload:
    """One upload: a file in `uploads` until `complete` succeeds."""

    def __init__(self, upload_id: str, unfinished: Path, target: Path, part_size: int) -> None:
        self.upload_id = upload_id
        self.completed = False
        self._unfinished = unfinished
        self._target = target
        self._parts = PartSizes(part_size)

    async def put_part(self, number: int, part: Part) -> None:
        """See `Upload`."""
        size = sum(map(len, part))
        offset = self._parts.offset(number, size)
        await files.in_thread("write part", partial(files.write_at, self._unfinished, offset, part))
        self._parts.record(number, size)

    async def complete(self) -> None:
        """See `Upload`. Raises StorageRefused if an object of that name exists."""
        size = self._parts.total()
        if not self.completed:
            await files.in_thread("complete", partial(files.publish, self._unfinished, self._target, size))
            self.completed = True

    async def abort(self) -> None:
        """Delete the unfinished file within `CLEANUP_TIMEOUT`; log a failure."""
        try:
            await files.in_thread("abort upload", partial(files.remove, self._unfinished), timeout=CLEANUP_TIMEOUT)
        except ExportFailure as failure:
            log.warning("upload_not_aborted", upload_id=self.upload_id, detail=failure.detail)


class DirectoryStore:
    """An `ObjectStore` in the directory `root`. This service serves its links and signs them with `secret`.

    `secret` is awaited at each link. It may read the database; creating or opening a link raises what `secret` raises.
    """

    def __init__(self, root: Path, secret: Callable[[], Awaitable[bytes]], link_lifetime: timedelta) -> None:
        self._root = root
        self._uploads = root / "uploads"
        self._objects = root / "objects"
        self._signer = FileLinkSigner(secret, link_lifetime)

    def upload(
        self, object_name: str, *, part_size: int, filename: str, metadata: Mapping[str, str]
    ) -> AbstractAsyncContextManager[DirectoryUpload]:
        """See `ObjectStore`. Does not store `filename` (links contain it) or `metadata` (the job row has it)."""
        return upload_scope(partial(self._begin, object_name, part_size), DirectoryUpload.abort)

    async def abort_upload(self, object_name: str, upload_id: str) -> None:
        """See `ObjectStore`."""
        unfinished = self._unfinished(object_name, upload_id)
        if _UPLOAD_ID.fullmatch(upload_id):  # any other id was issued by another store
            await files.in_thread("abort upload", partial(files.remove, unfinished))

    async def delete(self, object_name: str) -> None:
        """See `ObjectStore`."""
        await files.in_thread("delete", partial(files.remove, self._object(object_name)))

    async def link(self, object_name: str, *, filename: str, origin: str) -> Link:
        """See `ObjectStore`."""
        return await self._signer.link(checked_object_name(object_name), filename, origin)

    async def open_link(self, object_name: str, query: Mapping[str, str]) -> LocalFile:
        """Return the file of a link, given the decoded object name and query of the address.

        Raises LinkForged, LinkExpired, FileNotFound if the file was deleted, or the store's error if the disk fails.
        """
        filename = await self._signer.verified_filename(object_name, query)
        path = self._object(object_name)
        if not await files.in_thread("open link", partial(files.exists, path)):
            raise FileNotFound
        return LocalFile(path, filename)

    async def unfinished_uploads(self, object_name: str = "") -> AsyncIterator[UnfinishedUpload]:
        """See `ObjectStore`."""
        for entry, _ in await files.in_thread("list uploads", partial(files.entries, self._uploads)):
            upload_id, _, encoded = entry.partition(".")
            if _UPLOAD_ID.fullmatch(upload_id) and unquote(encoded) == (object_name or unquote(encoded)):
                started_at = datetime.strptime(upload_id.partition("-")[0], _STARTED).replace(tzinfo=UTC)
                yield UnfinishedUpload(unquote(encoded), upload_id, started_at)

    async def objects(self) -> AsyncIterator[StoredObject]:
        """See `ObjectStore`."""
        for entry, stat in await files.in_thread("list objects", partial(files.entries, self._objects)):
            if entry.endswith(_SUFFIX):
                modified_at = datetime.fromtimestamp(stat.st_mtime, UTC)
                yield StoredObject(unquote(entry.removesuffix(_SUFFIX)), modified_at)

    async def exists(self, object_name: str) -> bool:
        """See `ObjectStore`."""
        return await files.in_thread("look up", partial(files.exists, self._object(object_name)))

    async def read_marker(self) -> Marker | None:
        """See `ObjectStore`."""
        found = await files.in_thread("read marker", partial(files.read, self._objects / _MARKER))
        return found and Marker(found[0], datetime.fromtimestamp(found[1].st_mtime, UTC))

    async def write_marker(self, content: bytes) -> None:
        """See `ObjectStore`. It has no link."""
        await files.in_thread("write marker", partial(files.replace, self._objects / _MARKER, content))

    async def probe(self) -> None:
        """See `ObjectStore`. Also completes an object, because some file systems cannot hard-link files."""
        object_name = f".probe/{uuid4().hex}"
        async with self.upload(object_name, part_size=1, filename="probe", metadata={}) as upload:
            await upload.put_part(1, [b"x"])
            await upload.complete()
        await self.delete(object_name)

    async def rehearse(self) -> list[str]:
        """See `ObjectStore`. The probe takes every step but the link, which needs a running service."""
        await self.probe()
        for listing in (self.objects(), self.unfinished_uploads()):
            async for _ in listing:
                pass
        return []

    async def prepare_empty(self) -> None:
        """Initialize `root` if it is empty. Call it at startup only: later, an empty `root` is an unmounted disk."""
        await files.in_thread("prepare", partial(files.make_inside_empty, self._root, self._uploads, self._objects))

    async def create(self) -> None:
        """See `ObjectStore`. Only this user may read the directory."""
        await files.in_thread("create", partial(files.make_private, self._uploads, self._objects))

    async def _begin(self, object_name: str, part_size: int) -> DirectoryUpload:
        upload_id = f"{time.strftime(_STARTED, time.gmtime())}-{uuid4().hex}"
        unfinished = self._unfinished(object_name, upload_id)
        await files.in_thread("begin upload", partial(files.make_empty, unfinished))
        return DirectoryUpload(upload_id, unfinished, self._object(object_name), part_size)

    def _object(self, object_name: str) -> Path:
        return self._objects / f"{quote(checked_object_name(object_name), safe='')}{_SUFFIX}"

    def _unfinished(self, object_name: str, upload_id: str) -> Path:
        return self._uploads / f"{upload_id}.{quote(checked_object_name(object_name), safe='')}"
