"""JSON bodies: reading the object of a request, and building a response from a declared shape."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from service.web.gate import PRIORITY
from service.web.problems import MalformedBody, UnsupportedContentType
from service.web.server import MAXIMUM_BODY

_JSON_TYPE = re.compile(r"application/json|[^/\s]+/[^/\s]+\+json")


async def read_json_object(request: web.Request) -> dict[str, Any]:
    """The object in the body. If a key occurs twice, the last one counts.

    Raises UnsupportedContentType, HTTPRequestEntityTooLarge and MalformedBody, checked in this order.
    """
    _check_content_type(request.headers.get("Content-Type", ""))
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedContentType
    if (request.content_length or 0) > MAXIMUM_BODY:
        raise web.HTTPRequestEntityTooLarge(MAXIMUM_BODY)
    try:
        # A client may send its body slowly or never; exports must not wait for it.
        with request.app[PRIORITY].paused():
            content = await request.read()
        body = orjson.loads(content)
    except (orjson.JSONDecodeError, web.RequestPayloadError):
        raise MalformedBody from None
    if not isinstance(body, dict):
        raise MalformedBody
    return body


def json_response(
    body: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON response with the keys of `body` in their order."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)


def render_time(instant: datetime) -> str:
    """UTC, truncated to whole seconds (never rounded up): `2024-01-15T10:30:00Z`."""
    return instant.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _check_content_type(value: str) -> None:
    media_type, *parameters = (part.strip() for part in value.lower().split(";"))
    if media_type and not _JSON_TYPE.fullmatch(media_type):
        raise UnsupportedContentType
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name == "charset" and charset.strip('"') != "utf-8":
            raise UnsupportedContentType
