"""JSON bodies: reading the object of a request, and building a response from a declared shape."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from aiohttp import HttpVersion11, web

from service.web import limits
from service.web.gate import CALLER, PRIORITY
from service.web.limits import MAXIMUM_BODY
from service.web.middleware import EXPECTATION
from service.web.places import Occupant, Phase, phase
from service.web.problems import BodyTooSlow, MalformedBody, UnsupportedContentType
from service.web.sending import UNSENT

_JSON_TYPE = re.compile(r"application/json|[^/\s]+/[^/\s]+\+json")


async def read_json_object(request: web.Request) -> dict[str, Any]:
    """The object in the body. If a key occurs twice, the last one counts.

    Raises UnsupportedContentType, HTTPRequestEntityTooLarge, BodyTooSlow and MalformedBody, checked in this order.
    """
    _check_content_type(request.headers.get("Content-Type", ""))
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedContentType
    if (request.content_length or 0) > MAXIMUM_BODY:
        raise web.HTTPRequestEntityTooLarge(MAXIMUM_BODY)
    # A client may send its body slowly or never; exports must not wait for it.
    with request.app[PRIORITY].paused():
        async with receiving_body(request):
            data = await _read(request)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise MalformedBody from None
    if not isinstance(body, dict):
        raise MalformedBody
    return body


def json_response(
    body: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON response with the keys of `body` in their order."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)


async def page_response(request: web.Request, body: Mapping[str, object]) -> web.Response:
    """A JSON response that may be large, for a caller. Raises TooMuchUnread."""
    response, connection, unsent = json_response(body), request.protocol, request.app[UNSENT]
    size = len(response.body) if isinstance(response.body, bytes) else 0
    if size > limits.PIECE and isinstance(connection, Occupant):
        with request.app[PRIORITY].paused():
            sending = await unsent.add(request[CALLER].space_id, size, connection.abort)
        connection.after_response(partial(unsent.discard, sending))
    return response


def render_time(instant: datetime) -> str:
    """UTC, truncated to whole seconds (never rounded up): `2024-01-15T10:30:00Z`."""
    return instant.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


@asynccontextmanager
async def receiving_body(request: web.Request) -> AsyncIterator[None]:
    """Read the body inside the block: the client is told to go on if it waits for that. Raises BodyTooSlow."""
    if request.pop(EXPECTATION, None) is not None and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        with phase(request, Phase.BODY):
            async with asyncio.timeout(limits.BODY_SECONDS):
                yield
    except TimeoutError:
        raise BodyTooSlow from None


async def _read(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.RequestPayloadError:
        raise MalformedBody from None


def _check_content_type(value: str) -> None:
    media_type, *parameters = (part.strip() for part in value.lower().split(";"))
    if media_type and not _JSON_TYPE.fullmatch(media_type):
        raise UnsupportedContentType
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name == "charset" and charset.strip('"') != "utf-8":
            raise UnsupportedContentType
