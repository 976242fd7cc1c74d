"""The writes of a worker about its claims. Each includes the claim id and changes one row, or none if the claim is lost."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

import asyncpg

from service.failures import ExportFailure, WorkerLost
from service.model import Claim, ExportStatus, Extra, StoredFile
from service.postgres.export_jobs import stored_window
from service.postgres.pool import Database
from service.trace_context import TraceContext, parse


class Renewal(Enum):
    """The result of renewing one claim."""

    RENEWED = "renewed"
    UNDECIDED = "undecided"
    """Another session has locked the row, so ownership is unknown until the next renewal."""
    LOST = "lost"


@dataclass(slots=True)
class Progress:
    """Progress of an attempt, stored with each renewal. The counts are those of this attempt."""

    phase: str = "starting"
    rows_read: int = 0
    bytes_stored: int = 0
    rows_estimated: int | None = None

    def add_rows(self, count: int) -> None:
        """Count rows that were read. The estimate is raised if it was too low, so it is never below the count."""
        self.rows_read += count
        if self.rows_estimated is not None:
            self.rows_estimated = max(self.rows_estimated, self.rows_read)


@dataclass(frozen=True, slots=True)
class Rescued:
    """An export whose worker let its lease expire; `status` is the new one, queued or failed."""

    export_id: int
    claim_id: UUID
    worker: str
    status: ExportStatus
    trace: TraceContext | None


@dataclass(frozen=True, slots=True)
class Leftover:
    """An ended attempt that may have left an object or an upload in the store."""

    claim_id: UUID
    export_id: int
    object_name: str
    upload_id: str | None


class Claims:
    """Every method raises DatabaseUnavailable. The write may then have been committed or not: call `outcome`.

    Renewals use `renewals`, a database with one connection that nothing else uses.
    """

    def __init__(self, database: Database, *, renewals: Database) -> None:
        self._database = database
        self._renewals = renewals

    async def claim(self, worker: str, *, lease: timedelta, space_slots: int, alone: bool) -> Claim | None:
        """Claim the next queued export, or None. `alone`: this process runs no other export."""
        row = await self._database.fetch_row("claim_export", worker, lease, space_slots, alone, point="claim_sent")
        return None if row is None else _claim(row)

    async def renew(self, progress: dict[UUID, Progress], *, lease: timedelta) -> dict[UUID, Renewal]:
        """Renew all claims of this process and store their progress, in one statement."""
        rows = await self._renewals.fetch(
            "renew_leases",
            lease,
            list(progress),
            [each.phase for each in progress.values()],
            [each.rows_read for each in progress.values()],
            [each.bytes_stored for each in progress.values()],
            [each.rows_estimated for each in progress.values()],
            point="renew_sent",
        )
        return {row["claim_id"]: _renewal(row) for row in rows}

    async def record_upload(self, claim: Claim, upload_id: str) -> bool:
        """Store the upload id for the cleanup of leftovers; False if the claim is lost."""
        return await self._database.fetch_row("record_upload", claim.claim_id, upload_id) is not None

    async def complete(
        self,
        claim: Claim,
        file: StoredFile,
        *,
        snapshot_at: datetime,
        complete_until: datetime | None,
        file_lifetime: timedelta,
    ) -> bool:
        """Publish the file; False if the claim is lost."""
        row = await self._database.fetch_row(
            "complete_export",
            claim.claim_id,
            file.row_count,
            file.size,
            file.sha256,
            snapshot_at,
            complete_until,
            file_lifetime,
            point="outcome_committed",
        )
        return _ended(row)

    async def end_in_error(self, claim: Claim, failure: ExportFailure, *, pause: timedelta) -> ExportStatus | None:
        """Requeue the export after a delay, or fail it; returns its new status, None if the claim is lost.

        The delay is `pause`, doubled with each attempt, at most 15 minutes.
        """
        row = await self._database.fetch_row(
            "end_attempt_in_error",
            claim.claim_id,
            failure.code,
            failure.message,
            failure.detail,
            failure.permanent,
            pause,
            point="outcome_committed",
        )
        status = None if row is None else row[0]
        return None if status is None else ExportStatus(status)

    async def hand_back(self, claim: Claim) -> bool:
        """Requeue the export immediately without counting the attempt; False if the claim is lost."""
        return _ended(await self._database.fetch_row("hand_back_export", claim.claim_id, point="outcome_committed"))

    async def outcome(self, claim: Claim) -> str | None:
        """The recorded outcome of the attempt; None while it is running."""
        row = await self._database.read_row("attempt_outcome", claim.claim_id)
        return None if row is None else row["outcome"]

    async def rescue(self, *, pause: timedelta) -> list[Rescued]:
        """Requeue or fail exports whose lease has expired, of any worker. `pause` is the delay for each earlier loss."""
        lost = WorkerLost()
        rows = await self._database.fetch("rescue_exports", pause, lost.code, lost.message)
        return [
            Rescued(row["export_id"], row["claim_id"], row["worker"], ExportStatus(row["status"]), parse(row["traceparent"]))
            for row in rows
        ]

    async def leftovers(self, *, grace: timedelta) -> list[Leftover]:
        """At most 20 attempts that ended more than `grace` ago and may have left something in the store."""
        rows = await self._database.fetch("attempts_to_clean", grace)
        return [Leftover(row["claim_id"], row["export_id"], row["object_name"], row["upload_id"]) for row in rows]

    async def record_cleaned(self, leftover: Leftover) -> None:
        """Record that the store contains nothing of this attempt any more."""
        await self._database.fetch("record_cleaned", leftover.claim_id)

    async def objects_being_written(self, object_names: Iterable[str]) -> set[str]:
        """The subset of these objects that a running attempt is writing."""
        return {row["object_name"] for row in await self._database.fetch("objects_being_written", list(object_names))}

    async def objects_in_use(self, object_names: Iterable[str]) -> set[str]:
        """The subset of these objects that are published or being written."""
        return {row["object_name"] for row in await self._database.fetch("objects_in_use", list(object_names))}


def _ended(row: asyncpg.Record | None) -> bool:
    """Whether a function that ends an attempt found its claim: it returns the new status of the export, or null."""
    return row is not None and row["status"] is not None


def _claim(row: asyncpg.Record) -> Claim:
    return Claim(
        claim_id=row["claim_id"],
        export_id=row["job_id"],
        space_id=row["space_id"],
        attempt=row["attempt"],
        alone=row["alone"],
        object_name=row["object_name"],
        window=stored_window(row),
        extras=Extra.among(row["extras"]),
        trace=parse(row["traceparent"]),
    )


def _renewal(row: asyncpg.Record) -> Renewal:
    if row["renewed"]:
        return Renewal.RENEWED
    return Renewal.UNDECIDED if row["held"] else Renewal.LOST
