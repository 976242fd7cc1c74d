"""Deletes expired files and old rows. Every replica runs it, and each step can be resumed by any of them."""

from datetime import timedelta

import structlog

from service import events
from service.failpoints import failpoint
from service.failures import ExportFailure, StorageUnavailable
from service.postgres.export_files import ExportFiles
from service.storage import ObjectStore

_DOWNLOAD_GRACE = timedelta(hours=1)
"""For downloads that started just before the last link expired: some stores abort a download when its object is deleted."""
_FORGET_BATCHES = 100
"""Most batches of old rows that one pass deletes, so that a pass ends soon after HISTORY_DAYS was lowered."""
_NOT_IN_STORE = (
    "The links of this export return 404 until it expires. If STORAGE_URL was changed, so do those of all exports that"
    " completed before, and their files must be deleted by hand."
)

log = structlog.get_logger()


class Retention:
    """`link_lifetime` is the longest a link works; `history` is how long rows of ended exports are kept."""

    def __init__(self, files: ExportFiles, store: ObjectStore, *, link_lifetime: timedelta, history: timedelta) -> None:
        self._files = files
        self._store = store
        self._links_live = link_lifetime + _DOWNLOAD_GRACE
        self._history = history

    async def expire(self) -> None:
        """Mark exports whose files are old enough as expired: no new links. Raises DatabaseUnavailable."""
        for export_id in await self._files.expire(links_live=self._links_live):
            events.emit(events.ExportExpired(export_id))
        await failpoint("expired")

    async def delete_files(self) -> None:
        """Delete files whose last link has expired. A failed deletion is retried later. Raises DatabaseUnavailable."""
        for file in await self._files.deletable():
            try:
                await self._store.delete(file.object_name)
            except ExportFailure as error:
                log.warning("file_not_deleted", export_id=file.export_id, error_code=error.code, detail=error.detail)
                if isinstance(error, StorageUnavailable):
                    return
            else:
                await failpoint("file_deleted")
                await self._files.record_deleted(file.export_id)
                await failpoint("file_deletion_recorded")
                events.emit(events.FileDeleted(file.export_id))

    async def forget(self) -> None:
        """Delete rows of exports that ended longer ago than the history. Raises DatabaseUnavailable."""
        for _ in range(_FORGET_BATCHES):
            count = await self._files.forget(age=self._history)
            if not count:
                return
            events.emit(events.ExportsForgotten(count))


async def report_missing_files(files: ExportFiles, store: ObjectStore) -> None:
    """Log which files of the oldest and the newest completed export are not in the store.

    Raises DatabaseUnavailable, ExportFailure.
    """
    for file in await files.oldest_and_newest():
        if not await store.exists(file.object_name):
            log.warning("file_not_in_store", export_id=file.export_id, detail=_NOT_IN_STORE)
