"""Who may see the operator's page, and who may act on it."""

import hmac
import ipaddress
from urllib.parse import parse_qsl

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import MultiDict

from service.admin.rendering import SESSION, page
from service.admin.sessions import COOKIE, Session, Sessions
from service.web.bodies import receiving_body
from service.web.problems import MalformedBody

SESSIONS = web.AppKey("sessions", Sessions)
"""Absent from the application without ADMIN_TOKEN: then nobody can act."""
FORM = web.RequestKey("form", MultiDict[str])
"""The fields of a posted form; its token is valid."""
LOGIN = "/login"
CSRF = "csrf"
MACHINES = frozenset({"/metrics", "/healthz", "/readyz"})
"""Paths that programs call: they need no token, and their errors are JSON."""
_STATIC = "/static/"
_FORM_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 20

log = structlog.get_logger()


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request pass, lead to the login, or refuse it."""
    if request.path in MACHINES or request.path.startswith(_STATIC):
        return await handler(request)
    sessions = request.app.get(SESSIONS)
    if sessions is None:
        return _refused_without_token(request) or await handler(request)
    if request.path == LOGIN:
        return await _at_login(request, handler)
    session = sessions.find(request.cookies.get(COOKIE))
    if session is None:
        raise web.HTTPSeeOther(LOGIN)
    request[SESSION] = session
    return await _refused_form(request, session) or await handler(request)


def _refused_without_token(request: web.Request) -> web.Response | None:
    if not _is_loopback(request.headers.getall(hdrs.HOST, [])):
        return _refusal(request, "Without ADMIN_TOKEN this page is only shown under a loopback name such as localhost.")
    if request.method == hdrs.METH_POST:
        return _refusal(request, "This page is read-only. To act here, set ADMIN_TOKEN and restart the service.")
    return None


async def _refused_form(request: web.Request, session: Session) -> web.Response | None:
    if request.method != hdrs.METH_POST:
        return None
    sent = (await _form(request)).get(CSRF, "")
    if hmac.compare_digest(sent.encode(errors="replace"), session.csrf.encode()):
        return None
    log.warning("admin_form_refused", path=request.path)
    return _refusal(request, "This form was not sent from this page, or it is too old. Open the page and try again.")


async def _at_login(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method == hdrs.METH_POST:
        # There is no session that could hold a token yet. Browsers say where a form comes from.
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return _refusal(request, "This form was not sent from this page.")
        await _form(request)
    return await handler(request)


async def _form(request: web.Request) -> MultiDict[str]:
    """Read the fields of a form. Raises HTTPUnsupportedMediaType, HTTPRequestEntityTooLarge, BodyTooSlow, MalformedBody."""
    if request.content_type != _FORM_TYPE:
        raise web.HTTPUnsupportedMediaType
    async with receiving_body(request):
        body = await request.read()
    try:
        form = MultiDict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise MalformedBody from None
    request[FORM] = form
    return form


def _refusal(request: web.Request, text: str) -> web.Response:
    return page(request, "message.html", status=403, title="Refused", text=text)


def _is_loopback(hosts: list[str]) -> bool:
    """Whether the header Host names this machine: a page of another name cannot have been opened here on purpose."""
    if len(hosts) != 1:
        return False
    name = hosts[0].rpartition("]")[0].removeprefix("[") or hosts[0].partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"
