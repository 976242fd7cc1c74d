"""The table of routes: one row for each call. The application is built from it, and so is every description of the API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, Field

from service.model import Scope
from service.storage.headers import CONTENT_TYPE
from service.web import exports, files, health
from service.web.export_bodies import CreatedBody, CreateExportBody, ExportBody
from service.web.idempotency import IDEMPOTENCY_KEY
from service.web.paging import PageBody, PageParameters
from service.web.problems import ErrorBody
from service.web.rate_limits import RateLimitBucket

JSON = "application/json"
_EXPORT_PATH = f"{exports.EXPORTS_PATH}/{{export_id}}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the path, the query or a header. `type` is an annotation that pydantic turns into a JSON Schema."""

    name: str
    location: Literal["path", "query", "header"]
    description: str
    type: Any = str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """A response. `body` is the shape of its JSON, None if there is no JSON; `headers` maps names to meanings."""

    description: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One call of the API. A route for GET also answers HEAD.

    Calls need a key with `scope`; without a scope anyone may call. The fields of the models in `query` are query parameters
    too, in addition to `parameters`. The route exists only if the application has the key `requires`.
    """

    method: str
    path: str
    operation_id: str
    summary: str
    handler: Handler
    scope: Scope | None = None
    bucket: RateLimitBucket | None = None
    parameters: tuple[Parameter, ...] = ()
    query: tuple[type[BaseModel], ...] = ()
    body: type[BaseModel] | None = None
    responses: Mapping[int, Response]
    requires: web.AppKey[Any] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a rate limit without a scope: a limit is counted by Space, which only a key proves."""
        if self.bucket is not None and self.scope is None:
            raise ValueError(f"{self.operation_id} has a rate limit but no scope")


RESPONSE_HEADERS: Mapping[str, str] = {
    "X-Request-Id": "Id of the request: the one the client sent, if it is 1 to 128 characters of [A-Za-z0-9._-].",
}
"""Headers of every response."""
RATE_LIMIT_HEADERS: Mapping[str, str] = {
    "X-RateLimit-Limit": "Calls allowed in the window.",
    "X-RateLimit-Remaining": "Calls left in the window.",
    "RateLimit-Policy": "Name, quota and window of the limit (draft-ietf-httpapi-ratelimit-headers-10).",
    "RateLimit": "Calls left, and the seconds until the oldest call leaves the window.",
}
"""Headers of every authenticated response of a route that has a bucket."""
_RETRY_AFTER = {"Retry-After": "Seconds to wait before the next call."}
_POLL_AFTER = {"Retry-After": "Seconds to wait before the next poll; only while the export is queued or processing."}

_ERRORS: Mapping[int, Response] = {
    400: Response("The request is malformed.", ErrorBody),
    401: Response("The API key is missing or invalid.", ErrorBody, {"WWW-Authenticate": "Bearer"}),
    403: Response("The key lacks the scope, or the subscription of the Space is inactive.", ErrorBody),
    404: Response("The id is unknown, or belongs to another Space.", ErrorBody),
    408: Response("The body did not arrive in time.", ErrorBody),
    413: Response("The body is too large.", ErrorBody),
    415: Response("The content type is not application/json in UTF-8, or the body is compressed.", ErrorBody),
    422: Response("Parameters are invalid; every invalid one is named.", ErrorBody),
    429: Response("The rate limit of the Space is exceeded.", ErrorBody, _RETRY_AFTER),
    500: Response("An internal error.", ErrorBody),
    503: Response("The service is starting, or something it depends on is unavailable.", ErrorBody, _RETRY_AFTER),
}


def _api_errors(*statuses: int) -> dict[int, Response]:
    """The error responses of every call with a key, and those with these statuses."""
    return {status: _ERRORS[status] for status in sorted({401, 403, 429, 500, 503, *statuses})}


_EXPORT_ID = Parameter("export_id", "path", "Id of the export.", Annotated[int, Field(ge=1)], required=True)

