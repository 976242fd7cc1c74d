"""What a worker writes about the exports it holds: every statement names the claim and changes one row or none."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

import asyncpg

from service.errors import ExportFailure, WorkerLost
from service.model import Claim, Extra, StoredFile
from service.postgres.export_jobs import stored_window
from service.postgres.pool import Database


class Renewal(Enum):
    """What the database says of one claim of a renewal."""

    RENEWED = "renewed"
    UNDECIDED = "undecided"
    """Another session holds the row's lock: it may end either way."""
    LOST = "lost"


@dataclass(slots=True)
class Progress:
    """How far an attempt is; written with each renewal. Counts are of this attempt."""

    phase: str = "starting"
    rows_read: int = 0
    bytes_stored: int = 0
    rows_estimated: int | None = None


@dataclass(frozen=True, slots=True)
class Rescued:
    """An export taken back from a worker that did not renew."""

    export_id: int
    claim_id: UUID
    worker: str
    status: str


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an attempt that is over may have left in the store."""

    claim_id: UUID
    export_id: int
    object_name: str
    upload_id: str | None


class Claims:
    """Every method raises DatabaseUnavailable. After it the write may or may not have happened: ask `outcome`.

    Renewals use `renewals`, a database of one connection that nothing else waits for.
    """

    def __init__(self, database: Database, *, renewals: Database) -> None:
        self._database = database
        self._renewals = renewals

    async def claim(self, worker: str, *, lease: timedelta, space_slots: int, alone: bool) -> Claim | None:
        """Take the fairest waiting export, or None. `alone`: this process runs nothing else."""
        row = await self._database.fetch_row("claim_export", worker, lease, space_slots, alone, point="claim_sent")
        return None if row is None else _claim(row)

    async def renew(self, progress: dict[UUID, Progress], *, lease: timedelta) -> dict[UUID, Renewal]:
        """Renew all claims of this process in one statement, and record how far they are."""
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
        """Note the upload for the sweep; False when the claim is lost."""
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
        """Publish the file; False when the claim is lost."""
        row = await self._database.fetch_row(
            "complete_export",
            claim.claim_id,
            file.row_count,
            file.size,
            file.sha256,
            snapshot_at,
            complete_until,
            file_lifetime,
            point="settle_committed",
        )
        return row is not None

    async def end_in_error(self, claim: Claim, failure: ExportFailure, *, pause: timedelta) -> bool:
        """Queue another attempt after a growing pause, or fail the export; False when the claim is lost."""
        row = await self._database.fetch_row(
            "end_attempt_in_error",
            claim.claim_id,
            failure.code,
            failure.message,
            failure.detail,
            failure.permanent,
            pause.total_seconds(),
            point="settle_committed",
        )
        return row is not None

    async def hand_back(self, claim: Claim) -> bool:
        """Give the export back uncounted, at once claimable; False when the claim is lost."""
        row = await self._database.fetch_row("hand_back_export", claim.claim_id, point="settle_committed")
        return row is not None

    async def outcome(self, claim: Claim) -> str | None:
        """How the attempt ended according to its receipt; None while it runs."""
        row = await self._database.read_row("attempt_outcome", claim.claim_id)
        return None if row is None else row["outcome"]

    async def rescue(self, *, pause: timedelta) -> list[Rescued]:
        """Take back the exports whose lease has run out, whoever held them."""
        lost = WorkerLost()
        rows = await self._database.fetch("rescue_exports", pause.total_seconds(), lost.code, lost.message)
        return [Rescued(row["export_id"], row["claim_id"], row["worker"], row["status"]) for row in rows]

    async def garbage(self, *, grace: timedelta) -> list[Leftover]:
        """Some attempts that ended longer than `grace` ago and may have left something in the store."""
        rows = await self._database.fetch("attempts_to_clean", grace)
        return [Leftover(row["claim_id"], row["export_id"], row["object_name"], row["upload_id"]) for row in rows]

    async def record_cleaned(self, garbage: Leftover) -> None:
        """Nothing of this attempt is left in the store."""
        await self._database.fetch("record_cleaned", garbage.claim_id)

    async def objects_being_written(self, object_names: Iterable[str]) -> set[str]:
        """Those of these objects that a running attempt writes."""
        return {row["object_name"] for row in await self._database.fetch("objects_being_written", list(object_names))}

    async def objects_in_use(self, object_names: Iterable[str]) -> set[str]:
        """Those of these objects that are published or being written."""
        return {row["object_name"] for row in await self._database.fetch("objects_in_use", list(object_names))}


def _claim(row: asyncpg.Record) -> Claim:
    return Claim(
        claim_id=row["claim_id"],
        export_id=row["job_id"],
        space_id=row["space_id"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        alone=row["alone"],
        object_name=row["object_name"],
        window=stored_window(row),
        timezone=row["timezone"],
        extras=Extra.among(row["extras"]),
    )


def _renewal(row: asyncpg.Record) -> Renewal:
    if row["renewed"]:
        return Renewal.RENEWED
    return Renewal.UNDECIDED if row["held"] else Renewal.LOST
