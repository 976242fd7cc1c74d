"""Handlers of the export API: each parses the request to a value, calls one use case and renders the result."""

from collections.abc import Mapping
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.exports.use_cases import Exports, ExportView
from service.exports.waiting import Wait
from service.model import ExportJob, ExportStatus, Position
from service.web.bodies import json_response, page_response, read_json_object
from service.web.export_bodies import ExportBody, parse_creation, parse_export_id, render_created, render_export
from service.web.gate import CALLER
from service.web.idempotency import IDEMPOTENCY_KEY
from service.web.middleware import REQUEST_ID
from service.web.origin import origin_of, path_of
from service.web.page_turns import PageTurns
from service.web.paging import Cursors, PagedList, parse_page_request, render_in_slices, render_page
from service.web.preferences import PREFER, PREFERENCE_APPLIED, parse_wait, render_applied
from service.web.tracing import TRACE

EXPORTS_PATH = "/public-api/v1/contacts/exports"

EXPORTS = web.AppKey("exports", Exports)
CURSORS = web.AppKey("cursors", Cursors)
PAGE_TURNS = web.AppKey("page_turns", PageTurns)

_POLL_SECONDS = 2
"""Pause between two polls that Retry-After asks for, in seconds: 30 calls a minute."""


async def create_export(request: web.Request) -> web.StreamResponse:
    """POST /contacts/exports"""
    body = await read_json_object(request)
    asked, key = parse_creation(body, request.headers.getall(IDEMPOTENCY_KEY, []))
    exports, caller, wait = request.app[EXPORTS], request[CALLER], _wait(request)
    origin = origin_of(request) if wait is not None else ""  # before the export exists: the Host header may be malformed
    created = await exports.create(
        caller, asked, request_id=request[REQUEST_ID], idempotency_key=key, trace=request.get(TRACE)
    )
    headers = {"Location": path_of(request, f"{EXPORTS_PATH}/{created.job.export_id}")}
    if created.replayed:
        headers["Idempotent-Replayed"] = "true"
    if wait is not None:
        view = await exports.status_of_created(caller, created, origin=origin, wait=wait)
        if view is not None:
            return json_response(render_export(view), status=202, headers={**headers, **_status_headers(view, wait)})
    headers["Retry-After"] = str(_POLL_SECONDS)
    return json_response(render_created(created.job), status=202, headers=headers)


async def list_exports(request: web.Request) -> web.StreamResponse:
    """GET /contacts/exports"""
    caller, cursors = request[CALLER], request.app[CURSORS]
    asked = await parse_page_request(EXPORT_LIST, request.query, caller.space_id, cursors)
    filters, address = asked.filters, f"{origin_of(request)}{EXPORTS_PATH}"
    async with request.app[PAGE_TURNS].turn(asked.per_page):
        page = await request.app[EXPORTS].page(caller, status=filters.status, position=asked.position, size=asked.per_page)
        items = await render_in_slices(page.jobs, _render_item)
        body = await render_page(asked, items, cursors, address, after=page.next, before=page.previous)
        return await page_response(request, body)


async def show_export(request: web.Request) -> web.StreamResponse:
    """GET /contacts/exports/{export_id}"""
    export_id = parse_export_id(request.match_info["export_id"])
    wait = _wait(request)
    view = await request.app[EXPORTS].status(request[CALLER], export_id, origin=origin_of(request), wait=wait)
    return json_response(render_export(view), headers=_status_headers(view, wait))


async def download_export(request: web.Request) -> web.StreamResponse:
    """GET /contacts/exports/{export_id}/download"""
    export_id = parse_export_id(request.match_info["export_id"])
    link = await request.app[EXPORTS].download(request[CALLER], export_id, origin=origin_of(request))
    return web.Response(status=302, headers={"Location": link.url})


async def cancel_export(request: web.Request) -> web.StreamResponse:
    """DELETE /contacts/exports/{export_id}"""
    export_id = parse_export_id(request.match_info["export_id"])
    job = await request.app[EXPORTS].cancel(request[CALLER], export_id)
    return json_response(render_export(ExportView(job, None)), status=202)


def _wait(request: web.Request) -> Wait | None:
    """The wait that the Prefer header asks for. The transport is None once the client has disconnected."""
    seconds = parse_wait(request.headers.getall(PREFER, []))
    return None if seconds is None else Wait(seconds, lambda: request.transport is None)


def _status_headers(view: ExportView, wait: Wait | None) -> Mapping[str, str]:
    headers = {"Retry-After": str(_POLL_SECONDS)} if view.job.status.pending else {}
    if wait is not None and view.wait_applied:
        headers[PREFERENCE_APPLIED] = render_applied(wait.seconds)
    return headers


# The list of exports -------------------------------------------------------------------------------------------------


def _status(value: object) -> ExportStatus:
    if isinstance(value, str) and value in tuple(ExportStatus):
        return ExportStatus(value)
    raise PydanticCustomError("status", f"must be one of {', '.join(ExportStatus)}.")


class ExportFilters(BaseModel):
    """The filters of GET /contacts/exports."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Annotated[
        ExportStatus | None,
        BeforeValidator(_status),
        WithJsonSchema({"enum": [status.value for status in ExportStatus], "description": "Only exports in this state."}),
    ] = None


def _pack(position: Position) -> bytes:
    return (b"-" if position.newer else b"+") + position.beyond.to_bytes(8, "big")


def _unpack(place: bytes) -> Position:
    return Position(int.from_bytes(place[1:], "big"), newer=place[:1] == b"-")


EXPORT_LIST = PagedList(
    name="exports",
    filters=ExportFilters,
    cursor_message="must come from a previous response of this list, for the same Space and the same status filter.",
    pack=_pack,
    unpack=_unpack,
)


def _render_item(job: ExportJob) -> ExportBody:
    return render_export(ExportView(job, None))
