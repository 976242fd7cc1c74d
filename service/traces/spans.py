"""The spans of a process: one for each request, attempt and store call, and none for a row.

The log and the metrics listen at the same places. An error of the library is logged and fails nothing else.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, Tracer, format_span_id, format_trace_id, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import events
from service.model import Claim
from service.trace_context import TraceContext

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})
_SERVER_ERROR = 500
_CHECKS = frozenset({"probe", "rehearse", "read_marker", "write_marker"})
"""Store calls that ask whether the store works and whose it is, some of them every few seconds."""
_FINE = ("ok", "cancelled")

Attributes = Mapping[str, str | int | float]

log = structlog.get_logger()


class RequestSpan:
    """The span of a request; see `service.web.tracing.RequestSpan`."""

    def __init__(self, span: Span, received: TraceContext | None) -> None:
        self._span = span
        self.context = _context_of(span) or received
        """None only after an error of the library."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside the block, new spans are its children."""
        with _entered(self._span):
            yield

    def end(self, status: int) -> None:
        """Called once, with the status of the response."""
        error = str(status) if status >= _SERVER_ERROR else None
        _end(self._span, {"http.response.status_code": status}, error=error)


class Traces:
    """Makes the spans of a process. It is also a listener of `service.events`, which gives attempts their outcome."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._attempts: dict[UUID, Span] = {}

    def request(self, route: str | None, method: str, trace: TraceContext | None, state: str) -> RequestSpan:
        """Start the span of a request, as a child of the received context."""
        method = method if method in _METHODS else "_OTHER"
        name = f"{'HTTP' if method == '_OTHER' else method} {route or ''}".strip()
        attributes: dict[str, str | int | float] = {"http.request.method": method}
        if route is not None:
            attributes["http.route"] = route
        return RequestSpan(self._start(name, SpanKind.SERVER, attributes, parent=_parent(trace, state)), trace)

    @contextmanager
    def attempt(self, claim: Claim) -> Iterator[None]:
        """The span of an attempt is around the block, as a child of the request that created the export."""
        attributes: Attributes = {
            "contact_exports.export_id": claim.export_id,
            "contact_exports.space_id": claim.space_id,
            "contact_exports.attempt": claim.attempt,
            "contact_exports.claim_id": str(claim.claim_id),
        }
        span = self._start("export attempt", SpanKind.CONSUMER, attributes, parent=_parent(claim.trace))
        self._attempts[claim.claim_id] = span
        try:
            with events.in_logs(_context_of(span) or claim.trace), _entered(span):
                yield
        finally:
            self._end_attempt(claim.claim_id, {})

    def store_call(self, operation: str, result: str, seconds: float, /, *, part: int = 0, size: int = 0) -> None:
        """The span of a store call that has just ended. Checks have none, as the requests of health checks have none."""
        if operation in _CHECKS:
            return
        attributes: dict[str, str | int | float] = {"contact_exports.result": result}
        if part:
            attributes |= {"contact_exports.part": part, "contact_exports.bytes": size}
        now = time.time_ns()
        started = now - round(seconds * 1e9)
        span = self._start(f"store {operation}", SpanKind.CLIENT, attributes, started=started)
        _end(span, {}, error=None if result in _FINE else result, at=now)

    def __call__(self, event: events.Event) -> None:
        """End the span of an attempt with its outcome."""
        outcome: Attributes = {"contact_exports.outcome": events.log_name(event)}
        match event:
            case events.ExportCompleted(claim=claim):
                sizes = {"contact_exports.rows": event.rows, "contact_exports.bytes": event.bytes}
                self._end_attempt(claim.claim_id, {**outcome, **sizes})
            case events.AttemptFailed(claim=claim):
                self._end_attempt(claim.claim_id, outcome, error=event.error_code)
            case events.ExportFailed():
                self._end_attempt(event.claim_id, outcome, error=event.error_code)
            case events.ClaimLost(claim=claim):
                self._end_attempt(claim.claim_id, outcome, error="claim_lost")
            case events.ExportHandedBack(claim=claim) | events.AttemptCancelled(claim=claim):
                self._end_attempt(claim.claim_id, outcome)
            case _:
                pass

    def _end_attempt(self, claim_id: UUID, attributes: Attributes, *, error: str | None = None) -> None:
        """End the span of an attempt of this process, once."""
        if (span := self._attempts.pop(claim_id, None)) is not None:
            _end(span, attributes, error=error)

    def _start(
        self, name: str, kind: SpanKind, attributes: Attributes, *, parent: Context | None = None, started: int | None = None
    ) -> Span:
        """A new span below `parent`, by default below the current one."""
        try:
            return self._tracer.start_span(name, context=parent, kind=kind, attributes=attributes, start_time=started)
        except Exception:
            log.exception("span_not_started", span=name)
            return INVALID_SPAN


def _parent(trace: TraceContext | None, state: str = "") -> Context:
    root = Context()
    if trace is None:
        return root
    headers = {"traceparent": str(trace), "tracestate": state}
    return TraceContextTextMapPropagator().extract(headers, context=root)


@contextmanager
def _entered(span: Span) -> Iterator[None]:
    # By default an exception would be recorded with its message, which may contain an address.
    with use_span(span, record_exception=False, set_status_on_exception=False):
        yield


def _end(span: Span, attributes: Attributes, *, error: str | None = None, at: int | None = None) -> None:
    try:
        if error is not None:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", error)
        span.set_attributes(attributes)
        span.end(at)
    except Exception:
        log.exception("span_not_ended")


def _context_of(span: Span) -> TraceContext | None:
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return TraceContext(format_trace_id(context.trace_id), format_span_id(context.span_id), int(context.trace_flags))
