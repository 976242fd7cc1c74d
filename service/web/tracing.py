"""The trace of a request: taken from its headers, in its log lines, and its span if the process exports spans."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from aiohttp import web

from service.events import in_logs
from service.trace_context import TraceContext, parse

PROBES = frozenset({"/healthz", "/readyz"})
"""Routes that are called every few seconds: they have no spans, and their log lines have the level debug."""


class RequestSpan(Protocol):
    """The span of a request."""

    @property
    def context(self) -> TraceContext | None:
        """The context for what the request causes. None only if the span could not be made."""

    def current(self) -> AbstractContextManager[None]:
        """Inside the block, new spans are its children."""

    def end(self, status: int) -> None:
        """Called once, with the status of the response."""


OnRequest = Callable[[str | None, str, TraceContext | None, str], RequestSpan]
"""Gets the route (None for an unknown address), the method, the received context, and the header `tracestate`."""
ON_REQUEST: web.AppKey[OnRequest] = web.AppKey("on_request")
"""Called for each request but probes, if the application has it."""
TRACE = web.RequestKey("trace", TraceContext)
"""The trace of the request: that of its span or, without spans, of its headers. Absent if there is neither."""
_SPAN: web.RequestKey[RequestSpan] = web.RequestKey("span", RequestSpan)
_WITHOUT_TRACE = nullcontext()


def traced(request: web.Request) -> AbstractContextManager[object]:
    """Add the trace id to the log lines inside the block, and make the span of the request the current one."""
    sent = request.headers.getall("traceparent", ())
    trace = parse(sent[0]) if len(sent) == 1 else None
    if ON_REQUEST in request.app and (route := route_of(request)) not in PROBES:
        return _in_span(request, route, trace)
    if trace is None:
        return _WITHOUT_TRACE
    request[TRACE] = trace
    return in_logs(trace)


@contextmanager
def _in_span(request: web.Request, route: str | None, trace: TraceContext | None) -> Iterator[None]:
    state = ",".join(request.headers.getall("tracestate", ()))
    span = request[_SPAN] = request.app[ON_REQUEST](route, request.method, trace, state)
    if span.context is not None:
        request[TRACE] = span.context
    with in_logs(span.context), span.current():
        yield


def end_span(request: web.Request, status: int) -> None:
    """End the span of the request, if it has one."""
    if _SPAN in request:
        request[_SPAN].end(status)


def log_fields(request: web.Request) -> dict[str, str]:
    """The trace id for a log line that is written outside `traced`; empty without a trace."""
    return {"trace_id": request[TRACE].trace_id} if TRACE in request else {}


def route_of(request: web.Request) -> str | None:
    """The route of the request, which contains no values of its address; None for an unknown address."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else None
