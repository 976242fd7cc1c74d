"""What an operator may do to an export, if the export is still in the state that the operator saw."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from service.model import ExportStatus
from service.postgres.pool import Database


@dataclass(frozen=True, slots=True)
class Acted:
    """The state of the export before and after, its Space, and the claim that was ended, if any."""

    was: ExportStatus
    status: ExportStatus
    space_id: int
    claim_id: UUID | None


class ExportActs:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cancel(self, export_id: int, seen: Collection[ExportStatus]) -> Acted | None:
        """Cancel a queued or running export, or expire a completed one; None if it has none of the states `seen`."""
        row = await self._database.fetch_row("cancel_as_seen", export_id, list(seen))
        if row is None:
            return None
        return Acted(ExportStatus(row["was"]), ExportStatus(row["status"]), row["space_id"], row["claim_id"])

    async def kick(self, export_id: int, seen: ExportStatus) -> tuple[UUID | None] | None:
        """Requeue a queued or running export; a tuple with the claim that was ended. None if its state is not `seen`."""
        row = await self._database.fetch_row("kick_as_seen", export_id, seen)
        return None if row is None else (row["claim_id"],)

    async def retry(self, export_id: int) -> tuple[int, int] | None:
        """Queue a new export like a finished one; its id and Space. None if the export is unknown or not finished."""
        row = await self._database.fetch_row("retry_export", export_id)
        return None if row is None else (row["id"], row["space_id"])
