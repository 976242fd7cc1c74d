"""The login of the operator's page."""

import asyncio

import structlog
from aiohttp import web

from service.admin.guard import FORM, LOGIN, SESSIONS
from service.admin.rendering import page
from service.admin.sessions import COOKIE, LIFETIME

_WRONG_PAUSE = 1.0
"""Seconds before a wrong token is answered."""

log = structlog.get_logger()


async def show_login(request: web.Request) -> web.StreamResponse:
    """GET /login"""
    if SESSIONS not in request.app:
        raise web.HTTPSeeOther("/")
    return page(request, "login.html", error=None)


async def log_in(request: web.Request) -> web.StreamResponse:
    """POST /login"""
    if not request.app[SESSIONS].token_matches(request[FORM].get("token", "")):
        log.warning("admin_login_refused", remote=request.remote)
        await asyncio.sleep(_WRONG_PAUSE)
        return page(request, "login.html", status=403, error="This is not the token.")
    log.info("admin_login", remote=request.remote)
    response = web.Response(status=303, headers={"Location": "/"})
    response.set_cookie(
        COOKIE,
        request.app[SESSIONS].begin(),
        max_age=int(LIFETIME.total_seconds()),
        httponly=True,
        samesite="Strict",
        secure=_came_by_tls(request),
    )
    return response


async def log_out(request: web.Request) -> web.StreamResponse:
    """POST /logout"""
    response = web.Response(status=303, headers={"Location": LOGIN})
    response.del_cookie(COOKIE, httponly=True, samesite="Strict", secure=_came_by_tls(request))
    return response


def _came_by_tls(request: web.Request) -> bool:
    """Whether the browser used TLS. Only a proxy in front knows; a false claim harms nobody but who makes it."""
    return request.headers.get("X-Forwarded-Proto", request.scheme).lower() == "https"
