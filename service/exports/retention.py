"""Files and rows do not stay for ever.

Every replica does all of it; what was cut short between two steps is done by whoever comes next.
"""

from datetime import timedelta

import structlog

from service.errors import ExportFailure, StorageUnavailable
from service.failpoints import failpoint
from service.postgres.export_files import ExportFiles
from service.storage import ObjectStore

_DOWNLOAD_TIME = timedelta(hours=1)
"""A download that began with the last link may go on for so long after it; some stores cut it off when the object goes."""

log = structlog.get_logger()


class Retention:
    """`link_lifetime`: what a link lives at most. `history`: how long rows of exports that ended are kept."""

    def __init__(self, files: ExportFiles, store: ObjectStore, *, link_lifetime: timedelta, history: timedelta) -> None:
        self._files = files
        self._store = store
        self._links_live = link_lifetime + _DOWNLOAD_TIME
        self._history = history

    async def expire(self) -> None:
        """Give out no more links to files whose time has come. Raises DatabaseUnavailable."""
        for export_id in await self._files.expire(links_live=self._links_live):
            log.info("export_expired", export_id=export_id)
        await failpoint("expired")

    async def delete_files(self) -> None:
        """Delete files whose links have died. One that cannot be deleted now comes again. Raises DatabaseUnavailable."""
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
                log.info("file_deleted", export_id=file.export_id)

    async def forget(self) -> None:
        """Remove rows that are older than the history. Raises DatabaseUnavailable."""
        if count := await self._files.forget(age=self._history):
            log.info("exports_forgotten", count=count)
