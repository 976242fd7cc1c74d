"""The job table as the API uses it. The runner's writes are in `service.postgres.claims`."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from service.errors import QueueFull, SpaceNotFound
from service.model import END_OF_TIME, ExportJob, ExportStatus, NewExport, StoredFile, Window
from service.postgres.pool import Database

IDEMPOTENCY_KEY_LIFETIME = timedelta(hours=24)
"""How long a repeated Idempotency-Key is recognised (contract: "Create an export")."""
_SOONEST_ROOM, _UNKNOWN_ROOM, _LATEST_ROOM = 5, 60, 300
"""Seconds until a full queue has room again: the bounds of the estimate, and its value if no export has completed yet."""
_PRUNE_BATCH = 1000
"""Rows per call, so that the statement finishes well within its timeout."""
_SLICE = 200
"""Rows converted before the event loop may run something else: less than 1 ms."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The result of a cancellation: the status before (`was`) and after, and the claim that it ended, if any."""

    was: ExportStatus
    status: ExportStatus
    claim_id: UUID | None


@dataclass(frozen=True, slots=True)
class Inserted:
    """The result of a create request: a new export, or the earlier one with the same idempotency key."""

    job: ExportJob
    replayed: bool
    same_request: bool


class ExportJobs:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, new: NewExport, *, queue_limit: int | None = None) -> Inserted:
        """Queue an export, unless its Space used its idempotency key in the last 24 hours. Committed when this returns.

        Raises QueueFull if the Space has `queue_limit` queued exports, SpaceNotFound if it was deleted meanwhile.
        """
        asked = new.request
        columns = (new.space_id, asked.start_date, asked.end_date, new.timezone, new.window.start, new.window.end)
        rest = (list(asked.extras), new.max_attempts, new.request_id, new.idempotency_key, IDEMPOTENCY_KEY_LIFETIME)
        while True:
            try:
                inserted = await self._database.fetch_row(
                    "insert_export", *columns, *rest, queue_limit, new.trace and str(new.trace), point="insert_committed"
                )
            except asyncpg.ForeignKeyViolationError:
                raise SpaceNotFound from None
            assert inserted is not None
            if inserted["id"] is not None:
                return Inserted(_job(inserted), replayed=False, same_request=True)
            if new.idempotency_key is not None:
                row = await self._database.read_row(
                    "export_of_key", new.space_id, new.idempotency_key, asked.start_date, asked.end_date, list(asked.extras)
                )
                if row is not None:
                    return Inserted(_job(row), replayed=True, same_request=row["same_request"])
            if queue_limit is not None and not inserted["free"]:
                raise QueueFull(queue_limit, await self._seconds_until_room(new.space_id))
            # Otherwise the key was deleted in between.

    async def _seconds_until_room(self, space_id: int) -> int:
        row = await self._database.read_row("seconds_until_queue_room", space_id)
        seconds = None if row is None else row["seconds"]
        return math.ceil(min(max(_UNKNOWN_ROOM if seconds is None else seconds, _SOONEST_ROOM), _LATEST_ROOM))

    async def prune_idempotency_keys(self) -> int:
        """Delete idempotency keys older than 24 hours, one batch per call; returns the count."""
        return len(await self._database.fetch("prune_idempotency_keys", IDEMPOTENCY_KEY_LIFETIME, _PRUNE_BATCH))

    async def find(self, export_id: int, space_id: int) -> ExportJob | None:
        """An export of this Space; None if the id is unknown or belongs to another Space."""
        row = await self._database.read_row("export_of_space", export_id, space_id)
        return None if row is None else _job(row)

    async def ended(self, export_ids: Iterable[int]) -> list[int]:
        """The subset of these exports that has ended."""
        return [row["id"] for row in await self._database.fetch("ended_exports", list(export_ids))]

    async def older(self, space_id: int, *, status: ExportStatus | None, below: int, limit: int) -> list[ExportJob]:
        """Exports of a Space with ids under `below`, newest first, optionally with one status."""
        return await _jobs(await self._database.fetch("exports_before", space_id, status, below, limit))

    async def newer(self, space_id: int, *, status: ExportStatus | None, above: int, limit: int) -> list[ExportJob]:
        """Exports of a Space with ids over `above`, oldest first, optionally with one status."""
        return await _jobs(await self._database.fetch("exports_after", space_id, status, above, limit))

    async def cancel(self, export_id: int, space_id: int | None) -> Cancelled | None:
        """Cancel a queued or running export, or expire a completed one. Any other state is left unchanged.

        None if the id is unknown, or belongs to another Space than `space_id` (unless that is None).
        """
        row = await self._database.fetch_row("cancel_export", export_id, space_id)
        return None if row is None else Cancelled(ExportStatus(row["was"]), ExportStatus(row["status"]), row["claim_id"])


def stored_window(row: asyncpg.Record) -> Window:
    """The window of a job. The driver writes END_OF_TIME as `infinity`, but reads `infinity` without a timezone."""
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
