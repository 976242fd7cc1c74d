"""Expiry of files and deletion of old rows."""

from dataclasses import dataclass
from datetime import timedelta

from service.postgres.pool import Database

_FILE_BATCH = 100
_ROW_BATCH = 500
"""Rows per call, so that each statement finishes well within its timeout."""


@dataclass(frozen=True, slots=True)
class ExportFile:
    """The file of an export."""

    export_id: int
    object_name: str


class ExportFiles:
    """Every method raises DatabaseUnavailable, processes one batch of rows, and may be called concurrently."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire(self, *, links_live: timedelta) -> list[int]:
        """Expire completed exports that are due; returns their ids. Their files are kept for `links_live`."""
        return [row["export_id"] for row in await self._database.fetch("expire_exports", links_live, _FILE_BATCH)]

    async def oldest_and_newest(self) -> list[ExportFile]:
        """The files of the completed exports that expire first and last; at most two."""
        return [ExportFile(row["export_id"], row["object_name"]) for row in await self._database.fetch("files_at_both_ends")]

    async def deletable(self) -> list[ExportFile]:
        """At most 100 files of expired exports to which no valid link exists."""
        rows = await self._database.fetch("files_to_delete", _FILE_BATCH)
        return [ExportFile(row["export_id"], row["object_name"]) for row in rows]

    async def record_deleted(self, export_id: int) -> None:
        """Record that the store no longer has the file of this expired export."""
        await self._database.fetch("record_file_deleted", export_id)

    async def forget(self, *, age: timedelta) -> int:
        """Delete rows of exports that ended more than `age` ago and have nothing in the store; returns the count."""
        return len(await self._database.fetch("forget_exports", age, _ROW_BATCH))
