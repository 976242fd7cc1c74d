"""The job table as callers use it. What the runner writes is in `service.postgres.claims`."""

import asyncpg

from service.model import END_OF_TIME, ExportJob, ExportRequest, ExportStatus, StoredFile, Window
from service.postgres.pool import Database


class ExportJobs:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(
        self,
        space_id: int,
        request: ExportRequest,
        *,
        timezone: str,
        window: Window,
        max_attempts: int,
        request_id: str,
    ) -> ExportJob:
        """Queue an export; committed when this returns."""
        row = await self._database.fetch_row(
            "insert_export",
            space_id,
            request.start_date,
            request.end_date,
            timezone,
            window.start,
            window.end,
            request.include_comet_tokens,
            request.include_all_emails,
            max_attempts,
            request_id,
            point="insert_committed",
        )
        assert row is not None
        return _job(row)

    async def find(self, export_id: int, space_id: int) -> ExportJob | None:
        """An export of this Space; None for an unknown id and for one of another Space."""
        row = await self._database.read_row("export_of_space", export_id, space_id)
        return None if row is None else _job(row)


def stored_window(row: asyncpg.Record) -> Window:
    """The window of a job. The driver takes END_OF_TIME for `infinity`, but gives that back without a timezone."""
    end = row["window_to"]
    return Window(row["window_from"], END_OF_TIME if end.tzinfo is None else end)


def _job(row: asyncpg.Record) -> ExportJob:
    return ExportJob(
        export_id=row["id"],
        space_id=row["space_id"],
        status=ExportStatus(row["status"]),
        created_at=row["created_at"],
        window=stored_window(row),
        timezone=row["timezone"],
        rows_read=row["rows_read"],
        rows_estimated=row["rows_estimated"],
        finished_at=row["finished_at"],
        snapshot_at=row["snapshot_at"],
        complete_until=row["complete_until"],
        object_name=row["object_name"],
        file=StoredFile(row["row_count"], row["file_size"], row["sha256"]) if row["object_name"] else None,
        file_expires_at=row["file_expires_at"],
        error_code=row["error_code"],
        error_message=row["error_message"],
    )
