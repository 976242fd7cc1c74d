"""Builds the application of the operator's port."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from aiohttp import web

from service.metrics.scrape import CONTENT_TYPE, Metrics
from service.web.health import ALIVE, READY, Readiness, show_liveness, show_readiness
from service.web.middleware import REQUEST_ID, identify, render_errors
from service.web.problems import stamp

CONNECTIONS = 128
"""Most connections of the operator's port at once: one client that leaves many open keeps no scrape out."""

METRICS = web.AppKey("metrics", Metrics)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AdminServices:
    """What the operator's port calls."""

    metrics: Metrics
    alive: Callable[[], bool]
    ready: Callable[[], Awaitable[Readiness]]


def build_admin_app(services: AdminServices) -> web.Application:
    """The application, ready to listen."""
    app = web.Application(middlewares=[identify, render_errors])
    app.on_response_prepare.append(_finish_response)
    app[METRICS] = services.metrics
    app[ALIVE] = services.alive
    app[READY] = services.ready
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_liveness)
    app.router.add_get("/readyz", show_readiness)
    return app


async def show_metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics"""
    return web.Response(body=await request.app[METRICS].text(), headers={"Content-Type": CONTENT_TYPE})


async def _finish_response(request: web.Request, response: web.StreamResponse) -> None:
    request_id = request[REQUEST_ID]
    stamp(response.headers, request_id)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else None
    log.debug("admin_request", method=request.method, route=route, status=response.status, request_id=request_id)
