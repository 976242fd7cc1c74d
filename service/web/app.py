"""Builds the application from the table of routes and from the services that the handlers call."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import hdrs, web

from service.access import Access
from service.exports.priority import RequestPriority
from service.exports.use_cases import Exports
from service.web.exports import CURSORS, EXPORTS, PAGE_TURNS
from service.web.files import OPEN_LINK, OpenLink
from service.web.gate import Gate
from service.web.health import ALIVE, READY, Readiness
from service.web.limits import MAXIMUM_BODY
from service.web.middleware import finish_response, identify, render_errors
from service.web.origin import PUBLIC_URL
from service.web.page_turns import PageTurns
from service.web.paging import Cursors
from service.web.rate_limits import Throttle
from service.web.routes import ROUTES


@dataclass(frozen=True, slots=True)
class WebServices:
    """What the HTTP side calls.

    `require_started` raises a ServiceError, such as Starting, until the API can work. `open_link` is
    `DirectoryStore.open_link` if files are in a directory, else None.
    """

    access: Access
    exports: Exports
    rate_limits: Throttle
    cursors: Cursors
    priority: RequestPriority
    require_started: Callable[[], None]
    alive: Callable[[], bool]
    ready: Callable[[], Awaitable[Readiness]]
    open_link: OpenLink | None = None


def build_app(services: WebServices, *, public_url: str | None) -> web.Application:
    """The application, ready to listen. `public_url` is PUBLIC_URL without a trailing slash."""
    app = web.Application(middlewares=[identify, render_errors], client_max_size=MAXIMUM_BODY)
    app.on_response_prepare.append(finish_response)
    app[EXPORTS] = services.exports
    app[CURSORS] = services.cursors
    app[PAGE_TURNS] = PageTurns()
    app[ALIVE] = services.alive
    app[READY] = services.ready
    if services.open_link is not None:
        app[OPEN_LINK] = services.open_link
    if public_url is not None:
        app[PUBLIC_URL] = public_url
    gate = Gate(services.access, services.rate_limits, services.priority, services.require_started)
    for route in ROUTES:
        if route.requires is None or route.requires in app:
            handler = route.handler if route.scope is None else gate.guard(route.handler, route.scope, route.bucket)
            app.router.add_route(route.method, route.path, handler)
            if route.method == hdrs.METH_GET:
                app.router.add_route(hdrs.METH_HEAD, route.path, handler)
    return app
