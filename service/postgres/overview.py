"""Exports for operators: rows of the public views and of the attempts, as dictionaries in the order of the columns."""

from datetime import timedelta
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

    async def running(self, *, limit: int) -> list[Row]:
        """Running exports of all processes, as in the view exports_running, the one that has run longest first."""
        return [dict(row) for row in await self._database.fetch("running_exports", limit)]

    async def waiting(self, *, limit: int) -> list[Row]:
        """Spaces with queued exports, as in the view exports_waiting, the one that has waited longest first."""
        return [dict(row) for row in await self._database.fetch("waiting_spaces", limit)]

    async def failed(self, *, limit: int) -> list[Row]:
        """Exports that failed in the last 24 hours, newest first."""
        return [dict(row) for row in await self._database.fetch("recent_failures", limit)]

    async def history(self, *, step: timedelta, span: timedelta) -> list[Row]:
        """For each interval of length `step` in `span`: start, contacts, completed, failed, waited (s); the oldest first."""
        return [dict(row) for row in await self._database.fetch("export_history", step, span)]
