"""What every request passes: outermost its id, then errors as answers, then the gate; and what every answer gets."""

import re
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.access import Access, authorise
from service.errors import ServiceError
from service.exports.priority import RequestPriority
from service.model import Caller, Scope
from service.web import problems
from service.web.rate_limits import Allowance, Bucket, Throttle

REQUEST_ID = web.RequestKey("request_id", str)
CALLER = web.RequestKey("caller", Caller)
ALLOWANCE = web.RequestKey("allowance", Allowance)
_STARTED = web.RequestKey("started", float)

ApiHandler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)

log = structlog.get_logger()


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, which its log lines carry too."""
    with structlog.contextvars.bound_contextvars(request_id=_identified(request)):
        return await handler(request)


async def finish(request: web.Request, response: web.StreamResponse) -> None:
    """To be called before an answer's first byte: give it the headers that all answers have, and log one line.

    A signal, not a middleware: only now the status of a file is known (206, 304, 416). The line names the route, never
    the address, which may be a signed link.
    """
    response.headers["X-Request-Id"] = request_id = _identified(request)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "contact-exports"
    if allowance := request.get(ALLOWANCE):
        response.headers.update(allowance.headers)
    resource = request.match_info.route.resource
    caller = request.get(CALLER)
    log.info(
        "request",
        method=request.method,
        route=resource.canonical if resource else None,
        status=response.status,
        duration_ms=round((time.perf_counter() - request[_STARTED]) * 1000, 1),
        request_id=request_id,
        space_id=caller.space_id if caller else None,
    )


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever is raised into an answer; what nobody foresaw is logged with its traceback."""
    try:
        return await handler(request)
    except ServiceError as error:
        problem = problems.of_service_error(error)
        if problem.status >= 500:
            log.warning("request_refused", code=error.code, detail=error.detail)
    except web.HTTPException as error:
        problem = problems.of_http_error(error)
    except Exception as error:
        if isinstance(error, ConnectionError) and request.transport is None:
            # The consumer went away while it was sending: nobody reads this answer.
            return web.Response(status=400)
        log.exception("request_failed")
        problem = problems.INTERNAL
    return problems.render(problem, accept=request.headers.get("Accept", ""), request_id=request[REQUEST_ID])


class Gate:
    """The way to a handler: who calls, whether they may, whether it is too often; in this order."""

    def __init__(self, callers: Access, throttle: Throttle, priority: RequestPriority, started: Callable[[], None]) -> None:
        self._callers = callers
        self._throttle = throttle
        self._priority = priority
        self._started = started

    def guard(self, handler: ApiHandler, scope: Scope, bucket: Bucket) -> Handler:
        """A handler for the route table that lets through what has the scope and fits into the bucket."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            with self._priority.request():
                self._started()
                caller = request[CALLER] = await self._callers.authenticate(_authorization(request))
                try:
                    authorise(caller, scope)
                except ServiceError:
                    request[ALLOWANCE] = await self._throttle.look(bucket, caller.space_id)
                    raise
                allowance = request[ALLOWANCE] = await self._throttle.hit(bucket, caller.space_id)
                allowance.check()
                return await handler(request, caller)

        return guarded


def _identified(request: web.Request) -> str:
    # Not only the first middleware comes here: what an Expect header asks for is refused before it.
    if REQUEST_ID not in request:
        sent = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = sent if _REQUEST_ID.fullmatch(sent) else uuid4().hex
        request[_STARTED] = time.perf_counter()
    return request[REQUEST_ID]


def _authorization(request: web.Request) -> str | None:
    values = request.headers.getall("Authorization", [])
    return values[0] if len(values) == 1 else None
