"""One attempt at a claimed export: read a snapshot, write a file, record the outcome."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never

import structlog

from service import events
from service.errors import DatabaseUnavailable, ServiceError
from service.exhaustion import lacks_resources
from service.exports.lease import Ending, Lease, LeaseEnded, Leases
from service.exports.periodic import boot_clock
from service.exports.priority import RequestPriority
from service.exports.stream.file import Stream, write_file
from service.exports.stream.lines import encoder
from service.exports.stream.parts import PartWriter
from service.failpoints import failpoint
from service.failures import ExportFailure, InternalFailure, TimedOut
from service.model import Claim, ExportStatus, Part, StoredFile, filename, object_metadata
from service.postgres.claims import Claims
from service.postgres.contact_source import ContactSource
from service.postgres.snapshot import Snapshot
from service.storage import MAXIMUM_PARTS, ObjectStore, Upload

_RECORD_PAUSE = timedelta(seconds=0.5)
"""Time between two tries to record an outcome while the database is unreachable."""
_RESOURCE_PAUSE = timedelta(seconds=5)
"""Time before an export is handed back because this process had no descriptors or memory."""
_PATIENT_FACTOR = 12
"""How many times longer the pause is after an error that only a person can fix."""
_LINE_BYTES = 200
"""Compressed bytes a contact may take with both extras; it only ever raises the part size of very large exports."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """What bounds an attempt. `retry_pause` is the pause after the first error; it doubles with each attempt."""

    part_size: int
    duration: timedelta
    retry_pause: timedelta
    file_lifetime: timedelta


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is complete in the store, but not published yet."""

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
        """Make the attempt and record its outcome. `sent` is the boot clock before the claim was sent.

        Raises only CancelledError. The recording statement names the claim: if the claim is lost it changes nothing.
        """
        with self._leases.hold(claim, sent=sent) as lease:
            started = boot_clock()
            try:
                written = await lease.run(self._write(claim, lease))
            except LeaseEnded as ended:
                await self._record_ending(lease, ended.ending)
            except Exception as error:  # noqa: BLE001 - every error is recorded
                await self._record_error(lease, error)
            else:
                await self._record_completion(lease, written, seconds=boot_clock() - started)

    async def _record_error(self, lease: Lease, error: Exception) -> None:
        if lacks_resources(error):
            await self._wait_and_hand_back(lease, error)
        elif isinstance(error, ExportFailure):
            await self._record_failure(lease, error)
        elif isinstance(error, DatabaseUnavailable):
            await self._record_failure(lease, InternalFailure(detail=f"main database: {error.detail}"))
        else:
            log.error("attempt_crashed", **events.claim_fields(lease.claim), exc_info=error)
            await self._record_failure(lease, InternalFailure(detail=type(error).__name__))

    async def _wait_and_hand_back(self, lease: Lease, error: Exception) -> None:
        """Give the export back without counting the attempt. The pause before keeps the slot from spinning."""
        detail = error.detail if isinstance(error, ServiceError) else type(error).__name__
        log.warning("out_of_resources", **events.claim_fields(lease.claim), detail=detail)
        ending = Ending.SHUTDOWN
        try:
            await lease.run(asyncio.sleep(_RESOURCE_PAUSE.total_seconds()))
        except LeaseEnded as ended:
            ending = ended.ending
        await self._record_ending(lease, ending)

    async def _write(self, claim: Claim, lease: Lease) -> WrittenFile:
        """Write the file. After any error, and when cancelled, the upload is aborted and the snapshot released."""
        limit = asyncio.timeout(self._limits.duration.total_seconds())
        try:
            async with limit:
                return await self._write_from_snapshot(claim, lease)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimedOut(detail=f"not done after {self._limits.duration}") from error

    async def _write_from_snapshot(self, claim: Claim, lease: Lease) -> WrittenFile:
        async with self._source.snapshot(claim) as snapshot:
            await failpoint("snapshot_open")
            lease.progress.rows_estimated = snapshot.rows_estimated
            part_size = max(self._limits.part_size, snapshot.rows_estimated * _LINE_BYTES // MAXIMUM_PARTS)
            async with self._upload(claim, part_size) as upload:
                lease.progress.phase = "reading"
                file = await self._write_parts(lease, snapshot, upload, part_size)
                await snapshot.close()
                lease.progress.phase = "completing"
                await failpoint("before_confirm")
                await self._leases.confirm(lease)
                await failpoint("before_complete_upload")
                await upload.complete()
                await failpoint("upload_completed")
                return WrittenFile(file, snapshot.taken_at, snapshot.complete_until)

    @asynccontextmanager
    async def _upload(self, claim: Claim, part_size: int) -> AsyncIterator[Upload]:
        """An upload that the attempt's row names, so that any replica can abort it. Raises LeaseEnded."""
        async with self._store.upload(
            claim.object_name, part_size=part_size, filename=filename(claim.export_id), metadata=object_metadata(claim)
        ) as upload:
            await failpoint("upload_created")
            if not await self._claims.record_upload(claim, upload.upload_id):
                raise LeaseEnded(Ending.LOST)
            await failpoint("upload_recorded")
            yield upload

    async def _write_parts(self, lease: Lease, snapshot: Snapshot, upload: Upload, part_size: int) -> StoredFile:
        progress = lease.progress

        def on_encoded(rows: int, size: int) -> None:
            progress.add_rows(rows)
            snapshot.pace(rows, size)

        def on_stored(size: int) -> None:
            progress.bytes_stored += size

        async with (
            aclosing(snapshot.batches(self._priority.fetch_slot)) as batches,
            PartWriter(
                partial(_put_part, upload), part_size=part_size, maximum_parts=MAXIMUM_PARTS, on_stored=on_stored
            ) as parts,
        ):
            stream = Stream(batches, encoder(lease.claim.extras), parts)
            return await write_file(stream, before_batch=self._priority.before_batch, on_encoded=on_encoded)

    async def _record_completion(self, lease: Lease, written: WrittenFile, *, seconds: float) -> None:
        claim, file = lease.claim, written.file
        complete = partial(
            self._claims.complete,
            claim,
            file,
            snapshot_at=written.snapshot_at,
            complete_until=written.complete_until,
            file_lifetime=self._limits.file_lifetime,
        )
        if await self._record(lease, "completed", complete):
            events.emit(events.ExportCompleted(claim, file.row_count, file.size, round(seconds, 3)))

    async def _record_failure(self, lease: Lease, failure: ExportFailure) -> None:
        claim = lease.claim
        pause = self._limits.retry_pause * (_PATIENT_FACTOR if failure.patient else 1)
        status: ExportStatus | None = None

        async def end_in_error() -> bool:
            nonlocal status
            status = await self._claims.end_in_error(claim, failure, pause=pause)
            return status is not None

        if await self._record(lease, "error", end_in_error):
            if status is ExportStatus.FAILED:
                events.emit(events.ExportFailed(claim.export_id, claim.claim_id, failure.code, failure.detail))
            else:
                events.emit(events.AttemptFailed(claim, failure.code, failure.detail))

    async def _record_ending(self, lease: Lease, ending: Ending) -> None:
        claim = lease.claim
        match ending:
            case Ending.LOST:
                events.emit(events.ClaimLost(claim))
            case Ending.CANCELLED:
                events.emit(events.AttemptCancelled(claim))
            case Ending.STALLED:
                await self._record_failure(lease, InternalFailure(detail=f"no progress while {lease.progress.phase}"))
            case Ending.SHUTDOWN:
                if await self._record(lease, "handed_back", lambda: self._claims.hand_back(claim)):
                    events.emit(events.ExportHandedBack(claim))
            case _:
                assert_never(ending)

    async def _record(self, lease: Lease, outcome: str, write: Callable[[], Awaitable[bool]]) -> bool:
        """Send the outcome until the database responds or the lease is over; True if the outcome is on record.

        A write whose response was lost may have been committed. Sent again it changes nothing, so the attempt's row is
        read. Nothing is deleted here in any case: if the outcome stays unknown, the row decides about the leftovers later.
        """
        claim = lease.claim
        while True:
            try:
                await failpoint("before_outcome")
                if await write() or await self._claims.outcome(claim) == outcome:
                    await failpoint("outcome_recorded")
                    return True
            except DatabaseUnavailable as error:
                log.warning("outcome_not_recorded", **events.claim_fields(claim), outcome=outcome, detail=error.detail)
                if not lease.believed:
                    return False
                await asyncio.sleep(_RECORD_PAUSE.total_seconds())
            except Exception:
                log.exception("outcome_refused", **events.claim_fields(claim), outcome=outcome)
                return False
            else:
                events.emit(events.ClaimLost(claim, unrecorded=outcome))
                return False


async def _put_part(upload: Upload, number: int, part: Part) -> None:
    await failpoint("part_sending")
    await upload.put_part(number, part)
    await failpoint("part_stored")
