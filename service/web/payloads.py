"""Bodies: requests parsed to values, and values rendered with the contract's keys in the contract's order."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from service.errors import ExportNotFound, InvalidParameters
from service.exports.use_cases import ExportView
from service.model import LOCAL_FORMAT, ExportJob, ExportRequest, ExportStatus, Extra
from service.web.idempotency import idempotency_key
from service.web.problems import MalformedBody, UnsupportedContentType

MAXIMUM_BODY = 64 * 1024
"""Bytes of a request's body."""

_EXPORT_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_LOCAL_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}", re.ASCII)
_JSON_TYPE = re.compile(r"application/json|[^/\s]+/[^/\s]+\+json")

_PENDING_MESSAGE = "Export is being processed. Please check back in a few minutes."
_MESSAGES = {
    ExportStatus.QUEUED: _PENDING_MESSAGE,
    ExportStatus.PROCESSING: _PENDING_MESSAGE,
    ExportStatus.CANCELLED: "The export was cancelled.",
    ExportStatus.EXPIRED: "The file of this export has been removed. Please create a new export.",
}


def _local_time(value: object) -> datetime:
    try:
        # strptime alone would take digits of other scripts and fields of one digit.
        if isinstance(value, str) and _LOCAL_TIME.fullmatch(value):
            return datetime.strptime(value, LOCAL_FORMAT)
    except ValueError:
        pass
    raise PydanticCustomError("local_time", "must be an existing date and time as YYYY-MM-DD HH:MM:SS.")


def _flag(value: object) -> bool:
    match value:
        case bool():
            return value
        case int() if value in (0, 1):
            return value == 1
        case "0" | "1":
            return value == "1"
    raise PydanticCustomError("flag", "must be 1 or 0.")


def _after_start(end: datetime, info: ValidationInfo) -> datetime:
    start = info.data.get("start_date")
    if start is not None and end <= start:
        raise PydanticCustomError("order", "must be after start_date.")
    return end


LocalTime = Annotated[datetime, BeforeValidator(_local_time)]
Flag = Annotated[bool, BeforeValidator(_flag)]


class ExportBody(BaseModel):
    """The fields of POST /contacts/exports. `end_date` stands behind `start_date` because it is compared with it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    start_date: LocalTime
    end_date: Annotated[LocalTime, AfterValidator(_after_start)]
    include_comet_tokens: Flag = False
    include_all_emails: Flag = False


def export_id(text: str) -> int:
    """The id in an address. Raises ExportNotFound for whatever is not one, as for an unknown one."""
    if not _EXPORT_ID.fullmatch(text):
        raise ExportNotFound
    return int(text)


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body's object; of a key that is there twice the last one counts.

    Raises UnsupportedContentType, HTTPRequestEntityTooLarge and MalformedBody, checked in this order.
    """
    _check_content_type(request.headers.get("Content-Type", ""))
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedContentType
    if (request.content_length or 0) > MAXIMUM_BODY:
        raise web.HTTPRequestEntityTooLarge(MAXIMUM_BODY)
    try:
        body = orjson.loads(await request.read())
    except (orjson.JSONDecodeError, web.RequestPayloadError):
        raise MalformedBody from None
    if not isinstance(body, dict):
        raise MalformedBody
    return body


def export_request(body: Mapping[str, Any]) -> ExportRequest:
    """What the body of POST /contacts/exports asks for. Raises InvalidParameters naming every faulty field."""
    try:
        fields = ExportBody.model_validate(body)
    except ValidationError as error:
        raise InvalidParameters(field_faults(error)) from None
    return ExportRequest(
        start_date=fields.start_date,
        end_date=fields.end_date,
        extras=tuple(extra for extra in Extra if getattr(fields, extra.option)),
    )


def creation(body: Mapping[str, Any], keys: Sequence[str]) -> tuple[ExportRequest, str | None]:
    """What a body and the Idempotency-Key headers beside it ask for. Raises InvalidParameters naming every fault of both."""
    faults: dict[str, list[str]] = {}
    asked, key = None, None
    try:
        asked = export_request(body)
    except InvalidParameters as error:
        faults.update(error.fields)
    try:
        key = idempotency_key(keys)
    except InvalidParameters as error:
        faults.update(error.fields)
    if asked is None or faults:
        raise InvalidParameters(faults)
    return asked, key


def created(job: ExportJob) -> dict[str, Any]:
    """The body of the 202 that answers the creation of an export, now or when it is sent again."""
    return {"export_id": job.export_id, "status": ExportStatus.QUEUED.value}


def status(view: ExportView) -> dict[str, Any]:
    """The body of GET /contacts/exports/{id}: the reference's fields in its order, ours behind them.

    Without a link it is what the list says of each export, and the answer to a cancellation.
    """
    job, link = view.job, view.link
    body: dict[str, Any] = {"export_id": job.export_id, "status": job.status.value, "created_at": _stamp(job.created_at)}
    if job.status is ExportStatus.COMPLETED:
        body["completed_at"] = _stamp(job.finished_at)
    else:
        body["message"] = _MESSAGES.get(job.status) or job.error_message
    if link is not None:
        body["download_url"] = link.url
        body["expires_at"] = _stamp(link.expires_at)
    return {**body, **_beyond_the_reference(job)}


def readiness(checks: Mapping[str, str | None]) -> dict[str, Any]:
    """The body of GET /readyz. Where something is not well it has a `message`, as every error has."""
    body: dict[str, Any] = {"message": "The service cannot work at the moment."} if any(checks.values()) else {}
    return {**body, "checks": {name: fault or "ok" for name, fault in checks.items()}}


def _beyond_the_reference(job: ExportJob) -> dict[str, Any]:
    fields: dict[str, Any] = {"error_code": job.error_code} if job.status is ExportStatus.FAILED else {}
    window = job.window
    fields["window"] = {"from": _stamp(window.start), "to": _stamp(window.end), "timezone": job.timezone}
    if job.status is ExportStatus.PROCESSING:
        fields["progress"] = {"rows": job.rows_read, "rows_estimated": job.rows_estimated}
    if job.status is ExportStatus.COMPLETED and job.file is not None:
        fields["row_count"] = job.file.row_count
        fields["file_size"] = job.file.size
        fields["sha256"] = job.file.sha256
        fields["snapshot_at"] = _stamp(job.snapshot_at)
        fields["complete_until"] = _stamp(job.complete_until)
        fields["file_expires_at"] = _stamp(job.file_expires_at)
    return fields


def _check_content_type(value: str) -> None:
    media_type, *parameters = (part.strip() for part in value.lower().split(";"))
    if media_type and not _JSON_TYPE.fullmatch(media_type):
        raise UnsupportedContentType
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name == "charset" and charset.strip('"') != "utf-8":
            raise UnsupportedContentType


def field_faults(error: ValidationError) -> dict[str, list[str]]:
    """What a model found wrong: each faulty field with its sentences."""
    faults: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False, include_input=False):
        field = str(fault["loc"][0])
        sentence = "is required." if fault["type"] == "missing" else fault["msg"]
        faults.setdefault(field, []).append(f"{field} {sentence}")
    return faults


def _stamp(instant: datetime | None) -> str | None:
    """UTC, whole seconds, cut off: an instant is never said to be later than it is."""
    if instant is None:
        return None
    return instant.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
