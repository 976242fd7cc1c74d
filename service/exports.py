"""What may be done with exports: ask for one, look at one."""

from collections.abc import Callable
from dataclasses import dataclass

from service.errors import ExportNotFound, InvalidParameters, UnknownTimezone
from service.model import Caller, ExportJob, ExportRequest, ExportStatus, Window, exists, timezone
from service.postgres.export_jobs import ExportJobs
from service.storage import Link, ObjectStore

_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ExportView:
    """An export as its Space sees it now; `link` only while there is a file."""

    job: ExportJob
    link: Link | None


class Exports:
    """The use cases of the export API. `created` is called after each commit that queued a job."""

    def __init__(
        self,
        jobs: ExportJobs,
        store: ObjectStore,
        *,
        max_attempts: int,
        max_range_days: int | None,
        created: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._max_attempts = max_attempts
        self._max_range_days = max_range_days
        self._created = created

    async def create(self, caller: Caller, request: ExportRequest, *, request_id: str) -> ExportJob:
        """Queue an export of the caller's Space. Raises InvalidParameters (contract: POST /contacts/exports)."""
        window = self._window(caller, request)
        job = await self._jobs.insert(
            caller.space_id,
            request,
            timezone=caller.timezone,
            window=window,
            max_attempts=self._max_attempts,
            request_id=request_id,
        )
        self._created()
        return job

    async def status(self, caller: Caller, export_id: int, *, origin: str) -> ExportView:
        """An export of the caller's Space, with a fresh link if there is a file. Raises ExportNotFound."""
        job = await self._jobs.find(export_id, caller.space_id) if 0 < export_id <= _LARGEST_ID else None
        if job is None:
            raise ExportNotFound
        if job.status is not ExportStatus.COMPLETED or job.object_name is None:
            return ExportView(job, None)
        return ExportView(job, await self._store.link(job.object_name, filename=job.filename, origin=origin))

    def _window(self, caller: Caller, request: ExportRequest) -> Window:
        try:
            zone = timezone(caller.timezone)
        except UnknownTimezone as error:
            sentence = f'The timezone of this Space, "{error.timezone}", is not known; local dates cannot be read.'
            raise InvalidParameters({"timezone": [sentence]}) from None
        faults = {
            field: [f"{field} must be a date and time (YYYY-MM-DD HH:MM:SS) in the years 1 to 9999 of UTC."]
            for field, local in (("start_date", request.start_date), ("end_date", request.end_date))
            if not exists(local, zone)
        }
        if faults:
            raise InvalidParameters(faults)
        days = self._max_range_days
        if days is not None and (request.end_date - request.start_date).total_seconds() >= days * 86400:
            raise InvalidParameters({"end_date": [f"The range must not be longer than {days} days."]})
        return Window.from_local(request.start_date, request.end_date, zone)