ROUTES: tuple[Route, ...] = (
    Route(
        method=hdrs.METH_POST,
        path=exports.EXPORTS_PATH,
        operation_id="createExport",
        summary="Create an export",
        handler=exports.create_export,
        scope=Scope.EXPORTS_WRITE,
        bucket=RateLimitBucket.CREATE_EXPORT,
        parameters=(
            Parameter(
                IDEMPOTENCY_KEY, "header", "Names this request: a repetition within 24 hours creates no second export."
            ),
        ),
        body=CreateExportBody,
        responses={
            202: Response(
                "The export is queued.",
                CreatedBody,
                {
                    "Location": "Path of the export's status.",
                    "Idempotent-Replayed": "`true` if a request with this Idempotency-Key had created the export before.",
                    **_RETRY_AFTER,
                },
            ),
            **_api_errors(400, 408, 413, 415, 422),
        },
    ),
    Route(
        method=hdrs.METH_GET,
        path=exports.EXPORTS_PATH,
        operation_id="listExports",
        summary="List exports, newest first",
        handler=exports.list_exports,
        scope=Scope.EXPORTS_READ,
        bucket=RateLimitBucket.OTHER,
        parameters=(Parameter("cursor", "query", "A next_cursor or prev_cursor of a previous response."),),
        query=(exports.ExportFilters, PageParameters),
        responses={200: Response("A page of exports.", PageBody[ExportBody]), **_api_errors(400, 422)},
    ),
    Route(
        method=hdrs.METH_GET,
        path=_EXPORT_PATH,
        operation_id="getExport",
        summary="Get the status of an export, and a fresh download link once it is completed",
        handler=exports.show_export,
        scope=Scope.EXPORTS_READ,
        bucket=RateLimitBucket.GET_EXPORT,
        parameters=(_EXPORT_ID,),
        responses={200: Response("The export.", ExportBody, _POLL_AFTER), **_api_errors(400, 404)},
    ),
    Route(
        method=hdrs.METH_DELETE,
        path=_EXPORT_PATH,
        operation_id="cancelExport",
        summary="Cancel an export, or delete the file of a completed one",
        handler=exports.cancel_export,
        scope=Scope.EXPORTS_WRITE,
        bucket=RateLimitBucket.OTHER,
        parameters=(_EXPORT_ID,),
        responses={202: Response("The export in its new state.", ExportBody), **_api_errors(404)},
    ),
    Route(
        method=hdrs.METH_GET,
        path=files.FILE_PATH,
        operation_id="downloadFile",
        summary="Download a file by its signed link",
        handler=files.download_file,
        parameters=(
            Parameter("object_name", "path", "Name of the file in the store.", required=True),
            Parameter("expires", "query", "When the link stops working, in seconds since 1970.", required=True),
            Parameter("filename", "query", "Name under which a browser saves the file.", required=True),
            Parameter("signature", "query", "Signature of the link.", required=True),
            Parameter("Range", "header", "Part of the file to send."),
        ),
        responses={
            200: Response("The file.", content_type=CONTENT_TYPE),
            206: Response("The requested part of the file.", content_type=CONTENT_TYPE),
            403: Response("The link was changed, or it has expired.", ErrorBody),
            404: Response("The file was deleted.", ErrorBody),
            416: Response("The requested part is outside the file.", content_type=None),
            500: _ERRORS[500],
            503: _ERRORS[503],
        },
        requires=files.OPEN_LINK,
    ),
    Route(
        method=hdrs.METH_GET,
        path="/healthz",
        operation_id="getLiveness",
        summary="Check that the process needs no restart",
        handler=health.show_liveness,
        responses={
            200: Response("The process is alive.", health.LivenessBody),
            503: Response("The process must be restarted.", health.LivenessBody),
        },
    ),
    Route(
        method=hdrs.METH_GET,
        path="/readyz",
        operation_id="getReadiness",
        summary="Check that the process can work",
        handler=health.show_readiness,
        responses={
            200: Response("All checks passed.", health.ReadinessBody),
            503: Response("At least one check failed; its message says why.", health.ReadinessBody),
        },
    ),
)
