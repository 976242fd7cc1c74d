"""The statements that delete a Space with everything that belongs to it."""

from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from service.errors import SpaceNotFound
from service.model import ExportStatus
from service.postgres.claims import Leftover
from service.postgres.export_files import ExportFile
from service.postgres.pool import Database

_BATCH = 100
_ROW_BATCH = 500
"""Rows per call, so that each statement finishes well within its timeout."""


@dataclass(frozen=True, slots=True)
class SpaceContents:
    """What a Space has; `running` is how many of its exports run."""

    name: str
    keys: int
    exports: int
    running: int


@dataclass(frozen=True, slots=True)
class WaitingLeftovers:
    """Attempts of a Space that may have left something in the store. Those that ended just now are not `ready`."""

    ready: list[Leftover]
    waiting: int


class SpaceDeletionTables:
    """Every method raises DatabaseUnavailable, processes one batch of rows, and may be called again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def contents(self, space_id: int) -> SpaceContents:
        """What the Space has. Raises SpaceNotFound."""
        row = await self._database.read_row("space_to_delete", space_id)
        if row is None:
            raise SpaceNotFound
        return SpaceContents(row["name"], row["keys"], row["exports"], row["running"])

    async def close(self, space_id: int) -> int:
        """End the access to the Space and the start of its exports; returns how many keys were valid."""
        return len(await self._database.fetch("close_space", space_id))

    async def end_exports(self, space_id: int) -> list[ExportStatus]:
        """End exports of the Space; returns their states before."""
        rows = await self._database.fetch("end_exports_of_space", space_id, _BATCH)
        return [ExportStatus(row["was"]) for row in rows]

    async def files(self, space_id: int) -> list[ExportFile]:
        """Files of ended exports."""
        rows = await self._database.fetch("files_of_space", space_id, _BATCH)
        return [ExportFile(row["export_id"], row["object_name"]) for row in rows]

    async def leftovers(self, space_id: int, *, grace: timedelta) -> WaitingLeftovers:
        """Leftovers of ended attempts. `grace` is how long after its end an attempt's own storage calls may be in flight."""
        rows = await self._database.fetch("leftovers_of_space", space_id, grace, _BATCH)
        ready = [
            Leftover(row["claim_id"], row["export_id"], row["object_name"], row["upload_id"]) for row in rows if row["ready"]
        ]
        return WaitingLeftovers(ready, len(rows) - len(ready))

    async def forget_exports(self, space_id: int) -> int:
        """Delete rows of exports that have nothing in the store; returns the count."""
        return len(await self._database.fetch("forget_exports_of_space", space_id, _ROW_BATCH))

    async def delete(self, space_id: int) -> bool:
        """Delete the Space with its keys; False if it has exports, also one that was created just now."""
        try:
            return await self._database.fetch_row("delete_space", space_id) is not None
        except asyncpg.ForeignKeyViolationError:
            return False
