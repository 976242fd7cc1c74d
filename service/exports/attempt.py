"""One try at one claimed export: read a snapshot, write a file, say how it ended."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from service.errors import DatabaseUnavailable, ExportFailure, InternalFailure, TimedOut
from service.exports.lease import Ending, Lease, LeaseEnded, Leases
from service.exports.priority import RequestPriority
from service.exports.stream.file import export_stream
from service.exports.stream.lines import encoder
from service.exports.stream.parts import PartWriter
from service.failpoints import failpoint
from service.model import Claim, Part, StoredFile
from service.postgres.claims import Claims
from service.postgres.snapshot import ContactSource
from service.storage import MAXIMUM_PARTS, ObjectStore, Upload

_SETTLE_PAUSE = 0.5
_PATIENT_FACTOR = 12
"""Retries of an error that only a person can mend start with a pause this many times as long."""
_LINE_BYTES = 200
"""Compressed bytes a contact may take with both options; only ever raises the part size of very large exports."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """What bounds an attempt. `retry_pause` is the first pause after an error; it doubles with each attempt."""

    part_size: int
    duration: timedelta
    retry_pause: timedelta
    file_lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is complete in the store and published by nothing yet."""

    file: StoredFile
    snapshot_at: datetime
    complete_until: datetime | None


