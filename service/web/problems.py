"""Errors as answers: the only table from an error's code to an HTTP status, and the two forms of a body."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from service.errors import InvalidParameters, RateLimited, ServiceError

PROBLEM_JSON = "application/problem+json"
_WEIGHT_ZERO = re.compile(r"q=0(\.0*)?")
"""The weight that says "not this one" (RFC 9110, section 12.4.2)."""


class MalformedBody(ServiceError):
    """The body must be a JSON object in UTF-8."""

    code = "malformed_body"


class MalformedHost(ServiceError):
    """The Host header is not a host name."""

    code = "malformed_host"


class UnsupportedContentType(ServiceError):
    """The content type must be application/json in UTF-8, uncompressed."""

    code = "unsupported_content_type"


_STATUS: Mapping[str, HTTPStatus] = {
    "malformed_body": HTTPStatus.BAD_REQUEST,
    "malformed_host": HTTPStatus.BAD_REQUEST,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "scope_missing": HTTPStatus.FORBIDDEN,
    "subscription_inactive": HTTPStatus.FORBIDDEN,
    "link_forged": HTTPStatus.FORBIDDEN,
    "link_expired": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "unsupported_content_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "invalid_parameters": HTTPStatus.UNPROCESSABLE_ENTITY,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "starting": HTTPStatus.SERVICE_UNAVAILABLE,
    "database_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "schema_mismatch": HTTPStatus.SERVICE_UNAVAILABLE,
    "rate_limits_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "storage_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "storage_refused": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""A code that is not here is a fault of the service: 500."""

_HTTP_SENTENCES: Mapping[int, str] = {
    404: "There is nothing at this address.",
    405: "This address does not answer to this method.",
    413: "The body must not be larger than 64 KiB.",
}
_STORE_SENTENCE = "The file storage cannot be used at the moment."
"""The codes' own sentences speak of an export that failed; here a link could not be made."""
_INTERNAL_SENTENCE = "Something went wrong inside the service."
_UNAVAILABLE_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """What a consumer is told about an error."""

    status: HTTPStatus
    message: str
    errors: Mapping[str, Sequence[str]] | None = None
    headers: tuple[tuple[str, str], ...] = ()


INTERNAL = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, _INTERNAL_SENTENCE)


def of_service_error(error: ServiceError) -> Problem:
    """The problem for an error of the domain; one whose code no caller may see is INTERNAL."""
    status = _STATUS.get(error.code)
    if status is None:
        return INTERNAL
    if isinstance(error, InvalidParameters):
        return Problem(status, error.message, error.fields)
    if isinstance(error, RateLimited):
        return Problem(status, error.message, headers=(("Retry-After", str(error.retry_after)),))
    if status is HTTPStatus.UNAUTHORIZED:
        return Problem(status, error.message, headers=(("WWW-Authenticate", "Bearer"),))
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        sentence = _STORE_SENTENCE if error.code.startswith("storage_") else error.message
        return Problem(status, sentence, headers=(("Retry-After", str(_UNAVAILABLE_RETRY_SECONDS)),))
    return Problem(status, error.message)


def of_http_error(error: web.HTTPException) -> Problem:
    """The problem for what aiohttp refuses by itself: unknown addresses and methods, too large bodies."""
    status = HTTPStatus(error.status)
    allow = tuple(("Allow", value) for value in error.headers.getall("Allow", ()))
    return Problem(status, _HTTP_SENTENCES.get(status, f"{status.phrase}."), headers=allow)


def render(problem: Problem, *, accept: str, request_id: str) -> web.Response:
    """The answer; the form is RFC 9457's where `accept` names its media type.

    From 500 on the body holds the request id, for the consumer to report.
    """
    members: dict[str, Any] = {"message": problem.message}
    if problem.errors is not None:
        members["errors"] = problem.errors
    if problem.status >= 500:
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


def _names_problem_json(accept: str) -> bool:
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type == PROBLEM_JSON:
            return not any(_WEIGHT_ZERO.fullmatch(parameter) for parameter in parameters)
    return False
