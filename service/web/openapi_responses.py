"""The responses of an operation in the OpenAPI document: headers, bodies in both error formats, and links."""

import re
from collections.abc import Collection, Iterator, Mapping
from http import HTTPStatus
from types import UnionType
from typing import Any, get_args, get_origin

from openapi_pydantic import Example, Header, Link, MediaType, Response, Schema

from service.storage.headers import CONTENT_TYPE
from service.web import declarations, openapi_examples
from service.web.contact_lines import ContactLine
from service.web.declarations import JSON, RATE_LIMIT_HEADERS, RESPONSE_HEADERS, Route
from service.web.openapi_schemas import Schemas
from service.web.problems import PROBLEM_JSON, ErrorBody, ProblemBody

_ID_IN_PATH = re.compile(r"(.*)/\{(\w+)(?::[^}]*)?\}(/\w+)?")
_HEADER_TYPES: Mapping[str, dict[str, Any]] = {
    "Idempotent-Replayed": {"const": "true"},
    "Location": {"type": "string", "format": "uri-reference"},
    "Retry-After": {"type": "integer", "minimum": 1},
    "X-RateLimit-Limit": {"type": "integer", "minimum": 1},
    "X-RateLimit-Remaining": {"type": "integer", "minimum": 0},
}
_TEXT = {"type": "string"}


class Responses:
    """The responses of `route`. Links lead from ids in the bodies to other routes of `table`."""

    def __init__(self, route: Route, table: Collection[Route], schemas: Schemas) -> None:
        self._route = route
        self._table = table
        self._schemas = schemas

    def all(self) -> dict[str, Any]:
        """The responses by status."""
        return {str(status): self._response(status, response) for status, response in self._route.responses.items()}

    def _response(self, status: int, response: declarations.Response) -> Response:
        return Response(
            description=response.description,
            headers=dict(self._headers(status, response)),
            content=self._content(status, response) or None,
            links=dict(self._links(response)) or None if status < HTTPStatus.BAD_REQUEST else None,
        )

    def _headers(self, status: int, response: declarations.Response) -> Iterator[tuple[str, Header]]:
        for name, meaning in RESPONSE_HEADERS.items():
            yield name, _header(name, meaning, required=True)
        # An invalid key belongs to no Space. From 500 on, the error may have occurred before the limit was read.
        if self._route.bucket is not None and status != HTTPStatus.UNAUTHORIZED:
            for name, meaning in RATE_LIMIT_HEADERS.items():
                yield name, _header(name, meaning, required=status < HTTPStatus.INTERNAL_SERVER_ERROR)
        for name, meaning in response.headers.items():
            yield name, _header(name, meaning, required=status >= HTTPStatus.BAD_REQUEST)

    def _content(self, status: int, response: declarations.Response) -> dict[str, MediaType]:
        if response.content_type is None:
            return {}
        if response.body is ErrorBody:
            return {
                JSON: media(self._schemas.of(ErrorBody), openapi_examples.ERRORS.get(status, {})),
                PROBLEM_JSON: media(self._schemas.of(ProblemBody), {}),
            }
        examples = openapi_examples.RESPONSES.get(self._route.operation_id, {}).get(status, {})
        extensions = {"x-line-schema": self._schemas.of(ContactLine)} if response.content_type == CONTENT_TYPE else {}
        schema = Schema() if response.body is None else self._schemas.of(response.body)
        return {response.content_type: media(schema, examples, **extensions)}

    def _links(self, response: declarations.Response) -> Iterator[tuple[str, Link]]:
        """Links to the routes that take an id which the body has, alone or in the first item of a page."""
        for other in self._table:
            place = _ID_IN_PATH.fullmatch(other.path)
            if place is None or not self._route.path.startswith(place[1]):
                continue
            if (pointer := _pointer(response.body, place[2])) is not None:
                parameters = {place[2]: f"$response.body#{pointer}"}
                yield other.operation_id, Link(operationId=other.operation_id, parameters=parameters)


def media(schema: Schema, examples: Mapping[str, Any], **extensions: Any) -> MediaType:
    """A media type with examples by title."""
    shown = {title: Example(value=value) for title, value in examples.items()}
    return MediaType(media_type_schema=schema, examples=shown or None, **extensions)


def _header(name: str, meaning: str, *, required: bool) -> Header:
    return Header(description=meaning, required=required, param_schema=Schema.model_validate(_HEADER_TYPES.get(name, _TEXT)))


def _pointer(body: Any, name: str) -> str | None:
    """The JSON Pointer to the id that a path calls `name`: the key of that name, or the key `id` of `contact_id`."""
    if isinstance(body, UnionType):
        return next((pointer for each in get_args(body) if (pointer := _pointer(each, name)) is not None), None)
    keys = getattr(get_origin(body) or body, "__annotations__", {})
    for key in (name, "id"):
        if key in keys:
            return f"/{key}"
    if "data" in keys and (pointer := _pointer(get_args(body)[0], name)) is not None:
        return f"/data/0{pointer}"
    return None
