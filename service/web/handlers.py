"""One handler for each route: parse to a value, call one use case, render."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from service.exports.use_cases import Exports, ExportView
from service.model import Caller
from service.storage.directory import LocalFile
from service.storage.headers import CONTENT_TYPE, content_disposition
from service.web import paging, payloads
from service.web.cursors import Cursors
from service.web.idempotency import IDEMPOTENCY_KEY
from service.web.middleware import REQUEST_ID
from service.web.problems import MalformedHost

EXPORTS_PATH = "/public-api/v1/contacts/exports"

LocalFiles = Callable[[str, Mapping[str, str]], Awaitable[LocalFile]]
"""`DirectoryStore.open_link`: the file behind an object's name and a link's query."""

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?", re.ASCII)
_POLL_SECONDS = 2
"""Between two looks at an export: thirty calls a minute."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this process can work: `checks` maps what it stands on to None, or to a sentence about what is wrong."""

    checks: Mapping[str, str | None]

    @property
    def ready(self) -> bool:
        """True where nothing is wrong."""
        return not any(self.checks.values())


class ExportHandlers:
    """The export API. `public_url` is our own address for links, None for the one that the request named."""

    def __init__(self, exports: Exports, cursors: Cursors, public_url: str | None) -> None:
        self._exports = exports
        self._cursors = cursors
        self._public_url = public_url

    async def create(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """POST /contacts/exports"""
        body, keys = await payloads.json_object(request), request.headers.getall(IDEMPOTENCY_KEY, [])
        asked, key = payloads.creation(body, keys)
        created = await self._exports.create(caller, asked, request_id=request[REQUEST_ID], idempotency_key=key)
        headers = {"Location": f"{EXPORTS_PATH}/{created.job.export_id}", "Retry-After": str(_POLL_SECONDS)}
        if created.replayed:
            headers["Idempotent-Replayed"] = "true"
        return _answer(payloads.created(created.job), status=202, headers=headers)

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /contacts/exports"""
        query = await paging.query(request.query, caller, self._cursors)
        page = await self._exports.page(caller, status=query.status, position=query.position, size=query.per_page)
        address = f"{self._origin(request)}{EXPORTS_PATH}"
        return _answer(await paging.page(page, query, caller, self._cursors, address))

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """GET /contacts/exports/{export_id}"""
        export_id = payloads.export_id(request.match_info["export_id"])
        view = await self._exports.status(caller, export_id, origin=self._origin(request))
        headers = {"Retry-After": str(_POLL_SECONDS)} if view.job.status.pending else {}
        return _answer(payloads.status(view), headers=headers)

    async def cancel(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """DELETE /contacts/exports/{export_id}"""
        job = await self._exports.cancel(caller, payloads.export_id(request.match_info["export_id"]))
        return _answer(payloads.status(ExportView(job, None)), status=202)

    def _origin(self, request: web.Request) -> str:
        if self._public_url is not None:
            return self._public_url
        if not _HOST.fullmatch(request.host):
            raise MalformedHost
        return f"{request.scheme}://{request.host}"


class FileHandlers:
    """The files of a local store."""

    def __init__(self, local_files: LocalFiles) -> None:
        self._local_files = local_files

    async def download(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD /files/{object_name}, with ranges"""
        file = await self._local_files(request.match_info["object_name"], request.query)
        headers = {"Content-Type": CONTENT_TYPE, "Content-Disposition": content_disposition(file.filename)}
        return web.FileResponse(file.path, headers=headers)


class HealthHandlers:
    """What orchestrators ask."""

    def __init__(self, alive: Callable[[], bool], ready: Callable[[], Awaitable[Readiness]]) -> None:
        self._alive = alive
        self._ready = ready

    async def alive(self, _: web.Request) -> web.StreamResponse:
        """GET /healthz: whatever this stands on may be down, restarting us would not mend it"""
        if self._alive():
            return _answer({"status": "ok"})
        return _answer({"message": "The service has to be restarted.", "status": "stuck"}, status=503)

    async def ready(self, _: web.Request) -> web.StreamResponse:
        """GET /readyz"""
        readiness = await self._ready()
        return _answer(payloads.readiness(readiness.checks), status=200 if readiness.ready else 503)


def _answer(body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)
