"""Removes uploads and objects that no row owns any more. Every replica runs it.

Each step is idempotent and asks the database before it touches the store.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import structlog

from service import events
from service.failpoints import failpoint
from service.failures import ExportFailure, StorageUnavailable
from service.postgres.claims import Claims, Leftover
from service.storage import ObjectStore, StoredObject, UnfinishedUpload

GRACE_LEASES = 2
"""Leftovers of an attempt are cleaned only after this many lease durations: its last storage calls may be in flight."""
ABANDONED_AFTER = timedelta(hours=1)
"""Age at which an upload that no row names counts as abandoned."""
ORPHANED_AFTER = timedelta(hours=24)
"""Age at which an object that no row names counts as orphaned."""
_OUR_OBJECT = re.compile(r"[0-9]+/[0-9]+/[0-9a-f-]{36}\.ndjson\.gz|\.probe/[0-9a-f]{32}", re.ASCII)
"""Names that attempts and probes give. Objects and uploads with other names are not ours and are left alone."""
_NAMES_PER_QUERY = 500

log = structlog.get_logger()


class Leftovers:
    """`grace` is how long after its end an attempt's own storage calls may still be in flight."""

    def __init__(self, claims: Claims, store: ObjectStore, *, grace: timedelta) -> None:
        self._claims = claims
        self._store = store
        self._grace = grace

    async def clean(self) -> None:
        """Remove what recorded attempts left in the store. Raises DatabaseUnavailable."""
        for leftover in await self._claims.leftovers(grace=self._grace):
            try:
                await remove(self._store, leftover)
            except ExportFailure as error:
                log.warning("clean_failed", export_id=leftover.export_id, error_code=error.code, detail=error.detail)
            else:
                await self._claims.record_cleaned(leftover)
                await failpoint("cleaned")
                events.emit(events.AttemptCleaned(leftover.export_id, leftover.claim_id))

    async def abort_abandoned(self) -> None:
        """Abort old uploads that no running attempt writes. Raises DatabaseUnavailable, ExportFailure.

        The store is listed before the database is asked, so that a claim made in between is seen.
        """
        before = datetime.now(UTC) - ABANDONED_AFTER
        old = [
            upload
            async for upload in self._store.unfinished_uploads()
            if upload.started_at < before and _OUR_OBJECT.fullmatch(upload.object_name)
        ]
        for start in range(0, len(old), _NAMES_PER_QUERY):
            await self._abort_unused(old[start : start + _NAMES_PER_QUERY])

    async def delete_orphans(self) -> None:
        """Delete old objects that no row names: written after their attempt was cleaned up, or their row is gone.

        The store is listed before the database is asked. Raises DatabaseUnavailable, ExportFailure.
        """
        before = datetime.now(UTC) - ORPHANED_AFTER
        old: list[StoredObject] = []
        async for found in self._store.objects():
            if found.modified_at < before and _OUR_OBJECT.fullmatch(found.object_name):
                old.append(found)
            if len(old) == _NAMES_PER_QUERY:
                await self._delete_unused(old)
                old = []
        await self._delete_unused(old)

    async def _delete_unused(self, objects: list[StoredObject]) -> None:
        used = await self._claims.objects_in_use(found.object_name for found in objects)
        for found in objects:
            if found.object_name not in used:
                async with _one_of_many(found.object_name):
                    await self._store.delete(found.object_name)
                    events.emit(events.OrphanDeleted(found.object_name))

    async def _abort_unused(self, uploads: list[UnfinishedUpload]) -> None:
        used = await self._claims.objects_being_written(upload.object_name for upload in uploads)
        for upload in uploads:
            if upload.object_name not in used:
                async with _one_of_many(upload.object_name):
                    await self._store.abort_upload(upload.object_name, upload.upload_id)
                    events.emit(events.AbandonedUploadAborted(upload.object_name))


async def remove(store: ObjectStore, leftover: Leftover) -> None:
    """Remove whatever an ended attempt left in the store. Raises ExportFailure."""
    # Abort before delete: then nothing stays even if the attempt's own completion arrives in between. The listing finds
    # uploads that were started but not recorded: the process died in between, or its client retried a lost response.
    if leftover.upload_id is not None:
        await store.abort_upload(leftover.object_name, leftover.upload_id)
    async for upload in store.unfinished_uploads(leftover.object_name):
        await store.abort_upload(upload.object_name, upload.upload_id)
    await failpoint("clean_aborted")
    await store.delete(leftover.object_name)
    await failpoint("clean_deleted")


@asynccontextmanager
async def _one_of_many(object_name: str) -> AsyncIterator[None]:
    """Skip an object the store refuses and go on; stop at once if the store is unreachable."""
    try:
        yield
    except StorageUnavailable:
        raise
    except ExportFailure as error:
        log.warning("clean_failed", object_name=object_name, error_code=error.code, detail=error.detail)
