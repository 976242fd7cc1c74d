"""The job table as callers use it. What the runner writes is in `service.postgres.claims`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from service.model import END_OF_TIME, ExportJob, ExportStatus, NewExport, StoredFile, Window
from service.postgres.pool import Database

IDEMPOTENCY_KEY_LIFETIME = timedelta(hours=24)
"""How long a create request that is repeated with the same Idempotency-Key is recognised (contract: create)."""
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
    """The export that a create request led to: a new one, or the earlier one of the same idempotency key."""

    job: ExportJob
    replayed: bool
    same_request: bool


class ExportJobs:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, new: NewExport) -> Inserted:
        """Queue an export, unless its Space used its idempotency key in the last 24 hours; committed when this returns."""
        asked = new.request
        columns = (new.space_id, asked.start_date, asked.end_date, new.timezone, new.window.start, new.window.end)
        rest = (list(asked.extras), new.max_attempts, new.request_id, new.idempotency_key, IDEMPOTENCY_KEY_LIFETIME)
        while True:
            row = await self._database.fetch_row("insert_export", *columns, *rest, point="insert_committed")
            if row is not None:
                return Inserted(_job(row), replayed=False, same_request=True)
            row = await self._database.read_row(
                "export_of_key", new.space_id, new.idempotency_key, asked.start_date, asked.end_date, list(asked.extras)
            )
            if row is not None:  # otherwise the key was deleted in between
                return Inserted(_job(row), replayed=True, same_request=row["same_request"])

    async def prune_idempotency_keys(self) -> int:
        """Delete idempotency keys older than 24 hours, one batch per call; returns the count."""
        return len(await self._database.fetch("prune_idempotency_keys", IDEMPOTENCY_KEY_LIFETIME, _PRUNED_AT_ONCE))

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
