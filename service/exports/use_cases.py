"""The use cases of the export API: create an export, look at one or list all, cancel one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from service import events
from service.errors import DatabaseUnavailable, ExportFailure, ExportNotFound, InvalidParameters
from service.exports.windows import window_of_request
from service.model import Caller, ExportJob, ExportRequest, ExportStatus, NewExport, Position, filename
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.storage import Link, ObjectStore

_LARGEST_ID = 2**63 - 1
_DELETE_SECONDS = 10.0
"""How long a cancel request waits for the store, in seconds; the retention retries a failed deletion."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Created:
    """An accepted export; `replayed` if an earlier request with the same idempotency key created it."""

    job: ExportJob
    replayed: bool


@dataclass(frozen=True, slots=True)
class ExportView:
    """An export as its Space sees it now; `link` is None unless there is a file."""

    job: ExportJob
    link: Link | None


@dataclass(frozen=True, slots=True)
class ExportPage:
    """One page of a Space's exports, newest first, and the positions of the pages on both sides, None if there is none."""

    jobs: list[ExportJob]
    next: Position | None
    previous: Position | None


@dataclass(frozen=True, slots=True)
class ExportRules:
    """What an operator allows: attempts before an export fails, and the longest range in days (None: any)."""

    max_attempts: int
    max_range_days: int | None


class Exports:
    """The use cases of the export API.

    `on_queued` is called after each commit that queued an export. `on_cancelled` gets the claim id of an attempt whose
    export was cancelled.
    """

    def __init__(
        self,
        jobs: ExportJobs,
        files: ExportFiles,
        store: ObjectStore,
        rules: ExportRules,
        *,
        on_queued: Callable[[], None],
        on_cancelled: Callable[[UUID], None],
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._store = store
        self._rules = rules
        self._on_queued = on_queued
        self._on_cancelled = on_cancelled

    async def create(
        self, caller: Caller, request: ExportRequest, *, request_id: str, idempotency_key: str | None = None
    ) -> Created:
        """Queue an export of the caller's Space, once per idempotency key.

        Raises InvalidParameters (contract: create), also if the key was used for a different request.
        """
        window = window_of_request(caller, request.start_date, request.end_date, self._rules.max_range_days)
        attempts = self._rules.max_attempts
        new = NewExport(caller.space_id, request, caller.timezone, window, attempts, request_id, idempotency_key)
        inserted = await self._jobs.insert(new)
        if not inserted.same_request:
            message = "This Idempotency-Key was already used for a different request in the last 24 hours."
            raise InvalidParameters({"Idempotency-Key": [message]})
        if not inserted.replayed:
            events.emit(events.ExportQueued(inserted.job.export_id, caller.space_id))
            self._on_queued()
        return Created(inserted.job, inserted.replayed)

    async def status(self, caller: Caller, export_id: int, *, origin: str) -> ExportView:
        """An export of the caller's Space, with a new link if there is a file. Raises ExportNotFound, ExportFailure."""
        job = await self._find(caller, export_id)
        if job.status is not ExportStatus.COMPLETED or job.object_name is None:
            return ExportView(job, None)
        return ExportView(job, await self._store.link(job.object_name, filename=filename(job.export_id), origin=origin))

    async def page(self, caller: Caller, *, status: ExportStatus | None, position: Position | None, size: int) -> ExportPage:
        """Up to `size` exports of the caller's Space, optionally only in one state; without a position the newest."""
        if position is not None and position.newer:
            found = await self._jobs.newer(caller.space_id, status=status, above=position.beyond, limit=size + 1)
            jobs = found[:size][::-1]
            first = Position(jobs[0].export_id, newer=True) if len(found) > size else None
            return ExportPage(jobs, Position(jobs[-1].export_id if jobs else position.beyond + 1), first)
        below = _LARGEST_ID if position is None else position.beyond
        found = await self._jobs.older(caller.space_id, status=status, below=below, limit=size + 1)
        jobs = found[:size]
        last = Position(jobs[-1].export_id) if len(found) > size else None
        if position is None:
            return ExportPage(jobs, last, None)
        return ExportPage(jobs, last, Position(jobs[0].export_id if jobs else position.beyond - 1, newer=True))

    async def cancel(self, caller: Caller, export_id: int) -> ExportJob:
        """Cancel a queued or running export, or delete the file of a completed one; other states stay.

        Raises ExportNotFound.
        """
        found = await self._jobs.cancel(export_id, caller.space_id) if 0 < export_id <= _LARGEST_ID else None
        if found is None:
            raise ExportNotFound
        if found.was is not found.status:
            events.emit(events.ExportCancelled(export_id, caller.space_id, found.was, found.status))
        if found.claim_id is not None:
            self._on_cancelled(found.claim_id)
        job = await self._find(caller, export_id)
        if found.was is ExportStatus.COMPLETED:
            await self._delete_file(job)
        return job

    async def _find(self, caller: Caller, export_id: int) -> ExportJob:
        job = await self._jobs.find(export_id, caller.space_id) if 0 < export_id <= _LARGEST_ID else None
        if job is None:
            raise ExportNotFound
        return job

    async def _delete_file(self, job: ExportJob) -> None:
        assert job.object_name is not None
        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                await self._store.delete(job.object_name)
            await self._files.record_deleted(job.export_id)
            events.emit(events.FileDeleted(job.export_id))
        except (ExportFailure, DatabaseUnavailable) as error:
            log.warning("file_not_deleted", export_id=job.export_id, error_code=error.code, detail=error.detail)
        except TimeoutError:
            log.warning("file_not_deleted", export_id=job.export_id, detail=f"not done after {_DELETE_SECONDS:g} s")
