"""The OpenAPI 3.1 description of the API, built from the table of routes."""

import re
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from openapi_pydantic import (
    Components,
    Info,
    OpenAPI,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    SecurityScheme,
    Server,
    Tag,
)

from service.web import openapi_examples
from service.web.contact_lines import ContactLine
from service.web.declarations import JSON, Route
from service.web.openapi_responses import Responses, media
from service.web.openapi_schemas import Schemas
from service.web.openapi_webhooks import WebhookBody, webhooks
from service.web.problems import ErrorBody, ProblemBody
from service.web.rate_limits import RateLimitBucket

Quotas = Mapping[RateLimitBucket, tuple[int, int]]

_SECURITY = "apiKey"
_PATTERN_IN_PATH = re.compile(r"\{(\w+):[^}]*\}")
_PUBLIC_TAG = "service"
_WEBHOOKS_TAG = "webhooks"
_TAGS = {
    "exports": "Create exports, wait for them and cancel them.",
    "contacts": "Read contacts without an export.",
    _PUBLIC_TAG: "Calls that need no key.",
    _WEBHOOKS_TAG: "Messages that the service sends to the endpoint of a Space.",
}
_DESCRIPTION = """\
Exports the contacts of a Space to one gzipped NDJSON file, whose lines have the schema `ContactLine`.

Calls need an API key, sent as `Authorization: Bearer KEY`. A key belongs to one Space and has scopes. Every GET also answers
HEAD.

Every error has a JSON body with `message`. With `Accept: application/problem+json` the body is a problem (RFC 9457).
An unknown address is 404, a wrong method is 405 with `Allow`, and malformed HTTP is 400. Every response has `X-Request-Id`.

Rate limits are counted per Space in a moving window. The limit of an operation is its `x-rate-limit`. Operations share a
limit if its `name` is the same.
"""


def describe(table: Collection[Route], quotas: Quotas, *, base_path: str = "") -> bytes:
    """The document of these routes as JSON.

    `quotas` has the calls and the seconds of each rate limit. `base_path` is the path of PUBLIC_URL, in front of all paths.
    """
    declared = [ErrorBody, ProblemBody, ContactLine, WebhookBody]
    for route in table:
        declared += filter(None, [route.body, *(response.body for response in route.responses.values())])
    schemas = Schemas(declared)
    paths: dict[str, dict[str, Operation]] = {}
    for route in table:
        path = _PATTERN_IN_PATH.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, table, quotas, schemas)
    tags = {_tag(route) for route in table}
    document = OpenAPI(
        openapi="3.1.1",
        info=Info(title="Contact exports", version=version("contact-exports"), description=_DESCRIPTION),
        servers=[Server(url=base_path or "/")],
        tags=[Tag(name=name, description=text) for name, text in _TAGS.items() if name in tags | {_WEBHOOKS_TAG}],
        webhooks=dict(webhooks(schemas)),
        paths={path: PathItem.model_validate(operations) for path, operations in paths.items()},
        components=Components(
            schemas=schemas.components(),
            securitySchemes={
                _SECURITY: SecurityScheme(type="http", scheme="bearer", description="An API key of the Space.")
            },
        ),
    )
    return document.model_dump_json(by_alias=True, exclude_none=True, exclude_unset=True).encode()


def _operation(route: Route, table: Collection[Route], quotas: Quotas, schemas: Schemas) -> Operation:
    extensions: dict[str, Any] = {}
    if route.bucket is not None:
        calls, seconds = quotas[route.bucket]
        extensions["x-rate-limit"] = {"name": route.bucket, "calls": calls, "seconds": seconds, "per": "Space"}
    return Operation(
        tags=[_tag(route)],
        operationId=route.operation_id,
        summary=route.summary,
        description=f"Needs a key with the scope `{route.scope}`." if route.scope else None,
        parameters=[*_parameters(route, schemas)] or None,
        requestBody=_request_body(route, schemas),
        responses=Responses(route, table, schemas).all(),
        security=[{_SECURITY: [route.scope]}] if route.scope else [],
        **extensions,
    )


def _parameters(route: Route, schemas: Schemas) -> Iterator[Parameter]:
    for declared in route.parameters:
        yield Parameter.model_validate(
            {
                "name": declared.name,
                "in": declared.location,
                "description": declared.description,
                "required": declared.required,
                "schema": schemas.in_place(declared.type),
            }
        )
    for model in route.query:
        schema = schemas.in_place(model)
        for name, field in schema["properties"].items():
            yield Parameter.model_validate(
                {
                    "name": name,
                    "in": "query",
                    "description": field.pop("description", None),
                    "required": name in schema.get("required", ()),
                    "schema": field,
                }
            )


def _request_body(route: Route, schemas: Schemas) -> RequestBody | None:
    if route.body is None:
        return None
    examples = openapi_examples.BODIES.get(route.operation_id, {})
    return RequestBody(required=True, content={JSON: media(schemas.of(route.body), examples)})


def _tag(route: Route) -> str:
    return route.scope.partition(":")[0] if route.scope else _PUBLIC_TAG
