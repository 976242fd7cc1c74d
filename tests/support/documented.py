"""Compares responses with the OpenAPI document: a site reports every response that the document does not describe."""

import json
from collections import defaultdict
from functools import cache
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator

from service.web.openapi import describe
from service.web.rate_limits import RateLimitBucket
from service.web.routes import ROUTES

_OF_HTTP = frozenset({"connection", "content-length", "content-type", "date", "server", "transfer-encoding"})
"""Headers that belong to HTTP itself. OpenAPI describes the content type elsewhere."""
_OF_CORS = frozenset({"access-control-allow-origin", "access-control-expose-headers", "vary"})
_OUTSIDE_ROUTES = {400: set[str](), 404: set[str](), 405: {"allow"}, 417: set[str]()}
"""Responses to requests that reach no operation, which the text of the document describes, and their headers."""

Operation = tuple[str, str]
"""A path as the document writes it, and a method in lower case."""


@cache
def document() -> dict[str, Any]:
    """The document of all routes. Objects are closed in it: a key that is not described is an error."""
    described: dict[str, Any] = json.loads(describe(ROUTES, dict.fromkeys(RateLimitBucket, (5, 60))))
    for schema in described["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return described


def operations() -> dict[Operation, dict[str, Any]]:
    """Every operation of the document."""
    paths = document()["paths"].items()
    return {(path, method): operation for path, methods in paths for method, operation in methods.items()}


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """A validator for a schema inside the document."""
    return Draft202012Validator({"components": document()["components"], **schema})


class Documented:
    """The responses of one site: what was seen, and what was seen without a description."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], set[str]] = defaultdict(set)
        """Names of headers in lower case, by operation id and status."""
        self.undescribed: list[str] = []

    async def compare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Compare a response that is about to be sent. A handler of the signal `on_response_prepare`."""
        resource = request.match_info.route.resource
        method = "get" if request.method == "HEAD" else request.method.lower()
        operation = operations().get((resource.canonical if resource else "", method))
        if operation is None or response.status == web.HTTPExpectationFailed.status_code:
            self._compare_outside_routes(request, response)
            return
        name = f"{operation['operationId']} {response.status}"
        described = operation["responses"].get(str(response.status))
        if described is None:
            self.undescribed.append(name)
            return
        headers = {header.lower() for header in response.headers} - _OF_HTTP - _OF_CORS
        self.seen[operation["operationId"], response.status] |= headers
        allowed = {header.lower(): header_object.get("required") for header, header_object in described["headers"].items()}
        self.undescribed += [f"{name}: header {header}" for header in headers - set(allowed)]
        self.undescribed += [
            f"{name}: no header {header}" for header, needed in allowed.items() if needed and header not in headers
        ]
        self._compare_body(name, described.get("content", {}), response)

    def _compare_body(self, name: str, content: dict[str, Any], response: web.StreamResponse) -> None:
        body = response.body if isinstance(response, web.Response) else None
        media = content.get(response.content_type) or content.get("*/*")
        if isinstance(body, bytes) and body and media is None:
            self.undescribed.append(f"{name}: {response.content_type}")
        elif isinstance(body, bytes) and media and response.content_type.endswith("json"):
            errors = validator(media["schema"]).iter_errors(json.loads(body))
            self.undescribed += [f"{name}: {error.message}" for error in errors]

    def _compare_outside_routes(self, request: web.Request, response: web.StreamResponse) -> None:
        name = f"{request.method} outside the routes: {response.status}"
        if request.method == "OPTIONS" and response.status == 204:
            return  # a preflight, which the Fetch standard describes
        if response.status not in _OUTSIDE_ROUTES:
            self.undescribed.append(name)
            return
        headers = {header.lower() for header in response.headers} - _OF_HTTP - _OF_CORS
        expected = _OUTSIDE_ROUTES[response.status] | {"x-request-id", "cache-control"}
        self.undescribed += [f"{name}: header {header}" for header in headers - expected]
