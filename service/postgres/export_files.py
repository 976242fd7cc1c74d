"""What becomes of published files and of the rows of exports that ended: the statements of expiry and retention."""

from dataclasses import dataclass
from datetime import timedelta

from service.postgres.pool import Database

_AT_ONCE = 100
_FORGOTTEN_AT_ONCE = 500
"""Rows of one pass, so that each ends well within the time a statement may take."""


@dataclass(frozen=True, slots=True)
class DeadFile:
    """A file of an expired export that nobody has a working link to."""

    export_id: int
    object_name: str


class ExportFiles:
    """Every method raises DatabaseUnavailable, takes a limited number of rows, and may be called by many at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire(self, *, links_live: timedelta) -> list[int]:
        """Let completed exports expire whose time has come; returns their ids. Their files stay for `links_live`."""
        return [row["export_id"] for row in await self._database.fetch("expire_exports", links_live, _AT_ONCE)]

    async def dead(self) -> list[DeadFile]:
        """Some files that can be deleted now."""
        rows = await self._database.fetch("files_to_delete", _AT_ONCE)
        return [DeadFile(row["export_id"], row["object_name"]) for row in rows]

    async def record_deleted(self, export_id: int) -> None:
        """The store has no file of this expired export any more."""
        await self._database.fetch("record_file_deleted", export_id)

    async def forget(self, *, age: timedelta) -> int:
        """Remove rows of exports that ended longer ago than this and left nothing in the store; returns how many."""
        return len(await self._database.fetch("forget_exports", age, _FORGOTTEN_AT_ONCE))
