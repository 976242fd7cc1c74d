"""Exports for operators: rows of the public view and of the attempts, as dictionaries in the order of the columns."""

from typing import Any

from service.postgres.pool import Database

Row = dict[str, Any]


class Overview:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self, *, space_id: int | None, status: str | None, limit: int) -> list[Row]:
        """The newest exports, optionally of one Space and with one status."""
        return [dict(row) for row in await self._database.fetch("latest_exports", space_id, status, limit)]

    async def one(self, export_id: int) -> Row | None:
        """One export; None if the id is unknown."""
        row = await self._database.read_row("one_export", export_id)
        return None if row is None else dict(row)

    async def attempts(self, export_id: int) -> list[Row]:
        """The attempts of an export, oldest first."""
        return [dict(row) for row in await self._database.fetch("attempts_of_export", export_id)]
