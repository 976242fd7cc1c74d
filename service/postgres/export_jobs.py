"""The job table as callers use it. What the runner writes is in `service.postgres.claims`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from service.model import END_OF_TIME, ExportJob, ExportRequest, ExportStatus, StoredFile, Window
from service.postgres.pool import Database

_PRUNED_AT_ONCE = 1000
"""Rows one call removes at most, so that it ends well within the time a statement may take."""
_SLICE = 200
"""Rows that are turned into jobs without letting anything else run: less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancellation met. `was` is the state before; `claim_id` that of the attempt which it ended, if one ran."""

    was: ExportStatus
    status: ExportStatus
    claim_id: UUID | None


@dataclass(frozen=True, slots=True)
class Inserted:
    """What a creation under a name led to: a new export, or the one that this name made before."""

    job: ExportJob
    replayed: bool
    same_request: bool


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
        columns = _columns(space_id, request, timezone, window, max_attempts, request_id)
        row = await self._database.fetch_row("insert_export", *columns, point="insert_committed")
        assert row is not None
        return _job(row)

    async def insert_once(
        self,
        space_id: int,
        request: ExportRequest,
        *,
        timezone: str,
        window: Window,
        max_attempts: int,
        request_id: str,
        key: str,
        key_lifetime: timedelta,
    ) -> Inserted:
        """Queue an export unless this Space has used `key` within `key_lifetime`; committed when this returns."""
        columns = _columns(space_id, request, timezone, window, max_attempts, request_id)
        asked = (request.start_date, request.end_date, request.include_comet_tokens, request.include_all_emails)
        while True:
            row = await self._database.fetch_row("insert_export_once", *columns, key, key_lifetime, point="insert_committed")
            if row is not None:
                return Inserted(_job(row), replayed=False, same_request=True)
            row = await self._database.read_row("export_of_key", space_id, key, *asked)
            if row is not None:  # else it was pruned in between
                return Inserted(_job(row), replayed=True, same_request=row["same_request"])

    async def prune_keys(self, key_lifetime: timedelta) -> int:
        """Forget names older than this, a batch at a time; returns how many."""
        return len(await self._database.fetch("prune_idempotency_keys", key_lifetime, _PRUNED_AT_ONCE))

    async def find(self, export_id: int, space_id: int) -> ExportJob | None:
        """An export of this Space; None for an unknown id and for one of another Space."""
        row = await self._database.read_row("export_of_space", export_id, space_id)
        return None if row is None else _job(row)

    async def older(self, space_id: int, *, status: ExportStatus | None, below: int, limit: int) -> list[ExportJob]:
        """Exports of a Space with an id below this, newest first, in one state if it is given."""
        return await _jobs(await self._database.fetch("exports_before", space_id, status, below, limit))

    async def newer(self, space_id: int, *, status: ExportStatus | None, above: int, limit: int) -> list[ExportJob]:
        """Exports of a Space with an id above this, oldest first, in one state if it is given."""
        return await _jobs(await self._database.fetch("exports_after", space_id, status, above, limit))

    async def cancel(self, export_id: int, space_id: int | None) -> Cancelled | None:
        """End a waiting or running export, or let the file of a completed one expire; any other state stays.

        None for an unknown id, and for one of another Space than `space_id` where that is given.
        """
        row = await self._database.fetch_row("cancel_export", export_id, space_id)
        return None if row is None else Cancelled(ExportStatus(row["was"]), ExportStatus(row["status"]), row["claim_id"])


def stored_window(row: asyncpg.Record) -> Window:
    """The window of a job. The driver takes END_OF_TIME for `infinity`, but gives that back without a timezone."""
    end = row["window_to"]
    return Window(row["window_from"], END_OF_TIME if end.tzinfo is None else end)


def _columns(
    space_id: int, request: ExportRequest, timezone: str, window: Window, max_attempts: int, request_id: str
) -> tuple[object, ...]:
    return (
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
    )


async def _jobs(rows: Sequence[asyncpg.Record]) -> list[ExportJob]:
    jobs: list[ExportJob] = []
    for start in range(0, len(rows), _SLICE):
        jobs += [_job(row) for row in rows[start : start + _SLICE]]
        await asyncio.sleep(0)
    return jobs


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
