"""Pages about exports: the overview, the list, one export's story, and what an operator does to it."""

import structlog
from aiohttp import web

from service.admin.fields import UnknownId, id_of
from service.admin.guard import FORM
from service.admin.rendering import SESSION, page
from service.admin.situation import Situation
from service.exports.acts import Act, OperatorActs
from service.model import ExportStatus
from service.postgres.overview import Overview, Row
from service.postgres.webhook_deliveries import WebhookDeliveries

SITUATION = web.AppKey("situation", Situation)
OVERVIEW = web.AppKey("overview", Overview)
DELIVERIES = web.AppKey("deliveries", WebhookDeliveries)
ACTS = web.AppKey("acts", OperatorActs)
_NEWEST = 50

log = structlog.get_logger()

DONE = {
    Act.CANCEL: "The export was cancelled.",
    Act.DELETE_FILE: "The export has expired. Its file is being deleted.",
    Act.KICK: "The export was queued again and starts as soon as a slot is free.",
    Act.RETRY: "This export was queued with the parameters of the other one.",
}
CHANGED = "Nothing was done: the export changed its state in the meantime."


async def show_overview(request: web.Request) -> web.StreamResponse:
    """GET /"""
    return page(request, "overview.html", seen=await request.app[SITUATION].now())


async def list_exports(request: web.Request) -> web.StreamResponse:
    """GET /exports: the newest ones, optionally of one Space and with one status; `id` leads to one export."""
    if wanted := request.query.get("id", "").strip():
        raise web.HTTPSeeOther(f"/exports/{id_of(wanted)}")
    space_id = id_of(request.query["space"]) if request.query.get("space") else None
    status = request.query.get("status") or None
    if status not in {None, *ExportStatus}:
        raise web.HTTPNotFound
    rows = await request.app[OVERVIEW].latest(space_id=space_id, status=status, limit=_NEWEST)
    return page(
        request, "exports.html", rows=rows, space_id=space_id, chosen=status, statuses=list(ExportStatus), newest=_NEWEST
    )


async def show_export(request: web.Request) -> web.StreamResponse:
    """GET /exports/{export_id}"""
    row = await _find(request)
    attempts = await request.app[OVERVIEW].attempts(row["export_id"])
    deliveries = await request.app[DELIVERIES].of_export(row["export_id"])
    said = {**{act.value: text for act, text in DONE.items()}, "changed": CHANGED}.get(request.query.get("said", ""))
    acts = Act.possible(ExportStatus(row["status"])) if SESSION in request else ()
    return page(request, "export.html", export=row, attempts=attempts, deliveries=deliveries, acts=acts, said=said)


async def confirm_act(request: web.Request) -> web.StreamResponse:
    """GET /exports/{export_id}/{act}: say what will happen, with a form that does it."""
    act = _act(request)
    if SESSION not in request:
        raise web.HTTPForbidden
    row = await _find(request)
    possible = act in Act.possible(ExportStatus(row["status"]))
    return page(request, "confirm_export.html", export=row, act=act, possible=possible)


async def do_act(request: web.Request) -> web.StreamResponse:
    """POST /exports/{export_id}/{act}"""
    act, export_id, seen = _act(request), id_of(request.match_info["export_id"]), request[FORM].get("seen", "")
    if seen not in set(ExportStatus):
        raise web.HTTPUnprocessableEntity
    result = await request.app[ACTS].do(act, export_id, ExportStatus(seen))
    log.info("admin_act", act=act.value, export_id=export_id, seen=seen, result=result)
    said = "changed" if result is None else act.value
    return web.Response(status=303, headers={"Location": f"/exports/{result or export_id}?said={said}"})


async def _find(request: web.Request) -> Row:
    row = await request.app[OVERVIEW].one(id_of(request.match_info["export_id"]))
    if row is None:
        raise UnknownId
    return row


def _act(request: web.Request) -> Act:
    try:
        return Act(request.match_info["act"])
    except ValueError:
        raise web.HTTPNotFound from None
