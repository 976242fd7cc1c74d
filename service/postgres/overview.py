"""Exports as operators see them: rows of the public view, as they are."""

import asyncpg

from service.postgres.pool import Database


class Overview:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self, *, space_id: int | None, status: str | None, limit: int) -> list[asyncpg.Record]:
        """The newest exports, of one Space and in one state if these are given."""
        return await self._database.fetch("latest_exports", space_id, status, limit)

    async def one(self, export_id: int) -> asyncpg.Record | None:
        """All that is known of an export."""
        return await self._database.read_row("one_export", export_id)

    async def attempts(self, export_id: int) -> list[asyncpg.Record]:
        """Its attempts, oldest first."""
        return await self._database.fetch("attempts_of_export", export_id)
