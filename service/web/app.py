"""Builds the application from the table of routes and from the services that the handlers call."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from service.access import Access
from service.contacts.use_cases import Contacts
from service.exports.priority import RequestPriority
from service.exports.use_cases import Exports
from service.web.contacts import CONTACTS
from service.web.cors import Cors
from service.web.exports import CURSORS, EXPORTS, PAGE_TURNS
from service.web.files import OPEN_LINK, OpenLink
from service.web.gate import PRIORITY, Gate
from service.web.health import ALIVE, READY, Readiness
from service.web.limits import MAXIMUM_BODY
from service.web.middleware import ON_RESPONSE, OnResponse, finish_response, identify, render_errors
from service.web.origin import PUBLIC_URL, MissingPublicUrl
from service.web.page_turns import PageTurns
from service.web.paging import Cursors
from service.web.rate_limits import Throttle
from service.web.reference import OPENAPI, OpenApiDocument
from service.web.routes import ROUTES
from service.web.sending import UNSENT, Unsent


@dataclass(frozen=True, slots=True)
class WebServices:
    """What the HTTP side calls.

    `require_started` raises a ServiceError, such as Starting, until the API can work. `open_link` is
    `DirectoryStore.open_link` if files are in a directory, else None.
    """

    access: Access
    exports: Exports
    contacts: Contacts
    rate_limits: Throttle
    cursors: Cursors
    priority: RequestPriority
    require_started: Callable[[], None]
    alive: Callable[[], bool]
    ready: Callable[[], Awaitable[Readiness]]
    open_link: OpenLink | None = None
    on_response: OnResponse | None = None


def build_app(
    services: WebServices, *, public_url: str | None, api_docs: bool = True, cors_origins: Collection[str] = ()
) -> web.Application:
    """The application, ready to listen. `public_url` is PUBLIC_URL without a trailing slash.

    With `api_docs` it describes itself at /openapi.json and /docs. Pages of `cors_origins` may call it from browsers.
    """
    cors = Cors(cors_origins, ROUTES) if cors_origins else None
    app = web.Application(
        middlewares=[identify, *([cors.preflight] if cors else []), render_errors],
        client_max_size=MAXIMUM_BODY,
    )
    app.on_response_prepare.extend([finish_response, MissingPublicUrl().notice])
    if cors:
        app.on_response_prepare.append(cors.finish_response)
    app[EXPORTS] = services.exports
    app[CONTACTS] = services.contacts
    app[CURSORS] = services.cursors
    app[PRIORITY] = services.priority
    app[PAGE_TURNS] = PageTurns()
    app[UNSENT] = Unsent()
    app[ALIVE] = services.alive
    app[READY] = services.ready
    if services.open_link is not None:
        app[OPEN_LINK] = services.open_link
    if services.on_response is not None:
        app[ON_RESPONSE] = services.on_response
    if public_url is not None:
        app[PUBLIC_URL] = public_url
    if api_docs:
        app[OPENAPI] = OpenApiDocument(lambda: _describe(app, services.rate_limits))
    gate = Gate(services.access, services.rate_limits, services.priority, services.require_started)
    for route in ROUTES:
        if route.requires is None or route.requires in app:
            handler = route.handler
            if route.scope is not None and route.bucket is not None:
                handler = gate.guard(handler, route.scope, route.bucket)
            app.router.add_route(route.method, route.path, handler)
            if route.method == hdrs.METH_GET:
                app.router.add_route(hdrs.METH_HEAD, route.path, handler)
    return app


def _describe(app: web.Application, rate_limits: Throttle) -> bytes:
    from service.web.openapi import describe  # noqa: PLC0415 - only a process that is asked for the document loads the library

    routes = [route for route in ROUTES if route.requires is None or route.requires in app]
    return describe(routes, rate_limits.quotas, base_path=urlsplit(app.get(PUBLIC_URL, "")).path)
