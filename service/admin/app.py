"""Builds the application of the operator's port: metrics, health checks and the operator's page."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.access import Access
from service.admin import exports, spaces
from service.admin.errors import render_page_errors
from service.admin.guard import LOGIN, MACHINES, SESSIONS, guard
from service.admin.login import log_in, log_out, show_login
from service.admin.rendering import SECURITY_HEADERS
from service.admin.sessions import Sessions
from service.admin.situation import Situation
from service.exports.acts import OperatorActs
from service.metrics.scrape import CONTENT_TYPE, Metrics
from service.postgres.access import AccessTables
from service.postgres.overview import Overview
from service.postgres.webhook_deliveries import WebhookDeliveries
from service.web.health import ALIVE, READY, Readiness, show_liveness, show_readiness
from service.web.limits import MAXIMUM_BODY
from service.web.middleware import REQUEST_ID, identify
from service.web.problems import stamp
from service.web.tracing import log_fields, route_of

CONNECTIONS = 128
"""Most connections of the operator's port at once: one client that leaves many open keeps no scrape out."""

METRICS = web.AppKey("metrics", Metrics)
_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
_SPACE = "/spaces/{space_id:[0-9]+}"
_KEY = _SPACE + "/keys/{key_id:[0-9a-f]{16}}"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AdminServices:
    """What the operator's port calls."""

    metrics: Metrics
    alive: Callable[[], bool]
    ready: Callable[[], Awaitable[Readiness]]
    situation: Situation
    overview: Overview
    deliveries: WebhookDeliveries
    acts: OperatorActs
    access: Access
    tables: AccessTables


def build_admin_app(services: AdminServices, *, token: str | None) -> web.Application:
    """The application, ready to listen. `token` is ADMIN_TOKEN; without it the page is read-only."""
    app = web.Application(middlewares=[identify, render_page_errors, guard], client_max_size=MAXIMUM_BODY)
    app.on_response_prepare.append(_finish_response)
    app[METRICS] = services.metrics
    app[ALIVE] = services.alive
    app[READY] = services.ready
    app[exports.SITUATION] = services.situation
    app[exports.OVERVIEW] = services.overview
    app[exports.DELIVERIES] = services.deliveries
    app[exports.ACTS] = services.acts
    app[spaces.ACCESS] = services.access
    app[spaces.TABLES] = services.tables
    if token is not None:
        app[SESSIONS] = Sessions(token)
    app.router.add_routes(_routes())
    return app


def _routes() -> list[web.RouteDef]:
    get, post = hdrs.METH_GET, hdrs.METH_POST
    table: list[tuple[str, str, Handler]] = [
        (get, "/metrics", show_metrics),
        (get, "/healthz", show_liveness),
        (get, "/readyz", show_readiness),
        (get, "/static/{name}", show_static),
        (get, LOGIN, show_login),
        (post, LOGIN, log_in),
        (post, "/logout", log_out),
        (get, "/", exports.show_overview),
        (get, "/exports", exports.list_exports),
        (get, "/exports/{export_id}", exports.show_export),
        (get, "/exports/{export_id}/{act}", exports.confirm_act),
        (post, "/exports/{export_id}/{act}", exports.do_act),
        (get, "/spaces", spaces.list_spaces),
        (post, "/spaces", spaces.create_space),
        (get, _SPACE, spaces.show_space),
        (post, _SPACE + "/keys", spaces.create_key),
        (get, _SPACE + "/{act:suspend|activate}", spaces.confirm_subscription),
        (post, _SPACE + "/{act:suspend|activate}", spaces.set_subscription),
        (get, _KEY + "/revoke", spaces.confirm_revocation),
        (post, _KEY + "/revoke", spaces.revoke_key),
    ]
    return [(web.get if method == get else web.post)(path, handler) for method, path, handler in table]


async def show_metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics"""
    return web.Response(body=await request.app[METRICS].text(), headers={"Content-Type": CONTENT_TYPE})


async def show_static(request: web.Request) -> web.StreamResponse:
    """GET /static/{name}"""
    name = request.match_info["name"]
    if name not in _STATIC_TYPES:
        raise web.HTTPNotFound
    return web.Response(body=_read(name), content_type=_STATIC_TYPES[name], charset="utf-8")


@cache
def _read(name: str) -> bytes:
    return (_STATIC / name).read_bytes()


async def _finish_response(request: web.Request, response: web.StreamResponse) -> None:
    request_id = request[REQUEST_ID]
    stamp(response.headers, request_id)
    if request.path not in MACHINES:
        response.headers.update(SECURITY_HEADERS)
    line = {"route": route_of(request), "status": response.status, "request_id": request_id, **log_fields(request)}
    log.debug("admin_request", method=request.method, **line)
