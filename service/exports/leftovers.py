"""Periodic tidying. Every replica does all of it: each step is idempotent and asks the row before it touches the store."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import structlog

from service.errors import ExportFailure, StorageUnavailable
from service.failpoints import failpoint
from service.postgres.claims import Claims, Leftover
from service.storage import ObjectStore, StoredObject, UnfinishedUpload

ABANDONED_AFTER = timedelta(hours=1)
"""Age at which an upload that no row names is taken for abandoned."""
ORPHANED_AFTER = timedelta(hours=24)
"""Age at which an object that no row names is taken for orphaned."""
_OUR_OBJECT = re.compile(r"[0-9]+/[0-9]+/[0-9a-f-]{36}\.ndjson\.gz|\.probe/[0-9a-f]{32}", re.ASCII)
"""What attempts and probes write; whatever else somebody keeps below the prefix is not ours to delete."""
_ASKED_AT_ONCE = 500

log = structlog.get_logger()


class Leftovers:
    """`grace`: how long after its end an attempt's own calls may still be on their way to the store."""

    def __init__(self, claims: Claims, store: ObjectStore, *, grace: timedelta, retry_pause: timedelta) -> None:
        self._claims = claims
        self._store = store
        self._grace = grace
        self._retry_pause = retry_pause

    async def rescue(self) -> bool:
        """Queue again what dead or stalled workers hold; True if anything was found. Raises DatabaseUnavailable."""
        rescued = await self._claims.rescue(pause=self._retry_pause)
        for each in rescued:
            log.warning(
                "export_rescued",
                export_id=each.export_id,
                claim_id=str(each.claim_id),
                worker=each.worker,
                status=each.status,
            )
        if rescued:
            await failpoint("rescued")
        return bool(rescued)

    async def clean(self) -> None:
        """Remove what recorded attempts left in the store. Raises DatabaseUnavailable."""
        for garbage in await self._claims.leftovers(grace=self._grace):
            try:
                await self._remove(garbage)
            except ExportFailure as error:
                log.warning("clean_failed", export_id=garbage.export_id, error_code=error.code, detail=error.detail)
            else:
                await self._claims.record_cleaned(garbage)
                await failpoint("cleaned")

    async def abort_abandoned(self) -> None:
        """Abort uploads of attempts that do not run any more, also of one that was begun twice and completed once.

        The store is listed first and the database asked after, so that a claim made meanwhile is seen.
        """
        before = datetime.now(UTC) - ABANDONED_AFTER
        old = [upload async for upload in self._store.unfinished_uploads() if upload.started_at < before]
        for start in range(0, len(old), _ASKED_AT_ONCE):
            await self._abort_unused(old[start : start + _ASKED_AT_ONCE])

    async def delete_orphans(self) -> None:
        """Delete old objects that no row names: what came after its attempt was cleaned up, or its row was removed.

        Listed first and asked after, as above. Raises DatabaseUnavailable.
        """
        before = datetime.now(UTC) - ORPHANED_AFTER
        old: list[StoredObject] = []
        async for found in self._store.objects():
            if found.modified_at < before and _OUR_OBJECT.fullmatch(found.object_name):
                old.append(found)
            if len(old) == _ASKED_AT_ONCE:
                await self._delete_unused(old)
                old = []
        await self._delete_unused(old)

    async def _delete_unused(self, objects: list[StoredObject]) -> None:
        used = await self._claims.objects_in_use(found.object_name for found in objects)
        for found in objects:
            if found.object_name not in used:
                async with _one_of_many(found.object_name):
                    await self._store.delete(found.object_name)
                    log.info("orphan_deleted", object_name=found.object_name)

    async def _abort_unused(self, uploads: list[UnfinishedUpload]) -> None:
        used = await self._claims.objects_being_written(upload.object_name for upload in uploads)
        for upload in uploads:
            if upload.object_name not in used:
                async with _one_of_many(upload.object_name):
                    await self._store.abort_upload(upload.object_name, upload.upload_id)
                    log.info("abandoned_upload_aborted", object_name=upload.object_name)

    async def _remove(self, garbage: Leftover) -> None:
        # Abort before delete: whichever way a racing completion goes, nothing stays. The listing finds what was begun and
        # not recorded, because the process died in between or its client began a second one after a lost answer.
        if garbage.upload_id is not None:
            await self._store.abort_upload(garbage.object_name, garbage.upload_id)
        async for upload in self._store.unfinished_uploads(garbage.object_name):
            await self._store.abort_upload(upload.object_name, upload.upload_id)
        await failpoint("clean_aborted")
        await self._store.delete(garbage.object_name)
        await failpoint("clean_deleted")


@asynccontextmanager
async def _one_of_many(object_name: str) -> AsyncIterator[None]:
    """What the store refuses for one object does not keep the others; a store that is away is not asked for each of them."""
    try:
        yield
    except StorageUnavailable:
        raise
    except ExportFailure as error:
        log.warning("clean_failed", object_name=object_name, error_code=error.code, detail=error.detail)
