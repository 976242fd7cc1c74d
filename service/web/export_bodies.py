"""The bodies of the export API: requests parsed to values, exports rendered with the contract's keys in its order."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from service.errors import ExportExpired, ExportNotFound, InvalidParameters
from service.exports.use_cases import ExportView
from service.model import ExportJob, ExportRequest, ExportStatus, Extra
from service.web.bodies import render_time
from service.web.idempotency import parse_idempotency_key
from service.web.parameters import Flag, LocalTime, errors_by_field

_EXPORT_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)

_PENDING_MESSAGE = "Export is being processed. Please check back in a few minutes."
_MESSAGES = {
    ExportStatus.QUEUED: _PENDING_MESSAGE,
    ExportStatus.PROCESSING: _PENDING_MESSAGE,
    ExportStatus.CANCELLED: "The export was cancelled.",
    ExportStatus.EXPIRED: ExportExpired.message,
}


# Requests ------------------------------------------------------------------------------------------------------------


def _after_start(end: Any, info: ValidationInfo) -> Any:
    start = info.data.get("start_date")
    if start is not None and end <= start:
        raise PydanticCustomError("order", "must be after start_date.")
    return end


class RangeBody(BaseModel):
    """The dates of a request. `end_date` must be declared after `start_date`: its validator reads it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    start_date: LocalTime
    end_date: Annotated[LocalTime, AfterValidator(_after_start)]


_FLAGS: dict[str, Any] = {extra.option: (Flag, False) for extra in Extra}
CreateExportBody = create_model("CreateExportBody", __base__=RangeBody, **_FLAGS)
"""The body of POST /contacts/exports: the dates, and one flag for each `Extra`."""


def parse_export_id(text: str) -> int:
    """The id in an address. Raises ExportNotFound for text that is no id, as for an unknown id."""
    if not _EXPORT_ID.fullmatch(text):
        raise ExportNotFound
    return int(text)


def parse_export_request(body: Mapping[str, Any]) -> ExportRequest:
    """The request in the body of POST /contacts/exports. Raises InvalidParameters naming every invalid field."""
    try:
        fields = CreateExportBody.model_validate(body)
    except ValidationError as error:
        raise InvalidParameters(errors_by_field(error)) from None
    return ExportRequest(
        start_date=fields.start_date,
        end_date=fields.end_date,
        extras=tuple(extra for extra in Extra if getattr(fields, extra.option)),
    )


def parse_creation(body: Mapping[str, Any], keys: Sequence[str]) -> tuple[ExportRequest, str | None]:
    """The request in a body, and the key in its Idempotency-Key headers.

    Raises InvalidParameters naming every error of both.
    """
    errors: dict[str, list[str]] = {}
    request, key = None, None
    try:
        request = parse_export_request(body)
    except InvalidParameters as error:
        errors.update(error.fields)
    try:
        key = parse_idempotency_key(keys)
    except InvalidParameters as error:
        errors.update(error.fields)
    if request is None or errors:
        raise InvalidParameters(errors)
    return request, key


# Responses -----------------------------------------------------------------------------------------------------------


Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""UTC in whole seconds: `2024-01-15T10:30:00Z`."""
Status = Annotated[str, WithJsonSchema({"enum": [status.value for status in ExportStatus]})]


class CreatedBody(TypedDict):
    """The body of the 202 for a new export, and of its replays."""

    export_id: int
    status: Literal["queued"]


WindowBody = TypedDict("WindowBody", {"from": Timestamp, "to": Timestamp, "timezone": str})
"""The exported interval in UTC, `to` exclusive, and the timezone in which the request's dates were read."""


class ProgressBody(TypedDict):
    """The progress of an export that is processing. `rows_estimated` is null until the estimate is known."""

    rows: int
    rows_estimated: int | None


class ExportBody(TypedDict):
    """An export. The keys up to `expires_at` are those of the reference API, in its order.

    `message` is present unless the export is completed; `completed_at`, and the keys from `row_count` on, only if it is
    completed; `error_code` only if it failed; `progress` only while it is processing. `download_url` and `expires_at` (when
    that link stops working) are present only in the response to GET /contacts/exports/{export_id}.
    """

    export_id: int
    status: Status
    created_at: Timestamp
    completed_at: NotRequired[Timestamp | None]
    message: NotRequired[str]
    download_url: NotRequired[str]
    expires_at: NotRequired[Timestamp]
    error_code: NotRequired[str | None]
    window: NotRequired[WindowBody]
    progress: NotRequired[ProgressBody]
    row_count: NotRequired[int]
    file_size: NotRequired[int]
    sha256: NotRequired[str]
    snapshot_at: NotRequired[Timestamp | None]
    complete_until: NotRequired[Timestamp | None]
    file_expires_at: NotRequired[Timestamp | None]


def render_created(job: ExportJob) -> CreatedBody:
    """The body of the 202 for a new export. A replay shows `queued` too, whatever state the export is in by then."""
    return {"export_id": job.export_id, "status": "queued"}


def render_export(view: ExportView) -> ExportBody:
    """The body of GET /contacts/exports/{export_id}; without a link an item of the list, and the body of a cancellation."""
    job, link = view.job, view.link
    body: ExportBody = {
        "export_id": job.export_id,
        "status": job.status.value,
        "created_at": render_time(job.created_at),
    }
    if job.status is ExportStatus.COMPLETED:
        body["completed_at"] = _render_optional_time(job.finished_at)
    else:
        body["message"] = _MESSAGES.get(job.status) or job.error_message or ""
    if link is not None:
        body["download_url"] = link.url
        body["expires_at"] = render_time(link.expires_at)
    if job.status is ExportStatus.FAILED:
        body["error_code"] = job.error_code
    body["window"] = {
        "from": render_time(job.window.start),
        "to": render_time(job.window.end),
        "timezone": job.timezone,
    }
    if job.status is ExportStatus.PROCESSING:
        body["progress"] = {"rows": job.rows_read, "rows_estimated": job.rows_estimated}
    if job.status is ExportStatus.COMPLETED and job.file is not None:
        body["row_count"] = job.file.row_count
        body["file_size"] = job.file.size
        body["sha256"] = job.file.sha256
        body["snapshot_at"] = _render_optional_time(job.snapshot_at)
        body["complete_until"] = _render_optional_time(job.complete_until)
        body["file_expires_at"] = _render_optional_time(job.file_expires_at)
    return body


def _render_optional_time(instant: datetime | None) -> str | None:
    return None if instant is None else render_time(instant)
