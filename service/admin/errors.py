"""Errors of the operator's port: pages for people, JSON for programs."""

from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.admin.guard import MACHINES
from service.admin.rendering import page
from service.errors import ServiceError, SpaceNotFound
from service.web import problems
from service.web.middleware import REQUEST_ID, render_errors
from service.web.problems import Problem

_UNKNOWN_OUTCOME = "It is not known whether the act was done: look at its result before you try again."

log = structlog.get_logger()


@web.middleware
async def render_page_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into a response. An unexpected one is logged with its traceback."""
    if request.path in MACHINES:
        return await render_errors(request, handler)
    try:
        return await handler(request)
    except ServiceError as error:
        problem = _of_service_error(error)
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("admin_request_refused", code=error.code, detail=error.detail)
    except web.HTTPRedirection:
        raise
    except web.HTTPForbidden:
        problem = Problem(
            HTTPStatus.FORBIDDEN, "This page is read-only. To act here, set ADMIN_TOKEN and restart the service."
        )
    except web.HTTPException as error:
        problem = problems.of_http_error(error)
    except Exception:
        log.exception("admin_request_failed")
        problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"Internal error. Request id: {request[REQUEST_ID]}")
    return _page(request, problem)


def _of_service_error(error: ServiceError) -> Problem:
    if isinstance(error, SpaceNotFound):
        return Problem(HTTPStatus.NOT_FOUND, error.message)
    return problems.of_service_error(error)


def _page(request: web.Request, problem: Problem) -> web.Response:
    failed = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    text = f"{problem.message} {_UNKNOWN_OUTCOME}" if failed and request.method == hdrs.METH_POST else problem.message
    response = page(request, "message.html", status=problem.status, title=problem.status.phrase, text=text)
    response.headers.extend(problem.headers)
    return response
