"""What a row of the table of routes declares, and the headers and errors that rows share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from service.model import Scope
from service.web.preferences import PREFERENCE_APPLIED
from service.web.problems import ErrorBody
from service.web.rate_limits import RateLimitBucket

JSON = "application/json"


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
        """Raises ValueError for a rate limit without a scope, because it is counted by Space, or a scope without a limit."""
        if (self.bucket is None) is not (self.scope is None):
            raise ValueError(f"{self.operation_id} needs both a scope and a rate limit, or neither")


RESPONSE_HEADERS: Mapping[str, str] = {
    "X-Request-Id": "Id of the request: the one the client sent, if it is 1 to 128 characters of [A-Za-z0-9._-].",
    "Cache-Control": "`no-store`, or `no-cache` for the description of the API.",
}
"""Headers of every response."""
RATE_LIMIT_HEADERS: Mapping[str, str] = {
    "X-RateLimit-Limit": "Calls allowed in the window.",
    "X-RateLimit-Remaining": "Calls left in the window.",
    "RateLimit-Policy": "Name, quota and window of the limit (draft-ietf-httpapi-ratelimit-headers-10).",
    "RateLimit": "Calls left, and the seconds until the oldest call leaves the window.",
}
"""Headers of every authenticated response."""
RETRY_AFTER = {"Retry-After": "Seconds to wait before the next call."}
POLL_AFTER = {
    "Retry-After": "Seconds to wait before the next poll; only while the export is queued or processing.",
    PREFERENCE_APPLIED: "`wait=N`: the wait that was applied, in seconds. Absent if the preference was not applied.",
}

CACHE_HEADERS = {"ETag": "Validator of these bytes, for If-None-Match."}
FILE_HEADERS = {
    **CACHE_HEADERS,
    "Last-Modified": "When the file was completed.",
    "Accept-Ranges": "`bytes`: parts can be requested.",
    "Content-Disposition": "Name under which a browser saves the file.",
}

DOCS_HEADERS = {
    **CACHE_HEADERS,
    "Content-Security-Policy": "What the page may load: files of this service only.",
    "Referrer-Policy": "`no-referrer`.",
    "X-Content-Type-Options": "`nosniff`.",
}
IF_NONE_MATCH = Parameter("If-None-Match", "header", "An ETag; if the bytes still have it, the response is 304.")
SAVED_AS = {"Content-Disposition": FILE_HEADERS["Content-Disposition"]}
FILE_NOT_MODIFIED = Response(
    "The client has the current bytes.",
    headers={**CACHE_HEADERS, **SAVED_AS, "Last-Modified": FILE_HEADERS["Last-Modified"]},
    content_type=None,
)
RANGE = {"Content-Range": "Position of this part in the file, and the size of the file."}
NOT_MODIFIED = Response("The client has the current bytes.", headers=CACHE_HEADERS, content_type=None)

ERRORS: Mapping[int, Response] = {
    400: Response("The request is malformed.", ErrorBody),
    401: Response("The API key is missing or invalid.", ErrorBody, {"WWW-Authenticate": "Bearer"}),
    403: Response("The key lacks the scope, or the subscription of the Space is inactive.", ErrorBody),
    404: Response("The id is unknown, or belongs to another Space.", ErrorBody),
    408: Response("The body did not arrive in time.", ErrorBody),
    409: Response("The export is not completed.", ErrorBody),
    410: Response("The export has expired.", ErrorBody),
    413: Response("The body is too large.", ErrorBody),
    415: Response("The content type is not application/json in UTF-8, or the body is compressed.", ErrorBody),
    422: Response("Parameters are invalid; every invalid one is named.", ErrorBody),
    429: Response("The rate limit of the Space is exceeded.", ErrorBody, RETRY_AFTER),
    500: Response("An internal error.", ErrorBody),
    503: Response("The service is starting, or something it depends on is unavailable.", ErrorBody, RETRY_AFTER),
}


def api_errors(*statuses: int) -> dict[int, Response]:
    """The error responses of every call with a key, and those with these statuses."""
    return {status: ERRORS[status] for status in sorted({401, 403, 429, 500, 503, *statuses})}
