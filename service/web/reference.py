"""Handlers of the API's description: the OpenAPI document, and the page that shows it."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Literal, get_args

from aiohttp import ETag, hdrs, web

OPENAPI_PATH = "/openapi.json"
DOCS_PATH = "/docs"
DOCS_FILE_PATH = f"{DOCS_PATH}/{{file_name}}"

DocsFile = Literal["favicon-32x32.png", "start.js", "swagger-ui-bundle.js", "swagger-ui.css"]
"""The files that the page loads."""

_TURN_SECONDS = 0.0005
"""Building the document takes 0.2 s. With the usual turns of 5 ms a status call then took 150 ms, with these 30 ms."""
_DIRECTORY = Path(__file__).parent / "swagger"
_CONTENT_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".png": "image/png"}
_PAGE_HEADERS = {
    # Swagger UI sets styles through the DOM, which `style-src` allows, and its stylesheet has images in `data:` URLs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class OpenApiDocument:
    """The bytes of the OpenAPI document. `build` is called once, at the first use and in a thread."""

    def __init__(self, build: Callable[[], bytes]) -> None:
        self._build = build
        self._lock = asyncio.Lock()
        self._text: bytes | None = None

    async def get(self) -> bytes:
        """The document as JSON."""
        async with self._lock:
            if self._text is None:
                with _short_turns():
                    self._text = await asyncio.to_thread(self._build)
            return self._text


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads take turns often: the event loop waits for its turn several times in each request."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


OPENAPI = web.AppKey("openapi", OpenApiDocument)
"""Absent from the application if API_DOCS is false."""


async def show_openapi(request: web.Request) -> web.StreamResponse:
    """GET /openapi.json"""
    return _public(request, await request.app[OPENAPI].get(), "application/json")


async def show_docs(request: web.Request) -> web.StreamResponse:
    """GET /docs"""
    return await _show_file(request, "index.html")


async def show_docs_file(request: web.Request) -> web.StreamResponse:
    """GET /docs/{file_name}"""
    name = request.match_info["file_name"]
    if name not in get_args(DocsFile):
        raise web.HTTPNotFound
    return await _show_file(request, name)


async def _show_file(request: web.Request, name: str) -> web.StreamResponse:
    response = _public(request, await asyncio.to_thread(_read, name), _CONTENT_TYPES[Path(name).suffix])
    if response.status == HTTPStatus.OK:
        response.headers.update(_PAGE_HEADERS)
    return response


@cache
def _read(name: str) -> bytes:
    return (_DIRECTORY / name).read_bytes()


@cache
def _tag(body: bytes) -> str:
    return sha256(body).hexdigest()[:32]


def _public(request: web.Request, body: bytes, content_type: str) -> web.Response:
    """A response that caches may keep, but must revalidate: 304 if the client has these bytes already."""
    tag = _tag(body)
    known = any(sent.value in (tag, "*") for sent in request.if_none_match or ())
    response = web.Response(status=HTTPStatus.NOT_MODIFIED) if known else web.Response(body=body)
    if not known:
        response.content_type = content_type
        response.charset = None if content_type == "image/png" else "utf-8"
    response.etag = ETag(tag)
    response.headers[hdrs.CACHE_CONTROL] = "no-cache"
    return response
