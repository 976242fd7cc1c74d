"""The use cases of the export API: create, show, list and cancel exports."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from service import events
from service.errors import (
    DatabaseUnavailable,
    ExportExpired,
    ExportNotCompleted,
    ExportNotFound,
    InvalidParameters,
    SpaceNotFound,
    Unauthenticated,
)
from service.exports.waiting import Wait, Waiters
from service.exports.windows import window_of_request
from service.failures import ExportFailure
from service.model import Caller, ExportJob, ExportRequest, ExportStatus, NewExport, Position, Scope, filename
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.storage import Link, ObjectStore
from service.trace_context import TraceContext

_LARGEST_ID = 2**63 - 1
_DELETE_TIMEOUT = timedelta(seconds=10)
"""How long a cancel request waits for the store; the retention retries a failed deletion."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Created:
    """An accepted export; `replayed` if an earlier request with the same idempotency key created it."""

    job: ExportJob
    replayed: bool


@dataclass(frozen=True, slots=True)
class ExportView:
    """An export as its Space sees it now; `link` is None unless there is a file.

    `wait_applied` is True if the caller asked to wait, and the wait was neither refused nor cut short.
    """

    job: ExportJob
    link: Link | None
    wait_applied: bool = False


@dataclass(frozen=True, slots=True)
class ExportPage:
    """One page of a Space's exports, newest first, and the positions of the pages on both sides, None if there is none."""

    jobs: list[ExportJob]
    next: Position | None
    previous: Position | None


@dataclass(frozen=True, slots=True)
class ExportRules:
    """What an operator allows: attempts before an export fails, the longest range in days (None: any), and how many exports
    of a Space may be queued (None: any number).
    """

    max_attempts: int
    max_range_days: int | None
    queue_limit: int | None = None


@dataclass(frozen=True, slots=True)
class ProcessHooks:
    """What the use cases tell the rest of the process.

    `on_queued` is called after each commit that queued an export. `on_cancelled` gets the claim id of an attempt whose
    export was cancelled. Waiting for the store happens inside a block of `paused`, so that no export waits for it.
    """

    on_queued: Callable[[], None]
    on_cancelled: Callable[[UUID], None]
    paused: Callable[[], AbstractContextManager[None]]


class Exports:
    """The use cases of the export API."""

    def __init__(
        self,
        jobs: ExportJobs,
        files: ExportFiles,
        store: ObjectStore,
        rules: ExportRules,
        waiters: Waiters,
        hooks: ProcessHooks,
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._store = store
        self._rules = rules
        self._waiters = waiters
        self._hooks = hooks

    async def create(
        self,
        caller: Caller,
        request: ExportRequest,
        *,
        request_id: str,
        idempotency_key: str | None = None,
        trace: TraceContext | None = None,
    ) -> Created:
        """Queue an export of the caller's Space, once per idempotency key.

        Raises InvalidParameters (contract: create), also if the key was used for a different request; QueueFull. Raises
        Unauthenticated if the Space was deleted since the key was checked.
        """
        window = window_of_request(caller, request.start_date, request.end_date, self._rules.max_range_days)
        attempts = self._rules.max_attempts
        new = NewExport(caller.space_id, request, caller.timezone, window, attempts, request_id, idempotency_key, trace)
        try:
            inserted = await self._jobs.insert(new, queue_limit=self._rules.queue_limit)
        except SpaceNotFound:
            raise Unauthenticated from None
        if not inserted.same_request:
            message = "This Idempotency-Key was already used for a different request in the last 24 hours."
            raise InvalidParameters({"Idempotency-Key": [message]})
        if not inserted.replayed:
            events.emit(events.ExportQueued(inserted.job.export_id, caller.space_id))
            self._hooks.on_queued()
        return Created(inserted.job, inserted.replayed)

    async def status(self, caller: Caller, export_id: int, *, origin: str, wait: Wait | None = None) -> ExportView:
        """An export of the caller's Space, with a new link if there is a file. With `wait`: after its end or the wait.

        Raises ExportNotFound, ExportFailure.
        """
        if wait is None:
            job = await self._find(caller, export_id)
            return ExportView(job, await self._link(job, origin))
        waited = await self._waiters.wait(caller.space_id, export_id, wait, lambda: self._find(caller, export_id))
        return ExportView(waited.job, await self._link(waited.job, origin), waited.applied)

    async def status_of_created(self, caller: Caller, created: Created, *, origin: str, wait: Wait) -> ExportView | None:
        """The status of an export that the caller has just created, after the wait.

        None if the caller's key may not read the status, or if the status cannot be read now: an error would hide from the
        client that the export was created.
        """
        if Scope.EXPORTS_READ not in caller.scopes:
            return None
        try:
            return await self.status(caller, created.job.export_id, origin=origin, wait=wait)
        except (DatabaseUnavailable, ExportFailure) as error:
            log.warning("created_export_not_read", export_id=created.job.export_id, code=error.code, detail=error.detail)
            return None

    async def download(self, caller: Caller, export_id: int, *, origin: str) -> Link:
        """A new link to the file of an export. Raises ExportNotFound, ExportNotCompleted, ExportExpired, ExportFailure."""
        job = await self._find(caller, export_id)
        if job.status is ExportStatus.EXPIRED:
            raise ExportExpired
        link = await self._link(job, origin)
        if link is None:
            raise ExportNotCompleted
        return link

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
            self._hooks.on_cancelled(found.claim_id)
        job = await self._find(caller, export_id)
        if found.was is ExportStatus.COMPLETED:
            await self._delete_file(job)
        return job

    async def _find(self, caller: Caller, export_id: int) -> ExportJob:
        job = await self._jobs.find(export_id, caller.space_id) if 0 < export_id <= _LARGEST_ID else None
        if job is None:
            raise ExportNotFound
        return job

    async def _link(self, job: ExportJob, origin: str) -> Link | None:
        if job.status is not ExportStatus.COMPLETED or job.object_name is None:
            return None
        return await self._store.link(job.object_name, filename=filename(job.export_id), origin=origin)

    async def _delete_file(self, job: ExportJob) -> None:
        assert job.object_name is not None
        try:
            with self._hooks.paused():
                async with asyncio.timeout(_DELETE_TIMEOUT.total_seconds()):
                    await self._store.delete(job.object_name)
            await self._files.record_deleted(job.export_id)
            events.emit(events.FileDeleted(job.export_id))
        except (ExportFailure, DatabaseUnavailable) as error:
            log.warning("file_not_deleted", export_id=job.export_id, error_code=error.code, detail=error.detail)
        except TimeoutError:
            log.warning(
                "file_not_deleted", export_id=job.export_id, detail=f"not done after {_DELETE_TIMEOUT.total_seconds():g} s"
            )
