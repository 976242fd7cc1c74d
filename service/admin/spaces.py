"""Pages about Spaces and their API keys: create, suspend, activate, revoke."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import structlog
from aiohttp import web

from service.access import Access
from service.admin.fields import LARGEST_ID, UnknownId, id_of, whole_number
from service.admin.guard import FORM
from service.admin.rendering import SESSION, page
from service.errors import SpaceNotFound, UnknownTimezone
from service.model import Scope, timezone
from service.postgres.access import AccessTables, Space

ACCESS = web.AppKey("access", Access)
TABLES = web.AppKey("tables", AccessTables)
_PAGE = 100
_LONGEST_NAME = 200
_MOST_DAYS = 36_500

log = structlog.get_logger()


async def list_spaces(request: web.Request) -> web.StreamResponse:
    """GET /spaces?after=ID"""
    return await _spaces(request, errors={}, given={})


async def create_space(request: web.Request) -> web.StreamResponse:
    """POST /spaces"""
    form = request[FORM]
    name, zone = form.get("name", "").strip(), form.get("timezone", "").strip()
    errors = {}
    if not name or not name.isprintable() or len(name) > _LONGEST_NAME:
        errors["name"] = f"The name must have 1 to {_LONGEST_NAME} visible characters."
    try:
        timezone(zone)
    except UnknownTimezone:
        errors["timezone"] = "This is not an IANA timezone such as Europe/Berlin."
    if not errors:
        space_id = await request.app[ACCESS].create_space(name, zone)
        log.info("admin_act", act="create-space", space_id=space_id)
        return web.Response(status=303, headers={"Location": f"/spaces/{space_id}"})
    return await _spaces(request, errors=errors, given={"name": name, "timezone": zone}, status=422)


async def show_space(request: web.Request) -> web.StreamResponse:
    """GET /spaces/{space_id}"""
    return await _space(request, errors={}, key=None)


async def create_key(request: web.Request) -> web.StreamResponse:
    """POST /spaces/{space_id}/keys: the response is the only page that ever shows the key."""
    space_id, form = _space_id(request), request[FORM]
    scopes = [scope for scope in Scope if scope in form.getall("scope", [])]
    days = form.get("days", "").strip()
    errors = {}
    if not scopes:
        errors["scope"] = "Choose at least one scope."
    if days and whole_number(days, largest=_MOST_DAYS) is None:
        errors["days"] = f"The lifetime must be 1 to {_MOST_DAYS} days, or empty."
    if errors:
        return await _space(request, errors=errors, key=None, status=422)
    key = await request.app[ACCESS].create_key(space_id, scopes, timedelta(days=int(days)) if days else None)
    log.info("admin_act", act="create-key", space_id=space_id, key_id=key.split("_")[1])
    return await _space(request, errors={}, key=key)


async def confirm_subscription(request: web.Request) -> web.StreamResponse:
    """GET /spaces/{space_id}/{act}, with suspend or activate"""
    if SESSION not in request:
        raise web.HTTPForbidden
    return page(request, "confirm_space.html", space=await _find(request), act=request.match_info["act"])


async def set_subscription(request: web.Request) -> web.StreamResponse:
    """POST /spaces/{space_id}/{act}, with suspend or activate"""
    space_id, act = _space_id(request), request.match_info["act"]
    await request.app[TABLES].set_subscription(space_id, active=act == "activate")
    log.info("admin_act", act=f"{act}-space", space_id=space_id)
    return web.Response(status=303, headers={"Location": f"/spaces/{space_id}"})


async def confirm_revocation(request: web.Request) -> web.StreamResponse:
    """GET /spaces/{space_id}/keys/{key_id}/revoke"""
    if SESSION not in request:
        raise web.HTTPForbidden
    return page(request, "confirm_key.html", space=await _find(request), key_id=request.match_info["key_id"])


async def revoke_key(request: web.Request) -> web.StreamResponse:
    """POST /spaces/{space_id}/keys/{key_id}/revoke"""
    space_id, key_id = _space_id(request), request.match_info["key_id"]
    if not await request.app[ACCESS].revoke_key(key_id):
        raise UnknownId("There is no such key.")
    log.info("admin_act", act="revoke-key", space_id=space_id, key_id=key_id)
    return web.Response(status=303, headers={"Location": f"/spaces/{space_id}"})


async def _spaces(
    request: web.Request, *, errors: Mapping[str, str], given: Mapping[str, str], status: int = 200
) -> web.Response:
    after = whole_number(request.query.get("after", ""), largest=LARGEST_ID) or 0
    found = await request.app[TABLES].spaces_from(after, limit=_PAGE + 1)
    following = found[_PAGE - 1].space_id if len(found) > _PAGE else None
    values = {"name": "", "timezone": "", **given}
    return page(
        request, "spaces.html", status=status, spaces=found[:_PAGE], following=following, errors=errors, given=values
    )


async def _space(request: web.Request, *, errors: Mapping[str, str], key: str | None, status: int = 200) -> web.Response:
    space = await _find(request)
    keys = await request.app[TABLES].keys(space.space_id)
    return page(
        request,
        "space.html",
        status=status,
        space=space,
        keys=keys,
        scopes=list(Scope),
        errors=errors,
        key=key,
        now=datetime.now(UTC),
    )


async def _find(request: web.Request) -> Space:
    space_id = _space_id(request)
    found = await request.app[TABLES].spaces_from(space_id - 1, limit=1)
    if not found or found[0].space_id != space_id:
        raise SpaceNotFound
    return found[0]


def _space_id(request: web.Request) -> int:
    return id_of(request.match_info["space_id"])
