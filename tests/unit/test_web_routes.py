"""The table of routes: the application is built from it, and it declares every body and parameter."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from aiohttp import web
from pydantic import TypeAdapter

from service.model import Scope
from service.web.app import WebServices, build_app
from service.web.declarations import Response, Route
from service.web.problems import ErrorBody
from service.web.rate_limits import RateLimitBucket, Throttle
from service.web.routes import ROUTES

NOTHING = cast(Any, None)
SERVICES = WebServices(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


def built(open_link: Any) -> set[tuple[str, str]]:
    """Method and path of every route of an application, built with or without local files."""
    app = build_app(replace(SERVICES, open_link=open_link), public_url=None)
    return {(route.method, cast(web.Resource, route.resource).canonical) for route in app.router.routes()}


def declared_types() -> Iterator[Any]:
    """The type of every declared body and parameter."""
    for route in ROUTES:
        yield from (parameter.type for parameter in route.parameters)
        yield from route.query
        yield from filter(None, [route.body, *(response.body for response in route.responses.values())])


def test_get_also_registers_head() -> None:
    paths = built(open)
    assert {path for method, path in paths if method == "HEAD"} == {path for method, path in paths if method == "GET"}
    assert ("DELETE", "/public-api/v1/contacts/exports/{export_id}") in paths


def test_the_route_for_files_exists_only_if_files_are_in_a_directory() -> None:
    assert built(open) - built(None) == {("GET", "/files/{object_name}"), ("HEAD", "/files/{object_name}")}


def test_every_call_that_needs_a_key_is_below_the_base_path_and_no_other_is() -> None:
    for route in ROUTES:
        assert route.path.startswith("/public-api/v1/contacts") == (route.scope is not None)


def test_every_declared_type_has_a_json_schema() -> None:
    for declared in declared_types():
        assert TypeAdapter(declared).json_schema()


def test_every_route_with_a_scope_declares_its_errors() -> None:
    for route in ROUTES:
        if route.scope is not None:
            for status in (401, 403, 429, 500, 503):
                assert route.responses[status].body is ErrorBody


def test_operation_ids_and_summaries_are_unique() -> None:
    assert len({route.operation_id for route in ROUTES}) == len({route.summary for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("only", [{"bucket": RateLimitBucket.OTHER}, {"scope": Scope.EXPORTS_READ}])
def test_a_rate_limit_without_a_scope_and_a_scope_without_a_rate_limit_are_refused(only: dict[str, Any]) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response()

    with pytest.raises(ValueError, match="or neither"):
        Route(
            method="GET",
            path="/",
            operation_id="x",
            summary="x",
            handler=handler,
            responses={200: Response("x")},
            **only,
        )


def test_a_bucket_without_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="get-export"):
        Throttle(NOTHING, {RateLimitBucket.CREATE_EXPORT: "1/minute", RateLimitBucket.OTHER: "1/minute"})
