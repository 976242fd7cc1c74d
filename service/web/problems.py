"""Errors as responses: the only table from an error's code to an HTTP status, and the two forms of an error body."""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NotRequired

import orjson
from aiohttp import web
from typing_extensions import TypedDict

from service.errors import InvalidParameters, RetryLater, ServiceError
from service.web.limits import MAXIMUM_BODY

PROBLEM_JSON = "application/problem+json"
_WEIGHT_ZERO = re.compile(r"q=0(\.0*)?")
"""The weight that excludes a media type (RFC 9110, section 12.4.2)."""


class MalformedBody(ServiceError):
    """The body is not a JSON object."""

    code = "malformed_body"
    message = "The body must be a JSON object in UTF-8."


class MalformedHost(ServiceError):
    """The Host header cannot be part of a link."""

    code = "malformed_host"
    message = "The Host header is not a valid host name."


class BodyTooSlow(ServiceError):
    """The body did not arrive within its time."""

    code = "body_too_slow"
    message = "The body did not arrive in time."


class UnsupportedContentType(ServiceError):
    """The body has another media type, another charset, or is compressed."""

    code = "unsupported_content_type"
    message = "The content type must be application/json in UTF-8, without compression."


_STATUS: Mapping[str, HTTPStatus] = {
    "malformed_body": HTTPStatus.BAD_REQUEST,
    "malformed_host": HTTPStatus.BAD_REQUEST,
    "body_too_slow": HTTPStatus.REQUEST_TIMEOUT,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "scope_missing": HTTPStatus.FORBIDDEN,
    "subscription_inactive": HTTPStatus.FORBIDDEN,
    "link_forged": HTTPStatus.FORBIDDEN,
    "link_expired": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "not_completed": HTTPStatus.CONFLICT,
    "expired": HTTPStatus.GONE,
    "unsupported_content_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "invalid_parameters": HTTPStatus.UNPROCESSABLE_ENTITY,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "queue_full": HTTPStatus.TOO_MANY_REQUESTS,
    "starting": HTTPStatus.SERVICE_UNAVAILABLE,
    "database_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "schema_mismatch": HTTPStatus.SERVICE_UNAVAILABLE,
    "rate_limits_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "source_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "storage_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "storage_refused": HTTPStatus.SERVICE_UNAVAILABLE,
    "too_much_unread": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""A code that is not listed here is an error inside the service: 500."""

_HEADERS: Mapping[HTTPStatus, tuple[str, str]] = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "Bearer"),
    HTTPStatus.REQUEST_TIMEOUT: ("Connection", "close"),
}
_HTTP_MESSAGES: Mapping[int, str] = {
    404: "Not found.",
    405: "Method not allowed.",
    413: f"The body must not be larger than {MAXIMUM_BODY // 1024} KiB.",
}
_STORAGE_MESSAGE = "The file storage is temporarily unavailable."
"""Replaces the messages of the `storage_…` errors: they say that an export failed, but here a link could not be made."""
_UNAVAILABLE_RETRY_SECONDS = 5


class ErrorBody(TypedDict):
    """The body of every error. `errors` only for status 422, by field; `request_id` only for status 500 and above."""

    message: str
    errors: NotRequired[dict[str, list[str]]]
    request_id: NotRequired[str]


class ProblemBody(ErrorBody):
    """The body of an error as RFC 9457 defines it, for clients that accept `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told about an error."""

    status: HTTPStatus
    message: str
    errors: Mapping[str, Sequence[str]] | None = None
    headers: tuple[tuple[str, str], ...] = ()


INTERNAL = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, ServiceError.message)


def of_service_error(error: ServiceError) -> Problem:
    """The problem for an error of the domain: INTERNAL if its code has no HTTP status."""
    status = _STATUS.get(error.code)
    if status is None:
        return INTERNAL
    if isinstance(error, InvalidParameters):
        return Problem(status, error.message, error.fields)
    if isinstance(error, RetryLater):
        return Problem(status, error.message, headers=(("Retry-After", str(error.retry_after)),))
    if status in _HEADERS:
        return Problem(status, error.message, headers=(_HEADERS[status],))
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        message = _STORAGE_MESSAGE if error.code.startswith("storage_") else error.message
        return Problem(status, message, headers=(("Retry-After", str(_UNAVAILABLE_RETRY_SECONDS)),))
    return Problem(status, error.message)


def of_http_error(error: web.HTTPException) -> Problem:
    """The problem for an error that aiohttp raises: unknown address, wrong method, body too large."""
    status = HTTPStatus(error.status)
    allow = tuple(("Allow", value) for value in error.headers.getall("Allow", ()))
    return Problem(status, _HTTP_MESSAGES.get(status, f"{status.phrase}."), headers=allow)


def render(problem: Problem, *, accept: str, request_id: str) -> web.Response:
    """The response for a problem: a ProblemBody if `accept` names its media type, else an ErrorBody.

    From status 500 the body has the request id, so that the client can report it.
    """
    members: dict[str, Any] = {"message": problem.message}
    if problem.errors is not None:
        members["errors"] = problem.errors
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        members["request_id"] = request_id
    content_type = "application/json"
    if _names_problem_json(accept):
        content_type = PROBLEM_JSON
        standard = {"type": "about:blank", "title": problem.status.phrase, "status": int(problem.status)}
        members = {**standard, "detail": problem.message, **members}
    return web.Response(
        status=problem.status,
        body=orjson.dumps(members),
        content_type=content_type,
        headers=problem.headers,
    )


def stamp(headers: MutableMapping[str, str], request_id: str) -> None:
    """Set the headers that every response has."""
    headers["X-Request-Id"] = request_id
    headers.setdefault("Cache-Control", "no-store")
    headers["Server"] = "contact-exports"


def _names_problem_json(accept: str) -> bool:
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type == PROBLEM_JSON:
            return not any(_WEIGHT_ZERO.fullmatch(parameter) for parameter in parameters)
    return False
