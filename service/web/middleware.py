"""Middleware: request id, trace id, error rendering, and the headers and the log line of every response."""

import re
import time
from collections.abc import Callable
from http import HTTPStatus
from secrets import token_hex

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.errors import ServiceError
from service.web import problems
from service.web.gate import ALLOWANCE, CALLER
from service.web.tracing import PROBES, end_span, log_fields, route_of, traced

REQUEST_ID = web.RequestKey("request_id", str)
EXPECTATION = web.RequestKey("expectation", str)
"""The header Expect, until it is met; the server takes it out of the headers."""
_CONTINUE = "100-continue"
_STARTED = web.RequestKey("started", float)

OnResponse = Callable[[str | None, str, int, float, str | None], None]
"""Gets the route (None for an unknown address), the method, the status, the seconds, and the rate limit that was read."""
ON_RESPONSE: web.AppKey[OnResponse] = web.AppKey("on_response")
"""Called for each response, if the application has it."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)

log = structlog.get_logger()


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, and add it and the id of the trace to every log line of the request."""
    bound = structlog.contextvars.bind_contextvars(request_id=_identified(request))
    try:
        with traced(request):
            return await handler(request)
    finally:
        structlog.contextvars.reset_contextvars(**bound)


async def finish_response(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that every response has, and log the request. Called before the first byte is sent.

    A signal, not a middleware: aiohttp determines the status of a file (206, 304, 416) only at this point. The log line has
    the route and never the address, because the address may be a signed link.
    """
    request_id = _identified(request)
    problems.stamp(response.headers, request_id)
    allowance = request.get(ALLOWANCE)
    # A Space that was deleted after its key was checked has no limit any more.
    if allowance is not None and response.status != HTTPStatus.UNAUTHORIZED:
        response.headers.update(allowance.headers)
    caller = request.get(CALLER)
    route = route_of(request)
    if EXPECTATION in request:
        # The client may send the body that it announced, or not: the next bytes have no certain meaning.
        response.force_close()
        response.headers["Connection"] = "close"
    seconds = time.perf_counter() - request[_STARTED]
    if ON_RESPONSE in request.app:
        bucket = allowance.bucket if allowance else None
        request.app[ON_RESPONSE](route, request.method, response.status, seconds, bucket)
    end_span(request, response.status)
    (log.debug if route in PROBES else log.info)(
        "request",
        method=request.method,
        route=route,
        status=response.status,
        duration_ms=round(seconds * 1000, 1),
        request_id=request_id,
        space_id=caller.space_id if caller else None,
        **log_fields(request),
    )


@web.middleware
async def render_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into a response. An unexpected one is logged with its traceback."""
    try:
        _check_expectation(request)
        return await handler(request)
    except ServiceError as error:
        problem = problems.of_service_error(error)
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("request_refused", code=error.code, detail=error.detail)
    except web.HTTPException as error:
        problem = problems.of_http_error(error)
    except Exception as error:
        if isinstance(error, ConnectionError) and request.transport is None:
            # The client disconnected while it sent its request: nobody reads this response.
            return web.Response(status=400)
        log.exception("request_failed")
        problem = problems.INTERNAL
    return problems.render(problem, accept=request.headers.get("Accept", ""), request_id=request[REQUEST_ID])


def _check_expectation(request: web.Request) -> None:
    if request.get(EXPECTATION, _CONTINUE).lower() != _CONTINUE:
        raise web.HTTPExpectationFailed


def _identified(request: web.Request) -> str:
    if REQUEST_ID not in request:
        sent = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = sent if sent and _REQUEST_ID.fullmatch(sent) else token_hex(16)
        request[_STARTED] = time.perf_counter()
    return request[REQUEST_ID]