class Attempts:
    """Runs attempts; one instance serves all slots of a process."""

    def __init__(
        self,
        claims: Claims,
        leases: Leases,
        source: ContactSource,
        store: ObjectStore,
        priority: RequestPriority,
        limits: AttemptLimits,
    ) -> None:
        self._claims = claims
        self._leases = leases
        self._source = source
        self._store = store
        self._priority = priority
        self._limits = limits

    async def run(self, claim: Claim, *, sent: float) -> None:
        """Make the attempt and settle it. Raises nothing but CancelledError. `sent`: the clock before the claim was sent.

        However it ends, the settling write names the claim; where the claim is lost it changes nothing, and neither do we.
        """
        with self._leases.hold(claim, sent=sent) as lease:
            try:
                written = await lease.run(self._write(claim, lease))
            except LeaseEnded as ended:
                await self._settle_ended(lease, ended.ending)
            except ExportFailure as failure:
                await self._settle_failure(lease, failure)
            except DatabaseUnavailable as error:
                await self._settle_failure(lease, InternalFailure(detail=f"main database: {error.detail}"))
            except Exception as error:
                log.exception("attempt_crashed", export_id=claim.export_id, claim_id=str(claim.claim_id))
                await self._settle_failure(lease, InternalFailure(detail=type(error).__name__))
            else:
                await self._settle_completed(lease, written)

    async def _write(self, claim: Claim, lease: Lease) -> Written:
        """The export itself. On any error, and when cancelled, the upload is aborted and the snapshot given back."""
        try:
            async with asyncio.timeout(self._limits.duration.total_seconds()) as limit:
                return await self._write_file(claim, lease)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimedOut(detail=f"not done after {self._limits.duration}") from error

    async def _write_file(self, claim: Claim, lease: Lease) -> Written:
        async with self._source.snapshot(claim) as snapshot:
            await failpoint("snapshot_open")
            lease.progress.rows_estimated = snapshot.rows_estimated
            part_size = max(self._limits.part_size, snapshot.rows_estimated * _LINE_BYTES // MAXIMUM_PARTS)
            async with self._store.upload(
                claim.object_name,
                part_size=part_size,
                filename=f"contacts-{claim.export_id}.ndjson.gz",
                metadata=_metadata(claim),
            ) as upload:
                await failpoint("upload_created")
                if not await self._claims.record_upload(claim, upload.upload_id):
                    raise LeaseEnded(Ending.LOST)
                await failpoint("upload_recorded")
                lease.progress.phase = "reading"

                def read(rows: int, size: int) -> None:
                    lease.progress.rows_read += rows
                    snapshot.pace(rows, size)

                encode = encoder(claim.extras)
                async with (
                    aclosing(snapshot.batches(self._priority.fetch_slot)) as batches,
                    PartWriter(
                        partial(_put_part, upload),
                        part_size=part_size,
                        maximum_parts=MAXIMUM_PARTS,
                        stored=lambda size: _stored(lease, size),
                    ) as parts,
                ):
                    file = await export_stream(batches, encode, parts, read=read, turn=self._priority.before_batch)
                snapshot.close()
                lease.progress.phase = "completing"
                await failpoint("before_confirm")
                await self._leases.confirm(lease)
                await failpoint("before_complete_upload")
                await upload.complete()
                await failpoint("upload_completed")
                return Written(file, snapshot.taken_at, snapshot.complete_until)

    async def _settle_completed(self, lease: Lease, written: Written) -> None:
        claim = lease.claim

        async def complete() -> bool:
            return await self._claims.complete(
                claim,
                written.file,
                snapshot_at=written.snapshot_at,
                complete_until=written.complete_until,
                file_lifetime=self._limits.file_lifetime,
            )

        if await self._settle(lease, "completed", complete):
            log.info("export_completed", **_ids(claim), rows=written.file.row_count, bytes=written.file.size)

    async def _settle_failure(self, lease: Lease, failure: ExportFailure) -> None:
        claim = lease.claim
        pause = self._limits.retry_pause * (_PATIENT_FACTOR if failure.patient else 1)
        if await self._settle(lease, "error", lambda: self._claims.end_in_error(claim, failure, pause=pause)):
            log.warning("attempt_failed", **_ids(claim), error_code=failure.code, detail=failure.detail)

    async def _settle_ended(self, lease: Lease, ending: Ending) -> None:
        claim = lease.claim
        match ending:
            case Ending.LOST:
                log.warning("claim_lost", **_ids(claim))
            case Ending.CANCELLED:
                log.info("attempt_cancelled", **_ids(claim))
            case Ending.STALLED:
                detail = f"no progress while {lease.progress.phase}"
                await self._settle_failure(lease, InternalFailure(detail=detail))
            case Ending.SHUTDOWN:
                if await self._settle(lease, "handed_back", lambda: self._claims.hand_back(claim)):
                    log.info("export_handed_back", **_ids(claim))

    async def _settle(self, lease: Lease, outcome: str, write: Callable[[], Awaitable[bool]]) -> bool:
        """Write until there is an answer or the lease is over; True if the outcome stands in the attempt's receipt.

        A write whose answer was lost may have been committed; sent again it changes nothing, so the receipt is asked.
        Nothing is deleted here in any case: if the outcome stays unknown, the sweep decides from the row.
        """
        while True:
            try:
                await failpoint("before_settle")
                if await write() or await self._claims.outcome(lease.claim) == outcome:
                    await failpoint("settled")
                    return True
                log.warning("claim_lost", **_ids(lease.claim), unsettled=outcome)
                return False
            except DatabaseUnavailable as error:
                log.warning("settle_unanswered", **_ids(lease.claim), outcome=outcome, detail=error.detail)
                if not lease.believed:
                    return False
                await asyncio.sleep(_SETTLE_PAUSE)
            except Exception:
                log.exception("settle_refused", **_ids(lease.claim), outcome=outcome)
                return False


async def _put_part(upload: Upload, number: int, part: Part) -> None:
    await failpoint("part_sending")
    await upload.put_part(number, part)
    await failpoint("part_stored")


def _ids(claim: Claim) -> dict[str, object]:
    return {
        "export_id": claim.export_id,
        "space_id": claim.space_id,
        "attempt": claim.attempt,
        "claim_id": str(claim.claim_id),
    }


def _metadata(claim: Claim) -> dict[str, str]:
    return {
        "export-id": str(claim.export_id),
        "claim-id": str(claim.claim_id),
        "window-from": claim.window.start.isoformat(),
        "window-to": claim.window.end.isoformat(),
    }


def _stored(lease: Lease, size: int) -> None:
    lease.progress.bytes_stored += size
