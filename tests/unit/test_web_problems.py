"""Errors as responses: one status for each code, no internal details, and two forms of body."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from service import errors, failures
from service.errors import ServiceError
from service.web import problems
from service.web.problems import Problem

INTERNAL_CODES = {
    "internal",
    "login_refused",
    "rate_limit_storage_unusable",
    "source_data",
    "space_not_found",
    "webhook_endpoint_not_found",
    "webhook_address_refused",
    "storage_full",
    "timed_out",
    "too_large",
    "unknown_timezone",
    "worker_lost",
    "cannot_listen",
    "store_owned_elsewhere",
}
"""Codes without a status: no call raises them to its client, so they become status 500."""


def kinds(base: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """All error classes, including those of the web layer."""
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


def body(problem: Problem, accept: str = "") -> dict[str, Any]:
    """The rendered body, parsed."""
    rendered = problems.render(problem, accept=accept, request_id="the-id").body
    assert isinstance(rendered, bytes)
    parsed = orjson.loads(rendered)
    assert isinstance(parsed, dict)
    return parsed


def error_of(kind: type[ServiceError]) -> ServiceError:
    """An error of that class, with a detail that must not be sent."""
    match kind:
        case errors.InvalidParameters:
            return errors.InvalidParameters({"start_date": ["is wrong"]})
        case errors.RateLimited:
            return errors.RateLimited(17)
        case errors.RetryLater:
            return errors.RetryLater("Later.", 17)
        case errors.QueueFull:
            return errors.QueueFull(3, 17)
        case errors.UnknownTimezone:
            return errors.UnknownTimezone("Mars/Olympus")
        case _:
            return kind(detail="password=secret")


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_or_is_listed_as_internal(kind: type[ServiceError]) -> None:
    problem = problems.of_service_error(error_of(kind))
    assert (problem == problems.INTERNAL) == (kind.code in INTERNAL_CODES)
    assert "secret" not in problem.message


def test_the_message_of_an_internal_error_is_not_sent() -> None:
    problem = problems.of_service_error(failures.SourceData("row 5 holds a zero byte"))
    assert (problem.status, "row" in problem.message) == (500, False)


def test_every_503_has_a_retry_after() -> None:
    for error in (
        errors.DatabaseUnavailable(),
        errors.Starting(),
        failures.StorageUnavailable(),
        errors.RateLimitsUnavailable(),
    ):
        problem = problems.of_service_error(error)
        assert problem.status == 503
        assert int(dict(problem.headers)["Retry-After"]) >= 1


def test_a_link_that_cannot_be_made_does_not_read_as_a_failed_export() -> None:
    assert "stored" not in problems.of_service_error(failures.StorageUnavailable()).message


def test_a_429_has_a_retry_after() -> None:
    problem = problems.of_service_error(errors.RateLimited(17))
    assert (problem.status, problem.headers) == (429, (("Retry-After", "17"),))


def test_a_401_names_the_authentication_scheme() -> None:
    assert problems.of_service_error(errors.Unauthenticated()).headers == (("WWW-Authenticate", "Bearer"),)


def test_a_422_has_the_messages_by_field() -> None:
    error = errors.InvalidParameters({"start_date": ["A."], "end_date": ["B.", "C."]})
    assert body(problems.of_service_error(error)) == {
        "message": "A. B. C.",
        "errors": {"start_date": ["A."], "end_date": ["B.", "C."]},
    }


def test_a_405_lists_the_allowed_methods() -> None:
    problem = problems.of_http_error(web.HTTPMethodNotAllowed("PUT", ["GET", "HEAD"]))
    assert (problem.status, dict(problem.headers)) == (405, {"Allow": "GET,HEAD"})


def test_a_status_without_a_message_uses_its_standard_phrase() -> None:
    assert body(problems.of_http_error(web.HTTPExpectationFailed())) == {"message": "Expectation Failed."}


def test_only_a_server_error_has_the_request_id_in_its_body() -> None:
    assert body(problems.INTERNAL)["request_id"] == "the-id"
    assert list(body(problems.of_service_error(errors.ExportNotFound()))) == ["message"]


@pytest.mark.parametrize(
    "accept",
    [
        "application/problem+json",
        "Application/Problem+JSON",
        "application/json, application/problem+json;q=0.9",
        "application/problem+json ; q=1.0",
    ],
)
def test_a_client_that_accepts_problem_json_gets_it(accept: str) -> None:
    problem = problems.of_service_error(errors.InvalidParameters({"end_date": ["B."]}))
    response = problems.render(problem, accept=accept, request_id="the-id")
    assert response.content_type == "application/problem+json"
    members = body(problem, accept)
    title = members.pop("title")
    assert title.startswith("Unprocessable")
    assert members == {
        "type": "about:blank",
        "status": 422,
        "detail": "B.",
        "message": "B.",
        "errors": {"end_date": ["B."]},
    }


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        "application/problem+json;q=0",
        "application/problem+json; q=0.00",
        "\udcff",
    ],
)
def test_any_other_client_gets_plain_json(accept: str) -> None:
    problem = problems.of_service_error(errors.ExportNotFound())
    response = problems.render(problem, accept=accept, request_id="the-id")
    assert (response.content_type, body(problem, accept)) == ("application/json", {"message": "Export not found."})
